//! What a run goes on with, once it is chosen.

use super::start::Start;
use super::{Happening, Saves};
use crate::checkpoint::{self, DataPlace, Hyper, Parts, Resumed};
use crate::error::{Error, Result};
use crate::run::Runner;
use crate::session::Session;
use crate::train::place;
use convert::dequantised::dequantised;
use convert::dialect::DIALECTS;
use convert::exchange::{check_tied, inward};
use dcp::format::{self, Reader};
use dcp::load::{self, Origin};
use job::config::Config;
use serde_json::json;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// A run that begins: nothing is known of it.
pub(super) fn beginning() -> Resumed {
    Resumed {
        step: 0,
        tokens_seen: 0,
        schedule_step: 0,
        data: DataPlace::Beginning,
        rng: None,
        stored: checkpoint::Stored::default(),
        notes: Vec::new(),
        passed_over: Vec::new(),
    }
}

/// What of a checkpoint is loaded, and whether a run of so many steps is over with it.
enum Wanted {
    Parts(Parts),
    Nothing { step: u64 },
}

impl Saves {
    /// Loads what was chosen. Called by all ranks alike.
    pub(super) fn load(
        &mut self,
        config: &Config,
        session: &Session,
        runner: &Runner,
        start: &Start,
    ) -> Result<Resumed> {
        let begun = Instant::now();
        let origin = self.origin(config, start).map_err(Error::of_key(key_of(start)));
        let origin = session.together("start/origin", origin)?;
        let parts = match self.wanted(config, session, start, &origin)? {
            Wanted::Parts(parts) => parts,
            Wanted::Nothing { step } => return Ok(Resumed { step, ..beginning() }),
        };
        let coordinator = &*self.coordinator;
        let resumed = checkpoint::load(&origin, coordinator, "load", self.tensors(runner), parts)
            .map_err(Error::of_key(key_of(start)))?;
        for (step, why) in &resumed.passed_over {
            warn!("step {step} was passed over: {why}");
        }
        resumed.notes.iter().for_each(|note| warn!("{note}"));
        if parts.optimizer {
            resumed.stored.differences(&Hyper::new(config)).iter().for_each(|note| warn!("{note}"));
        }
        let (seconds, from) = (begun.elapsed().as_secs_f64(), shown(&origin));
        info!("loaded {from} in {seconds:.2} s: step {}", resumed.step);
        let fields =
            vec![("step", json!(resumed.step)), ("url", json!(from)), ("load_seconds", json!(seconds))];
        self.happenings.push(Happening { name: "loaded", begun, fields });
        Ok(resumed)
    }

    fn origin(&self, config: &Config, start: &Start) -> Result<Origin> {
        Ok(match start {
            Start::Beginning | Start::Newest => Origin::Newest(self.run.clone()),
            Start::Step(step) => Origin::Step { run: self.run.clone(), step: *step },
            Start::Checkpoint(path) => Origin::Checkpoint(place::open(path)?),
            Start::HuggingFace(path) => Origin::Opened(self.hugging_face(config, path)?),
        })
    }

    /// A Hugging Face model under the names of ours.
    fn hugging_face(&self, config: &Config, path: &str) -> Result<Arc<dyn Reader>> {
        let (source, packed) = dequantised(format::open(&place::open(path)?)?)?;
        if packed > 0 && !config.checkpoint.initial_load_in_hf_quantized {
            return Err(Error::Usage(format!(
                "{path}: {packed} tensors are packed, which loses digits; set checkpoint.initial_load_in_hf_quantized to \
                 true to begin with them all the same"
            )));
        }
        let (view, report) = inward(&self.model, source.clone(), &DIALECTS[0])?;
        check_tied(&*source, &self.model, &report)?;
        if let Some(first) = report.left_out.first() {
            warn!(
                "{path}: {} tensors are left out, the first: {} ({})",
                report.left_out.len(),
                first.0,
                first.1
            );
        }
        Ok(Arc::new(view))
    }

    /// Looks at what there is, and decides what of it is loaded.
    fn wanted(&self, config: &Config, session: &Session, start: &Start, origin: &Origin) -> Result<Wanted> {
        let checkpoint = &config.checkpoint;
        match start {
            Start::HuggingFace(_) => return Ok(Wanted::Parts(Parts::MODEL)),
            Start::Checkpoint(_) if checkpoint.initial_load_model_only => {
                return Ok(Wanted::Parts(Parts::MODEL));
            }
            _ => {}
        }
        let all = Wanted::Parts(Parts::without(&checkpoint.exclude_from_loading)?);
        if matches!(start, Start::Checkpoint(_)) {
            return Ok(all);
        }
        let found = load::open(origin, &*self.coordinator, "look")
            .map_err(Error::from)
            .map_err(Error::of_key(key_of(start)))?;
        let held = session.together("look/parts", checkpoint::holds(&*found.reader))?;
        let step = held.step.or(found.step).unwrap_or(0);
        match held.parts.optimizer {
            // A seed: a model to begin with. Its optimizer, where it has one, is PyTorch's after a step that was none.
            _ if step == 0 => Ok(Wanted::Parts(Parts::MODEL)),
            // The last step of a run that has ended holds the model alone.
            false if step >= config.training.steps => Ok(Wanted::Nothing { step }),
            false if matches!(start, Start::Newest) => Err(Error::Usage(format!(
                "{}: step {step}, the newest, holds only the model, since the run ended there \
                 (checkpoint.last_save_model_only); to train on to training.steps = {}, give an earlier step as \
                 checkpoint.load_step",
                self.run.display(),
                config.training.steps
            ))),
            _ => Ok(all),
        }
    }
}

/// The key that names where a run starts.
fn key_of(start: &Start) -> &'static str {
    match start {
        Start::Beginning | Start::Newest => "checkpoint.folder",
        Start::Step(_) => "checkpoint.load_step",
        Start::Checkpoint(_) => "checkpoint.initial_load_path",
        Start::HuggingFace(_) => "checkpoint.initial_load_in_hf",
    }
}

fn shown(origin: &Origin) -> String {
    match origin {
        Origin::Newest(place) | Origin::Checkpoint(place) => place.display(),
        Origin::Step { run, step } => format!("step {step} of {}", run.display()),
        Origin::Opened(reader) => reader.place().display(),
    }
}
