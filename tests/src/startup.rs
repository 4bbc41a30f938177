//! What a rank does before its first step, at scale: Llama 405B on 16,384 ranks.

use job::config::Config;
use job::mesh::{Group, ParallelDims};
use job::program::{Program, check};
use job::step::Step;
use std::error::Error;

/// The ranks of the run.
pub const WORLD: u32 = 16_384;

/// 16 stages on 16 ranks, 8 ranks for each layer, 128 shards, microbatches enough for a small bubble.
const FLAGS: &[&str] = &[
    "--model.name=llama3",
    "--model.flavor=405B",
    "--training.seq_len=8192",
    "--training.local_batch_size=64",
    "--parallelism.tensor_parallel_degree=8",
    "--parallelism.pipeline_parallel_degree=16",
    "--parallelism.pipeline_parallel_schedule=Interleaved1F1B",
    "--activation_checkpoint.mode=full",
];

/// Reads the configuration, checks it, cuts the model, and builds and checks the programs of a rank.
///
/// Errors: what is wrong with any of it.
pub fn programs_of(rank: u32) -> Result<(ParallelDims, Vec<Program>), Box<dyn Error>> {
    let read = |path: &std::path::Path| std::fs::read_to_string(path);
    let config = Config::from_args(FLAGS.iter().copied(), read)?.config;
    config.validate(WORLD)?;
    let model = config.model()?;
    let (dims, step) = Step::of(&config, WORLD, &model, None)?;
    let place = dims.coordinate(Group::Pp, rank);
    let programs = vec![step.train(place), step.evaluate(place)];
    for program in &programs {
        check(program, step.plan.gathered)?;
    }
    Ok((dims, programs))
}
