//! Losses and gradient norms of the small Llama, from the same beginning, on the same text, equal to TorchTitan 0.2.2's.
//!
//! The expected figures are what the real TorchTitan 0.2.2 printed on a CPU with PyTorch 2.11 in float32, started from
//! `titan-ckpt seed --model llama3:debugmodel --seed 7 --to dcp`, on the corpus and tokenizer of `fixtures/text/words`,
//! with four sequences of 256 tokens a step, AdamW, learning rate 8e-4, two steps of warm-up, decay over 80 %.

mod support;

use data::{Corpus, DataOptions, Dataset, Loader, Tokenizer};
use dcp::plan::{Degrees, mesh_of};
use dcp::storage::open_url;
use job::config::Config;
use job::lr::Schedule;
use job::program::{Plan, Reduction, Reshard, UnitPlan, build, check};
use std::sync::Arc;
use support::{LONG, Rank, numbers, run_well};
use tch::{Device, Kind, Tensor};
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::model::{Llama3, Model};
use trainer::optimizer::{Optimizer, Rule, Settings};
use trainer::run::{Runner, Sequences, Surroundings};
use trainer::shard::Precision;
use trainer::{Result, begin};

const LOSSES: [f64; 10] =
    [8.13325, 8.08065, 8.02382, 7.92201, 7.79097, 7.70003, 7.44637, 7.25987, 7.10538, 6.93684];
const GRAD_NORMS: [f64; 10] =
    [0.5486, 0.5534, 0.5629, 0.6058, 0.6785, 0.8315, 0.9802, 1.1391, 1.1956, 1.2258];
const TOLERANCE: f64 = 1e-4;
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words");
const SEQ_LEN: i64 = 256;
const GLOBAL_BATCH: u32 = 4;

/// How a run is cut.
#[derive(Clone, Copy)]
struct Cut {
    dp_replicate: u32,
    dp_shard: u32,
    microbatches: u32,
    /// Every so-many-th block is computed again; 0 for none.
    recompute: usize,
    reshard: Reshard,
    reduction: Reduction,
    param: Kind,
}

const ONE: Cut = Cut {
    dp_replicate: 1,
    dp_shard: 1,
    microbatches: 1,
    recompute: 0,
    reshard: Reshard::Default,
    reduction: Reduction::EveryMicrobatch,
    param: Kind::Float,
};

/// Text, in microbatches.
struct Text {
    loader: Loader,
    microbatches: i64,
}

impl Text {
    fn new(rank: u32, ranks: u32, microbatches: u32) -> Self {
        let place = |name: &str| open_url(&format!("{FIXTURE}/{name}")).unwrap();
        let corpus = Corpus::open(Dataset::find("c4_test").unwrap(), &place("corpus")).unwrap();
        let tokenizer = Tokenizer::open(&place("tokenizer")).unwrap();
        let options = DataOptions {
            rank: rank.into(),
            ranks: ranks.into(),
            ..DataOptions::new(
                Arc::new(corpus),
                Arc::new(tokenizer),
                SEQ_LEN as usize,
                u64::from(GLOBAL_BATCH),
            )
        };
        Text { loader: Loader::open(&options).unwrap(), microbatches: microbatches.into() }
    }
}

impl Surroundings for Text {
    fn load_batch(&mut self) -> Result<Vec<Sequences>> {
        let step = self.loader.next_step().unwrap().unwrap();
        let tensor = |tokens: &[i64]| Tensor::from_slice(tokens).view([self.microbatches, -1, SEQ_LEN]);
        let (inputs, labels) = (tensor(&step.inputs), tensor(&step.labels));
        let microbatch = |index| Sequences { inputs: inputs.get(index), labels: labels.get(index) };
        Ok((0..self.microbatches).map(microbatch).collect())
    }

    fn wait_staged(&mut self) -> Result<()> {
        Ok(())
    }
}

fn schedule() -> Schedule {
    let toml = "[lr_scheduler]\nwarmup_steps = 2\ndecay_ratio = 0.8\n[training]\nsteps = 10\n";
    Schedule::new(&Config::from_toml(toml, "parity.toml".as_ref()).unwrap().config)
}

/// Loss over all ranks and gradient norm of every step.
fn train(groups: &Groups, rank: u32, cut: Cut) -> Vec<(f64, f64)> {
    let spec = convert::families::by_name("llama3:debugmodel").unwrap();
    let model = Llama3::new(spec, SEQ_LEN, Device::Cpu).unwrap();
    let precision = Precision { param: cut.param, reduce: Kind::Float };
    let units = begin::units(&model, groups, precision, Device::Cpu, 7).unwrap();
    let gathered = units[0].is_gathered();
    let plan = Plan {
        units: (0..units.len())
            .map(|unit| UnitPlan {
                recompute: cut.recompute > 0 && model.blocks().contains(&unit) && unit % cut.recompute == 0,
            })
            .collect(),
        microbatches: cut.microbatches,
        gathered,
        reshard: cut.reshard,
        prefetch_units: 1,
        reduction: cut.reduction,
        reductions_max: 1,
    };
    let program = build(&plan);
    check(&program, gathered).unwrap();
    let optimizer = Optimizer::new(Rule::AdamW, &units).unwrap();
    let mut runner = Runner::new(&model, groups, units, optimizer, 1.0);
    let mut text = Text::new(rank, groups.data_ranks(), cut.microbatches);
    let schedule = schedule();
    (0..LOSSES.len() as u64)
        .map(|step| {
            let lr = 8e-4 * schedule.factor(step);
            let settings = Settings { lr, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1 };
            let report = runner.step(&program, settings, &mut text).unwrap();
            assert_eq!(report.global_valid_tokens, u64::from(GLOBAL_BATCH) * SEQ_LEN as u64);
            let loss = Tensor::from(report.loss);
            groups.sum_over_data(&loss).unwrap();
            (numbers(&loss)[0], report.grad_norm)
        })
        .collect()
}

/// Bfloat16 has three digits: the same course, not the same figures.
fn compare_roughly(found: &[(f64, f64)]) {
    for (step, &(loss, grad_norm)) in found.iter().enumerate() {
        assert!((loss - LOSSES[step]).abs() < 0.01, "step {}: {loss}, in float32 {}", step + 1, LOSSES[step]);
        let off = (grad_norm - GRAD_NORMS[step]).abs() / GRAD_NORMS[step];
        assert!(off < 0.02, "step {}: {grad_norm}, in float32 {}", step + 1, GRAD_NORMS[step]);
    }
}

fn compare(found: &[(f64, f64)]) {
    let mut worst = [0f64; 2];
    for (step, &(loss, grad_norm)) in found.iter().enumerate() {
        for (which, found, expected, rounding) in
            [(0, loss, LOSSES[step], 5e-6), (1, grad_norm, GRAD_NORMS[step], 5e-5)]
        {
            let off = ((found - expected).abs() - rounding).max(0.0) / expected;
            worst[which] = worst[which].max(off);
            assert!(off <= TOLERANCE, "step {}: {found}, TorchTitan has {expected}", step + 1);
        }
    }
    println!(
        "largest relative difference beyond what was printed: loss {:.1e}, norm {:.1e}",
        worst[0], worst[1]
    );
}

fn alone(cut: Cut) {
    // Threads of libtorch that wait for each other are slow where tests share the cores.
    rng::set_threads(1).unwrap();
    compare(&train(&Groups::default(), 0, cut));
}

fn on_mesh(rank: &Rank, cut: Cut) {
    let degrees = Degrees { pp: 1, dp_replicate: cut.dp_replicate, dp_shard: cut.dp_shard, cp: 1, tp: 1 };
    let groups = Groups::of_mesh(rank.group("world", LONG).unwrap(), &mesh_of(degrees).unwrap()).unwrap();
    // Data-parallel ranks in the order of the mesh.
    compare(&train(&groups, rank.rank, cut));
}

#[test]
fn one_rank() {
    alone(ONE);
}

#[test]
fn one_rank_in_two_and_four_turns() {
    alone(Cut { microbatches: 2, ..ONE });
    alone(Cut { microbatches: 4, reduction: Reduction::Last, ..ONE });
}

#[test]
fn one_rank_that_computes_every_block_or_every_second_again() {
    alone(Cut { recompute: 1, ..ONE });
    alone(Cut { recompute: 2, microbatches: 2, ..ONE });
}

#[test]
fn two_ranks_that_share_out_the_parameters() {
    run_well("two_ranks_that_share_out_the_parameters", 2, |rank| {
        on_mesh(rank, Cut { dp_shard: 2, ..ONE });
    });
}

#[test]
fn two_ranks_that_share_out_the_parameters_and_compute_again() {
    run_well("two_ranks_that_share_out_the_parameters_and_compute_again", 2, |rank| {
        on_mesh(rank, Cut { dp_shard: 2, microbatches: 2, recompute: 1, reshard: Reshard::Always, ..ONE });
    });
}

#[test]
fn four_ranks_that_share_out_the_parameters() {
    run_well("four_ranks_that_share_out_the_parameters", 4, |rank| {
        on_mesh(rank, Cut { dp_shard: 4, reshard: Reshard::Never, ..ONE });
    });
}

#[test]
fn two_copies() {
    run_well("two_copies", 2, |rank| on_mesh(rank, Cut { dp_replicate: 2, microbatches: 2, ..ONE }));
}

#[test]
fn two_copies_of_two_shards() {
    run_well("two_copies_of_two_shards", 4, |rank| {
        on_mesh(rank, Cut { dp_replicate: 2, dp_shard: 2, ..ONE });
    });
}

#[test]
fn bfloat16_goes_the_same_way() {
    let cut = Cut { param: Kind::BFloat16, recompute: 2, reshard: Reshard::Always, ..ONE };
    run_well("bfloat16_goes_the_same_way", 2, |rank| {
        let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: 2, cp: 1, tp: 1 };
        let groups = Groups::of_mesh(rank.group("world", LONG).unwrap(), &mesh_of(degrees).unwrap()).unwrap();
        compare_roughly(&train(&groups, rank.rank, Cut { microbatches: 2, ..cut }));
    });
    rng::set_threads(1).unwrap();
    compare_roughly(&train(&Groups::default(), 0, cut));
}
