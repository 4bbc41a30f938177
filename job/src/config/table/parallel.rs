//! The section `parallelism`.

use super::section;
use crate::config::choice::{ExpertBackend, LoadBalancer, PipelineSchedule, ReshardPolicy, RotateMethod};
use crate::config::key::{RefusedValue, Rule};

section! {
    /// How ranks share the work. The product of the degrees data_parallel_replicate, data_parallel_shard, context_parallel,
    /// tensor_parallel and pipeline_parallel is the number of ranks.
    Parallelism {
        /// Copies of the model (DDP; with shards: HSDP).
        data_parallel_replicate_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// Ranks that share one copy (FSDP); -1 means all that the other degrees leave.
        data_parallel_shard_degree: i64 = -1, must_be(Rule::MinusOneOrAtLeast(1));
        /// Whether gathered parameters are freed after forward.
        fsdp_reshard_after_forward: ReshardPolicy = ReshardPolicy::Default;
        /// Ranks that share each layer.
        tensor_parallel_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// Gather the logits of all of the vocabulary for the loss.
        disable_loss_parallel: bool = false;
        /// Overlap tensor parallelism with matrix products.
        enable_async_tensor_parallel: bool = false, refused(
            "torch.compile does it, which is a compiler of Python",
            "turn it off: `--parallelism.no-enable_async_tensor_parallel`"
        );
        /// Ranks over which layers are spread.
        pipeline_parallel_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// Modules of each stage, by name; None spreads layers evenly.
        module_fqns_per_model_part: Option<Vec<Vec<String>>> = None;
        /// How many layers the embedding counts as.
        pipeline_parallel_first_stage_less_layers: u64 = 1;
        /// How many layers norm and head count as.
        pipeline_parallel_last_stage_less_layers: u64 = 1;
        /// Layers per stage, from which follows the number of stages; None means 1 or 2 stages per rank, as the schedule needs.
        pipeline_parallel_layers_per_stage: Option<u64> = None, must_be(Rule::AtLeast(1));
        /// In which order stages compute.
        pipeline_parallel_schedule: PipelineSchedule = PipelineSchedule::OneForwardOneBackward;
        /// File with a schedule, in place of one by name; empty means none.
        pipeline_parallel_schedule_csv: Option<String> = Some(String::new());
        /// Sequences that go through a stage at a time.
        pipeline_parallel_microbatch_size: u64 = 1, must_be(Rule::AtLeast(1));
        /// With DualPipeV: overlap the exchange of tokens between experts with computing.
        pipeline_parallel_expert_parallel_overlap: bool = true;
        /// Ranks that share each sequence.
        context_parallel_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// Which tokens each of them has; None means one run each.
        context_parallel_load_balancer: Option<LoadBalancer> = Some(LoadBalancer::HeadTail), without(&[RefusedValue {
            value: "ptrr",
            reason: "it balances the blocks of flex attention, which torch.compile makes",
            remedy: "use `headtail`",
        }]);
        /// How their keys and values reach each other.
        context_parallel_rotate_method: RotateMethod = RotateMethod::AllGather;
        /// Ranks that share the experts of a layer.
        expert_parallel_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// Ranks that share each expert: 1, or tensor_parallel_degree.
        expert_tensor_parallel_degree: u64 = 1, must_be(Rule::AtLeast(1));
        /// What carries tokens to experts.
        expert_parallel_comm_backend: ExpertBackend = ExpertBackend::Standard, without(&[RefusedValue {
            value: "deepep",
            reason: "DeepEP's kernels are a Python extension",
            remedy: "use `standard`",
        }]);
    }
}
