//! A test in several processes: the test's binary starts itself again, once a rank, for the same test.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tch::{Kind, Tensor};
use trainer::ffi::process_group::{GroupOptions, ProcessGroup};
use trainer::ffi::rng;
use trainer::ffi::store::{Store, TcpOptions};

/// Longer than anything takes on a machine that is busy.
pub const LONG: Duration = Duration::from_secs(120);
/// A test of several ranks that takes longer hangs: ten steps of training on a busy machine take up to two minutes.
const HANGS_AFTER: Duration = Duration::from_secs(300);
const RANK: &str = "TITAN_TEST_RANK";
const SIZE: &str = "TITAN_TEST_SIZE";
const PORT: &str = "TITAN_TEST_PORT";

/// One process of a test.
pub struct Rank {
    pub rank: u32,
    pub size: u32,
    pub store: Arc<Store>,
}

impl Rank {
    /// A group of all ranks.
    pub fn group(&self, name: &str, timeout: Duration) -> trainer::Result<ProcessGroup> {
        let options = GroupOptions { name, rank: self.rank, size: self.size, timeout, interface: Some("lo") };
        ProcessGroup::gloo(self.store.clone(), &options)
    }

    /// Waits for the others to come to their end: a rank that has gone fails those that still connect to it.
    fn leave_together(&self) {
        self.store.set(&format!("done/{}", self.rank), b"").unwrap();
        let all: Vec<String> = (0..self.size).map(|rank| format!("done/{rank}")).collect();
        self.store.wait(&all.iter().map(String::as_str).collect::<Vec<_>>(), LONG).unwrap();
    }
}

/// Runs `body` as every rank of a job, each a process of its own, and gives how they ended. `test` is the full name of the
/// test that calls this.
pub fn run(test: &str, size: u32, body: impl FnOnce(&Rank)) -> Vec<ExitStatus> {
    if let Ok(rank) = std::env::var(RANK) {
        let number = |name: &str| std::env::var(name).unwrap().parse::<u16>().unwrap();
        rng::set_threads(1).unwrap();
        let store = Store::tcp(&options(number(PORT), false)).unwrap();
        body(&Rank { rank: rank.parse().unwrap(), size: number(SIZE).into(), store: Arc::new(store) });
        std::process::exit(0);
    }
    let master = Store::tcp(&options(0, true)).unwrap();
    let binary: PathBuf = std::env::current_exe().unwrap();
    let ranks: Vec<Running> = (0..size)
        .map(|rank| {
            let mut command = Command::new(&binary);
            command.args(["--exact", test, "--nocapture", "--test-threads=1"]).stdin(Stdio::null());
            command.env(RANK, rank.to_string()).env(SIZE, size.to_string());
            command.env(PORT, master.port().unwrap().to_string()).env("OMP_NUM_THREADS", "1");
            let said = tempfile::tempfile().unwrap();
            command.stdout(said.try_clone().unwrap()).stderr(said.try_clone().unwrap());
            Running { child: command.spawn().unwrap(), rank, said }
        })
        .collect();
    let deadline = Instant::now() + HANGS_AFTER;
    ranks.into_iter().map(|rank| rank.wait(deadline)).collect()
}

/// As [`run`], where all end well.
pub fn run_well(test: &str, size: u32, body: impl FnOnce(&Rank)) {
    let ends = run(test, size, |rank| {
        body(rank);
        rank.leave_together();
    });
    assert!(ends.iter().all(ExitStatus::success), "{ends:?}; their panics are above");
}

fn options(port: u16, is_master: bool) -> TcpOptions<'static> {
    TcpOptions { host: "127.0.0.1", port, is_master, world: None, wait_workers: false, timeout: LONG }
}

/// A rank; it does not outlive its test.
struct Running {
    child: Child,
    rank: u32,
    /// What it printed.
    said: File,
}

impl Running {
    fn wait(mut self, deadline: Instant) -> ExitStatus {
        loop {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some_and(|status| status.success()) {
                return ended.unwrap();
            }
            if ended.is_some() || Instant::now() > deadline {
                let mut said = String::new();
                self.said.rewind().unwrap();
                self.said.read_to_string(&mut said).unwrap();
                println!("--- rank {}:\n{}", self.rank, said.replace("test result: ", "its result: "));
            }
            if let Some(status) = ended {
                return status;
            }
            assert!(Instant::now() < deadline, "rank {} hangs", self.rank);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The elements of a tensor as numbers.
pub fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).contiguous().view(-1)).unwrap()
}
