//! What a run is made of, before its state.

use super::place;
use crate::begin;
use crate::checkpoint::{DataPlace, Hyper, Resumed};
use crate::error::{Error, Result};
use crate::ffi::rng;
use crate::groups::Groups;
use crate::model::{self, Model};
use crate::optimizer::{Optimizer, Rule};
use crate::parallel::ParallelOptions;
use crate::run::{Programs, Runner};
use crate::session::Session;
use crate::shard::Precision;
use data::{Corpus, DataOptions, Dataset, Loader, State, Tokenizer};
use job::batch::Batch;
use job::config::{Config, Dataloader, OptimizerName, ParamDtype, ReduceDtype};
use job::flops;
use job::mesh::{Group, ParallelDims};
use job::quantity::thousands;
use job::step::{Step, schedule_text};
use std::path::Path;
use std::sync::Arc;
use tch::{Device, Kind};
use tracing::{info, warn};

/// What a run is made of.
pub(super) struct Setup {
    pub(super) dims: ParallelDims,
    /// What all ranks do in a step.
    pub(super) step: Step,
    /// Settings of the optimizer.
    pub(super) hyper: Hyper,
    pub(super) model: Box<dyn Model>,
    pub(super) device: Device,
    pub(super) rank: u32,
    pub(super) seq_len: i64,
    /// Of parameters and of everything random.
    pub(super) seed: u64,
    pub(super) tokenizer: Arc<Tokenizer>,
    corpus: Arc<Corpus>,
}

impl Setup {
    /// Opens and checks everything that a run needs.
    ///
    /// Errors: what does not fit, what is not there.
    pub(super) fn new(config: &Config, session: &Session, seed: u64) -> Result<Self> {
        let ranks = session.member.ranks;
        let model = config.model()?;
        let csv = schedule_text(config, |path| std::fs::read_to_string(path))?;
        let (dims, step) = Step::of(config, ranks, &model, csv.as_deref())?;
        // Flash attention alone gives what parts are merged by.
        let dtype = config.training.mixed_precision_param;
        if dims.cp > 1 && session.device.is_cuda() && dtype == ParamDtype::Float32 {
            return Err(Error::Usage(format!(
                "training.mixed_precision_param = \"float32\": with parallelism.context_parallel_degree = {} attention on \
                 CUDA is computed in bfloat16; set it to \"bfloat16\"",
                dims.cp
            )));
        }
        if config.training.threads > 0 {
            rng::set_threads(u32::try_from(config.training.threads).unwrap_or(u32::MAX))?;
        }
        let debug = &config.debug;
        rng::set_deterministic(debug.deterministic, debug.deterministic_warn_only)?;
        rng::manual_seed(seed)?;
        let seq_len = longest(config);
        let model = model::build(model, seq_len, session.device)?;
        let training = &config.training;
        let corpus = corpus(&training.dataset, training.dataset_path.as_deref(), TRAINING)?;
        let tokenizer = place::open(&config.model.hf_assets_path)
            .and_then(|folder| Ok(Tokenizer::open(&folder)?))
            .map_err(Error::of_key("model.hf_assets_path"))?;
        fits(&tokenizer, &*model, &config.model.hf_assets_path)?;
        Ok(Setup {
            dims,
            step,
            hyper: Hyper::new(config),
            model,
            device: session.device,
            rank: session.member.rank,
            seq_len: training.seq_len as i64,
            seed,
            corpus: Arc::new(corpus),
            tokenizer: Arc::new(tokenizer),
        })
    }

    /// Logs what there is.
    pub(super) fn describe(&self, config: &Config) {
        let spec = self.model.spec();
        let total: u64 = flops::parameters(spec).map_or(0, |parameters| parameters.total);
        info!("Model {} {} size: {} total parameters", spec.family, spec.flavor, thousands(total));
        let ParallelDims { pp, dp_replicate, dp_shard, cp, tp, .. } = self.dims;
        let Batch { global, local, accumulation_steps, microbatches, .. } = self.step.batch;
        info!(
            "pp {pp} x dp_replicate {dp_replicate} x dp_shard {dp_shard} x cp {cp} x tp {tp}; global batch size {global} \
             = local {local} x {} ranks x {accumulation_steps} turns; sequence length {}; seed {}",
            self.dims.batch(),
            self.seq_len,
            self.seed
        );
        if pp > 1 {
            let schedule = config.parallelism.pipeline_parallel_schedule.as_str();
            let stages = self.step.stages.iter().map(|units| (units.end - units.start).to_string());
            info!(
                "pipeline {schedule}: {microbatches} microbatches a turn through stages of {} units",
                stages.collect::<Vec<_>>().join(", ")
            );
        }
        if self.hyper.schedule.is_warmup_cut {
            let (warmup, steps) = (config.lr_scheduler.warmup_steps, self.hyper.schedule.warmup);
            warn!("lr_scheduler.warmup_steps = {warmup} is more than there are steps; {steps} are taken");
        }
        let objects = self.corpus.objects().len();
        info!("data: {objects} objects of {} bytes", thousands(self.corpus.byte_len()));
    }

    /// The process groups.
    ///
    /// Errors: what making them gives.
    pub(super) fn groups(&self, session: &Session) -> Result<Groups> {
        match session.world()? {
            None => Ok(Groups::default()),
            Some(world) => Groups::of_mesh(world, &self.dims, &|group| session.accelerate(group)),
        }
    }

    /// Model and optimizer as they begin, with the programs of a step.
    ///
    /// Errors: what libtorch gives.
    pub(super) fn runner<'a>(&'a self, config: &Config, groups: &'a Groups) -> Result<Runner<'a>> {
        let training = &config.training;
        let kind = |dtype: ParamDtype| match dtype {
            ParamDtype::Bfloat16 => Kind::BFloat16,
            ParamDtype::Float32 => Kind::Float,
        };
        let precision = Precision {
            stored: kind(training.dtype),
            param: kind(training.mixed_precision_param),
            reduce: match training.mixed_precision_reduce {
                ReduceDtype::Float32 => Kind::Float,
            },
        };
        let pp_rank = self.dims.coordinate(Group::Pp, self.rank);
        let train = self.step.train(pp_rank);
        let numbers = train.stages.iter().flat_map(|stage| stage.units.clone());
        let units = begin::units(&*self.model, groups, precision, self.device, self.seed, numbers)?;
        let rule = match config.optimizer.name {
            OptimizerName::Adam => Rule::Adam,
            OptimizerName::AdamW => Rule::AdamW,
        };
        let optimizer = Optimizer::new(rule, config.optimizer.implementation, &units)?;
        let programs = Programs {
            evaluate: config.validation.enable.then(|| self.step.evaluate(pp_rank)),
            train,
            stage_ranks: self.step.stage_ranks(),
        };
        let runner = Runner::new(&*self.model, groups, units, optimizer, programs, training.max_norm)?;
        let parallelism = &config.parallelism;
        let options = ParallelOptions {
            is_loss_parallel: !parallelism.disable_loss_parallel,
            load_balancer: parallelism.context_parallel_load_balancer,
            rotate_method: parallelism.context_parallel_rotate_method,
        };
        let runner = runner.with_parallel(options)?;
        let ac = &config.activation_checkpoint;
        Ok(runner.with_products_again(ac.per_op_sac_force_recompute_mm_shapes_by_fqns.clone()))
    }

    /// This rank among those with other sequences.
    pub(super) fn batch_rank(&self) -> u64 {
        self.dims.coordinate(Group::Batch, self.rank).into()
    }

    /// Whether this rank is the first of those with the same sequences.
    pub(super) fn is_first_of_text(&self) -> bool {
        [Group::Pp, Group::Cp, Group::Tp].iter().all(|group| self.dims.coordinate(*group, self.rank) == 0)
    }

    /// Sets the generator to where a run stands, or, on another number of ranks, to a place of its own.
    ///
    /// Errors: a state that is none.
    pub(super) fn begin_random(&self, resumed: &Resumed) -> Result<()> {
        match &resumed.rng {
            Some(state) => rng::set_state(self.device, state),
            None if resumed.step == 0 => Ok(()),
            None => {
                let seeds = (self.seed, self.rank, resumed.step);
                // Any function of the three does.
                let mixed =
                    seeds.0 ^ (u64::from(seeds.1) << 40) ^ seeds.2.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                rng::manual_seed(mixed)
            }
        }
    }

    /// What this rank wants of the data.
    pub(super) fn data_options(&self, config: &Config) -> DataOptions {
        let training = &config.training;
        let options = DataOptions::new(
            self.corpus.clone(),
            self.tokenizer.clone(),
            training.seq_len as usize,
            self.step.batch.global,
        );
        let Dataloader { num_workers, prefetch_factor, .. } = training.dataloader;
        DataOptions {
            rank: self.batch_rank(),
            ranks: u64::from(self.dims.batch()),
            virtual_shards: (training.virtual_shards > 0).then_some(training.virtual_shards),
            workers: num_workers as usize,
            prefetch_steps: prefetch_factor.unwrap_or(2) as usize,
            ..options
        }
    }

    /// The data from where a run stands.
    ///
    /// Errors: as of [`Loader`].
    pub(super) fn loader(&self, options: &DataOptions, from: &DataPlace) -> Result<Loader> {
        let after = |steps: u64| Ok(Loader::open_after(options, steps * self.step.batch.global)?);
        match from {
            DataPlace::Beginning => Ok(Loader::open(options)?),
            DataPlace::AfterSteps(steps) => after(*steps),
            DataPlace::Ranks(states) => {
                let states = states.iter().map(|json| State::from_json(json)).collect::<Result<_, _>>()?;
                Ok(Loader::resume(options, &State::merge(states)?)?)
            }
            DataPlace::Map { place, steps } => {
                match State::of_map_place(options, place, steps * self.step.batch.global) {
                    Ok(Some(state)) => Ok(Loader::resume(options, &state)?),
                    other => {
                        let why = match other {
                            Err(error) => error.to_string(),
                            Ok(_) => "it is of one data-parallel rank, this run reads otherwise".to_owned(),
                        };
                        warn!(
                            "the place in the data is TorchTitan's and cannot be taken over ({why}): the data goes on after \
                             the sequences of {steps} steps"
                        );
                        after(*steps)
                    }
                }
            }
        }
    }
}

/// The keys that name the text of training.
const TRAINING: (&str, &str) = ("training.dataset", "training.dataset_path");

/// The text of a dataset. `keys` are those of its name and of its path.
///
/// Errors: what is not there, with the key that names it.
pub(super) fn corpus(name: &str, path: Option<&str>, keys: (&'static str, &'static str)) -> Result<Corpus> {
    let dataset = Dataset::find(name).map_err(Error::from).map_err(Error::of_key(keys.0))?;
    let open = || Ok(Corpus::open(dataset, &place::open(dataset.path(path)?)?)?);
    open().map_err(Error::of_key(keys.1))
}

/// Tokens of the longest sequence that the model will see.
fn longest(config: &Config) -> i64 {
    let validated = if config.validation.enable { config.validation.seq_len } else { 0 };
    config.training.seq_len.max(validated) as i64
}

/// Shows the configuration, and writes it to a file, where that is asked for.
///
/// Errors: [`Error::File`].
pub(super) fn show(config: &Config, session: &Session) -> Result<()> {
    if config.job.print_config {
        info!("Running with configuration: {}", config.to_json_text().trim_end());
    }
    if let Some(name) = config.job.save_config_file.as_ref().filter(|_| session.member.rank == 0) {
        let path = Path::new(&config.job.dump_folder).join(name);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all);
        let written = written.and_then(|()| std::fs::write(&path, config.to_json_text()));
        written.map_err(|source| Error::File {
            path: path.clone(),
            action: "writing the configuration",
            source,
        })?;
        info!("configuration written to {}", path.display());
    }
    Ok(())
}

/// Whether this rank has rank 0's configuration.
///
/// Errors: [`Error::Usage`] that names the first key that differs; ranks that do not come.
pub(super) fn same_everywhere(config: &Config, session: &Session) -> Result<()> {
    let values = |config: &Config| -> Vec<String> {
        let described =
            config.model.flavor.description().map(|text| format!("model.flavor's file = {text:?}"));
        config
            .values()
            .iter()
            .map(|(row, value)| format!("{} = {value}", row.path))
            .chain(described)
            .collect()
    };
    let own = values(config);
    let first = session.coordinator.share("configuration/values", own.join("\n").as_bytes())?;
    let first = String::from_utf8_lossy(&first);
    match first.split('\n').zip(&own).find(|(first, own)| first != own) {
        None => Ok(()),
        Some((first, own)) => Err(Error::Usage(format!(
            "rank {} was started with {own}, rank 0 with {first}; start all ranks with the same configuration",
            session.member.rank
        ))),
    }
}

/// The seed that is named, or one by chance, the same on every rank.
///
/// Errors: ranks that do not come.
pub(super) fn shared_seed(named: Option<u64>, session: &Session) -> Result<u64> {
    if let Some(seed) = named {
        return Ok(seed);
    }
    let own = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), session.member.rank);
    let shared = session.coordinator.share("seed", &own.to_le_bytes())?;
    Ok(shared.try_into().map_or(own, u64::from_le_bytes))
}

/// Whether every token of the tokenizer is one of the model's.
fn fits(tokenizer: &Tokenizer, model: &dyn Model, folder: &str) -> Result<()> {
    let (spec, tokens) = (model.spec(), tokenizer.vocab_size() as u64);
    match model::vocabulary(spec) {
        Some(rows) if rows < tokens => Err(Error::Usage(format!(
            "model.hf_assets_path = {folder:?}: the tokenizer has {tokens} tokens, but {} embeds {rows}; give the tokenizer of \
             the model, or another model.flavor",
            spec.name()
        ))),
        _ => Ok(()),
    }
}
