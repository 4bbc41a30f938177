//! Sections about data and steps: `training`, `validation`, `inference`.

use super::section;
use crate::config::choice::{ParamDtype, ReduceDtype};
use crate::config::key::Rule;

section! {
    /// Data, batches, types, number of steps.
    Training {
        /// Name of the data set.
        dataset: String = "c4_test".to_owned(), must_be(Rule::NotEmpty);
        /// Where it is, if not where its name says.
        dataset_path: Option<String> = None;
        /// Sequences per data-parallel rank that go through the model before gradients are added up.
        local_batch_size: u64 = 8, must_be(Rule::AtLeast(1));
        /// Sequences per step over all ranks; -1 means local_batch_size per data-parallel rank.
        global_batch_size: i64 = -1, must_be(Rule::NotZero);
        /// Tokens per sequence.
        seq_len: u64 = 2048, must_be(Rule::AtLeast(1));
        /// Gradients with a larger norm are scaled down to it.
        max_norm: f64 = 1.0, must_be(Rule::Positive);
        /// Steps of the job, those of its earlier runs included.
        steps: u64 = 10_000, must_be(Rule::AtLeast(1));
        /// Keep parameters and optimizer state in host memory.
        enable_cpu_offload: bool = false, refused(
            "parameters stay on the device that computes with them",
            "raise parallelism.data_parallel_shard_degree, or set activation_checkpoint.mode to \"full\""
        );
        /// Type of the parameters and their optimizer state.
        dtype: ParamDtype = ParamDtype::Float32;
        /// Type of parameters in forward and backward.
        mixed_precision_param: ParamDtype = ParamDtype::Bfloat16;
        /// Type in which gradients are summed over ranks.
        mixed_precision_reduce: ReduceDtype = ReduceDtype::Float32;
        /// Steps between runs of Python's garbage collector.
        gc_freq: u64 = 50, moot("there is no garbage collector");
        /// Run it at every step.
        gc_debug: bool = false, moot("there is no garbage collector");
        /// Parts into which the data is cut, each with its own packing; ranks share them. 0 means one per source file. The
        /// order of sequences depends on it, on nothing else.
        virtual_shards: u64 = 0, ours();
        /// Threads per rank for operations on CPUs; 0 leaves it to libtorch.
        threads: u64 = 0, ours();
        /// Share of texts of flux that are left empty.
        classifier_free_guidance_prob: f64 = 0.0, inert("model.name = \"flux\"");
        /// Width and height of images of flux, in pixels.
        img_size: u64 = 256, inert("model.name = \"flux\"");
        /// Train flux with encoders of random numbers.
        test_mode: bool = false, inert("model.name = \"flux\"");
        sections {
            /// Reading ahead.
            dataloader: Dataloader,
        }
    }
}

section! {
    /// Reading ahead.
    Dataloader {
        /// Threads that read ahead; 0 reads when data is wanted.
        num_workers: u64 = 0;
        /// Keep them from one pass over the data to the next.
        persistent_workers: bool = false, moot("threads that read ahead are always kept");
        /// Read into memory from which GPUs copy by themselves.
        pin_memory: bool = false, moot("batches are small, and copied when they are used");
        /// Batches that each thread reads ahead; None means 2.
        prefetch_factor: Option<u64> = None, must_be(Rule::AtLeast(1));
    }
}

section! {
    /// Loss on data that is not trained on.
    Validation {
        /// Compute it.
        enable: bool = false;
        /// Name of the data set.
        dataset: String = "c4_validation".to_owned(), must_be(Rule::NotEmpty);
        /// Where it is, if not where its name says.
        dataset_path: Option<String> = None;
        /// Sequences per data-parallel rank at a time.
        local_batch_size: u64 = 8, must_be(Rule::AtLeast(1));
        /// Tokens per sequence.
        seq_len: u64 = 2048, must_be(Rule::AtLeast(1));
        /// Steps of training between validations; step 1 is always followed by one.
        freq: u64 = 10, must_be(Rule::AtLeast(1));
        /// Batches per validation; -1 means the whole data set.
        steps: i64 = -1, must_be(Rule::MinusOneOrAtLeast(1));
        /// Images of flux also without their texts.
        enable_classifier_free_guidance: bool = false, inert("model.name = \"flux\"");
        /// How far images of flux are moved towards their texts.
        classifier_free_guidance_scale: f64 = 5.0, inert("model.name = \"flux\"");
        /// Steps from noise to an image of flux.
        denoising_steps: u64 = 50, inert("model.name = \"flux\"");
        /// Steps of training between images of flux.
        eval_freq: u64 = 100, inert("model.name = \"flux\"");
        /// Images of flux that are kept.
        save_img_count: u64 = 1, inert("model.name = \"flux\"");
        /// Folder of images of flux, in dump_folder.
        save_img_folder: String = "img".to_owned(), inert("model.name = \"flux\"");
        /// Validate flux at fixed amounts of noise.
        all_timesteps: bool = false, inert("model.name = \"flux\"");
        sections {
            /// Reading ahead.
            dataloader: Dataloader,
        }
    }
}

section! {
    /// Images made by flux.
    Inference {
        /// Folder of the images, in dump_folder.
        save_img_folder: String = "inference_results".to_owned(), inert("model.name = \"flux\"");
        /// File of texts, one per line.
        prompts_path: String = "./torchtitan/experiments/flux/inference/prompts.txt".to_owned(), inert("model.name = \"flux\"");
        /// Images at a time.
        local_batch_size: u64 = 2, inert("model.name = \"flux\"");
        /// Width and height, in pixels.
        img_size: u64 = 256, inert("model.name = \"flux\"");
    }
}
