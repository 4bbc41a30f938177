//! The stores that ranks find each other through.

use std::time::{Duration, Instant};
use trainer::Error;
use trainer::ffi::store::{Store, TcpOptions};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

fn tcp(port: u16, is_master: bool) -> Store {
    let options =
        TcpOptions { host: "127.0.0.1", port, is_master, world: None, wait_workers: false, timeout: LONG };
    Store::tcp(&options).unwrap()
}

/// What every store does; both are the same one.
fn conformance(one: &Store, other: &Store) {
    one.set("a", b"\x00\xffvalue").unwrap();
    assert_eq!(other.get("a", LONG).unwrap(), b"\x00\xffvalue");
    one.set("a", b"new").unwrap();
    assert_eq!(other.get("a", LONG).unwrap(), b"new");
    assert!(other.has(&["a"]).unwrap() && !other.has(&["a", "b"]).unwrap());

    let start = Instant::now();
    let error = other.get("missing", SHORT).unwrap_err().to_string();
    assert!(error.contains("getting `missing` failed: "), "{error}");
    assert!(start.elapsed() >= SHORT && start.elapsed() < LONG);
    assert!(other.wait(&["a", "missing"], SHORT).unwrap_err().to_string().contains("`a`, `missing`"));
    other.wait(&["a"], SHORT).unwrap();

    assert_eq!(
        (one.add("n", 5).unwrap(), other.add("n", -7).unwrap(), one.add("n", 0).unwrap()),
        (5, -2, -2)
    );

    assert_eq!(one.compare_set("c", b"", b"first").unwrap(), b"first");
    assert_eq!(other.compare_set("c", b"wrong", b"second").unwrap(), b"first");
    assert_eq!(other.compare_set("c", b"first", b"second").unwrap(), b"second");
    assert_eq!(one.get("c", LONG).unwrap(), b"second");

    assert!(one.delete("a").unwrap());
    assert!(!other.has(&["a"]).unwrap(), "has");
    // A file keeps that it is removed as one more entry, and says so again.
    assert_eq!(other.delete("a").unwrap(), other.port().is_none());

    let (left, right) = (one.prefix("left").unwrap(), one.prefix("right").unwrap());
    left.set("k", b"l").unwrap();
    right.set("k", b"r").unwrap();
    assert_eq!((left.get("k", LONG).unwrap(), right.get("k", LONG).unwrap()), (b"l".to_vec(), b"r".to_vec()));
    assert!(matches!(one.set("zero\0byte", b""), Err(Error::Usage(_))));
}

#[test]
fn tcp_stores_conform() {
    let master = tcp(0, true);
    let port = master.port().unwrap();
    assert_ne!(port, 0);
    conformance(&master, &tcp(port, false));
}

#[test]
fn file_stores_conform() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let (one, other) = (Store::file(&path, 2, LONG).unwrap(), Store::file(&path, 2, LONG).unwrap());
    conformance(&one, &other);
    assert_eq!(one.port(), None);
    let error = Store::file(&folder.path().join("no/such/folder"), 1, LONG).unwrap_err().to_string();
    assert!(error.ends_with("its folder is not there; make it first"), "{error}");
}

#[test]
fn a_value_is_waited_for_over_another_connection() {
    let master = tcp(0, true);
    let other = master.reconnect().unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| other.get("late", LONG));
        // This connection is free all the while.
        for _ in 0..10 {
            master.add("tries", 1).unwrap();
        }
        master.set("late", b"here").unwrap();
        assert_eq!(waiting.join().unwrap().unwrap(), b"here");
    });
}

#[test]
fn a_master_that_is_not_there_is_an_error_in_time() {
    // A port that nobody listens at any more.
    let port = tcp(0, true).port().unwrap();
    let start = Instant::now();
    let options = TcpOptions {
        host: "127.0.0.1",
        port,
        is_master: false,
        world: Some(2),
        wait_workers: false,
        timeout: Duration::from_secs(2),
    };
    let error = Store::tcp(&options).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("the ranks' store at 127.0.0.1:{port}: connecting failed: ")),
        "{error}"
    );
    assert!(start.elapsed() < LONG, "{:?}", start.elapsed());
}
