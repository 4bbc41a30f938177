//! Resuming: a checkpoint into the memory of every rank. The newest complete step of a run, a step of it that somebody
//! chose, or any other checkpoint.
//!
//! Each rank reads the bytes of its own boxes and no others. A box that several ranks hold is read by one of them and
//! sent to the rest. What is read is compared with its checksums. A newest step that turns out to be damaged is passed
//! over for the one before, and the report says so; of what somebody chose, damage is an error.
//!
//! Tensors come in groups: a rank needs memory for one group beside what it loads into.

mod agreement;
mod newest;
mod origin;
mod ways;

pub(crate) use newest::attempt_of;
pub use newest::{Newest, complete, newest_complete};
pub use origin::Origin;

use crate::coordinate::Coordinator;
use crate::copy::{self, CopyOptions, Wanted};
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Mesh, Placement};
use crate::model::{DType, Fqn, TensorSpec};
use agreement::{Choice, Verdict, agree, choose, open_chosen};
use std::ops::Range;
use std::sync::Arc;
use ways::{Way, exchange, groups, ways};

/// How often a step may be replaced by a newer save of it while it is being looked at.
const LOOKS_MAX: u32 = 8;

/// What a rank wants: the same list on every rank.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// The mesh; without one, the job has one rank and wants every tensor whole.
    pub mesh: Option<Arc<Mesh>>,
    /// Every tensor of the job that is to be loaded.
    pub tensors: Vec<RequestTensor>,
}

/// One tensor of a job.
#[derive(Clone, Debug)]
pub struct RequestTensor {
    /// Its name.
    pub fqn: Fqn,
    /// Its whole shape, which must be what is stored, and the type it is wanted in, which what is stored converts to.
    pub spec: TensorSpec,
    /// One placement per mesh axis.
    pub placements: Vec<Placement>,
}

/// A rank's side of a load.
pub trait Memory {
    /// What is wanted of a checkpoint, whose names and values may be looked at. Asked anew for every step that is tried.
    ///
    /// Errors: end the load on all ranks.
    fn request(&mut self, reader: &dyn Reader) -> Result<Request>;

    /// Takes this rank's box of a tensor of the request, by its position there: row-major, in the type that was asked for.
    /// After an error of the load, what was taken may be anything; a step that is tried next gives all of it again.
    ///
    /// Errors: end the load on all ranks.
    fn take(&mut self, tensor: usize, bytes: &[u8]) -> Result<()>;
}

/// What a load did, on this rank.
#[derive(Debug)]
pub struct Loaded {
    /// The step, where the run or the checkpoint tells one.
    pub step: Option<u64>,
    /// The open checkpoint, for its values.
    pub reader: Arc<dyn Reader>,
    /// Bytes of this rank's boxes, as stored.
    pub wanted_bytes: u64,
    /// Those of them that other ranks sent.
    pub received_bytes: u64,
    /// Bytes fetched from the store for the others.
    pub read_bytes: u64,
    /// Steps that were passed over, each with the reason.
    pub passed_over: Vec<(u64, String)>,
}

impl Loaded {
    /// Bytes fetched per byte that had to be: 1 is best.
    pub fn amplification(&self) -> f64 {
        self.read_bytes as f64 / (self.wanted_bytes - self.received_bytes).max(1) as f64
    }
}

/// Opens a checkpoint without loading any tensor: to ask for its names, its step, its values. Called by all ranks of a job
/// with the same `tag`, which serves once; all have the same save open.
///
/// Errors: as [`load`].
pub fn open(origin: &Origin, coordinator: &dyn Coordinator, tag: &str) -> Result<Loaded> {
    struct Nothing;
    impl Memory for Nothing {
        fn request(&mut self, _: &dyn Reader) -> Result<Request> {
            Ok(Request::default())
        }

        fn take(&mut self, _: usize, _: &[u8]) -> Result<()> {
            Ok(())
        }
    }
    load(origin, coordinator, tag, &mut Nothing, CopyOptions::default())
}

/// Loads what every rank wants into its memory. Called by all ranks of a job with the same `tag`, which serves once.
///
/// All ranks load the same save: rank 0 chooses it, and a rank that finds another in its place, because the step was saved
/// again meanwhile, has all of them begin anew. A group of tensors has at most about `options.memory_bytes_max` bytes on a
/// rank, or is one tensor; reading needs as much again.
///
/// Errors: as [`newest_complete`]; [`Error::NoSuchStep`] for a chosen step that is not there; [`Error::NoSuchName`] and
/// [`Error::OtherTensor`] where the checkpoint does not hold what is wanted; [`Error::RankFailed`] where another rank
/// failed; what reading gives, damage included where the checkpoint was chosen; what `memory` gives.
pub fn load(
    origin: &Origin,
    coordinator: &dyn Coordinator,
    tag: &str,
    memory: &mut dyn Memory,
    options: CopyOptions,
) -> Result<Loaded> {
    let (mut before, mut replaced, mut passed_over) = (None, 0, Vec::new());
    for round in 0u32.. {
        let tag = format!("{tag}/{round}");
        let choice = choose(origin, coordinator, &tag, before)?;
        passed_over.extend(choice.passed_over.iter().cloned());
        let mut attempt = Attempt { coordinator, tag, memory, options, bytes: Bytes::default() };
        let (verdict, outcome) = attempt.run(origin, &choice)?;
        let Bytes { wanted: wanted_bytes, received: received_bytes, read: read_bytes } = attempt.bytes;
        match verdict {
            Verdict::Good => {
                let Opened { reader, .. } = outcome?;
                let step = choice.step.or(reader.catalog().step);
                return Ok(Loaded { step, reader, wanted_bytes, received_bytes, read_bytes, passed_over });
            }
            Verdict::Replaced if replaced < LOOKS_MAX => replaced += 1,
            Verdict::Replaced => return Err(Error::Changed { object: origin.place(choice.step)?.display() }),
            Verdict::Damaged { rank, message } => match (origin, choice.step) {
                (Origin::Newest(_), Some(step)) => {
                    passed_over.push((step, format!("rank {rank}: {message}")));
                    before = Some(step);
                }
                _ => return Err(failed(outcome, rank, message)),
            },
            Verdict::Failed { rank, message } => return Err(failed(outcome, rank, message)),
        }
    }
    Err(Error::Interrupted)
}

/// This rank's own error, or that another failed.
fn failed<T>(outcome: Result<T>, rank: u32, message: String) -> Error {
    outcome.err().unwrap_or(Error::RankFailed { rank, so: "nothing was loaded", message })
}

/// A checkpoint, and how what is wanted of it reaches this rank.
struct Opened {
    reader: Arc<dyn Reader>,
    request: Request,
    ways: Vec<Option<Way>>,
    groups: Vec<Range<usize>>,
}

impl Opened {
    fn stored_bytes(&self, tensor: usize) -> u64 {
        self.bytes_in(tensor, self.reader.catalog().tensors[&self.request.tensors[tensor].fqn].spec.dtype)
    }

    fn bytes_in(&self, tensor: usize, dtype: DType) -> u64 {
        self.ways[tensor].as_ref().and_then(|way| dtype.bytes(way.region.elements())).unwrap_or(0)
    }

    /// Reads what falls to this rank of a group; gives its memory and the bytes fetched.
    fn read(&self, group: Range<usize>, rank: u32, options: CopyOptions) -> Result<(Vec<Vec<u8>>, u64)> {
        let tensors = &self.request.tensors;
        let mut targets: Vec<Vec<u8>> = Vec::with_capacity(group.len());
        for tensor in group.clone() {
            targets.push(vec![0; self.bytes_in(tensor, tensors[tensor].spec.dtype) as usize]);
        }
        let mut wanted = Vec::new();
        for (tensor, target) in group.zip(&mut targets) {
            let RequestTensor { fqn, spec, .. } = &tensors[tensor];
            let way = self.ways[tensor].as_ref();
            if let Some(way) = way.filter(|way| way.from == rank && !way.region.is_empty()) {
                let (fqn, region, dtype) = (fqn.as_str(), way.region.clone(), Some(spec.dtype));
                wanted.push(Wanted { fqn, region, dtype, target });
            }
        }
        let read_bytes = copy::load(&*self.reader, wanted, options, &())?.read_bytes;
        Ok((targets, read_bytes))
    }
}

#[derive(Default)]
struct Bytes {
    wanted: u64,
    received: u64,
    read: u64,
}

/// One try at one save.
struct Attempt<'a> {
    coordinator: &'a dyn Coordinator,
    tag: String,
    memory: &'a mut dyn Memory,
    options: CopyOptions,
    bytes: Bytes,
}

impl Attempt<'_> {
    /// Loads group after group. All ranks agree after each was read, before any is exchanged, and once more at the end;
    /// a rank that could not open the checkpoint, or take what it was given, says so at the next occasion.
    fn run(&mut self, origin: &Origin, choice: &Choice) -> Result<(Verdict, Result<Opened>)> {
        let place = origin.place(choice.step)?;
        let mut opened = self.open(origin, choice);
        for index in 0.. {
            let tag = format!("{}/{index}", self.tag);
            let group = opened.as_ref().ok().and_then(|opened| opened.groups.get(index).cloned());
            let mut targets = Vec::new();
            if let (Ok(own), Some(group)) = (&opened, group.clone()) {
                match own.read(group, self.coordinator.rank(), self.options) {
                    Ok((read, read_bytes)) => {
                        targets = read;
                        self.bytes.read += read_bytes;
                    }
                    Err(error) => opened = Err(error),
                }
            }
            let verdict = agree(self.coordinator, &tag, &place, choice, opened.as_ref().err())?;
            let (Verdict::Good, Ok(own), Some(group)) = (&verdict, &opened, group) else {
                return Ok((verdict, opened));
            };
            if let Err(error) = self.pass_on(own, &tag, group, targets)? {
                opened = Err(error);
            }
        }
        Err(Error::Interrupted)
    }

    fn open(&mut self, origin: &Origin, choice: &Choice) -> Result<Opened> {
        let reader = open_chosen(origin, choice)?;
        let request = self.memory.request(&*reader)?;
        let (ranks, on_mesh) =
            (self.coordinator.ranks(), request.mesh.as_ref().map_or(1, |mesh| mesh.ranks()));
        if on_mesh != ranks && !request.tensors.is_empty() {
            return Err(Error::Usage(format!("the mesh has {on_mesh} ranks, the job {ranks}")));
        }
        let ways = ways(&*reader, &request, self.coordinator.rank())?;
        let groups = groups(&request, self.options.memory_bytes_max);
        Ok(Opened { reader, request, ways, groups })
    }

    /// Exchanges a group with the ranks that hold the same, and hands it over.
    ///
    /// Errors: where the ranks cannot talk; what this rank's memory says is inside.
    fn pass_on(
        &mut self,
        own: &Opened,
        tag: &str,
        group: Range<usize>,
        targets: Vec<Vec<u8>>,
    ) -> Result<Result<()>> {
        let mut outcome = Ok(());
        for (tensor, mut target) in group.zip(targets) {
            let stored_bytes = own.stored_bytes(tensor);
            self.bytes.wanted += stored_bytes;
            let Some(way) = &own.ways[tensor] else { continue };
            if exchange(self.coordinator, &format!("{tag}/{tensor}"), way, &mut target)? {
                self.bytes.received += stored_bytes;
            }
            if outcome.is_ok() {
                outcome = self.memory.take(tensor, &target);
            }
        }
        Ok(outcome)
    }
}
