use super::*;

#[test]
fn predicts_published_runs() {
    let folder = tempfile::tempdir().unwrap();
    let interleaved = "--parallelism.pipeline_parallel_schedule=Interleaved1F1B";
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["plan", "--job.config_file", "preset:llama3_8b", "--world", "8", "--device", "h200"],
            &["plan", "--job.config_file=preset:llama3_8b", "--training.local_batch_size", "4", "--world=8"],
            &[
                "plan",
                "--job.config_file=preset:llama3_70b",
                "--world=256",
                "--training.local_batch_size=16",
                "--assume",
                "compile,float8",
                "--assume=async-tp",
            ],
            &[
                "plan",
                "--world",
                "512",
                "--model.name=llama3",
                "--model.flavor=405B",
                "--training.seq_len=8192",
                "--training.local_batch_size=32",
                "--parallelism.tensor_parallel_degree=8",
                "--parallelism.pipeline_parallel_degree=8",
                "--parallelism.pipeline_parallel_microbatch_size=4",
                interleaved,
                "--activation_checkpoint.mode=full",
                "--assume=compile,float8,async-tp",
                "--checkpoint.enable",
                "--checkpoint.async_mode=async_with_pinned_mem",
                "--write-bandwidth=5GB",
            ],
        ]
    ));
}

#[test]
fn json() {
    let folder = tempfile::tempdir().unwrap();
    let args = [
        "plan",
        "--training.local_batch_size=8",
        "--parallelism.pipeline_parallel_degree=2",
        "--world=4",
        "--json",
    ];
    insta::assert_snapshot!(session(folder.path(), &[&args]));
}

#[test]
fn a_trace_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let args = ["plan", "--model.flavor=debugmodel", "--world=2", "--device=cpu", "--trace=TMP/trace.json"];
    insta::assert_snapshot!(session(folder.path(), &[&args, &args]));
    let trace = std::fs::read_to_string(folder.path().join("trace.json")).unwrap();
    let trace: serde_json::Value = serde_json::from_str(&trace).unwrap();
    assert!(trace["traceEvents"].as_array().unwrap().iter().any(|event| event["name"] == "OptimizerStep"));
}

/// A predicted step is no measured one, but its trace has the same form.
#[test]
fn a_measured_step_lies_beside_the_predicted() {
    let folder = tempfile::tempdir().unwrap();
    let run = ["--model.flavor=debugmodel", "--world=1", "--device=cpu"];
    let plan = |more: &[&'static str]| [&["plan"], &run[..], more].concat();
    std::fs::create_dir(folder.path().join("iteration_10")).unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &plan(&["--trace=TMP/iteration_10/rank0_trace.json"]),
            &plan(&["--measured=TMP/iteration_10", "--trace=TMP/both.json"]),
            &plan(&["--measured=TMP/iteration_10", "--activation_checkpoint.mode=full"]),
            &plan(&["--measured=TMP/iteration_20"]),
        ]
    ));
}

#[test]
fn says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let experts = [
        "plan",
        "--model.name=deepseek_v3",
        "--model.flavor=16B",
        "--world=8",
        "--parallelism.expert_parallel_degree=8",
    ];
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["plan"],
            &["plan", "--job.config_file=preset:llama3_8b"],
            &["plan", "--job.config_file=preset:llama3_8b", "--world=0"],
            &["plan", "--job.config_file=preset:llama3_8b", "--world=8", "--device=h900"],
            &["plan", "--job.config_file=preset:llama3_8b", "--world=8", "--assume=magic"],
            &["plan", "--job.config_file=preset:llama3_8b", "--wrold=8", "--world=8"],
            &["plan", "--job.config_file=TMP/none.toml", "--world=8"],
            &["plan", "--job.config_file=preset:llama3_405b", "--world=512"],
            &["plan", "--job.config_file=preset:llama3_70b", "--world=12"],
            &[
                "plan",
                "--parallelism.pipeline_parallel_degree=4",
                "--training.local_batch_size=2",
                "--world=4"
            ],
            &["plan", "--parallelism.pipeline_parallel_schedule_csv=TMP/none.csv", "--world=4"],
            &["plan", "--model.flavor=debugmodel", "--world=2", "--assume=float8", "--device=cpu"],
            &["plan", "--model.name=flux", "--model.flavor=flux-dev", "--world=8"],
            &experts,
        ]
    ));
}
