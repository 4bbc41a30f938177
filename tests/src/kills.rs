//! Real kills: a job of four processes saves step after step, is killed at a random moment, and is looked at.
//!
//! One rank is killed, or all are. Of one, the others must end by themselves. Then the newest step must be at least the
//! last that any rank said was committed, and every rank must load it as it was saved. The next job goes on with the
//! step after it in the same run, so that what was left behind is always there. Several runs are under way at once,
//! since most of the time goes into waiting for ranks that wait for a dead one.

mod job;
mod state;
#[cfg(test)]
mod tests;

pub use state::{load_newest, save_all, state};

use dcp::load::newest_complete;
use dcp::prune::{Policy, plan};
use dcp::storage::{Environment, Place, open_url_with};
use job::{GaveUp, Job, Said};
use std::collections::BTreeSet;
use std::error::Error;
use std::fmt::{self, Display, Formatter};
use std::num::NonZeroUsize;
use std::ops::AddAssign;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// Ranks of the job, on a mesh dp 2 x tp 2.
pub const RANKS: u32 = 4;
/// How long a rank waits for another.
pub const RANK_TIMEOUT: Duration = Duration::from_secs(2);
/// Survivors end by themselves within this: the time for a rank, the ten seconds for a lost server, and some.
const STUCK_AFTER: Duration = Duration::from_secs(40);
/// Runs at a time, at most, and how many kills are worth a run of its own: jobs are to meet what others left.
const LANES_MAX: u64 = 16;
const KILLS_PER_LANE: u64 = 6;
/// Kills in a run after which everything but the newest step is pruned. One time in four a run is also pruned while it
/// saves, before the kill, of the steps before the newest.
const PRUNE_EVERY: u64 = 20;
/// An age limit that nothing in a campaign is over.
const AGE_LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Jobs that may give up, one after the other, before one is killed.
const GIVEN_UP_MAX: u32 = 5;
/// How long a save is taken to last until one was seen.
const FIRST_GUESS: Duration = Duration::from_millis(30);
/// The exit status of a rank that was given an error; a panic has another.
const ENDED_WITH_ERROR: i32 = 1;

/// What goes wrong with the campaign itself.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What a campaign saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Times that one rank, or all, were killed.
    pub kills: u64,
    /// Of these, one rank alone.
    pub single: u64,
    /// Kills after which nothing of the next step was there.
    pub left_nothing: u64,
    /// Kills after which some of its objects were there, or begun, and no record.
    pub left_objects: u64,
    /// Kills after which some of its records were there, and no commit.
    pub left_records: u64,
    /// Kills after which a step was committed that no rank had yet been told of.
    pub left_committed: u64,
    /// Jobs that ended before they were killed, since ranks did not answer each other in time.
    pub gave_up: u64,
    /// Steps that the newest complete one advanced by.
    pub saves: u64,
    /// Objects that `prune` removed.
    pub pruned: u64,
    /// Reported as committed, and not there.
    pub lost: u64,
    /// Complete, and not of one step on every rank.
    pub mixed: u64,
    /// Times that survivors did not end.
    pub stuck: u64,
}

impl AddAssign for Seen {
    fn add_assign(&mut self, other: Seen) {
        self.kills += other.kills;
        self.single += other.single;
        self.left_nothing += other.left_nothing;
        self.left_objects += other.left_objects;
        self.left_records += other.left_records;
        self.left_committed += other.left_committed;
        self.gave_up += other.gave_up;
        self.saves += other.saves;
        self.pruned += other.pruned;
        self.lost += other.lost;
        self.mixed += other.mixed;
        self.stuck += other.stuck;
    }
}

impl Display for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Seen { kills, single, gave_up, saves, pruned, lost, mixed, stuck, .. } = self;
        let Seen { left_nothing, left_objects, left_records, left_committed, .. } = self;
        write!(
            f,
            "{kills} kills ({single} of one rank), before the first object {left_nothing}, objects there \
             {left_objects}, records there {left_records}, committed and not told {left_committed}; {gave_up} \
             jobs gave up before; {saves} saves committed, {pruned} objects pruned; {lost} lost, {mixed} mixed, {stuck} stuck"
        )
    }
}

/// A campaign of kills.
#[derive(Clone, Copy, Debug)]
pub struct Campaign<'a> {
    /// The program `save_loop`.
    pub program: &'a Path,
    /// Where the runs go, each into a folder of its own.
    pub url: &'a str,
    /// Variables that the program needs to reach it.
    pub environment: &'a [(String, String)],
    /// How often to kill.
    pub kills: u64,
    /// Decides who is killed and when, as far as the machine's clock can be told.
    pub seed: u64,
}

impl Campaign<'_> {
    /// Kills so many times.
    ///
    /// Errors: what starting processes and reading the runs give; a rank that ended with anything but an error.
    pub fn run(&self) -> Result<Seen, Failure> {
        let begun = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let lane = |lane| {
                let begun = &begun;
                scope.spawn(move || {
                    let mut lane = Lane::new(self, lane)?;
                    while begun.fetch_add(1, Ordering::Relaxed) < self.kills {
                        lane.kill_once()?;
                    }
                    Ok(lane.seen)
                })
            };
            let lanes = (self.kills / KILLS_PER_LANE).clamp(1, LANES_MAX);
            let lanes: Vec<_> = (0..lanes).map(lane).collect();
            let mut seen = Seen::default();
            for lane in lanes {
                let of_lane: Result<Seen, Failure> = lane.join().map_err(|_| "a run panicked")?;
                seen += of_lane?;
            }
            Ok(seen)
        })
    }
}

/// One run, and what happened to it.
struct Lane<'a> {
    campaign: &'a Campaign<'a>,
    url: String,
    run: Place,
    random: u64,
    seen: Seen,
    /// The newest step known to be committed; steps count from 1.
    newest: u64,
    /// Names in the folder of the step after it.
    leftovers: BTreeSet<String>,
    save_duration: Duration,
}

impl<'a> Lane<'a> {
    fn new(campaign: &'a Campaign<'a>, number: u64) -> Result<Self, Failure> {
        let settings: Environment = campaign.environment.iter().cloned().collect();
        let url = format!("{}/run-{number}", campaign.url);
        Ok(Lane {
            campaign,
            run: open_url_with(&url, &settings)?,
            url,
            random: campaign.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number),
            seen: Seen::default(),
            newest: 0,
            leftovers: BTreeSet::new(),
            save_duration: FIRST_GUESS,
        })
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    /// Starts jobs until one was killed. One that gave up before, since the machine is too busy for its ranks to answer in
    /// time, is looked at as if it had been.
    fn kill_once(&mut self) -> Result<(), Failure> {
        for _ in 0..GIVEN_UP_MAX {
            if self.run_job()? {
                return Ok(());
            }
        }
        Err(format!("{GIVEN_UP_MAX} jobs in a row gave up before they could be killed").into())
    }

    /// Whether a job could be killed.
    fn run_job(&mut self) -> Result<bool, Failure> {
        let Campaign { program, environment, .. } = *self.campaign;
        let name = format!("kill-{}", self.seen.kills);
        let mut job = Job::start(program, &self.url, environment, &name, self.newest + 1)?;
        let waited = self.wait_for_the_moment(&mut job);
        if self.draw(4) == 0 {
            self.prune(AGE_LIMIT)?;
        }
        let first = self.draw(u64::from(RANKS)) as u32;
        let one = self.draw(2) == 0;
        let victims: Vec<u32> =
            (first..first + if one { 1 } else { RANKS }).map(|rank| rank % RANKS).collect();
        let is_killed = match waited.and_then(|()| job.kill(&victims)) {
            Err(failure) if failure.is::<GaveUp>() => false,
            killed => killed.map(|()| true)?,
        };
        self.seen.gave_up += u64::from(!is_killed);
        self.seen.kills += u64::from(is_killed);
        self.seen.single += u64::from(is_killed && one);
        let ended = job.wait(STUCK_AFTER)?;
        self.save_duration = job.save_duration().unwrap_or(self.save_duration);
        let (reported, errors) = job.last_words();
        match ended {
            None => self.seen.stuck += 1,
            Some(ended) => {
                for (rank, status) in (0..).zip(ended) {
                    // Of a job that gave up, whoever was left was ended.
                    let is_survivor = is_killed && !victims.contains(&rank);
                    if is_survivor && status.code() != Some(ENDED_WITH_ERROR) {
                        return Err(format!("rank {rank}, not killed, ended with {status}\n{errors}").into());
                    }
                }
            }
        }
        self.look(reported, is_killed)?;
        if is_killed && self.seen.kills.is_multiple_of(PRUNE_EVERY) {
            // All have ended: nobody is saving.
            self.prune(Duration::ZERO)?;
        }
        Ok(is_killed)
    }

    /// One time in eight while the ranks find each other, else during one of the first saves or just after it: early,
    /// while it is staged, or at any time.
    fn wait_for_the_moment(&mut self, job: &mut Job) -> Result<(), Failure> {
        let save_us = self.save_duration.as_micros() as u64;
        let delay_us = match self.draw(8) {
            0 => self.draw(20_000),
            kind => {
                let step = self.newest + 1 + self.draw(4);
                job.wait_for(|said| *said == Said::Saving(step))?;
                self.draw(if kind < 3 { save_us / 8 + 1 } else { save_us * 3 / 2 + 1 })
            }
        };
        std::thread::sleep(Duration::from_micros(delay_us));
        Ok(())
    }

    /// Compares the run with what the ranks had reported.
    fn look(&mut self, reported: u64, is_killed: bool) -> Result<(), Failure> {
        let step = match newest_complete(&self.run, None) {
            Ok(_) => {
                let (step, equal) = load_newest(&self.run)?;
                self.seen.mixed += u64::from(!equal);
                step
            }
            Err(dcp::Error::NoneComplete { .. }) => 0,
            Err(error) => return Err(error.into()),
        };
        self.seen.lost += u64::from(step < reported.max(self.newest));
        self.seen.saves += step.saturating_sub(self.newest);
        if step > self.newest {
            self.leftovers.clear();
        }
        let names = self.names(step + 1)?;
        let mut new = names.difference(&self.leftovers).peekable();
        let phase = match step > reported.max(self.newest) {
            true => &mut self.seen.left_committed,
            false if new.peek().is_none() => &mut self.seen.left_nothing,
            false if new.any(|name| name.ends_with(".part.json")) => &mut self.seen.left_records,
            false => &mut self.seen.left_objects,
        };
        *phase += u64::from(is_killed);
        self.leftovers = names;
        self.newest = step.max(self.newest);
        Ok(())
    }

    /// What attempts at a step have left: objects, and such as are begun, by the store's name of them.
    fn names(&self, step: u64) -> Result<BTreeSet<String>, Failure> {
        let Place { store, key } = &self.run;
        let folder = key.join(&format!("step-{step}"))?;
        let objects = store.list(&folder)?.into_iter().map(|object| object.key.as_str().to_owned());
        let begun = store.unfinished(&folder)?.into_iter().map(|begun| begun.id);
        Ok(objects.chain(begun).collect())
    }

    /// Prunes all steps but the newest complete one, and what is so old.
    fn prune(&mut self, older_than: Duration) -> Result<(), Failure> {
        let policy = Policy {
            keep_latest: Some(NonZeroUsize::MIN),
            keep_every: None,
            older_than,
            now: SystemTime::now(),
        };
        let plan = match plan(&self.run, policy) {
            // Nothing was saved yet.
            Err(dcp::Error::Usage(_)) => return Ok(()),
            plan => plan?,
        };
        for report in plan.run(&()) {
            self.seen.pruned += report.removed().count() as u64;
            report.error.map_or(Ok(()), Err)?;
        }
        Ok(())
    }
}
