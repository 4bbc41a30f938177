//! The section `checkpoint`.

use super::section;
use crate::config::choice::{AsyncMode, CheckpointFormat, ExportDtype};
use crate::config::key::Rule;

section! {
    /// What is saved when, where and how, and what a job starts from.
    Checkpoint {
        /// Save and load checkpoints.
        enable: bool = false;
        /// Save the place in the data of every TorchFT replica.
        enable_ft_dataloader_checkpoints: bool = true, inert("fault_tolerance.enable");
        /// Where: a folder in dump_folder, an absolute path, or a URL (s3://, gs://, az://).
        folder: String = "checkpoint".to_owned(), must_be(Rule::NotEmpty);
        /// Steps between saves.
        interval: u64 = 500, must_be(Rule::AtLeast(1));
        /// A checkpoint, path or URL, from which a job starts whose folder has no checkpoint.
        initial_load_path: Option<String> = None, must_be(Rule::NotEmpty);
        /// Take only the model from it, not the optimizer, the step and the place in the data.
        initial_load_model_only: bool = true;
        /// It is a Hugging Face model; without initial_load_path it is in model.hf_assets_path.
        initial_load_in_hf: bool = false;
        /// And its weights are packed: FP8 (DeepSeek) or MXFP4 (gpt-oss).
        initial_load_in_hf_quantized: bool = false;
        /// At the last step save only the model.
        last_save_model_only: bool = true;
        /// And save it as a Hugging Face model.
        last_save_in_hf: bool = false;
        /// Type of the model where only it is saved.
        export_dtype: ExportDtype = ExportDtype::Float32;
        /// How long a step waits for its save.
        async_mode: AsyncMode = AsyncMode::Disabled;
        /// Checkpoints that are kept, the newest; 0 means all. One is not enough: the newest may not be complete yet.
        keep_latest_k: u64 = 10, must_be(Rule::ZeroOrAtLeast(2));
        /// The step to load; -1 means the newest.
        load_step: i64 = -1, must_be(Rule::MinusOneOrAtLeast(0));
        /// What is not loaded: optimizer, lr_scheduler, dataloader, train_state.
        exclude_from_loading: Vec<String> = Vec::new();
        /// Save after step 1 too.
        enable_first_step_checkpoint: bool = false;
        /// Save the model as it begins as step 0, then end.
        create_seed_checkpoint: bool = false;
        /// Load but never save.
        load_only: bool = false;
        /// Format of what is saved: the native one, or PyTorch's, which TorchTitan can resume. Either is loaded.
        format: CheckpointFormat = CheckpointFormat::Titan, ours();
        /// Bytes of host memory that a save may hold per rank; a larger one is split, and its step waits. 0 sets no bound.
        staging_bytes_max: u64 = 0, ours();
        /// Threads per rank that sum and write what is saved, beside the training.
        writer_threads: u64 = 2, ours(), must_be(Rule::AtLeast(1));
        /// Steps between exports as Hugging Face models, with config and tokenizer; 0 means none.
        export_hf_interval: u64 = 0, ours();
        /// Where exports go: a folder in dump_folder, an absolute path, or a URL; a folder for each step.
        export_hf_folder: String = "hf".to_owned(), ours(), must_be(Rule::NotEmpty);
    }
}
