//! The processes of one job: started, listened to, killed, waited for.

use super::{ENDED_WITH_ERROR, Failure, RANKS};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a job may take to say the next thing, on a machine that is busy with others.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// How often to see whether a silent job is alive.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a rank says on a line of its output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Said {
    /// Rank 0 serves the others at this address.
    Serving(String),
    Saving(u64),
    Committed(u64),
}

#[derive(Debug)]
struct Heard {
    at: Instant,
    rank: u32,
    said: Said,
}

/// A job under way. Whatever is left of it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Job {
    children: Vec<Child>,
    /// What each wrote to stderr, once it has ended.
    errors: Vec<JoinHandle<String>>,
    listeners: Vec<JoinHandle<()>>,
    heard: Receiver<Heard>,
    /// The last step that any rank said was committed.
    committed: u64,
    /// When rank 0 began the save it is at.
    saving_since: Option<Instant>,
    /// How long a save of rank 0 took, the last one heard of.
    save_duration: Option<Duration>,
}

/// The job ended because its ranks did not answer each other in time.
#[derive(Debug)]
pub(super) struct GaveUp(String);

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GaveUp {}

impl Job {
    /// Starts all ranks. Rank 0 comes first and chooses the port, so that no other process can have it.
    ///
    /// Errors: a process that does not start, or ends by itself.
    pub(super) fn start(
        program: &Path,
        url: &str,
        environment: &[(String, String)],
        name: &str,
        first_step: u64,
    ) -> Result<Self, Failure> {
        let (sender, heard) = channel();
        let mut job = Job {
            children: Vec::new(),
            errors: Vec::new(),
            listeners: Vec::new(),
            heard,
            committed: 0,
            saving_since: None,
            save_duration: None,
        };
        let mut address = "127.0.0.1:0".to_owned();
        for rank in 0..RANKS {
            let mut command = Command::new(program);
            command.args([url, &rank.to_string(), &address, name, &first_step.to_string()]);
            command.envs(environment.iter().cloned()).stdin(Stdio::null());
            job.add(rank, command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?, &sender)?;
            if rank == 0 {
                let Said::Serving(at) = job.wait_for(|said| matches!(said, Said::Serving(_)))? else {
                    return Err("not what was waited for".into());
                };
                address = at;
            }
        }
        Ok(job)
    }

    fn add(&mut self, rank: u32, mut child: Child, sender: &Sender<Heard>) -> Result<(), Failure> {
        let (stdout, stderr) = (child.stdout.take().ok_or("no stdout")?, child.stderr.take());
        self.children.push(child);
        let sender = sender.clone();
        self.listeners.push(std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // A line that a kill has cut is none.
                let Some(said) = said(&line) else { continue };
                let heard = Heard { at: Instant::now(), rank, said };
                if sender.send(heard).is_err() {
                    return;
                }
            }
        }));
        self.errors.push(std::thread::spawn(move || {
            let mut text = Vec::new();
            // What has come until a pipe breaks is all there is.
            let _ = stderr.map(|mut stderr| stderr.read_to_end(&mut text));
            String::from_utf8_lossy(&text).into_owned()
        }));
        Ok(())
    }

    /// Waits until rank 0 says what `is_it` knows.
    ///
    /// Errors: a job that says nothing for long, or has ended.
    pub(super) fn wait_for(&mut self, is_it: impl Fn(&Said) -> bool) -> Result<Said, Failure> {
        let mut silent_since = Instant::now();
        loop {
            match self.heard.recv_timeout(LOOK_EVERY) {
                Ok(heard) => {
                    silent_since = heard.at;
                    self.note(&heard);
                    if heard.rank == 0 && is_it(&heard.said) {
                        return Ok(heard.said);
                    }
                }
                Err(_) if silent_since.elapsed() < SILENT_MAX => self.all_alive()?,
                Err(_) => return Err(self.fails(&format!("nothing was said for {SILENT_MAX:?}"))),
            }
        }
    }

    fn note(&mut self, heard: &Heard) {
        match heard.said {
            Said::Committed(step) => {
                self.committed = self.committed.max(step);
                if heard.rank == 0
                    && let Some(since) = self.saving_since.take()
                {
                    self.save_duration = Some(heard.at - since);
                }
            }
            Said::Saving(_) if heard.rank == 0 => self.saving_since = Some(heard.at),
            Said::Saving(_) | Said::Serving(_) => {}
        }
    }

    /// How long a save took, if one was seen from end to end.
    pub(super) fn save_duration(&self) -> Option<Duration> {
        self.save_duration
    }

    /// Kills these ranks, in this order.
    ///
    /// Errors: a rank that has ended by itself: nothing was to be killed.
    pub(super) fn kill(&mut self, victims: &[u32]) -> Result<(), Failure> {
        self.all_alive()?;
        for &victim in victims {
            self.children[victim as usize].kill()?;
        }
        Ok(())
    }

    /// Errors: [`GaveUp`] for a rank that ended because it waited in vain; any other for what else ended one.
    fn all_alive(&mut self) -> Result<(), Failure> {
        for rank in 0..self.children.len() {
            if let Some(status) = self.children[rank].try_wait()? {
                let failure = self.fails(&format!("rank {rank} ended by itself, before a kill: {status}"));
                // Of all ends that nobody caused only this one is none of the program's: it waited in vain.
                let is_late =
                    status.code() == Some(ENDED_WITH_ERROR) && failure.to_string().contains("RanksMissing");
                return Err(if is_late { GaveUp(failure.to_string()).into() } else { failure });
            }
        }
        Ok(())
    }

    /// Waits for all to end; whoever has not by then is killed. `None` if that was needed, else how the ranks ended.
    pub(super) fn wait(&mut self, at_most: Duration) -> Result<Option<Vec<ExitStatus>>, Failure> {
        let start = Instant::now();
        loop {
            let ended: Vec<_> =
                self.children.iter_mut().map(Child::try_wait).collect::<Result<_, std::io::Error>>()?;
            if let Some(ended) = ended.into_iter().collect() {
                return Ok(Some(ended));
            }
            if start.elapsed() >= at_most {
                self.end();
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The last step that any rank said was committed, up to the last byte that any wrote, and what they wrote to
    /// stderr. All have ended.
    pub(super) fn last_words(mut self) -> (u64, String) {
        let errors = self.end();
        while let Ok(heard) = self.heard.try_recv() {
            self.note(&heard);
        }
        (self.committed, errors)
    }

    fn fails(&mut self, what: &str) -> Failure {
        let errors = self.end();
        format!("{what}\n{errors}").into()
    }

    /// Kills whoever is left, then reads the pipes to their ends.
    fn end(&mut self) -> String {
        for child in &mut self.children {
            // One that has ended already is no error.
            let _ = child.kill();
            let _ = child.wait();
        }
        for listener in self.listeners.drain(..) {
            let _ = listener.join();
        }
        let errors = self.errors.drain(..).zip(0..);
        errors
            .map(|(text, rank)| format!("rank {rank}: {}\n", text.join().unwrap_or_default().trim()))
            .collect()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.end();
    }
}

fn said(line: &str) -> Option<Said> {
    match line.split_once(' ')? {
        ("serving", address) => Some(Said::Serving(address.to_owned())),
        ("saving", step) => Some(Said::Saving(step.parse().ok()?)),
        ("committed", step) => Some(Said::Committed(step.parse().ok()?)),
        _ => None,
    }
}
