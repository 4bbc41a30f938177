//! A checkpoint into the live state: ours, TorchTitan's, or a model of anybody's under the names of ours.

use super::dataloader::place_of;
use super::memory::{dtype_of, failed, fill, is_filled_with};
use super::names::{
    DATA, DATALOADER, Entry, LR_SCHEDULER, OPTIMIZER, RNG, TRAIN_STATE, entries, is_of_model,
};
use super::{Parts, Stored, Tensors};
use crate::error::{Error, Result};
use crate::ffi::rng::RngState;
use data::MapPlace;
use dcp::coordinate::Coordinator;
use dcp::copy::CopyOptions;
use dcp::format::Reader;
use dcp::load::{Memory, Origin, Request, RequestTensor};
use dcp::model::{Fqn, TensorSpec, Value};
use dcp::plan::mesh_of;
use std::collections::HashSet;
use std::sync::Arc;

/// What a run goes on with.
#[derive(Clone, PartialEq, Debug)]
pub struct Resumed {
    /// Steps done; 0 where the train state was not loaded.
    pub step: u64,
    /// Tokens that all ranks together have trained on.
    pub tokens_seen: u64,
    /// The step at which the schedule of the learning rate stands; 0 where that was not loaded.
    pub schedule_step: u64,
    /// Where the data goes on.
    pub data: DataPlace,
    /// The state of this rank's generator, where the checkpoint is of as many ranks. `None`: seed it, by the run's seed, the
    /// rank and the step.
    pub rng: Option<RngState>,
    /// The optimizer's settings in the checkpoint, which are not taken over.
    pub stored: Stored,
    /// What whoever reads the log should know.
    pub notes: Vec<String>,
    /// Steps that were passed over, each with the reason.
    pub passed_over: Vec<(u64, String)>,
}

impl Resumed {
    /// One sentence where all steps so far had as many tokens, and those to come have others. After a change that was told once
    /// nothing is.
    pub fn other_batch(&self, step_tokens: u64, seq_len: u64) -> Option<String> {
        let before = self
            .tokens_seen
            .checked_div(self.step)
            .filter(|before| before * self.step == self.tokens_seen)?;
        let remedy = match before.is_multiple_of(seq_len.max(1)) {
            true => format!("to keep it, set training.global_batch_size = {}", before / seq_len.max(1)),
            false => "it depends on training.global_batch_size and training.seq_len".to_owned(),
        };
        (before > 0 && before != step_tokens).then(|| {
            format!(
                "a step had {before} tokens when the checkpoint was saved and has {step_tokens} now; {remedy} (-1 is another batch \
                 on another mesh)"
            )
        })
    }
}

/// Where data goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataPlace {
    /// At its beginning.
    Beginning,
    /// Where the ranks of our run stood: states as JSON, to be joined by [`data::State::merge`].
    Ranks(Vec<String>),
    /// Where TorchTitan's one data-parallel rank stood after so many steps: for [`data::State::of_map_place`], which takes
    /// their sequences as position. Where it gives no state, or an error, the data is another than that run's, and can only
    /// go on as in `AfterSteps`.
    Map {
        /// The place.
        place: MapPlace,
        /// The steps.
        steps: u64,
    },
    /// After the sequences of so many steps, in our order: for [`data::Loader::open_after`].
    AfterSteps(u64),
}

/// What a checkpoint holds besides the model.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holds {
    /// The steps done, where it says so.
    pub step: Option<u64>,
    /// Its parts.
    pub parts: Parts,
}

/// Looks at the names of a checkpoint, and at its step.
///
/// Errors: what reading a value gives.
pub fn holds(reader: &dyn Reader) -> Result<Holds> {
    let catalog = reader.catalog();
    let has = |part: &str| {
        let is_of = |fqn: &Fqn| fqn.as_str().strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        catalog.values.keys().any(is_of) || catalog.tensors.keys().any(is_of)
    };
    let step = number(reader, TRAIN_STATE, "step")?;
    let parts = Parts {
        optimizer: has(&format!("{OPTIMIZER}.state")),
        lr_scheduler: has(LR_SCHEDULER),
        dataloader: has(DATA) || has(DATALOADER),
        train_state: step.is_some(),
    };
    Ok(Holds { step, parts })
}

/// Loads a checkpoint into this rank's shards. Called by all ranks with the same `tag`, once. Beside the state, memory is
/// needed for one group of tensors: 256 MiB, or the largest shard.
///
/// What is stored in another floating-point type is converted. Of a run on another number of ranks, everything is loaded but
/// the random state.
///
/// Errors: as [`dcp::load::load`]; [`dcp::Error::Usage`] for a checkpoint of another model, and for one that lacks a part.
pub fn load(
    origin: &Origin,
    coordinator: &dyn Coordinator,
    tag: &str,
    state: Tensors,
    parts: Parts,
) -> Result<Resumed> {
    let units = state.units;
    let entries = entries(&state).into_iter().filter(|entry| parts.optimizer || entry.is_param).collect();
    let mut live = Live { entries, asked: Vec::new(), state, parts };
    let loaded = dcp::load::load(origin, coordinator, tag, &mut live, CopyOptions::default())?;
    let reader = &*loaded.reader;
    let mut notes = Vec::new();
    let stored_step = number(reader, TRAIN_STATE, "step")?.unwrap_or(0);
    let (mut step, mut tokens_seen, mut rng) = (0, 0, None);
    if parts.train_state {
        step = stored_step;
        tokens_seen = tokens(reader)?;
        rng = random(reader, coordinator, &mut notes)?;
    }
    let schedule_step = match parts.lr_scheduler {
        true => number(reader, LR_SCHEDULER, "last_epoch")?.unwrap_or(stored_step),
        false => 0,
    };
    if parts.lr_scheduler && schedule_step != stored_step {
        notes.push(format!(
            "the schedule of the learning rate is at step {schedule_step}, the run at step {stored_step}"
        ));
    }
    let data = match parts.dataloader {
        true => data_place(reader, stored_step, &mut notes)?,
        false => DataPlace::Beginning,
    };
    let first = units.iter().flat_map(|unit| &unit.params).next().filter(|_| parts.optimizer);
    let stored = first.map_or(Ok(Stored::default()), |param| Stored::read(reader, &param.fqn))?;
    let passed_over = loaded.passed_over;
    Ok(Resumed { step, tokens_seen, schedule_step, data, rng, stored, notes, passed_over })
}

/// The live state, as a load fills it.
struct Live<'a> {
    entries: Vec<Entry<'a>>,
    /// Positions of those that the request has.
    asked: Vec<usize>,
    state: Tensors<'a>,
    parts: Parts,
}

impl Memory for Live<'_> {
    fn request(&mut self, reader: &dyn Reader) -> dcp::Result<Request> {
        self.check(reader)?;
        // A second name may be missing. Where it is there, it must be of the same tensor.
        let is_asked = |at: &usize| {
            let Entry { fqn, second_of, .. } = &self.entries[*at];
            second_of.is_none() || reader.catalog().tensors.contains_key(fqn.as_str())
        };
        self.asked = (0..self.entries.len()).filter(is_asked).collect();
        let tensor = |at: &usize| {
            let entry = &self.entries[*at];
            RequestTensor {
                fqn: Fqn::new(&*entry.fqn),
                spec: TensorSpec::new(dtype_of(entry.kind), entry.shape.clone()),
                placements: entry.placements(self.state.degrees),
            }
        };
        let tensors = self.asked.iter().map(tensor).collect();
        Ok(Request { mesh: Some(Arc::new(mesh_of(self.state.degrees)?)), tensors })
    }

    fn take(&mut self, tensor: usize, bytes: &[u8]) -> dcp::Result<()> {
        let Entry { local, second_of, fqn, .. } = &self.entries[self.asked[tensor]];
        // Of another stage: no bytes.
        let Some(local) = local else { return Ok(()) };
        let Some(first) = second_of else { return fill(local, bytes).map_err(failed) };
        // Tensors come in the order of the request: under its first name it was filled before.
        match is_filled_with(local, bytes).map_err(failed)? {
            true => Ok(()),
            false => Err(dcp::Error::Usage(format!(
                "the checkpoint's `{fqn}` is not its `{first}`, but the model has one tensor for both: it was trained as another \
                 model; choose its model.flavor, or leave out `{fqn}` with `titan-ckpt convert --exclude`"
            ))),
        }
    }
}

impl Live<'_> {
    /// Sees that the checkpoint is of this model and has the parts that are wanted.
    fn check(&self, reader: &dyn Reader) -> dcp::Result<()> {
        let usage = |message: String| Err(dcp::Error::Usage(message));
        let (place, tensors) = (reader.place().display(), &reader.catalog().tensors);
        let is_missing =
            |entry: &&Entry| entry.second_of.is_none() && !tensors.contains_key(entry.fqn.as_str());
        let params = || self.entries.iter().filter(|entry| entry.is_param);
        let missing: Vec<&str> = params().filter(is_missing).map(|entry| entry.fqn.as_str()).collect();
        let own: HashSet<&str> = params().map(|entry| entry.fqn.as_str()).collect();
        let stored = tensors.keys().map(Fqn::as_str).filter(|fqn| is_of_model(fqn));
        let extra: Vec<&str> = stored.filter(|fqn| !own.contains(fqn)).collect();
        if !missing.is_empty() || !extra.is_empty() {
            return usage(format!(
                "{place}: is of another model: it lacks {} and has {} besides; choose model.name and model.flavor as it \
                 was trained with, or leave out what it has besides with `titan-ckpt convert --exclude`",
                some_of(&missing),
                some_of(&extra)
            ));
        }
        let missing: Vec<&str> =
            self.entries.iter().filter(is_missing).map(|entry| entry.fqn.as_str()).collect();
        let has_step = reader.catalog().values.contains_key(format!("{TRAIN_STATE}.step").as_str());
        let has_optimizer = tensors.keys().any(|fqn| !is_of_model(fqn.as_str()));
        if self.parts.optimizer && !has_optimizer || self.parts.train_state && !has_step {
            return usage(format!(
                "{place}: holds only the model, and no state to go on with; begin a run with it by \
                 checkpoint.initial_load_path, or name what it lacks in checkpoint.exclude_from_loading (optimizer, \
                 lr_scheduler, dataloader, train_state)"
            ));
        }
        if !missing.is_empty() {
            return usage(format!(
                "{place}: the state of the optimizer lacks {}; name optimizer in checkpoint.exclude_from_loading to begin it \
                 anew",
                some_of(&missing)
            ));
        }
        Ok(())
    }
}

/// Names for an error: all of a few, the first of many.
fn some_of(names: &[&str]) -> String {
    const SHOWN_MAX: usize = 3;
    let shown = names.iter().take(SHOWN_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "nothing".to_owned(),
        1..=SHOWN_MAX => shown,
        more => format!("{shown} and {} more", more - SHOWN_MAX),
    }
}

fn value(reader: &dyn Reader, first: &str, second: &str) -> Result<Option<Value>> {
    let found = reader.catalog().values.get_key_value(format!("{first}.{second}").as_str());
    Ok(found.map(|(fqn, _)| reader.value(fqn)).transpose()?)
}

/// A count; `None` where there is none.
///
/// Errors: [`Error::Usage`] for anything else of that name.
fn number(reader: &dyn Reader, first: &str, second: &str) -> Result<Option<u64>> {
    let Some(found) = value(reader, first, second)? else { return Ok(None) };
    if let Value::Int(number) = found
        && let Ok(number) = u64::try_from(number)
    {
        return Ok(Some(number));
    }
    let place = reader.place().display();
    Err(Error::Usage(format!("{place}: `{first}.{second}` is {found:?}, which is no count")))
}

/// Tokens of all ranks: our own number, or what one data-parallel rank of TorchTitan's has seen times their number.
fn tokens(reader: &dyn Reader) -> Result<u64> {
    if let Some(tokens) = number(reader, TRAIN_STATE, "tokens_seen")? {
        return Ok(tokens);
    }
    let of_rank = number(reader, TRAIN_STATE, "ntokens_seen")?.unwrap_or(0);
    Ok(of_rank.saturating_mul(number(reader, DATALOADER, "world_size")?.unwrap_or(1)))
}

/// This rank's random state.
fn random(
    reader: &dyn Reader,
    coordinator: &dyn Coordinator,
    notes: &mut Vec<String>,
) -> Result<Option<RngState>> {
    let is_of = |fqn: &&Fqn| fqn.as_str().strip_prefix(RNG).is_some_and(|rest| rest.starts_with(".rank_"));
    let (found, ranks) = (reader.catalog().values.keys().filter(is_of).count(), coordinator.ranks());
    if found != ranks as usize {
        if found > 0 {
            notes.push(format!(
                "the random state is of {found} ranks and this run has {ranks}: random numbers begin anew from the seed"
            ));
        }
        return Ok(None);
    }
    match value(reader, RNG, &format!("rank_{}", coordinator.rank()))? {
        Some(Value::Bytes(bytes)) => Ok(Some(RngState::from_bytes(bytes))),
        _ => Ok(None),
    }
}

/// Where the data goes on: our own places, where there are any, else TorchTitan's.
fn data_place(reader: &dyn Reader, step: u64, notes: &mut Vec<String>) -> Result<DataPlace> {
    let mut ranks = Vec::new();
    for fqn in reader.catalog().values.keys() {
        if fqn.as_str().strip_prefix(DATA).is_some_and(|rest| rest.starts_with(".rank_"))
            && let Value::Str(text) = reader.value(fqn)?
        {
            ranks.push(text);
        }
    }
    if !ranks.is_empty() {
        return Ok(DataPlace::Ranks(ranks));
    }
    let why = match (number(reader, DATALOADER, "world_size")?, value(reader, DATALOADER, "dp_rank_0")?) {
        (Some(1), Some(state)) => match place_of(&state) {
            Ok(place) => return Ok(DataPlace::Map { place, steps: step }),
            Err(why) => format!("its data loader's state cannot be taken over: {why}"),
        },
        (Some(ranks), _) => format!("its data loader's state is of {ranks} data-parallel ranks"),
        (None, _) => "it has no state of a data loader".to_owned(),
    };
    notes.push(format!(
        "{}: {why}; the data goes on after the sequences of {step} steps, in the order of this run",
        reader.place().display()
    ));
    Ok(DataPlace::AfterSteps(step))
}

#[cfg(test)]
mod tests;
