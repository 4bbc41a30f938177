//! What the trainer measured beside what `titan-ckpt plan` predicts of the same program.

use super::parity::long_flags;
use super::{config, folder, run_well};
use e2e::trainer::titan_ckpt;
use serde_json::Value;
use std::fs;

/// Both interpret one program: every instruction of a trace is one of the simulated step, in its order.
#[test]
fn a_measured_step_lies_beside_the_predicted() {
    for (name, ranks, choices) in [
        ("FSDP 2", 2, "local=1 global=4 ac=full"),
        ("TP 2 x PP 2", 4, "tp=2 pp=2 schedule=Interleaved1F1B"),
        ("PP 2", 2, "pp=2 schedule=ZBVZeroBubble"),
    ] {
        let at = folder();
        let flags = long_flags(ranks, choices);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let profiled = [
            "--training.steps=4",
            "--checkpoint.no-enable",
            "--profiling.enable_profiling",
            "--profiling.profile_freq=4",
            "--job.dump_folder=outputs",
        ];
        run_well(at.path(), &[&flags[..], &profiled].concat(), &[]);
        let plan = |measured: &str, trace: &str| {
            let mut command = titan_ckpt();
            command.args(["plan", "--world", &ranks.to_string(), "--device=cpu", "--json"]);
            command.args(["--measured", measured, "--trace", trace, "--job.config_file"]).arg(config());
            let flags = flags.iter().filter(|flag| !flag.starts_with("--nproc"));
            command.args(flags).current_dir(at.path()).output().unwrap()
        };
        let output = plan("outputs/profile_traces/iteration_4", "both.json");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let whole = &found["measured"]["program_seconds"]["whole_step"];
        assert!(whole["measured"].as_f64().unwrap() > 0.0 && whole["predicted"].as_f64().unwrap() > 0.0);
        println!("{name}: {}", found["measured"]);
        let both: Value = serde_json::from_slice(&fs::read(at.path().join("both.json")).unwrap()).unwrap();
        let both = both["traceEvents"].as_array().unwrap().iter();
        let count = |id: u64| {
            let of_program = |event: &&Value| event["ph"] == "X" && event["pid"] == id && event["tid"] == 0;
            both.clone().filter(of_program).count()
        };
        assert!(count(0) > 20 && count(0) == count(1), "{name}: {} and {} instructions", count(0), count(1));
        let output = plan("outputs/profile_traces/iteration_5", "none.json");
        assert_eq!(output.status.code(), Some(3), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
