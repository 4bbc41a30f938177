//! Resuming: the newest complete step of a run, into the memory of every rank.
//!
//! Each rank reads the bytes of its own boxes and no others. A box that several ranks hold is read by one of them and
//! sent to the rest. What is read is compared with its checksums; a step that turns out to be damaged is passed over
//! for the one before, and the report says so.

mod agreement;
mod newest;

pub(crate) use newest::attempt_of;
pub use newest::{Newest, complete, newest_complete};

use crate::coordinate::Coordinator;
use crate::copy::{self, CopyOptions, Wanted};
use crate::error::{Error, Result};
use crate::format::Reader;
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::plan::choose_owners;
use crate::storage::Place;
use agreement::{Verdict, agree, choose, open_chosen};
use std::sync::Arc;

/// How often a step may be replaced by a newer save of it while it is being looked at.
const LOOKS_MAX: u32 = 8;

/// What a rank wants. Mesh and tensors are the same list on every rank; the memory is its own.
#[derive(Debug, Default)]
pub struct Request<'a> {
    /// The mesh; without one, the job has one rank and wants every tensor whole.
    pub mesh: Option<Arc<Mesh>>,
    /// Every tensor of the job.
    pub tensors: Vec<RequestTensor<'a>>,
}

/// One tensor of a job.
#[derive(Debug)]
pub struct RequestTensor<'a> {
    /// Its name.
    pub fqn: &'a str,
    /// One placement per mesh axis.
    pub placements: Vec<Placement>,
    /// Memory of exactly this rank's box, filled row-major in the stored type; empty where it holds none.
    pub target: &'a mut [u8],
}

/// What a load did, on this rank.
#[derive(Debug)]
pub struct Loaded {
    /// The step.
    pub step: u64,
    /// The open checkpoint, for its values.
    pub reader: Arc<dyn Reader>,
    /// Bytes of this rank's boxes.
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

/// Loads the newest complete step into every rank's memory. Called by all ranks of a job with the same `tag`, which
/// serves once.
///
/// All ranks load the same save: rank 0 chooses it, and a rank that finds another in its place, because the step was saved
/// again meanwhile, has all of them begin anew.
///
/// Errors: as [`newest_complete`]; [`Error::BadTensor`], [`Error::NoSuchName`] where the step does not hold what is
/// wanted; [`Error::RankFailed`] where another rank failed; what reading gives. After an error the memory holds anything.
pub fn load(
    run: &Place,
    coordinator: &dyn Coordinator,
    tag: &str,
    mut request: Request,
    options: CopyOptions,
) -> Result<Loaded> {
    let (ranks, on_mesh) = (coordinator.ranks(), request.mesh.as_ref().map_or(1, |mesh| mesh.ranks()));
    if on_mesh != ranks {
        return Err(Error::Usage(format!("the mesh has {on_mesh} ranks, the job {ranks}")));
    }
    let (mut before, mut replaced, mut passed_over) = (None, 0, Vec::new());
    for round in 0u32.. {
        let tag = format!("{tag}/{round}");
        let choice = choose(run, coordinator, &tag, before)?;
        let place = step_place(run, choice.step)?;
        let outcome = open_chosen(&place, &choice).and_then(|reader| {
            let ways = ways(&*reader, &request, coordinator.rank())?;
            let read_bytes = read(&*reader, &ways, &mut request, coordinator.rank(), options)?;
            Ok((reader, ways, read_bytes))
        });
        let verdict = agree(coordinator, &tag, &place, &choice, outcome.as_ref().err())?;
        passed_over.extend(choice.passed_over);
        match verdict {
            Verdict::Good => {
                let (reader, ways, read_bytes) = outcome?;
                let received_bytes = exchange(coordinator, &tag, &ways, &mut request)?;
                let wanted_bytes = request.tensors.iter().map(|tensor| tensor.target.len() as u64).sum();
                let step = choice.step;
                return Ok(Loaded { step, reader, wanted_bytes, received_bytes, read_bytes, passed_over });
            }
            Verdict::Replaced if replaced < LOOKS_MAX => replaced += 1,
            Verdict::Replaced => return Err(Error::Changed { object: place.display() }),
            Verdict::Damaged { rank, message } => {
                passed_over.push((choice.step, format!("rank {rank}: {message}")));
                before = Some(choice.step);
            }
            Verdict::Failed { rank, message } => {
                outcome?;
                return Err(Error::RankFailed { rank, so: "nothing was loaded", message });
            }
        }
    }
    Err(Error::Interrupted)
}

fn step_place(run: &Place, step: u64) -> Result<Place> {
    Ok(Place { store: run.store.clone(), key: run.key.join(&format!("step-{step}"))? })
}

/// How one tensor reaches a rank.
#[derive(Debug)]
struct Way {
    region: Region,
    /// Who reads it, of those that hold it.
    from: u32,
    group: Vec<u32>,
}

/// For each tensor, its way to this rank, if the rank holds some of it. Which of several holders reads is chosen to
/// balance bytes, the same on every rank.
fn ways(reader: &dyn Reader, request: &Request, rank: u32) -> Result<Vec<Option<Way>>> {
    let mut placed = Vec::with_capacity(request.tensors.len());
    for tensor in &request.tensors {
        let found = reader.catalog().tensors.get(tensor.fqn);
        let missing = || Error::NoSuchName { fqn: tensor.fqn.to_owned(), hint: String::new() };
        let spec = &found.ok_or_else(missing)?.spec;
        placed.push((tensor.placements.clone(), spec.bytes().unwrap_or(0), spec.shape.clone()));
    }
    let Some(mesh) = &request.mesh else {
        let whole = |(_, _, shape): &(_, _, Vec<u64>)| {
            Some(Way { region: Region::whole(shape), from: 0, group: vec![0] })
        };
        return Ok(placed.iter().map(whole).collect());
    };
    let sizes: Vec<_> = placed.iter().map(|(placements, bytes, _)| (placements.clone(), *bytes)).collect();
    let owners = choose_owners(mesh, &sizes);
    let ways = placed.into_iter().zip(owners).map(|((placements, _, shape), owner)| {
        let layout = Layout::new(mesh.clone(), placements, shape)?;
        Ok(layout.region(rank).map(|region| {
            let (group, from) = holders(&layout, rank, &owner);
            Way { region, from, group }
        }))
    });
    ways.collect()
}

/// The ranks that hold the same box, and the one of them that is the owner's copy.
fn holders(layout: &Layout, rank: u32, owner: &[u32]) -> (Vec<u32>, u32) {
    let mesh = layout.mesh();
    let mut all = vec![mesh.coordinates(rank)];
    let mut from = mesh.coordinates(rank);
    for axis in layout.replica_axes() {
        from[axis] = owner[axis];
        let along = |coordinates: Vec<u32>| {
            (0..mesh.axes()[axis].size).map(move |own| {
                let mut coordinates = coordinates.clone();
                coordinates[axis] = own;
                coordinates
            })
        };
        all = all.into_iter().flat_map(along).collect();
    }
    let mut group: Vec<u32> = all.iter().map(|coordinates| mesh.rank_at(coordinates)).collect();
    group.sort_unstable();
    (group, mesh.rank_at(&from))
}

/// Reads what falls to this rank; returns the bytes fetched.
fn read(
    reader: &dyn Reader,
    ways: &[Option<Way>],
    request: &mut Request,
    rank: u32,
    options: CopyOptions,
) -> Result<u64> {
    let mut wanted = Vec::new();
    for (tensor, way) in request.tensors.iter_mut().zip(ways) {
        let spec = &reader.catalog().tensors[tensor.fqn].spec;
        let expected = way.as_ref().map_or(Some(0), |way| spec.dtype.bytes(way.region.elements()));
        if expected != Some(tensor.target.len() as u64) {
            return Err(Error::Usage(format!(
                "`{}` is stored as {}: this rank's box has {expected:?} bytes, the memory for it {}",
                tensor.fqn,
                spec.dtype,
                tensor.target.len()
            )));
        }
        if let Some(way) = way.as_ref().filter(|way| way.from == rank && !way.region.is_empty()) {
            let (region, target) = (way.region.clone(), &mut *tensor.target);
            wanted.push(Wanted { fqn: tensor.fqn, region, target });
        }
    }
    Ok(copy::load(reader, wanted, options, &())?.read_bytes)
}

/// Sends what this rank has read to those that hold it too, and takes what others have; returns the bytes taken. All
/// ranks go through the tensors in one order.
fn exchange(
    coordinator: &dyn Coordinator,
    tag: &str,
    ways: &[Option<Way>],
    request: &mut Request,
) -> Result<u64> {
    let mut received_bytes = 0;
    for (index, (tensor, way)) in request.tensors.iter_mut().zip(ways).enumerate() {
        let Some(Way { from, group, region }) = way else { continue };
        if group.len() < 2 || region.is_empty() {
            continue;
        }
        let tag = format!("{tag}/{index}/{from}");
        coordinator.broadcast(&tag, *from, group, tensor.target)?;
        if *from != coordinator.rank() {
            received_bytes += tensor.target.len() as u64;
        }
    }
    Ok(received_bytes)
}
