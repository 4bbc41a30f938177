//! Keys that take one of a few words.

use super::setting::{Setting, Value};
use dcp::model::DType;
use std::fmt;

/// An enum for each key, with the words that files and flags use.
macro_rules! choices {
    ($($(#[doc = $about:literal])+ $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $word:literal,)+ })+) => {$(
        $(#[doc = $about])+
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl $name {
            /// Every one.
            pub const ALL: &[$name] = &[$($name::$variant),+];

            /// The word for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Setting for $name {
            fn expected() -> String {
                let words = [$($word),+];
                if words.len() == 1 { words[0].to_owned() } else { format!("one of {}", words.join(", ")) }
            }

            fn short() -> String {
                [$($word),+].join(", ")
            }

            fn take(value: &Value) -> Option<Self> {
                let Value::Text(text) = value else { return None };
                // PyTorch looks schedules up in lower case; for the other words it does no harm.
                Self::ALL.iter().copied().find(|choice| choice.as_str().eq_ignore_ascii_case(text))
            }

            fn give(&self) -> Value {
                Value::Text(self.as_str().to_owned())
            }
        }
    )+};
}

choices! {
    /// `optimizer.name`.
    OptimizerName {
        /// Weight decay is added to the gradient.
        Adam = "Adam",
        /// Weight decay is apart from the gradient.
        AdamW = "AdamW",
    }

    /// `optimizer.implementation`.
    Implementation {
        /// One parameter at a time.
        ForLoop = "for-loop",
        /// All parameters, one operation at a time.
        Foreach = "foreach",
        /// All parameters and operations at once.
        Fused = "fused",
    }

    /// `lr_scheduler.decay_type`.
    DecayType {
        /// 1 - p.
        Linear = "linear",
        /// 1 - sqrt(p).
        Sqrt = "sqrt",
        /// (1 + cos(pi p)) / 2.
        Cosine = "cosine",
    }

    /// The type of parameters.
    ParamDtype {
        /// 16 bits with the exponent of 32.
        Bfloat16 = "bfloat16",
        /// 32 bits.
        Float32 = "float32",
    }

    /// The type in which gradients are summed.
    ReduceDtype {
        /// 32 bits.
        Float32 = "float32",
    }

    /// The type of exported parameters.
    ExportDtype {
        /// 16 bits.
        Float16 = "float16",
        /// 16 bits with the exponent of 32.
        Bfloat16 = "bfloat16",
        /// 32 bits.
        Float32 = "float32",
    }

    /// `parallelism.fsdp_reshard_after_forward`.
    ReshardPolicy {
        /// Freed after forward, unless there are pipeline stages.
        Default = "default",
        /// Freed after forward, gathered again for backward.
        Always = "always",
        /// Kept from forward to backward.
        Never = "never",
    }

    /// `parallelism.pipeline_parallel_schedule`.
    PipelineSchedule {
        /// One forward, one backward.
        OneForwardOneBackward = "1F1B",
        /// The same, with several stages per rank.
        Interleaved1F1B = "Interleaved1F1B",
        /// All forwards, then all backwards.
        GPipe = "GPipe",
        /// The same, with several stages per rank.
        LoopedBfs = "LoopedBFS",
        /// Interleaved, with backwards for weights put off.
        InterleavedZeroBubble = "InterleavedZeroBubble",
        /// Two stages per rank in a V, with backwards for weights put off.
        ZbvZeroBubble = "ZBVZeroBubble",
        /// Two stages per rank in a V, fed from both ends.
        DualPipeV = "DualPipeV",
        /// As a CSV file says, with one stage per rank.
        Single = "PipelineScheduleSingle",
        /// As a CSV file says, with several stages per rank.
        Multi = "PipelineScheduleMulti",
    }

    /// `parallelism.context_parallel_load_balancer`.
    LoadBalancer {
        /// Rank i takes chunk i from the front and chunk i from the back.
        HeadTail = "headtail",
        /// By the blocks of a mask.
        Ptrr = "ptrr",
    }

    /// `parallelism.context_parallel_rotate_method`.
    RotateMethod {
        /// Keys and values of all ranks at once.
        AllGather = "allgather",
        /// From neighbour to neighbour.
        AllToAll = "alltoall",
    }

    /// `parallelism.expert_parallel_comm_backend`.
    ExpertBackend {
        /// All-to-all.
        Standard = "standard",
        /// DeepEP's kernels.
        DeepEp = "deepep",
    }

    /// `checkpoint.async_mode`.
    AsyncMode {
        /// The step waits until the checkpoint is stored.
        Disabled = "disabled",
        /// The step waits until the state is in host memory.
        Async = "async",
        /// The step does not wait; the next update of the parameters waits for the copy to host memory.
        AsyncWithPinnedMem = "async_with_pinned_mem",
    }

    /// `checkpoint.format`.
    CheckpointFormat {
        /// The native one.
        Titan = "titan",
        /// PyTorch's, which TorchTitan can resume.
        Dcp = "dcp",
    }

    /// `activation_checkpoint.mode`.
    AcMode {
        /// Some blocks, or some operations.
        Selective = "selective",
        /// Every block.
        Full = "full",
        /// As the compiler finds best for a budget.
        MemoryBudget = "memory_budget",
        /// Nothing is computed twice.
        None = "none",
    }

    /// `comm.mode`.
    CommMode {
        /// Ranks talk.
        Default = "default",
        /// One rank pretends that there are others.
        FakeBackend = "fake_backend",
        /// One process holds all ranks.
        LocalTensor = "local_tensor",
    }

    /// `comm.backend`.
    CommBackend {
        /// NCCL on GPUs, gloo on CPUs.
        Auto = "auto",
        /// Gloo.
        Gloo = "gloo",
        /// NCCL.
        Nccl = "nccl",
    }

    /// `fault_tolerance.process_group`.
    ReplicaBackend {
        /// Gloo.
        Gloo = "gloo",
        /// NCCL.
        Nccl = "nccl",
    }

    /// `fault_tolerance.semi_sync_method`.
    SemiSyncMethod {
        /// Parameters are averaged.
        LocalSgd = "local_sgd",
        /// An outer optimizer takes their differences.
        Diloco = "diloco",
    }

    /// `quantize.linear.float8.recipe_name`.
    Float8Recipe {
        /// One scale per tensor.
        Tensorwise = "tensorwise",
        /// One scale per row.
        Rowwise = "rowwise",
        /// One scale per row; gradients of weights in high precision.
        RowwiseWithGwHp = "rowwise_with_gw_hp",
    }

    /// `quantize.linear.mx.mxfp8_dim1_cast_kernel_choice`.
    MxCastKernel {
        /// Triton's.
        Triton = "triton",
        /// CUDA's.
        Cuda = "cuda",
        /// PyTorch's operations.
        Torch = "torch",
    }

    /// `quantize.linear.mx.recipe_name`.
    MxRecipe {
        /// Scales rounded down.
        Cublas = "mxfp8_cublas",
        /// Scales rounded up.
        CublasRceil = "mxfp8_cublas_rceil",
    }
}

impl ParamDtype {
    /// The type of elements.
    pub fn dtype(self) -> DType {
        match self {
            ParamDtype::Bfloat16 => DType::BF16,
            ParamDtype::Float32 => DType::F32,
        }
    }
}

impl ReduceDtype {
    /// The type of elements.
    pub fn dtype(self) -> DType {
        match self {
            ReduceDtype::Float32 => DType::F32,
        }
    }
}

impl ExportDtype {
    /// The type of elements.
    pub fn dtype(self) -> DType {
        match self {
            ExportDtype::Float16 => DType::F16,
            ExportDtype::Bfloat16 => DType::BF16,
            ExportDtype::Float32 => DType::F32,
        }
    }
}

/// `activation_checkpoint.selective_ac_option`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SelectiveOption {
    /// Every so many blocks, counted from 1; 0 means every block.
    Every(u32),
    /// Cheap operations of every block.
    Operations,
}

impl Setting for SelectiveOption {
    fn expected() -> String {
        "text: a number of blocks as \"2\", or \"op\"".to_owned()
    }

    fn short() -> String {
        "\"N\" or \"op\"".to_owned()
    }

    fn take(value: &Value) -> Option<Self> {
        match value {
            Value::Text(text) if text == "op" => Some(SelectiveOption::Operations),
            Value::Text(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                text.parse().ok().map(SelectiveOption::Every)
            }
            _ => None,
        }
    }

    fn give(&self) -> Value {
        Value::Text(match self {
            SelectiveOption::Every(blocks) => blocks.to_string(),
            SelectiveOption::Operations => "op".to_owned(),
        })
    }
}
