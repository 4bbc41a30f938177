//! What is compared of model families: one table, and the models.

use super::comparisons::{COPY, Comparison, Limit, Run, Side, Source};

/// A model with the shapes of a known one and few of its layers.
pub(super) struct Model {
    /// Its name among the files of a bench.
    pub(super) name: &'static str,
    /// Its `config.json`.
    pub(super) config: &'static str,
    /// The type of its elements.
    pub(super) dtype: &'static str,
}

/// 1.92e9 elements.
static LLAMA3: Model = Model {
    name: "llama3-8b-4-layers",
    config: r#"{"model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 4,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0}"#,
    dtype: "bf16",
};
/// 1.25e9 elements.
static QWEN3_MOE: Model = Model {
    name: "qwen3-30b-a3b-2-layers",
    config: r#"{"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 2,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": true, "vocab_size": 2048}"#,
    dtype: "bf16",
};
/// 1.22e9 elements.
static LLAMA4: Model = Model {
    name: "llama4-17bx16e-1-layer",
    config: r#"{"model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192,
        "intermediate_size_mlp": 16384, "num_hidden_layers": 1, "num_attention_heads": 40, "num_key_value_heads": 8,
        "head_dim": 128, "num_local_experts": 8, "interleave_moe_layer_step": 1, "vocab_size": 2048,
        "rope_theta": 500000.0}"#,
    dtype: "bf16",
};
/// 0.83e9 elements.
static GPT_OSS: Model = Model {
    name: "gpt-oss-20b-1-layer",
    config: r#"{"model_type": "gpt_oss", "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 1,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32,
        "num_experts_per_tok": 4, "vocab_size": 2048}"#,
    dtype: "bf16",
};
/// TorchTitan's debugmodel, four times as wide: 0.27e9 elements.
static DEBUG: Model = Model {
    name: "llama3-debug-wide",
    config: r#"{"model_type": "llama", "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 16,
        "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 32000, "rope_theta": 500000.0}"#,
    dtype: "f32",
};

/// `to-hf` beside a copy of the same bytes.
const EXPORT: &[Side] = &[
    Side { label: "titan-ckpt to-hf", run: Run::Ours(&["to-hf", "SRC", "DST", "--config", "CONFIG"]) },
    COPY,
];

const fn frugal(slower_than_first: Option<f64>) -> Limit {
    Limit::Frugal { slower_than_first, resident_mib_max: 1024 }
}

pub(super) static FAMILIES: &[Comparison] = &[
    Comparison {
        name: "families: seed llama3 8B (4 of 32 layers) in bf16",
        source: Source::Seeded(&LLAMA3),
        sides: &[
            Side {
                label: "titan-ckpt seed",
                run: Run::Ours(&["seed", "DST", "--config", "CONFIG", "--dtype", "bf16"]),
            },
            COPY,
        ],
        limit: frugal(None),
    },
    Comparison {
        name: "families: llama3 8B (4 of 32 layers), 4 ranks to Hugging Face",
        source: Source::Seeded(&LLAMA3),
        sides: EXPORT,
        limit: frugal(Some(1.3)),
    },
    Comparison {
        name: "families: qwen3 30B-A3B (2 of 48 layers), 4 ranks to Hugging Face",
        source: Source::Seeded(&QWEN3_MOE),
        sides: EXPORT,
        limit: frugal(Some(2.0)),
    },
    Comparison {
        name: "families: llama4 17bx16e (1 of 48 layers, 8 experts), 4 ranks to Hugging Face",
        source: Source::Seeded(&LLAMA4),
        sides: EXPORT,
        limit: frugal(Some(2.0)),
    },
    Comparison {
        name: "families: gpt_oss 20b (1 of 24 layers), 4 ranks to Hugging Face",
        source: Source::Seeded(&GPT_OSS),
        sides: EXPORT,
        limit: frugal(Some(2.0)),
    },
    Comparison {
        name: "families: llama3 debugmodel (4 x as wide) to Hugging Face",
        source: Source::Seeded(&DEBUG),
        sides: &[
            EXPORT[0],
            Side {
                label: "TorchTitan's way of convert_to_hf",
                run: Run::TorchTitan(&["to_hf", "SRC", "DST", "CONFIG"]),
            },
        ],
        limit: Limit::Leaner { faster: 5.0, smaller: 5.0 },
    },
    Comparison {
        name: "families: llama3 debugmodel (4 x as wide) from Hugging Face",
        source: Source::Exported(&DEBUG),
        sides: &[
            Side { label: "titan-ckpt from-hf", run: Run::Ours(&["from-hf", "SRC", "DST"]) },
            Side {
                label: "TorchTitan's way of convert_from_hf",
                run: Run::TorchTitan(&["from_hf", "SRC", "DST", "CONFIG"]),
            },
        ],
        limit: Limit::Leaner { faster: 5.0, smaller: 5.0 },
    },
];
