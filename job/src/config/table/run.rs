//! Sections about the run as such: `job`, `profiling`, `metrics`, `comm`, `debug`, and those that are refused.

use super::section;
use crate::config::choice::{CommBackend, CommMode, ReplicaBackend, SemiSyncMethod};
use crate::config::key::{RefusedValue, Rule};

section! {
    /// What the job is called, and where its output goes.
    Job {
        /// TOML file, or `preset:NAME`. Flags go before what it says.
        config_file: Option<String> = None;
        /// Folder of all output.
        dump_folder: String = "./outputs".to_owned(), must_be(Rule::NotEmpty);
        /// Printed at the start.
        description: String = "default job".to_owned();
        /// Print the whole configuration as JSON at the start.
        print_config: bool = false;
        /// Write the whole configuration as JSON to this file in dump_folder.
        save_config_file: Option<String> = None;
        /// Python module that extends the configuration.
        custom_config_module: String = String::new(), refused(
            "Python modules are not run here",
            "leave it out; the keys of TorchTitan's own extensions `flux` and `ft` are known without it"
        );
    }
}

section! {
    /// Traces of steps.
    Profiling {
        /// Write Chrome traces, one per rank.
        enable_profiling: bool = false;
        /// Folder of the traces, in dump_folder.
        save_traces_folder: String = "profile_traces".to_owned(), must_be(Rule::NotEmpty);
        /// Length of a cycle in steps: it waits, warms up, then records.
        profile_freq: u64 = 10, must_be(Rule::AtLeast(1));
        /// Recorded steps of a cycle.
        profiler_active: u64 = 1, must_be(Rule::AtLeast(1));
        /// Warm-up steps of a cycle.
        profiler_warmup: u64 = 3;
        /// Record the history of GPU memory.
        enable_memory_snapshot: bool = false, refused(
            "the history of allocations is kept by PyTorch's Python part",
            "leave it off; the log has the most memory of each step"
        );
        /// Folder of the history, in dump_folder.
        save_memory_snapshot_folder: String = "memory_snapshot".to_owned(), inert("profiling.enable_memory_snapshot");
    }
}

section! {
    /// What is logged.
    Metrics {
        /// Steps between log lines; step 1 is always logged.
        log_freq: u64 = 10, must_be(Rule::AtLeast(1));
        /// Write TensorBoard events.
        enable_tensorboard: bool = false;
        /// Log lines without colours.
        disable_color_printing: bool = false;
        /// Folder of the events, in dump_folder.
        save_tb_folder: String = "tb".to_owned(), must_be(Rule::NotEmpty);
        /// Events of every rank, not of one that has the loss.
        save_for_all_ranks: bool = false;
        /// Log to Weights & Biases.
        enable_wandb: bool = false, refused(
            "the client of Weights & Biases is a Python package", "use metrics.enable_tensorboard or metrics.enable_jsonl"
        );
        /// Write one JSON object per logged step.
        enable_jsonl: bool = false, ours();
        /// File of these objects, in dump_folder.
        save_jsonl_file: String = "metrics.jsonl".to_owned(), ours(), must_be(Rule::NotEmpty);
    }
}

section! {
    /// Communication between ranks.
    Comm {
        /// Seconds that ranks wait for each other until the first step is done.
        init_timeout_seconds: u64 = 300, must_be(Rule::AtLeast(1));
        /// Seconds that ranks wait for each other afterwards.
        train_timeout_seconds: u64 = 100, must_be(Rule::AtLeast(1));
        /// Collectives that NCCL's flight recorder remembers; 0 turns it off.
        trace_buf_size: u64 = 20_000, moot("there is no flight recorder; the rank that failed is named in the log");
        /// Folder of the flight recorder's dumps, in dump_folder.
        save_traces_folder: String = "comm_traces".to_owned(), must_be(Rule::NotEmpty), moot("there is no flight recorder");
        /// What the names of the dumps begin with; the rank follows.
        save_traces_file_prefix: String = "rank_".to_owned(), moot("there is no flight recorder");
        /// Whether there are other ranks.
        mode: CommMode = CommMode::Default, without(&[
            RefusedValue {
                value: "fake_backend",
                reason: "ranks that are not there cannot be trained with",
                remedy: "`--nproc` starts several ranks on one machine",
            },
            RefusedValue {
                value: "local_tensor",
                reason: "ranks that are not there cannot be trained with",
                remedy: "`--nproc` starts several ranks on one machine",
            },
        ]);
        /// What carries collectives.
        backend: CommBackend = CommBackend::Auto, ours();
    }
}

section! {
    /// Estimating memory without a GPU.
    MemoryEstimation {
        /// Estimate instead of training.
        enable: bool = false, refused(
            "the trainer makes no estimate", "train a step: the log has the most memory of it"
        );
        /// Estimate with real tensors.
        disable_fake_mode: bool = false, inert("memory_estimation.enable");
    }
}

section! {
    /// TorchFT.
    FaultTolerance {
        /// Train in replicas that come and go.
        enable: bool = false, refused(
            "replicas that come and go are TorchFT's, a Python package", "leave it off; a job that dies resumes on any number of ranks"
        );
        /// What carries collectives between replicas.
        process_group: ReplicaBackend = ReplicaBackend::Gloo, inert("fault_tolerance.enable");
        /// Milliseconds that replicas wait for each other.
        process_group_timeout_ms: u64 = 10_000, inert("fault_tolerance.enable");
        /// Number of this replica.
        replica_id: u64 = 0, inert("fault_tolerance.enable");
        /// Number of replicas.
        group_size: u64 = 0, inert("fault_tolerance.enable");
        /// Replicas without which none trains.
        min_replica_size: u64 = 1, inert("fault_tolerance.enable");
        /// How replicas that do not meet at every step agree.
        semi_sync_method: Option<SemiSyncMethod> = None, inert("fault_tolerance.enable");
        /// Steps between their meetings.
        sync_steps: u64 = 5, inert("fault_tolerance.enable");
        /// Send less precise differences.
        should_quantize: bool = false, inert("fault_tolerance.enable");
        /// Steps that a fragment's exchange may take.
        fragment_sync_delay: u64 = 0, inert("fault_tolerance.enable");
        /// Share of a replica's own parameters after a meeting.
        fragment_update_alpha: f64 = 0.0, inert("fault_tolerance.enable");
        /// Modules of each fragment.
        module_fqns_per_model_fragment: Vec<Vec<String>> = Vec::new(), inert("fault_tolerance.enable");
        /// Number of fragments.
        num_fragments: u64 = 1, inert("fault_tolerance.enable");
    }
}

section! {
    /// Python modules of the user's.
    Experimental {
        /// Python module imported at the start.
        custom_import: String = String::new(), refused(
            "Python modules are not run here", "leave it out; a model family is added as docs/add-a-family.md says"
        );
        /// Deprecated name of job.custom_config_module.
        custom_args_module: String = String::new(), refused(
            "it is the old name of job.custom_config_module, and Python modules are not run here", "leave it out"
        );
    }
}

section! {
    /// Seeds and determinism.
    Debug {
        /// Seed of parameters and random numbers; None takes one by chance, the same on every rank.
        seed: Option<u64> = None;
        /// Only operations that give the same bits each time.
        deterministic: bool = false;
        /// Warn of other operations instead of failing.
        deterministic_warn_only: bool = false;
        /// Give every expert as many tokens, to measure speed.
        moe_force_load_balance: bool = false, moot("no model with experts is trained yet");
    }
}
