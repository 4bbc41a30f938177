//! What can be wrong with a pipeline.

use super::Fault;

/// A rule of pipelines that does not hold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum PipelineError {
    #[error(
        "parallelism.pipeline_parallel_degree = {ranks}: the model's head is its embedding, which the first and the last stage \
         would have to share; set it to 1, and shard by parallelism.data_parallel_shard_degree or tensor_parallel_degree"
    )]
    Tied { ranks: u32 },

    #[error(
        "a pipeline of {ranks} ranks with {stages_per_rank} stages each and {microbatches} microbatches: it needs one of each"
    )]
    Empty { ranks: u32, stages_per_rank: u32, microbatches: u32 },

    #[error(
        "a pipeline of {ranks} ranks with {stages_per_rank} stages each and {microbatches} microbatches is {actions} passes, \
         {max} at most; raise parallelism.pipeline_parallel_microbatch_size",
        max = super::Shape::ACTIONS_MAX
    )]
    TooLarge { ranks: u32, stages_per_rank: u32, microbatches: u32, actions: u64 },

    #[error(
        "parallelism.pipeline_parallel_schedule = {schedule:?}: it is read from a file; set \
         parallelism.pipeline_parallel_schedule_csv, or take a schedule by name"
    )]
    NeedsFile { schedule: &'static str },

    #[error(
        "parallelism.pipeline_parallel_schedule = {schedule:?} needs {rule} per rank, but there are {stages_per_rank}; \
         {remedy}"
    )]
    StagesPerRank { schedule: &'static str, stages_per_rank: u32, rule: &'static str, remedy: String },

    #[error(
        "parallelism.pipeline_parallel_schedule = {schedule:?} needs {rule}, but there are {microbatches} \
         (training.local_batch_size / parallelism.pipeline_parallel_microbatch_size); {remedy}"
    )]
    Microbatches { schedule: &'static str, microbatches: u32, rule: String, remedy: String },

    #[error(
        "{stages} stages over {ranks} ranks: every rank has as many, so the number of stages must be a multiple of \
         parallelism.pipeline_parallel_degree = {ranks}; change that, parallelism.pipeline_parallel_layers_per_stage or \
         parallelism.module_fqns_per_model_part"
    )]
    StagesOverRanks { stages: u64, ranks: u64 },

    #[error(
        "parallelism.pipeline_parallel_layers_per_stage = {layers_per_stage}: {layers} layers, with the {first_less} and \
         {last_less} that the embedding and the head count as, make stages, {stages} of them, which is no \
         multiple of parallelism.pipeline_parallel_degree = {ranks}; {remedy}"
    )]
    LayersPerStage {
        layers_per_stage: u64,
        layers: u32,
        first_less: u64,
        last_less: u64,
        stages: u64,
        ranks: u64,
        remedy: String,
    },

    #[error(
        "{stages} stages of {layers} layers, with the {first_less} and {last_less} that the embedding and the head count as \
         (parallelism.pipeline_parallel_first_stage_less_layers, .._last_stage_less_layers): a stage needs a layer; lower \
         parallelism.pipeline_parallel_degree or the stages per rank"
    )]
    TooManyStages { stages: u64, layers: u32, first_less: u64, last_less: u64 },

    #[error(
        "{key} = {less}: a stage has {layers_per_stage} layers, which it must not be more than; set it to \
         {layers_per_stage} at most, or make fewer stages"
    )]
    LessLayers { key: &'static str, less: u64, layers_per_stage: u64 },

    #[error(
        "{found} stages of {cut} units for a pipeline of {expected} stages and a model of {units} units: cut the model as the \
         pipeline needs"
    )]
    Units { units: u32, cut: u32, found: usize, expected: u32 },

    #[error("parallelism.module_fqns_per_model_part: {why}")]
    Parts { why: String },

    #[error("parallelism.pipeline_parallel_schedule_csv, line {line}, entry {entry} (`{found}`): {why}")]
    Csv { line: usize, entry: usize, found: String, why: String },

    #[error("parallelism.pipeline_parallel_schedule_csv: {why}")]
    CsvWhole { why: String },

    #[error("parallelism.pipeline_parallel_schedule_csv: {0}")]
    Unsound(Fault),
}
