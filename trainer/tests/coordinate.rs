//! Saves and loads agree through c10d's store as through any other.

use dcp::coordinate::conformance::{Job, all};
use dcp::coordinate::{Coordinator, KeyValue, Peers};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use trainer::coordinate::StoreKeys;
use trainer::ffi::store::{Store, TcpOptions};

/// Remembers which keys there were, to look for them in the store.
#[derive(Debug)]
struct Remembering {
    keys: StoreKeys,
    seen: Arc<Mutex<BTreeSet<String>>>,
}

impl KeyValue for Remembering {
    fn set(&self, key: &str, value: &[u8], deadline: Instant) -> dcp::Result<()> {
        self.seen.lock().unwrap().insert(key.to_owned());
        self.keys.set(key, value, deadline)
    }

    fn wait(&self, key: &str, deadline: Instant) -> dcp::Result<Option<Vec<u8>>> {
        self.keys.wait(key, deadline)
    }

    fn remove(&self, key: &str, deadline: Instant) -> dcp::Result<()> {
        self.keys.remove(key, deadline)
    }
}

fn connect(port: u16, is_master: bool) -> Store {
    let (host, timeout) = ("127.0.0.1", Duration::from_secs(60));
    Store::tcp(&TcpOptions { host, port, is_master, world: None, wait_workers: false, timeout }).unwrap()
}

#[test]
fn conforms() {
    all(4, &|ranks, timeout| {
        let master = connect(0, true);
        let seen: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let rank = |rank| -> Arc<dyn Coordinator> {
            let store = Arc::new(connect(master.port().unwrap(), false));
            let keys = Remembering { keys: StoreKeys::new(store), seen: seen.clone() };
            Arc::new(Peers::new(Arc::new(keys), rank, ranks, timeout).unwrap())
        };
        let ranks = (0..ranks).map(rank).collect();
        let is_there = move |key: &&String| master.has(&[key.as_str()]).unwrap();
        Job { ranks, held: Box::new(move || seen.lock().unwrap().iter().filter(&is_there).count()) }
    });
}
