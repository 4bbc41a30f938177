//! Resuming: the newest complete step of a run, into the memory of every rank.
//!
//! Each rank reads the bytes of its own boxes and no others. A box that several ranks hold is read by one of them and
//! sent to the rest. What is read is compared with its checksums; a step that turns out to be damaged is passed over
//! for the one before, and the report says so.

use crate::commit::{Step, steps};
use crate::coordinate::Coordinator;
use crate::copy::{self, CopyOptions, Wanted};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Reader};
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{FqnFilter, Severity};
use crate::plan::choose_owners;
use crate::storage::Place;
use crate::verify::{VerifyOptions, verify};
use std::sync::Arc;

/// A step that can be loaded as far as names and lengths tell.
#[derive(Debug)]
pub struct Newest {
    /// Its number.
    pub step: u64,
    /// The open checkpoint.
    pub reader: Arc<dyn Reader>,
    /// Later steps that cannot, each with the reason.
    pub passed_over: Vec<(u64, String)>,
}

/// The newest step of a run that is complete: committed, with every object there and as long as recorded. With `before`,
/// only earlier ones count.
///
/// Errors: [`Error::NoneComplete`], which gives the reason for each step; an error of the store is no reason to take an
/// older step, and is returned.
pub fn newest_complete(run: &Place, before: Option<u64>) -> Result<Newest> {
    let mut passed_over = Vec::new();
    for Step { number, place } in steps(run)? {
        if before.is_some_and(|before| number >= before) {
            continue;
        }
        match complete(&place) {
            Ok(reader) => return Ok(Newest { step: number, reader, passed_over }),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => passed_over.push((number, error.to_string())),
        }
    }
    let tried: String = passed_over.iter().map(|(step, why)| format!("; step {step}: {why}")).collect();
    Err(Error::NoneComplete { root: run.display(), tried })
}

/// Opens a step and sees that it is complete.
///
/// Errors: [`Error::Unsound`] where something is missing; what opening gives.
pub fn complete(place: &Place) -> Result<Arc<dyn Reader>> {
    let reader = format::open(place)?;
    let options = VerifyOptions { deep: false, filter: FqnFilter::default(), threads: 2 };
    let report = verify(&*reader, &options, &())?;
    let mut damage = report.findings.iter().filter(|finding| finding.severity == Severity::Damage);
    match damage.next() {
        None => Ok(reader),
        Some(first) => Err(Error::Unsound {
            root: place.display(),
            count: 1 + damage.count(),
            first: first.message.clone(),
        }),
    }
}

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
    let (mut before, mut passed_over) = (None, Vec::new());
    for round in 0u32.. {
        let tag = format!("{tag}/{round}");
        let (step, skipped) = choose(run, coordinator, &tag, before)?;
        passed_over.extend(skipped);
        let place = Place { store: run.store.clone(), key: run.key.join(&format!("step-{step}"))? };
        let outcome = format::open(&place).and_then(|reader| {
            let ways = ways(&*reader, &request, coordinator.rank())?;
            let read_bytes = read(&*reader, &ways, &mut request, coordinator.rank(), options)?;
            Ok((reader, ways, read_bytes))
        });
        // All or none: a rank that met damage takes the others to the step before.
        let report = match &outcome {
            Ok(_) => String::new(),
            Err(error) if error.kind() == ErrorKind::Data => format!("D{error}"),
            Err(error) => format!("E{error}"),
        };
        let reports = coordinator.gather(&format!("{tag}/read"), report.as_bytes())?;
        let verdict = reports.map_or_else(Vec::new, |reports| worst(&reports));
        let verdict = coordinator.share(&format!("{tag}/verdict"), &verdict)?;
        match verdict.split_first() {
            None => {
                let (reader, ways, read_bytes) = outcome?;
                let received_bytes = exchange(coordinator, &tag, &ways, &mut request)?;
                let wanted_bytes = request.tensors.iter().map(|tensor| tensor.target.len() as u64).sum();
                return Ok(Loaded { step, reader, wanted_bytes, received_bytes, read_bytes, passed_over });
            }
            Some((b'D', why)) => {
                passed_over.push((step, String::from_utf8_lossy(why).into_owned()));
                before = Some(step);
            }
            Some((_, why)) => {
                outcome?;
                let message = String::from_utf8_lossy(why).into_owned();
                return Err(Error::RankFailed { rank: 0, message });
            }
        }
    }
    Err(Error::Interrupted)
}

/// The report that decides: an error before damage, damage before nothing.
fn worst(reports: &[Vec<u8>]) -> Vec<u8> {
    let worst = reports.iter().filter(|report| !report.is_empty()).max_by_key(|report| report[0]);
    worst.cloned().unwrap_or_default()
}

/// Rank 0 chooses a step for all.
fn choose(
    run: &Place,
    coordinator: &dyn Coordinator,
    tag: &str,
    before: Option<u64>,
) -> Result<(u64, Vec<(u64, String)>)> {
    let chosen = (coordinator.rank() == 0).then(|| newest_complete(run, before)).transpose();
    let message = match &chosen {
        Ok(Some(newest)) => serde_json::to_vec(&(newest.step, &newest.passed_over, "")),
        Ok(None) => Ok(Vec::new()),
        Err(error) => serde_json::to_vec(&(0, [(); 0], error.to_string())),
    };
    let message = coordinator.share(&format!("{tag}/step"), &message.unwrap_or_default())?;
    chosen?;
    let malformed =
        |error: serde_json::Error| Error::malformed("rank 0", "choice of a step", error.to_string());
    let (step, passed_over, error): (u64, _, String) = serde_json::from_slice(&message).map_err(malformed)?;
    match error.is_empty() {
        true => Ok((step, passed_over)),
        false => Err(Error::RankFailed { rank: 0, message: error }),
    }
}

/// How one tensor reaches a rank.
struct Way {
    region: Region,
    /// Who reads it, among those that hold it.
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
