//! What users get wrong: one message, on one rank, that names key, value, rule and remedy.

use crate::run::{Ended, FIXTURE, Job};
use std::fmt::Write;

/// Flags, ranks, and the exit code that is due.
type Case = (&'static str, u32, i32);

/// Mistakes in flags. `JOB` stands for the job's folder, `FIXTURE` for that of text and tokenizer.
const CASES: &[Case] = &[
    // The configuration.
    ("--training.step=3", 1, 2),
    ("--training.steps=many", 2, 2),
    ("--training.steps=0", 1, 2),
    ("--optimizer.name=SGD", 1, 2),
    ("--optimizer.lr=-1", 1, 2),
    ("--checkpoint.enable=true", 1, 2),
    ("--checkpoint.keep_latest_k=1", 1, 2),
    ("--checkpoint.exclude_from_loading=optimiser", 1, 2),
    ("--checkpoint.initial_load_in_hf --checkpoint.no_initial_load_model_only", 1, 2),
    ("--model.name=llama", 2, 2),
    ("--model.flavor=7B", 1, 2),
    ("--model.name=qwen3 --model.flavor=debugmodel", 2, 2),
    ("--model.flavor=1B --parallelism.pipeline_parallel_degree=2", 2, 2),
    ("--model.flavor=JOB/nowhere/config.json", 2, 4),
    ("--model.flavor=JOB/broken.json", 1, 2),
    ("--model.flavor=JOB/gelu", 1, 2),
    ("--model.flavor=JOB/stretched", 2, 2),
    ("--model.name=qwen3 --model.flavor=JOB/other_model", 1, 2),
    ("--compile.enable", 1, 2),
    ("--training.enable_cpu_offload", 1, 2),
    ("--job.config_file=preset:llama3_9b", 1, 2),
    ("--job.config_file=JOB/nothing.toml", 1, 4),
    ("--comm.backend=nccl", 2, 2),
    // The mesh.
    ("--parallelism.data_parallel_shard_degree=3", 2, 2),
    ("--parallelism.data_parallel_replicate_degree=3", 2, 2),
    ("--training.global_batch_size=5", 2, 2),
    ("--parallelism.tensor_parallel_degree=3", 3, 2),
    ("--parallelism.context_parallel_degree=3", 3, 2),
    // The data.
    ("--training.dataset=c5", 2, 2),
    ("--training.dataset_path=None", 2, 2),
    ("--training.dataset_path=JOB/nowhere", 2, 2),
    ("--training.dataset_path=JOB/empty", 2, 2),
    ("--training.dataset_path=JOB/broken.json", 2, 3),
    ("--training.dataset_path=JOB/without_text.json", 2, 3),
    ("--training.dataset_path=JOB/cut.json.gz", 2, 3),
    ("--training.dataset_path=JOB/blank.json", 2, 3),
    ("--training.dataset_path=ftp://host/data", 2, 2),
    // The tokenizer.
    ("--model.hf_assets_path=JOB/nowhere", 2, 3),
    ("--model.hf_assets_path=JOB/broken_tokenizer", 2, 3),
    ("--model.hf_assets_path=JOB/large_tokenizer", 2, 2),
    // Checkpoints.
    ("--checkpoint.load_step=7", 2, 2),
    ("--checkpoint.folder=JOB/run --checkpoint.load_step=7", 2, 2),
    ("--checkpoint.folder=JOB/damaged", 2, 3),
    ("--checkpoint.folder=JOB/run --model.flavor=JOB/other_model/config.json", 2, 2),
    ("--checkpoint.folder=JOB/run --training.seq_len=32", 2, 2),
    ("--checkpoint.folder=JOB/run --training.dataset_path=JOB/other.json", 2, 2),
    ("--checkpoint.folder=JOB/run --checkpoint.load_step=1", 2, 2),
    ("--checkpoint.folder=JOB/cut --checkpoint.format=dcp", 2, 2),
    ("--checkpoint.folder=JOB/ended", 2, 2),
    ("--checkpoint.initial_load_path=JOB/run", 2, 2),
    ("--checkpoint.initial_load_path=JOB/nowhere", 2, 2),
    ("--checkpoint.initial_load_path=JOB/nowhere --checkpoint.no-enable", 2, 2),
    ("--job.dump_folder=s3://bucket/run", 1, 2),
    ("--checkpoint.initial_load_path=JOB/broken.json", 2, 3),
    ("--checkpoint.folder=s4://bucket/run", 1, 2),
    ("--validation.enable --validation.dataset_path=JOB/nowhere", 2, 2),
    ("--validation.enable --validation.dataset=c4_test --validation.dataset_path=JOB/other.json", 2, 2),
];

/// Files that are wrong in one way each, and a run of two steps.
fn prepare(job: &Job) {
    let write = |name: &str, bytes: &[u8]| {
        let path = job.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    };
    std::fs::create_dir(job.path("empty")).unwrap();
    write("broken.json", b"{\"text\": \"one\"}\n{\"text\": \n");
    write("without_text.json", b"{\"body\": \"one\"}\n");
    write("blank.json", b"\n\n");
    write("other.json", b"{\"text\": \"one two three\"}\n");
    let whole = std::fs::read(format!("{FIXTURE}/corpus/data.json.gz")).unwrap();
    write("cut.json.gz", &whole[..2000]);
    write("broken_tokenizer/tokenizer.json", b"{\"version\": ");
    let tokenizer = std::fs::read_to_string(format!("{FIXTURE}/tokenizer/tokenizer.json")).unwrap();
    let mut tokenizer: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
    for id in 0..3000 {
        tokenizer["model"]["vocab"][format!("more{id}")] = (4000 + id).into();
    }
    write("large_tokenizer/tokenizer.json", tokenizer.to_string().as_bytes());
    let model = |name: &str, key: &str, value: serde_json::Value| {
        let mut config = convert::families::by_name("llama3:debugmodel").unwrap().config;
        config.insert(key.to_owned(), value);
        let config = serde_json::to_string(&config).unwrap();
        write(&format!("{name}/config.json"), config.as_bytes());
    };
    model("gelu", "hidden_act", "gelu".into());
    model("stretched", "rope_scaling", serde_json::json!({"rope_type": "linear", "factor": 2.0}));
    model("other_model", "num_hidden_layers", 2.into());
    let save_all = ["--training.steps=2", "--checkpoint.interval=1"];
    job.run_well(&[&save_all[..], &["--checkpoint.folder=run"]].concat());
    job.run_well(&["--training.steps=2", "--checkpoint.folder=ended", "--checkpoint.last_save_model_only"]);
    // Step 2 is there and cannot be read.
    job.run_well(&[&save_all[..], &["--checkpoint.folder=cut", "--checkpoint.format=dcp"]].concat());
    let metadata = job.path("cut/step-2/.metadata");
    let bytes = std::fs::read(&metadata).unwrap();
    std::fs::write(&metadata, &bytes[..bytes.len() / 2]).unwrap();
    job.run_well(&["--training.steps=2", "--checkpoint.folder=damaged"]);
    let folder = job.path("damaged/step-2");
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let manifest = std::fs::read(&path).unwrap();
            // Where it ends the message says; checksums before it are of other lengths every time.
            std::fs::write(&path, &manifest[..2]).unwrap();
        }
    }
}

#[test]
fn each_mistake_has_one_message() {
    let job = Job::new();
    prepare(&job);
    let folder = job.folder.path().to_str().unwrap();
    let mut told = String::new();
    for (number, (flags, ranks, code)) in CASES.iter().enumerate() {
        let typed = flags.replace("JOB", folder).replace("FIXTURE", FIXTURE);
        let nproc = format!("--nproc={ranks}");
        let mut all: Vec<&str> = typed.split(' ').collect();
        if *ranks > 1 {
            all.push(&nproc);
        }
        // What one leaves is not what the next begins with.
        let fresh = format!("--checkpoint.folder=fresh-{number}");
        if !flags.contains("--checkpoint.folder") {
            all.push(&fresh);
        }
        let mut command = job.command(&all);
        if flags.contains("--job.config_file") {
            command = crate::run::bare(&all);
        }
        let ended = Ended::of(command.spawn().unwrap());
        assert_eq!(ended.code, Some(*code), "{flags}:\n{}", ended.text);
        assert_eq!(ended.errors().len(), 1, "{flags}:\n{}", ended.text);
        let error = ended.text.split_once("ERROR - ").map_or(&*ended.text, |(_, error)| error).trim_end();
        let error = error.replace(folder, "JOB").replace(FIXTURE, "FIXTURE");
        // Which of them says it is chance where all meet it.
        let error =
            (0..*ranks).fold(error, |error, rank| error.replace(&format!("[rank {rank}]"), "[rank R]"));
        let _ = writeln!(told, "$ {flags} ({ranks} ranks) -> {code}\n{error}\n");
    }
    println!("{} mistakes", CASES.len());
    insta::assert_snapshot!(told);
}
