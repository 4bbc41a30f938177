//! Whether the values of a configuration fit together, and the number of ranks.
//!
//! What needs the stages of a pipeline is said where they are made; what needs a disk, where it is read.

use super::choice::{AcMode, PipelineSchedule};
use super::names;
use super::table::Config;
use crate::batch::Batch;
use crate::error::{Error, Place, Problem, Result};
use crate::mesh::{MeshError, ParallelDims};
use convert::families;
use convert::spec::Model;

/// What `checkpoint.exclude_from_loading` may name.
const STATES: [&str; 4] = ["optimizer", "lr_scheduler", "dataloader", "train_state"];

impl Config {
    /// Checks every rule for a job of `world` ranks.
    ///
    /// Errors: [`Error::BadConfig`] with everything that does not fit, at once.
    pub fn validate(&self, world: u32) -> Result<()> {
        let mut check = Check { config: self, problems: Vec::new() };
        check.single_keys();
        let model = check.model();
        let dims = check.mesh(world);
        check.pipeline();
        check.experts(model.as_ref());
        if let (Some(model), Some(dims)) = (&model, &dims) {
            check.model_on_mesh(model, dims);
        }
        check.checkpoint();
        check.seed(world);
        check.rest();
        let problems: Vec<_> =
            check.problems.into_iter().map(|message| Problem { place: Place::Whole, message }).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::BadConfig { problems }) }
    }

    /// The model that `model.name` and `model.flavor` name.
    ///
    /// Errors: [`Error::BadConfig`].
    pub fn model(&self) -> Result<Model> {
        let mut check = Check { config: self, problems: Vec::new() };
        let model = check.model();
        let problems = check.problems.into_iter().map(|message| Problem { place: Place::Whole, message });
        model.ok_or_else(|| Error::BadConfig { problems: problems.collect() })
    }
}

struct Check<'a> {
    config: &'a Config,
    problems: Vec<String>,
}

impl Check<'_> {
    /// Notes a rule where it does not hold.
    fn must(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.problems.push(message());
        }
    }

    /// The rules of single keys, which the table has.
    fn single_keys(&mut self) {
        for (row, value) in self.config.values() {
            if let Some(rule) = row.key.rule {
                self.must(rule.holds(&value), || {
                    format!("{} = {value}: it {rule}; the default is {}", row.path, row.default)
                });
            }
        }
    }

    fn model(&mut self) -> Option<Model> {
        let model = &self.config.model;
        let Some(family) = families::FAMILIES.iter().find(|family| family.name() == model.name) else {
            let known = || families::FAMILIES.iter().map(|family| family.name());
            let near = names::near(known(), |name| strsim::normalized_damerau_levenshtein(name, &model.name));
            self.problems.push(format!(
                "model.name = {:?}: there is no such family{near}; known: {}",
                model.name,
                known().collect::<Vec<_>>().join(", ")
            ));
            return None;
        };
        if model.flavor.file().is_some() {
            return self.described(model.flavor.as_str());
        }
        let found = family.flavor(model.flavor.as_str());
        self.must(found.is_some(), || {
            format!(
                "model.flavor = {:?}: {} has no such flavor; it has {}",
                model.flavor.as_str(),
                model.name,
                family.flavors().join(", ")
            )
        });
        found
    }

    /// The model that a file describes.
    fn described(&mut self, flavor: &str) -> Option<Model> {
        let model = &self.config.model;
        let Some(description) = model.flavor.description() else {
            self.problems.push(format!("model.flavor = {flavor:?}: its file was not read"));
            return None;
        };
        match families::of_config(flavor, description) {
            Ok(found) if found.family == model.name => Some(found),
            Ok(found) => {
                self.problems.push(format!(
                    "model.flavor = {flavor:?}: it describes a model of the family {}, and model.name is {:?}; set that to {:?}",
                    found.family, model.name, found.family
                ));
                None
            }
            Err(error) => {
                self.problems.push(format!("model.flavor: {error}"));
                None
            }
        }
    }

    fn mesh(&mut self, world: u32) -> Option<ParallelDims> {
        let dims = match ParallelDims::new(&self.config.parallelism, world) {
            Ok(dims) => dims,
            Err(errors) => {
                // A degree that is none is told with its key.
                let told = |error: &&MeshError| !matches!(error, MeshError::Degree { .. }) || world == 0;
                self.problems.extend(errors.iter().filter(told).map(|error| format!("parallelism: {error}")));
                return None;
            }
        };
        // What is below its least is told with its key.
        let training = &self.config.training;
        if training.local_batch_size > 0
            && training.global_batch_size != 0
            && self.config.parallelism.pipeline_parallel_microbatch_size > 0
            && let Err(error) = Batch::new(self.config, &dims)
        {
            self.problems.push(error.to_string());
        }
        let divisor = dims.seq_len_divisor();
        let mut lengths = vec![("training.seq_len", training.seq_len)];
        if self.config.validation.enable {
            lengths.push(("validation.seq_len", self.config.validation.seq_len));
        }
        for (path, seq_len) in lengths {
            self.must(seq_len.is_multiple_of(divisor), || {
                let (tp, cp) = (dims.tp, dims.cp);
                format!(
                    "{path} = {seq_len}: it must be a multiple of tp {tp} x 2 x cp {cp} = {divisor}; set it to {}",
                    seq_len.checked_next_multiple_of(divisor).unwrap_or(divisor)
                )
            });
        }
        Some(dims)
    }

    fn pipeline(&mut self) {
        let parallelism = &self.config.parallelism;
        let schedule = parallelism.pipeline_parallel_schedule;
        let has_csv =
            parallelism.pipeline_parallel_schedule_csv.as_ref().is_some_and(|path| !path.is_empty());
        let needs_csv = matches!(schedule, PipelineSchedule::Single | PipelineSchedule::Multi);
        let is_pipelined = parallelism.pipeline_parallel_degree > 1;
        self.must(!(is_pipelined && needs_csv && !has_csv), || {
            format!(
                "parallelism.pipeline_parallel_schedule = {:?}: it is read from a file; set \
                 parallelism.pipeline_parallel_schedule_csv, or take a schedule by name",
                schedule.as_str()
            )
        });
        let overlaps = is_pipelined
            && schedule == PipelineSchedule::DualPipeV
            && parallelism.expert_parallel_degree > 1
            && parallelism.pipeline_parallel_expert_parallel_overlap;
        let mode = self.config.activation_checkpoint.mode;
        self.must(!(overlaps && mode != AcMode::None), || {
            format!(
                "activation_checkpoint.mode = {:?}: DualPipeV computes forward and backward of experts at once, which \
                 leaves nothing to compute again; set it to \"none\", or \
                 parallelism.pipeline_parallel_expert_parallel_overlap to false",
                mode.as_str()
            )
        });
        let part = |path: &str, degree: u64| {
            format!("{path} is set, but there are no stages: {degree} pipeline rank")
        };
        self.must(is_pipelined || parallelism.module_fqns_per_model_part.is_none(), || {
            let path = "parallelism.module_fqns_per_model_part";
            let told = part(path, parallelism.pipeline_parallel_degree);
            format!("{told}; set parallelism.pipeline_parallel_degree, or remove it")
        });
    }

    fn experts(&mut self, model: Option<&Model>) {
        let parallelism = &self.config.parallelism;
        let (Some(model), ep) = (model, parallelism.expert_parallel_degree) else { return };
        if ep <= 1 {
            return;
        }
        let experts = model.params.iter().find(|param| param.fqn.contains(".moe.experts."));
        match experts.and_then(|param| param.shape.first()) {
            None => self.problems.push(format!(
                "parallelism.expert_parallel_degree = {ep}: {} has no experts; set it to 1",
                model.name()
            )),
            Some(experts) => self.must(experts.is_multiple_of(ep), || {
                format!(
                    "parallelism.expert_parallel_degree = {ep}: it must divide the {experts} experts of {}",
                    model.name()
                )
            }),
        }
    }

    /// Tensor parallelism shares out heads.
    fn model_on_mesh(&mut self, model: &Model, dims: &ParallelDims) {
        let tp = u64::from(dims.tp);
        for (name, what) in
            [("num_attention_heads", "heads"), ("num_key_value_heads", "heads of keys and values")]
        {
            let Some(heads) = model.settings.get(name).and_then(serde_json::Value::as_u64) else { continue };
            self.must(heads.is_multiple_of(tp), || {
                format!(
                    "parallelism.tensor_parallel_degree = {tp}: it must divide the {heads} {what} of {}",
                    model.name()
                )
            });
        }
        let layers = model.settings.get("num_hidden_layers").and_then(serde_json::Value::as_u64);
        if let Some(layers) = layers {
            let pp = u64::from(dims.pp);
            self.must(layers >= pp, || {
                format!(
                    "parallelism.pipeline_parallel_degree = {pp}: {} has {layers} layers; set it to {layers} at most",
                    model.name()
                )
            });
        }
    }

    fn checkpoint(&mut self) {
        let checkpoint = &self.config.checkpoint;
        self.must(!checkpoint.initial_load_in_hf || checkpoint.initial_load_model_only, || {
            "checkpoint.initial_load_in_hf = true: a Hugging Face model has no optimizer state; set \
             checkpoint.initial_load_model_only to true"
                .to_owned()
        });
        self.must(!checkpoint.initial_load_in_hf_quantized || checkpoint.initial_load_in_hf, || {
            "checkpoint.initial_load_in_hf_quantized = true: only Hugging Face models are packed; set \
             checkpoint.initial_load_in_hf to true as well"
                .to_owned()
        });
        self.must(!checkpoint.last_save_in_hf || checkpoint.last_save_model_only, || {
            "checkpoint.last_save_in_hf = true: a Hugging Face model has no optimizer state; set \
             checkpoint.last_save_model_only to true"
                .to_owned()
        });
        for name in &checkpoint.exclude_from_loading {
            self.must(STATES.contains(&name.as_str()), || match name.as_str() {
                "model" => {
                    "checkpoint.exclude_from_loading: the model is always loaded; to start a new one, give \
                            another checkpoint.folder"
                        .to_owned()
                }
                _ => format!(
                    "checkpoint.exclude_from_loading: there is no `{name}`{}; known: {}",
                    names::near(STATES.into_iter(), |state| {
                        strsim::normalized_damerau_levenshtein(state, &name.replace('_', ""))
                    }),
                    STATES.join(", ")
                ),
            });
        }
        self.must(checkpoint.export_hf_interval == 0 || checkpoint.enable, || {
            format!(
                "checkpoint.export_hf_interval = {}: nothing is exported while checkpoints are off; set \
                 checkpoint.enable to true",
                checkpoint.export_hf_interval
            )
        });
    }

    fn seed(&mut self, world: u32) {
        let (checkpoint, parallelism) = (&self.config.checkpoint, &self.config.parallelism);
        if !checkpoint.create_seed_checkpoint {
            return;
        }
        let what = "checkpoint.create_seed_checkpoint = true";
        self.must(checkpoint.enable, || {
            format!("{what}: checkpoints are off; set checkpoint.enable to true")
        });
        self.must(world == 1, || format!("{what}: one rank makes it, but there are {world}; start one"));
        self.must(!checkpoint.load_only, || {
            format!("{what}: checkpoint.load_only never saves; set it to false")
        });
        let degrees = [
            ("data_parallel_replicate_degree", parallelism.data_parallel_replicate_degree),
            ("tensor_parallel_degree", parallelism.tensor_parallel_degree),
            ("pipeline_parallel_degree", parallelism.pipeline_parallel_degree),
            ("context_parallel_degree", parallelism.context_parallel_degree),
            ("expert_parallel_degree", parallelism.expert_parallel_degree),
        ];
        for (name, degree) in degrees {
            self.must(degree <= 1, || {
                format!("{what}: one rank makes it; set parallelism.{name}, which is {degree}, to 1")
            });
        }
    }

    fn rest(&mut self) {
        let profiling = &self.config.profiling;
        let busy = profiling.profiler_active.saturating_add(profiling.profiler_warmup);
        self.must(!profiling.enable_profiling || busy <= profiling.profile_freq, || {
            format!(
                "profiling.profile_freq = {}: a cycle has profiler_warmup {} + profiler_active {} = {busy} steps at least; \
                 set it to {busy} or more",
                profiling.profile_freq, profiling.profiler_warmup, profiling.profiler_active
            )
        });
        let dump = &self.config.job.dump_folder;
        self.must(!dump.contains("://"), || {
            format!(
                "job.dump_folder = {dump:?}: the log's files are written to a disk; give a local folder, and a URL to \
                 checkpoint.folder and checkpoint.export_hf_folder"
            )
        });
        let checkpoint = &self.config.checkpoint;
        let initial = checkpoint.initial_load_path.is_some() || checkpoint.initial_load_in_hf;
        self.must(checkpoint.enable || !initial, || {
            "checkpoint.enable = false: nothing is loaded while checkpoints are off, but checkpoint.initial_load_path or \
             checkpoint.initial_load_in_hf is set; set checkpoint.enable to true (and checkpoint.load_only, to save nothing)"
                .to_owned()
        });
        let path = &self.config.model.hf_assets_path;
        self.must(!path.ends_with("tokenizer.model"), || {
            format!(
                "model.hf_assets_path = {path:?}: a tokenizer.model is no longer read; give the folder of the Hugging Face \
                 model, with tokenizer.json and tokenizer_config.json"
            )
        });
        let debug = &self.config.debug;
        self.must(debug.deterministic || !debug.deterministic_warn_only, || {
            "debug.deterministic_warn_only = true: it weakens debug.deterministic, which is off; set that to true, or \
             this to false"
                .to_owned()
        });
    }
}
