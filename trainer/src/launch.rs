//! `--nproc`: the ranks of a job on one machine, each a process, told what `torchrun` tells its workers.
//!
//! The launcher holds the ranks' store and watches. A rank that fails ends the job with its exit code: the others have a
//! while to end by themselves, then they are killed. Ranks do not outlive the launcher.

use crate::error::{Error, Result};
use crate::ffi::store::{Store, TcpOptions};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use tracing::error;

/// How long the others have to end once a rank has failed.
const GRACE: Duration = Duration::from_secs(15);
/// Between two looks at the ranks.
const LOOK: Duration = Duration::from_millis(20);
/// Where a rank finds its launcher, to end with it.
const LAUNCHER: &str = "TITAN_LAUNCHER_PID";

/// Starts `ranks` ranks with these flags, and gives the exit code of the job.
///
/// Errors: a rank that cannot be started; [`Error::Store`].
pub fn run(ranks: u32, flags: &[String]) -> Result<u8> {
    let options = TcpOptions {
        host: "127.0.0.1",
        port: 0,
        is_master: true,
        world: None,
        wait_workers: false,
        timeout: Duration::from_secs(60),
    };
    let store = Store::tcp(&options)?;
    let signals = Signals::new([SIGINT, SIGTERM, SIGUSR1]).map_err(failed("watching for signals"))?;
    let mut job = Job::default();
    for rank in 0..ranks {
        job.add(start(rank, ranks, store.port().unwrap_or(0), flags)?);
    }
    job.watch(signals, GRACE)
}

/// Has this process end when its launcher does, where it has one.
///
/// Errors: [`Error::Usage`] where the launcher is gone already.
pub fn end_with_launcher() -> Result<()> {
    let Some(launcher) = std::env::var(LAUNCHER).ok().and_then(|pid| pid.parse::<i32>().ok()) else {
        return Ok(());
    };
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|errno| failed("tying it to its launcher")(errno.into()))?;
    match getppid().map(|parent| parent.as_raw_nonzero().get()) {
        Some(parent) if parent == launcher => Ok(()),
        _ => Err(Error::Usage(format!("the launcher, process {launcher}, is gone"))),
    }
}

fn failed(action: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::File { path: "a rank of the job".into(), action, source }
}

fn start(rank: u32, ranks: u32, port: u16, flags: &[String]) -> Result<Child> {
    let program = std::env::current_exe().map_err(failed("finding the program"))?;
    let mut command = Command::new(program);
    command.args(flags);
    for (name, value) in [
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("WORLD_SIZE", ranks.to_string()),
        ("LOCAL_WORLD_SIZE", ranks.to_string()),
        ("MASTER_ADDR", "127.0.0.1".to_owned()),
        ("MASTER_PORT", port.to_string()),
        ("TORCHELASTIC_USE_AGENT_STORE", "True".to_owned()),
        // Numbers that Slurm has set are the launcher's own.
        ("TORCHELASTIC_RUN_ID", "titan-train".to_owned()),
        (LAUNCHER, std::process::id().to_string()),
    ] {
        command.env(name, value);
    }
    if std::env::var_os("OMP_NUM_THREADS").is_none() {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        command.env("OMP_NUM_THREADS", (cores / ranks as usize).max(1).to_string());
    }
    command.spawn().map_err(failed("starting"))
}

struct Rank {
    child: Child,
    ended: Option<ExitStatus>,
}

#[derive(Default)]
struct Job {
    ranks: Vec<Rank>,
    /// The rank that failed first: those that fail after it do so by its failure, or by the launcher's hand.
    culprit: Option<usize>,
}

impl Job {
    fn add(&mut self, child: Child) {
        self.ranks.push(Rank { child, ended: None });
    }

    /// Returns when all have ended, with the exit code of the job. Once one has failed, the others have `grace` to end.
    fn watch(mut self, mut signals: Signals, grace: Duration) -> Result<u8> {
        let mut deadline = None;
        loop {
            for signal in signals.pending() {
                self.forward(signal);
                if signal == SIGINT {
                    deadline.get_or_insert(Instant::now() + grace);
                }
            }
            if self.look()? {
                deadline.get_or_insert(Instant::now() + grace);
            }
            if self.ranks.iter().all(|rank| rank.ended.is_some()) {
                return Ok(self.exit_code());
            }
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.kill();
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Looks who has ended; gives whether the first has failed by now.
    fn look(&mut self) -> Result<bool> {
        for rank in &mut self.ranks {
            if rank.ended.is_none() {
                rank.ended = rank.child.try_wait().map_err(failed("watching"))?;
            }
        }
        if self.culprit.is_none() {
            // One that was killed, since that one cannot say so itself, or the first with an error.
            let with = |is_it: &dyn Fn(&ExitStatus) -> bool| {
                self.ranks.iter().position(|rank| rank.ended.as_ref().is_some_and(is_it))
            };
            self.culprit =
                with(&|status| status.signal().is_some()).or_else(|| with(&|status| !status.success()));
            self.culprit.iter().for_each(|rank| self.report(*rank));
        }
        Ok(self.culprit.is_some())
    }

    /// Says what nobody else says: that a rank was killed.
    fn report(&self, rank: usize) {
        let status = self.ranks[rank].ended.unwrap_or_default();
        if let Some(signal) = status.signal() {
            let name = signal_hook::low_level::signal_name(signal).unwrap_or("a signal");
            error!("rank {rank} was killed by {name} ({signal}); the other ranks end");
        }
    }

    fn exit_code(&self) -> u8 {
        let Some(culprit) = self.culprit else { return 0 };
        let status = self.ranks[culprit].ended.unwrap_or_default();
        // As shells tell it.
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        u8::try_from(code).unwrap_or(1)
    }

    fn forward(&self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        for rank in self.ranks.iter().filter(|rank| rank.ended.is_none()) {
            if let Some(pid) = Pid::from_raw(rank.child.id() as i32) {
                // It may have ended since.
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn kill(&mut self) {
        for rank in self.ranks.iter_mut().filter(|rank| rank.ended.is_none()) {
            // It may have ended since.
            let _ = rank.child.kill();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The exit code of a job of these shell scripts.
    fn job(scripts: &[&str]) -> (u8, Duration) {
        let mut job = Job::default();
        for script in scripts {
            job.add(Command::new("sh").args(["-c", script]).spawn().unwrap());
        }
        let begun = Instant::now();
        (
            job.watch(Signals::new::<[i32; 0], i32>([]).unwrap(), Duration::from_millis(300)).unwrap(),
            begun.elapsed(),
        )
    }

    #[test]
    fn the_exit_code_is_that_of_the_rank_that_failed_first() {
        assert_eq!(job(&["exit 0", "exit 0"]).0, 0);
        assert_eq!(job(&["exit 0", "exit 3"]).0, 3);
        assert_eq!(job(&["sleep 0.2; exit 4", "kill -9 $$"]).0, 128 + 9);
        // One that hangs is killed by the launcher, which is nobody's fault but the first one's.
        let (code, took) = job(&["exec sleep 60", "exit 3"]);
        assert_eq!(code, 3);
        assert!(took < Duration::from_secs(30), "{took:?}");
    }
}
