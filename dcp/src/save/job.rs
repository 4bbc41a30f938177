//! One save, in its own thread.

use super::handle::{Saved, Shared};
use super::pool::Pool;
use super::snapshot::{Share, Snapshot};
use super::state::{State, StateTensor, StateValue};
use super::{SaveOptions, messages};
use crate::commit;
use crate::coordinate::Coordinator;
use crate::copy::{self, CopyOptions, CopyStats};
use crate::error::{Error, Result};
use crate::format::{Attempt, Pieces, Target, TargetTensor, TargetValue};
use crate::layout::{Layout, Region};
use crate::model::{Fqn, TensorSpec};
use crate::plan::choose_owners;
use crate::storage::Place;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Of the memory budget, this share and at most so much is for the engine's strips, the rest for the snapshot.
const ENGINE_SHARE: u64 = 8;
const ENGINE_BYTES_MAX: u64 = 128 << 20;

pub(super) struct Job {
    pub(super) place: Place,
    pub(super) step: u64,
    pub(super) tag: String,
    pub(super) options: SaveOptions,
    pub(super) coordinator: Arc<dyn Coordinator>,
    pub(super) pool: Arc<Mutex<Pool>>,
    pub(super) shared: Arc<Shared>,
    pub(super) waited: Duration,
}

/// What a rank has when its state may change again.
struct Staged {
    target: Target,
    snapshot: Snapshot,
}

impl Job {
    pub(super) fn run(self, state: State) {
        // Should this thread panic, who waits for it hears of it.
        struct Ended(Arc<Shared>);
        impl Drop for Ended {
            fn drop(&mut self) {
                if std::thread::panicking() {
                    self.0.done(Err(Error::Interrupted));
                }
            }
        }
        let ended = Ended(self.shared.clone());
        let outcome = self.save(state);
        ended.0.done(outcome);
    }

    fn save(&self, state: State) -> Result<Saved> {
        let rank = self.coordinator.rank();
        let values = state.values.clone();
        let staged = self.stage(state);
        // A rank that has failed says so, rather than have the others wait for it.
        let message = messages::report(staged.as_ref().map(|_| &values[..]));
        let gathered = self.coordinator.gather(&format!("{}/staged", self.tag), &message)?;
        let announced = match gathered {
            Some(reports) => self.begin(staged.as_ref().ok().map(|staged| &staged.target), &reports),
            None => Ok((Attempt::new(0), Vec::new(), true)),
        };
        let announcement = messages::announce(announced.as_ref().map(|(attempt, ..)| attempt));
        let announcement = self.coordinator.share(&format!("{}/attempt", self.tag), &announcement)?;
        let Staged { mut target, snapshot } = staged?;
        let mut exclusive = true;
        if rank == 0 {
            (_, target.values, exclusive) = announced?;
        }
        let attempt = messages::announced(&announcement)?;
        let write = crate::format::WriteOptions { attempt: Some(attempt.clone()), ..self.options.write() };
        let draft = self.options.format.draft(&target, &write);
        let written = draft
            .as_ref()
            .map_err(|_| Error::Interrupted)
            .and_then(|draft| self.write(&target, &**draft, &snapshot));
        let failure = draft.as_ref().err().or(written.as_ref().err());
        let report = messages::report(failure.map_or(Ok(&[]), Err));
        let gathered = self.coordinator.gather(&format!("{}/written", self.tag), &report)?;
        let committed = gathered.map_or(Ok(()), |reports| {
            messages::failed(&reports)?;
            draft.as_ref().map_or(Err(Error::Interrupted), |draft| {
                commit::commit(&self.place, self.options.format, &**draft)
            })
        });
        let outcome = messages::report(committed.as_ref().map(|()| &[][..]));
        let outcome = self.coordinator.share(&format!("{}/outcome", self.tag), &outcome)?;
        let (staged_bytes, streamed_bytes) = (snapshot.staged_bytes, snapshot.streamed_bytes);
        snapshot.release(&self.pool);
        draft?;
        let stats = written.map_err(|error| told_as_torn(error, &target))?;
        committed?;
        messages::failed(&[outcome])?;
        Ok(Saved { staged_bytes, streamed_bytes, stats, waited: self.waited, exclusive })
    }

    /// Copies this rank's share.
    fn stage(&self, state: State) -> Result<Staged> {
        let target = self.target(&state)?;
        let shares = shares(&state, &target, self.coordinator.rank())?;
        let specs: Vec<(Fqn, TensorSpec)> =
            target.tensors.iter().map(|tensor| (tensor.fqn.clone(), tensor.spec.clone())).collect();
        let shared = self.shared.clone();
        let bytes_max = self.options.memory_bytes_max - self.engine_bytes();
        let released = Arc::new(move || shared.staged());
        let snapshot = Snapshot::take(&specs, &shares, &self.pool, &self.options, bytes_max, released)?;
        Ok(Staged { target, snapshot })
    }

    fn engine_bytes(&self) -> u64 {
        (self.options.memory_bytes_max / ENGINE_SHARE).min(ENGINE_BYTES_MAX)
    }

    /// Who writes which box of which tensor: the same on every rank.
    fn target(&self, state: &State) -> Result<Target> {
        let ranks = self.coordinator.ranks();
        let on_mesh = state.mesh.as_ref().map_or(1, |mesh| mesh.ranks());
        if on_mesh != ranks {
            return Err(Error::Usage(format!("the mesh has {on_mesh} ranks, the job {ranks}")));
        }
        let placed: Vec<_> = state
            .tensors
            .iter()
            .map(|tensor| (tensor.placements.clone(), tensor.spec.bytes().unwrap_or(0)))
            .collect();
        let mut owners = state.mesh.as_ref().map(|mesh| choose_owners(mesh, &placed).into_iter());
        let tensors = state.tensors.iter().map(|tensor| {
            let pieces = match owners.as_mut().and_then(Iterator::next) {
                Some(owner) => Pieces::Placed { placements: tensor.placements.clone(), owner },
                None => Pieces::Listed(vec![(0, Region::whole(&tensor.spec.shape))]),
            };
            let StateTensor { fqn, spec, path, .. } = tensor;
            TargetTensor { fqn: fqn.clone(), spec: spec.clone(), path: path.clone(), pieces }
        });
        Ok(Target {
            tensors: tensors.collect(),
            values: Vec::new(),
            mesh: state.mesh.clone(),
            writers: ranks,
            step: Some(self.step),
        })
    }

    /// Rank 0 has heard of all that they are ready: chooses the attempt, collects the values, and tries whether
    /// the store keeps create-if-absent.
    fn begin(
        &self,
        target: Option<&Target>,
        reports: &[Vec<u8>],
    ) -> Result<(Attempt, Vec<TargetValue>, bool)> {
        messages::failed(reports)?;
        let values = merge(reports)?;
        let needed = target.iter().flat_map(|target| &target.tensors);
        let needed: u64 = needed.filter_map(|tensor| tensor.spec.bytes()).sum();
        if let Some(available) = self.place.store.free_bytes()?
            && needed > available
            && !self.options.compress
        {
            return Err(Error::NoSpace { path: self.place.display().into(), available, needed });
        }
        let exclusive = self.place.store.creates_exclusively(&self.place.key)?;
        let attempt = commit::begin(&self.place, self.options.format, self.options.existing)?;
        Ok((attempt, values, exclusive))
    }

    /// Writes this rank's objects and its record.
    fn write(
        &self,
        target: &Target,
        draft: &dyn crate::format::Draft,
        snapshot: &Snapshot,
    ) -> Result<CopyStats> {
        let rank = self.coordinator.rank();
        let sources: Vec<Fqn> = target.tensors.iter().map(|tensor| tensor.fqn.clone()).collect();
        let threads = self.options.write_threads.max(1);
        let (sums, stats) = copy::run(copy::Job {
            reader: snapshot,
            sources: &sources,
            target,
            draft,
            objects: draft.objects_of(rank).collect(),
            output: copy::Output::Write,
            place: &self.place,
            options: CopyOptions { memory_bytes_max: self.engine_bytes(), threads },
            progress: &(),
        })?;
        if let Some((key, bytes)) = draft.record(rank, &sums)? {
            self.place.store.put(&self.place.key.join(key.as_str())?, &bytes)?;
        }
        Ok(stats)
    }
}

/// The engine finds a snapshot whose checksum does not hold as it finds any damage; here it has another meaning.
fn told_as_torn(error: Error, target: &Target) -> Error {
    let Error::Damaged { fqn_note, .. } = &error else { return error };
    let named = target.tensors.iter().find(|tensor| fqn_note.ends_with(tensor.fqn.as_str()));
    match named {
        Some(tensor) => Error::Torn { fqn: tensor.fqn.to_string(), when: "the write of its snapshot" },
        None => error,
    }
}

/// The boxes that this rank writes, with the memory they come from.
fn shares(state: &State, target: &Target, rank: u32) -> Result<Vec<Share>> {
    let mut shares = Vec::new();
    for (tensor, planned) in state.tensors.iter().zip(&target.tensors) {
        let region = match (&planned.pieces, &state.mesh) {
            (Pieces::Placed { placements, owner }, Some(mesh)) => {
                let shape = tensor.spec.shape.clone();
                let layout = Layout::new(mesh.clone(), placements.clone(), shape)?;
                let coordinates = mesh.coordinates(rank);
                let own = layout.replica_axes().all(|axis| coordinates[axis] == owner[axis]);
                layout.region(rank).filter(|_| own)
            }
            _ => Some(Region::whole(&tensor.spec.shape)),
        };
        let Some(region) = region.filter(|region| !region.is_empty()) else { continue };
        let bad = |message: String| Error::BadTensor { fqn: tensor.fqn.to_string(), message };
        let expected = tensor.spec.dtype.bytes(region.elements());
        let Some(source) = tensor.local.clone() else {
            return Err(bad(format!("rank {rank} is to write {region:?} and was given no memory of it")));
        };
        if Some(source.byte_len()) != expected {
            let found = source.byte_len();
            return Err(bad(format!("{region:?} was given as {found} bytes, expected {expected:?}")));
        }
        shares.push(Share { fqn: tensor.fqn.clone(), region, source });
    }
    Ok(shares)
}

/// The values of all ranks, each once, by the lowest rank that has it.
fn merge(reports: &[Vec<u8>]) -> Result<Vec<TargetValue>> {
    let mut merged: indexmap::IndexMap<Fqn, (u32, StateValue)> = indexmap::IndexMap::new();
    for (rank, message) in (0..).zip(reports) {
        for value in messages::values(message)? {
            match merged.get(&value.fqn) {
                Some((first, found)) if found.value != value.value => {
                    return Err(Error::Usage(format!(
                        "value `{}` differs between ranks {first} and {rank}; give it a name of its own on each",
                        value.fqn
                    )));
                }
                Some(_) => {}
                None => drop(merged.insert(value.fqn.clone(), (rank, value))),
            }
        }
    }
    let target = |(_, value): (u32, StateValue)| {
        let StateValue { fqn, path, value } = value;
        TargetValue { fqn, path, value, archive: None, writer: 0 }
    };
    Ok(merged.into_values().map(target).collect())
}
