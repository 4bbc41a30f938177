//! Sections about the model and its update: `model`, `optimizer`, `lr_scheduler`, `activation_checkpoint`, `compile`,
//! `encoder`.

use super::section;
use crate::config::choice::{AcMode, DecayType, Implementation, OptimizerName, SelectiveOption};
use crate::config::flavor::Flavor;
use crate::config::key::{RefusedValue, Rule};

section! {
    /// Which model.
    Model {
        /// Model family.
        name: String = "llama3".to_owned(), without(&[
            RefusedValue {
                value: "llama3_ft",
                reason: "it is llama3 under TorchFT, a Python package",
                remedy: "give `llama3`; a job that dies resumes on any number of ranks",
            },
            RefusedValue {
                value: "flux",
                reason: "the trainer is for language models",
                remedy: "`titan-ckpt` converts, reshards and seeds flux checkpoints",
            },
        ]);
        /// Size within the family; or the path of a transformers config.json, or of the folder with it.
        flavor: Flavor = Flavor::new("debugmodel");
        /// Folder of the tokenizer, and of the Hugging Face model where one is read or written.
        hf_assets_path: String = "./tests/assets/tokenizer".to_owned(), must_be(Rule::NotEmpty);
        /// Deprecated name of hf_assets_path.
        tokenizer_path: Option<String> = None;
        /// Changes to the model's layers before training, by name.
        converters: Vec<String> = Vec::new(), refused(
            "converters are torchao's, a Python package for float8 and MX arithmetic",
            "leave the list empty and set training.mixed_precision_param to bfloat16"
        );
        /// Print the model after these changes.
        print_after_conversion: bool = false, inert("model.converters");
    }
}

section! {
    /// The update of the parameters.
    Optimizer {
        /// Which.
        name: OptimizerName = OptimizerName::AdamW;
        /// Highest learning rate.
        lr: f64 = 8e-4, must_be(Rule::Positive);
        /// Decay of the mean of gradients.
        beta1: f64 = 0.9, must_be(Rule::BelowOne);
        /// Decay of the mean of their squares.
        beta2: f64 = 0.95, must_be(Rule::BelowOne);
        /// Added to the root of the mean square.
        eps: f64 = 1e-8, must_be(Rule::Positive);
        /// Share of each parameter that is taken off, times the learning rate; of norms and biases too.
        weight_decay: f64 = 0.1, must_be(Rule::AtLeast(0));
        /// How the update is computed.
        implementation: Implementation = Implementation::Fused;
        /// Update each parameter as soon as its gradient is there.
        early_step_in_backward: bool = false, refused(
            "gradients are clipped by the norm of all of them, which is known after backward",
            "leave it off"
        );
    }
}

section! {
    /// The learning rate over the steps.
    LrScheduler {
        /// Steps in which it rises from 0, linearly.
        warmup_steps: u64 = 200;
        /// Steps of the whole schedule; None means training.steps.
        total_steps: Option<u64> = None, must_be(Rule::AtLeast(1));
        /// Share of the steps in which it falls, at the end; None means all after the warm-up, 0.0 none.
        decay_ratio: Option<f64> = None, must_be(Rule::Fraction);
        /// The shape of the fall.
        decay_type: DecayType = DecayType::Linear;
        /// What is left of it at the end, as a share of optimizer.lr.
        min_lr_factor: f64 = 0.0, must_be(Rule::Fraction);
    }
}

section! {
    /// What is computed again in backward, to save memory.
    ActivationCheckpoint {
        /// What.
        mode: AcMode = AcMode::Selective, without(&[RefusedValue {
            value: "memory_budget",
            reason: "a budget is kept by torch.compile, which is a compiler of Python",
            remedy: "use `selective` or `full`",
        }]);
        /// With mode `selective`: every N-th block, or the cheap operations of every block.
        selective_ac_option: SelectiveOption = SelectiveOption::Every(2);
        /// With `op`: matrix products of modules with these in their names are always computed again.
        per_op_sac_force_recompute_mm_shapes_by_fqns: Vec<String> = vec!["moe.router.gate".to_owned()];
        /// Stop computing again as soon as all is there that backward needs.
        early_stop: bool = false, moot("what is computed again is computed to its end");
        /// Share of the memory of activations to keep.
        memory_budget: f64 = 0.5, inert("activation_checkpoint.mode = \"memory_budget\"");
        /// Draw memory over time of budgets.
        visualize_memory_budget_pareto: bool = false, inert("activation_checkpoint.mode = \"memory_budget\"");
        /// Compute again with the same random numbers.
        preserve_rng_state: bool = true, moot("random numbers are always those of the first time");
        /// How what is computed again is compared.
        determinism_check: String = "default".to_owned(), refused(
            "what is computed again always has the same shapes here", "leave it at \"default\""
        );
        /// Record what is computed again.
        debug: bool = false, refused(
            "PyTorch's Python part records it", "leave it off; profiling.enable_profiling shows what is computed when"
        );
    }
}

section! {
    /// `torch.compile`.
    Compile {
        /// Compile the model or the loss.
        enable: bool = false, refused(
            "torch.compile is a compiler of Python", "turn it off: `--compile.no-enable`"
        );
        /// What is compiled.
        components: Vec<String> = vec!["model".to_owned(), "loss".to_owned()], inert("compile.enable");
        /// Which compiler.
        backend: String = "inductor".to_owned(), inert("compile.enable");
    }
}

section! {
    /// Encoders of flux.
    Encoder {
        /// T5 model.
        t5_encoder: String = "google/t5-v1_1-small".to_owned(), inert("model.name = \"flux\"");
        /// CLIP model.
        clip_encoder: String = "openai/clip-vit-large-patch14".to_owned(), inert("model.name = \"flux\"");
        /// File of the autoencoder.
        autoencoder_path: String = "assets/hf/FLUX.1-dev/ae.safetensors".to_owned(), inert("model.name = \"flux\"");
        /// Tokens of T5 per text.
        max_t5_encoding_len: u64 = 256, inert("model.name = \"flux\"");
    }
}
