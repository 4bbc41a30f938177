//! The scheduler and the network: which of the things that can happen happens next, and what goes wrong with it.

use super::cleaner::Cleaner;
use super::events::{Event, Fault, Invariant, Outcome, What, Who};
use super::job::Job;
use super::random::Random;
use super::rank::Save;
use super::reader::Reader;
use super::store::{Content, Op, Reply, Store};
use super::{EVENTS_MAX, Settings, Tally, Variant, Violation};

/// What can go wrong with a write.
const WRITE_FAULTS: [Fault; 6] = [
    Fault::RequestLost,
    Fault::ReplyLost,
    Fault::Delayed,
    Fault::Repeated,
    Fault::RepeatedDelayed,
    Fault::Refused,
];

/// Something that can happen.
#[derive(Clone, Copy, Debug)]
enum Item {
    /// Somebody begins or goes on.
    Wake(Who),
    /// A request takes effect. A ticket that its actor no longer holds is answered to nobody.
    Arrive { who: Who, ticket: u32, op: Op },
    /// A request takes effect whose caller has heard of an error.
    ArriveLate { who: Who, op: Op },
    /// An answer reaches its caller.
    Answer { who: Who, ticket: u32, op: Op, reply: Reply },
    /// A rank's report reaches its committer.
    Report { attempt: u16, rank: u8, ok: bool },
    /// A committer's patience with the ranks of an attempt is over.
    Timeout { job: u8, attempt: u16 },
}

/// One run.
pub(super) struct World<'a> {
    seed: u64,
    pub(super) settings: Settings,
    pub(super) random: Random,
    /// Events so far.
    events: u64,
    /// The only time there is: an event takes 1, and where nothing can happen it passes until something can.
    now: u64,
    /// How long things may take.
    span: u64,
    ready: Vec<Item>,
    /// What can happen only from a time on.
    late: Vec<(u64, Item)>,
    wakes_next: u64,
    pub(super) store: Store,
    pub(super) jobs: Vec<Job>,
    pub(super) saves: Vec<Save>,
    pub(super) cleaners: Vec<Cleaner>,
    pub(super) readers: Vec<Reader>,
    /// Faults of requests, of 1,000; deaths and stalls are scaled from it.
    pub(super) faults_per_mille: u64,
    /// The same for committers' creations of slots, and for their looks at slots: a store that fails for long just then.
    slot_faults_per_mille: [u64; 2],
    /// A kind of fault of writes that this run has most of.
    favourite: Option<Fault>,
    /// Ranks of this run's jobs.
    pub(super) ranks: u32,
    pub(super) tally: Tally,
    observe: &'a mut dyn FnMut(u64, &Event),
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, settings: Settings, observe: &'a mut dyn FnMut(u64, &Event)) -> Self {
        let mut random = Random::new(seed);
        let ranks_max = u64::from(settings.ranks_max.clamp(1, super::RANKS_MAX));
        // Races want few ranks and everybody close together; completeness wants many.
        let ranks = match random.below(4) {
            0 => ranks_max,
            1 => 1 + random.below(ranks_max),
            _ => 1 + random.below(ranks_max.min(4)),
        };
        let faults_per_mille = [0, 5, 25, 100][random.below(4) as usize];
        let slot_faults_per_mille = match faults_per_mille {
            0 => [0; 2],
            base => [
                [base, base, 500, 1000][random.below(4) as usize],
                [base, base, base, 700][random.below(4) as usize],
            ],
        };
        let favourite = random.chance(500).then(|| WRITE_FAULTS[random.below(6) as usize]);
        let mut world = World {
            seed,
            settings,
            events: 0,
            now: 0,
            span: 100 + 15 * ranks,
            ready: Vec::new(),
            late: Vec::new(),
            wakes_next: u64::MAX,
            store: Store::default(),
            jobs: Vec::new(),
            saves: Vec::new(),
            cleaners: Vec::new(),
            readers: Vec::new(),
            faults_per_mille,
            slot_faults_per_mille,
            favourite,
            ranks: ranks as u32,
            tally: Tally { seeds: 1, ..Tally::default() },
            random,
            observe,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let jobs = 1 + self.random.below(3) as u8;
        // Without faults half the runs have nobody but the jobs: then a save must commit.
        let cleaners = if self.random.chance(500) { 0 } else { 1 + self.random.below(3) as u8 };
        let readers = 1 + self.random.below(3) as u8;
        for job in 0..jobs {
            let job_state = Job::new(&mut self.random);
            self.jobs.push(job_state);
            self.wake_later(Who::Committer(job));
        }
        for cleaner in 0..cleaners {
            let removes = self.random.chance(250);
            self.cleaners.push(Cleaner::new(cleaner, removes));
            self.wake_later(Who::Cleaner(cleaner));
        }
        for reader in 0..readers {
            self.readers.push(Reader::default());
            self.wake_later(Who::Reader(reader));
        }
    }

    pub(super) fn run(mut self) -> Result<Tally, Box<Violation>> {
        while let Some(item) = self.next() {
            self.now += 1;
            self.events += 1;
            self.happen(item);
            if self.events >= EVENTS_MAX {
                self.store.fail(Invariant::Ends, || format!("{EVENTS_MAX} events, and not at an end"));
            }
            if let Some(violation) = self.violation() {
                return Err(violation);
            }
        }
        self.check_end();
        self.tally.events = self.events;
        self.violation().map_or(Ok(self.tally), Err)
    }

    fn violation(&mut self) -> Option<Box<Violation>> {
        let (invariant, found) = self.store.violation.take()?;
        Some(Box::new(Violation { seed: self.seed, invariant, found, event: self.events }))
    }

    fn check_end(&mut self) {
        if self.jobs.iter().any(|job| !job.is_over()) {
            self.store
                .fail(Invariant::Ends, || "nothing more can happen, and a job has not ended".to_owned());
        }
        if self.faults_per_mille > 0 || !self.cleaners.is_empty() {
            return;
        }
        // Nothing newer can have come between the newest attempt and the answer to it.
        let newest = self.store.newest();
        let told = match newest {
            Some((_, Content::Commit(attempt))) => self.saves[usize::from(attempt)].outcome,
            _ => None,
        };
        if told != Some(Outcome::Committed) {
            let found = || format!("the newest is {newest:?}, and its job was told {told:?}");
            self.store.fail(Invariant::WithoutFaultsCommits, found);
        }
    }

    /// Takes one of the things that can happen now; where nothing can, time passes.
    fn next(&mut self) -> Option<Item> {
        if self.ready.is_empty() {
            self.now = self.now.max(self.late.iter().map(|(wakes, _)| *wakes).min()?);
        }
        if self.now >= self.wakes_next {
            let now = self.now;
            let mut index = 0;
            while index < self.late.len() {
                match self.late[index].0 <= now {
                    true => self.ready.push(self.late.swap_remove(index).1),
                    false => index += 1,
                }
            }
            self.wakes_next = self.late.iter().map(|(wakes, _)| *wakes).min().unwrap_or(u64::MAX);
        }
        let chosen = self.random.below(self.ready.len() as u64) as usize;
        Some(self.ready.swap_remove(chosen))
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Wake(who) => {
                self.tell(What::Woke(who));
                match who {
                    Who::Rank { attempt, rank } => self.rank_wakes(attempt, rank),
                    Who::Committer(job) => self.committer_wakes(job),
                    Who::Cleaner(cleaner) => self.cleaner_wakes(cleaner),
                    Who::Reader(reader) => self.reader_wakes(reader),
                }
            }
            Item::Arrive { who, ticket, op } => self.arrive(who, ticket, op),
            Item::ArriveLate { who, op } => {
                self.effect(who, op);
            }
            Item::Answer { who, ticket, op, reply } => {
                self.tell(What::Answer(who, op, reply));
                match who {
                    Who::Rank { attempt, rank } => self.rank_hears(attempt, rank, reply),
                    Who::Committer(job) => self.committer_hears(job, ticket, op, reply),
                    Who::Cleaner(cleaner) => self.cleaner_hears(cleaner, ticket, reply),
                    Who::Reader(reader) => self.reader_hears(reader, ticket, op, reply),
                }
            }
            Item::Report { attempt, rank, ok } => {
                self.tell(What::Report(Who::Rank { attempt, rank }, ok));
                self.committer_gets_report(attempt, rank, ok);
            }
            Item::Timeout { job, attempt } => self.committer_times_out(job, attempt),
        }
    }

    fn effect(&mut self, who: Who, op: Op) -> Reply {
        let reply = self.store.apply(op);
        self.tell(What::Effect(who, op, reply));
        reply
    }

    /// A request reaches the store, or does not.
    fn arrive(&mut self, who: Who, ticket: u32, op: Op) {
        let per_mille = match (who, op) {
            (Who::Committer(_), Op::PutSlot { .. }) => self.slot_faults_per_mille[0],
            (Who::Committer(_), Op::GetSlot { .. } | Op::ListSlots) => self.slot_faults_per_mille[1],
            _ => self.faults_per_mille,
        };
        let faulty = self.random.chance(per_mille);
        let reply = match (faulty, op.only_reads()) {
            (false, _) => self.effect(who, op),
            (true, true) => {
                self.fault(who, Fault::ReadFailed);
                Reply::Failed
            }
            (true, false) => self.write_goes_wrong(who, op),
        };
        self.ready.push(Item::Answer { who, ticket, op, reply });
    }

    fn write_goes_wrong(&mut self, who: Who, op: Op) -> Reply {
        let favourite = self.favourite.filter(|_| self.random.chance(800));
        let fault = favourite.unwrap_or_else(|| WRITE_FAULTS[self.random.below(6) as usize]);
        self.fault(who, fault);
        match fault {
            Fault::RequestLost => Reply::Failed,
            Fault::ReplyLost => {
                self.effect(who, op);
                Reply::Failed
            }
            Fault::Delayed => {
                self.later(Item::ArriveLate { who, op });
                Reply::Failed
            }
            Fault::Repeated => {
                self.effect(who, op);
                self.effect(who, op)
            }
            Fault::RepeatedDelayed => {
                self.later(Item::ArriveLate { who, op });
                self.effect(who, op)
            }
            _ => Reply::Refused,
        }
    }

    /// Sends a request.
    pub(super) fn send(&mut self, who: Who, ticket: u32, op: Op) {
        self.ready.push(Item::Arrive { who, ticket, op });
    }

    pub(super) fn report(&mut self, attempt: u16, rank: u8, ok: bool) {
        self.ready.push(Item::Report { attempt, rank, ok });
    }

    pub(super) fn wake(&mut self, who: Who) {
        self.ready.push(Item::Wake(who));
    }

    pub(super) fn wake_later(&mut self, who: Who) {
        self.later(Item::Wake(who));
    }

    pub(super) fn time_out_later(&mut self, job: u8, attempt: u16) {
        self.later(Item::Timeout { job, attempt });
    }

    /// Something happens after a time that is short, as long as a save, or much longer.
    fn later(&mut self, item: Item) {
        let most = self.span * [1, 4, 16][self.random.below(3) as usize];
        let wakes = self.now + 1 + self.random.below(most);
        self.wakes_next = self.wakes_next.min(wakes);
        self.late.push((wakes, item));
    }

    pub(super) fn tell(&mut self, what: What) {
        (self.observe)(self.events, &Event(what));
    }

    pub(super) fn fault(&mut self, who: Who, fault: Fault) {
        self.tally.faults[fault as usize] += 1;
        self.tell(What::Fault(who, fault));
    }

    pub(super) fn ended(&mut self, who: Who, outcome: Outcome) {
        self.tally.outcomes[outcome as usize] += 1;
        self.tell(What::Ended(who, outcome));
    }

    pub(super) fn is(&self, variant: Variant) -> bool {
        self.settings.variant == variant
    }
}
