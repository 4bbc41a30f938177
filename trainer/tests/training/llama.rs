//! The small Llama on the text of `fixtures/text/words`: what every test of training runs.

use crate::support::numbers;
use data::{Corpus, DataOptions, Dataset, Loader, MapPlaces, State, Tokenizer};
use dcp::save::Saving;
use dcp::storage::open_url;
use job::config::{Config, LoadBalancer, PipelineSchedule, RotateMethod};
use job::mesh::{Group, ParallelDims};
use job::pipeline::{Shape, Stage, communicate, schedules, split};
use job::program::{Plan, Recompute, Reduction, Reshard, UnitPlan, build_pipelined};
use std::sync::Arc;
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::{self, Content, DataPlace, Dataloader, Hyper, Progress, Resumed, Tensors};
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::model::{Llama3, Model};
use trainer::optimizer::{Implementation, Optimizer, Rule};
use trainer::parallel::ParallelOptions;
use trainer::run::{Programs, Runner, Sequences, Surroundings};
use trainer::shard::Precision;
use trainer::{Result, begin};

/// Steps of a run, which the learning rate is planned for.
pub const STEPS: u64 = 10;
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words");
const SEQ_LEN: i64 = 256;
const GLOBAL_BATCH: u32 = 4;
/// Tokens of a step, of all ranks.
pub const STEP_TOKENS: u64 = GLOBAL_BATCH as u64 * SEQ_LEN as u64;

/// How a run is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    pub pp: u32,
    /// Of a pipeline, and stages per rank.
    pub schedule: (PipelineSchedule, u32),
    pub dp_replicate: u32,
    pub dp_shard: u32,
    pub cp: u32,
    pub tp: u32,
    pub sharing: ParallelOptions,
    pub microbatches: u32,
    /// Every so-many-th block is computed again; 0 for none.
    pub recompute: usize,
    /// Of these blocks operations alone, where so.
    pub is_selective: bool,
    pub reshard: Reshard,
    pub reduction: Reduction,
    /// Of shards and moments, and of what is computed with.
    pub stored: Kind,
    pub param: Kind,
}

pub const SHARING: ParallelOptions = ParallelOptions {
    is_loss_parallel: true,
    load_balancer: Some(LoadBalancer::HeadTail),
    rotate_method: RotateMethod::AllGather,
};

pub const ONE: Cut = Cut {
    pp: 1,
    schedule: (PipelineSchedule::GPipe, 1),
    dp_replicate: 1,
    dp_shard: 1,
    cp: 1,
    tp: 1,
    sharing: SHARING,
    microbatches: 1,
    recompute: 0,
    is_selective: false,
    reshard: Reshard::Default,
    reduction: Reduction::EveryMicrobatch,
    stored: Kind::Float,
    param: Kind::Float,
};

impl Cut {
    pub fn dims(self) -> ParallelDims {
        let Cut { pp, dp_replicate, dp_shard, cp, tp, .. } = self;
        ParallelDims { pp, dp_replicate, dp_shard, cp, tp, ep: 1, etp: 1 }
    }
}

/// Settings of the optimizer, and of the learning rate over the steps.
pub fn hyper() -> Hyper {
    let toml = format!("[lr_scheduler]\nwarmup_steps = 2\ndecay_ratio = 0.8\n[training]\nsteps = {STEPS}\n");
    Hyper::new(&Config::from_toml(&toml, "llama.toml".as_ref()).unwrap().config)
}

pub fn model() -> Llama3 {
    let spec = convert::families::by_name("llama3:debugmodel").unwrap();
    Llama3::new(spec, SEQ_LEN, Device::Cpu).unwrap()
}

/// The same with a head that is the embedding.
pub fn tied() -> Llama3 {
    let mut config = convert::families::by_name("llama3:debugmodel").unwrap().config;
    config.insert("tie_word_embeddings".to_owned(), true.into());
    let config = serde_json::to_string(&config).unwrap();
    Llama3::new(convert::families::of_config("config.json", &config).unwrap(), SEQ_LEN, Device::Cpu).unwrap()
}

/// Text, in microbatches, and the save that may be under way.
pub struct Text {
    pub loader: Loader,
    pub saving: Option<Saving>,
    places: Option<MapPlaces>,
    microbatches: i64,
}

impl Text {
    /// From the beginning, or from where another run was.
    fn new(rank: u32, ranks: u32, microbatches: u32, from: Option<&Resumed>) -> Self {
        let place = |name: &str| open_url(&format!("{FIXTURE}/{name}")).unwrap();
        let corpus = Corpus::open(Dataset::find("c4_test").unwrap(), &place("corpus")).unwrap();
        let tokenizer = Tokenizer::open(&place("tokenizer")).unwrap();
        let (corpus, tokenizer) = (Arc::new(corpus), Arc::new(tokenizer));
        let options = DataOptions::new(corpus, tokenizer, SEQ_LEN as usize, u64::from(GLOBAL_BATCH));
        let options = DataOptions { rank: rank.into(), ranks: ranks.into(), ..options };
        let sequences = |steps: u64| steps * u64::from(GLOBAL_BATCH);
        let resume = |state: &State| Loader::resume(&options, state).unwrap();
        let loader = match from.map_or(&DataPlace::Beginning, |resumed| &resumed.data) {
            DataPlace::Beginning => Loader::open(&options).unwrap(),
            DataPlace::Ranks(ranks) => {
                let states = ranks.iter().map(|json| State::from_json(json).unwrap()).collect();
                resume(&State::merge(states).unwrap())
            }
            DataPlace::Map { place, steps } => {
                resume(&State::of_map_place(&options, place, sequences(*steps)).unwrap().unwrap())
            }
            DataPlace::AfterSteps(steps) => Loader::open_after(&options, sequences(*steps)).unwrap(),
        };
        let places = MapPlaces::new(&options);
        Text { loader, saving: None, places, microbatches: microbatches.into() }
    }
}

impl Surroundings for Text {
    fn load_batch(&mut self) -> Result<Option<Vec<Sequences>>> {
        let step = self.loader.next_step().unwrap().unwrap();
        let tensor = |tokens: &[i64]| Tensor::from_slice(tokens).view([self.microbatches, -1, SEQ_LEN]);
        let (inputs, labels) = (tensor(&step.inputs), tensor(&step.labels));
        let microbatch = |index| Sequences { inputs: inputs.get(index), labels: labels.get(index) };
        Ok(Some((0..self.microbatches).map(microbatch).collect()))
    }

    fn wait_staged(&mut self) -> Result<()> {
        self.saving.iter().for_each(Saving::wait_staged);
        Ok(())
    }
}

/// What this rank does in a step, and of every unit the rank of a pipeline that has it.
fn programs(plan: &Plan, cut: Cut, rank: u32) -> (Programs, Vec<u32>) {
    let (schedule, stages_per_rank) = cut.schedule;
    let (layers, stages) = (plan.units.len() as u32 - 2, cut.pp * stages_per_rank);
    let shape = Shape { ranks: cut.pp, stages_per_rank, microbatches: cut.microbatches };
    let pipeline = schedules::find(schedule).pipeline(shape).unwrap();
    let moves = communicate(&pipeline).unwrap().moves;
    let units = split(layers, stages.into(), 1, 1).unwrap();
    let pp_rank = cut.dims().coordinate(Group::Pp, rank);
    let stage_ranks: Vec<u32> = (0..stages).map(|stage| pipeline.rank_of(Stage(stage))).collect();
    let unit_ranks = units.iter().zip(&stage_ranks).flat_map(|(units, rank)| vec![*rank; units.len()]);
    let unit_ranks = unit_ranks.collect();
    let train = build_pipelined(plan, &pipeline, &units, pp_rank, &moves[pp_rank as usize]).unwrap();
    (Programs { train, evaluate: None, stage_ranks }, unit_ranks)
}

/// A run on one rank.
pub struct Training<'a> {
    pub runner: Runner<'a>,
    pub text: Text,
    pub step: u64,
    pub hyper: Hyper,
    unit_ranks: Vec<u32>,
    groups: &'a Groups,
    rank: u32,
    cut: Cut,
}

impl<'a> Training<'a> {
    /// Parameters as seed 7 makes them; text from the beginning, or from where another run was.
    pub fn new(
        model: &'a dyn Model,
        groups: &'a Groups,
        rank: u32,
        cut: Cut,
        from: Option<&Resumed>,
    ) -> Self {
        let precision = Precision { stored: cut.stored, param: cut.param, reduce: Kind::Float };
        let gathered = cut.dp_shard * cut.cp > 1 || cut.stored != cut.param;
        let is_recomputed = |unit: usize| {
            cut.recompute > 0 && model.blocks().contains(&unit) && unit.is_multiple_of(cut.recompute)
        };
        let of = |unit: usize| match (is_recomputed(unit), cut.is_selective) {
            (false, _) => Recompute::Nothing,
            (true, false) => Recompute::Everything,
            (true, true) => Recompute::Operations,
        };
        let plan = Plan {
            units: (0..model.units().len()).map(|unit| UnitPlan { recompute: of(unit) }).collect(),
            is_tied: model.spec().tied.is_some(),
            microbatches: cut.microbatches,
            gathered,
            reshard: cut.reshard,
            prefetch_units: 1,
            reduction: cut.reduction,
            reductions_max: 1,
        };
        let (programs, unit_ranks) = programs(&plan, cut, rank);
        let numbers = programs.train.stages.iter().flat_map(|stage| stage.units.clone());
        let units = begin::units(model, groups, precision, Device::Cpu, 7, numbers).unwrap();
        let optimizer = Optimizer::new(Rule::AdamW, Implementation::Fused, &units).unwrap();
        let runner = Runner::new(model, groups, units, optimizer, programs, 1.0).unwrap();
        let runner = runner.with_parallel(cut.sharing).unwrap();
        let dims = cut.dims();
        let text = Text::new(dims.coordinate(Group::Batch, rank), dims.batch(), cut.microbatches, from);
        let step = from.map_or(0, |resumed| resumed.step);
        Training { runner, text, step, hyper: hyper(), unit_ranks, groups, rank, cut }
    }

    /// What of the run is no tensor.
    pub fn progress(&mut self) -> Progress {
        let (step, state) = (self.step, self.text.loader.state());
        let dataloader = self.text.places.as_mut().map(|places| Dataloader {
            place: places.place(&state).unwrap(),
            sequences: state.position(),
            local_batch_size: GLOBAL_BATCH.into(),
        });
        let data = vec![state.to_json().unwrap()];
        let rng = rng::state(Device::Cpu).unwrap();
        Progress { data, dataloader, rng, ..Progress::of(step, step * STEP_TOKENS) }
    }

    /// This rank's share of a checkpoint.
    pub fn state(&mut self, content: Content) -> dcp::save::State {
        let progress = self.progress();
        checkpoint::state(self.tensors(), &progress, content, &self.hyper).unwrap()
    }

    /// What of it is tensors.
    pub fn tensors(&self) -> Tensors<'_> {
        let Runner { units, optimizer, .. } = &self.runner;
        let (degrees, rank) = (self.cut.dims().degrees(), self.rank);
        let (model, unit_ranks) = (self.runner.model(), &self.unit_ranks);
        Tensors { model, unit_ranks, units, optimizer, degrees, rank }
    }

    /// Loss over all ranks and gradient norm of every step up to this one.
    pub fn until(&mut self, end: u64) -> Vec<(f64, f64)> {
        let mut found = Vec::new();
        while self.step < end {
            let report = self.runner.step(self.hyper.settings(self.step), &mut self.text).unwrap().unwrap();
            assert_eq!(report.global_valid_tokens, STEP_TOKENS);
            let loss = report.loss.to_kind(Kind::Double);
            self.groups.sum_over_pipeline(&loss).unwrap();
            self.groups.sum_over_data(&loss).unwrap();
            found.push((numbers(&loss)[0], numbers(&report.grad_norm)[0]));
            self.step += 1;
        }
        found
    }
}
