//! Commands whose work several processes share, as a cluster starts them.

use dcp::storage::{Environment, Place, open_url, open_url_with};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const LLAMA: &str = "torch-2.11/llama_ws4_2d/ckpt";
const SMALL_MODEL: &str = "models/llama3/hf/config.json";
const TASKS: u32 = 4;

/// How a launcher tells a process its number.
type Told = fn(u32) -> Vec<(&'static str, String)>;

const TORCHRUN: Told = |task| vec![("RANK", task.to_string()), ("WORLD_SIZE", TASKS.to_string())];
const SRUN: Told = |task| {
    let (task, count) = (task.to_string(), TASKS.to_string());
    vec![("SLURM_STEP_ID", "0".to_owned()), ("SLURM_PROCID", task), ("SLURM_NTASKS", count)]
};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_titan-ckpt"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    command.args(args).current_dir(fixtures).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in ["RANK", "WORLD_SIZE", "SLURM_STEP_ID", "SLURM_PROCID", "SLURM_NTASKS", "PMI_RANK"] {
        command.env_remove(name);
    }
    command
}

fn start(args: &[&str], told: Told, task: u32, environment: &[(String, String)]) -> Child {
    command(args).envs(told(task)).envs(environment.iter().cloned()).spawn().unwrap()
}

fn succeeded(output: &Output) -> serde_json::Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// All tasks at once; what each reports.
fn together(args: &[&str], told: Told, environment: &[(String, String)]) -> Vec<serde_json::Value> {
    let tasks: Vec<Child> = (0..TASKS).map(|task| start(args, told, task, environment)).collect();
    tasks.into_iter().map(|task| succeeded(&task.wait_with_output().unwrap())).collect()
}

fn alone(args: &[&str]) {
    let report = succeeded(&command(args).output().unwrap());
    assert_eq!((&report["ended"], &report["tasks"]), (&"committed".into(), &1.into()));
}

fn contents(place: &Place) -> BTreeMap<String, Vec<u8>> {
    let listed = place.store.list(&place.key).unwrap();
    let name = |key: &dcp::storage::Key| key.below(&place.key).unwrap().to_owned();
    listed.iter().map(|it| (name(&it.key), place.store.get(&it.key, u64::MAX).unwrap())).collect()
}

#[track_caller]
fn assert_same(place: &Place, expected: &Place, what: &str) {
    let (found, expected) = (contents(place), contents(expected));
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    assert!(found == expected, "{what}: other bytes");
}

#[track_caller]
fn assert_nothing_else(place: &Place, what: &str) {
    assert_eq!(place.store.unfinished(&place.key).unwrap(), [], "{what}");
}

fn at(folder: &Path, name: &str) -> (String, Place) {
    let path = folder.join(name).to_str().unwrap().to_owned();
    let place = open_url(&path).unwrap();
    (path, place)
}

/// A command with its source and options, without destination.
const COMMANDS: &[&[&str]] = &[
    &["reshard", LLAMA, "DST", "--to", "titan", "--dp-shard", "3", "--tp", "2"],
    &["reshard", LLAMA, "DST", "--to", "dcp", "--dp-shard", "6"],
    &["reshard", LLAMA, "DST", "--to", "titan", "--dp-shard", "5", "--compress"],
    &["convert", LLAMA, "DST", "--to", "titan", "--shard-size", "20kB", "--include", "layers.*"],
    &["convert", LLAMA, "DST", "--to", "safetensors", "--shard-size", "20kB", "--drop-values"],
    &["reshard", LLAMA, "DST", "--to", "safetensors", "--dp-shard", "5", "--drop-values"],
    &["seed", "DST", "--config", SMALL_MODEL, "--dp-shard", "4", "--seed", "7"],
    &["seed", "DST", "--config", SMALL_MODEL, "--to", "pt"],
];

fn with_destination<'a>(args: &[&'a str], destination: &'a str) -> Vec<&'a str> {
    let args = args.iter().map(|arg| if *arg == "DST" { destination } else { arg });
    args.chain(["--json", "--threads", "2"]).collect()
}

#[test]
fn four_processes_write_what_one_writes() {
    let folder = tempfile::tempdir().unwrap();
    for (number, args) in COMMANDS.iter().enumerate() {
        let (one, one_place) = at(folder.path(), &format!("one-{number}"));
        alone(&with_destination(args, &one));
        for (name, told) in [("torchrun", TORCHRUN), ("srun", SRUN)] {
            let what = format!("{name}: {args:?}");
            let (many, many_place) = at(folder.path(), &format!("{name}-{number}"));
            let reports = together(&with_destination(args, &many), told, &[]);
            let share = |report: &serde_json::Value| report["share_objects"].as_u64().unwrap();
            assert_eq!(
                reports.iter().map(share).sum::<u64>(),
                reports[0]["objects"].as_u64().unwrap(),
                "{what}"
            );
            assert!(reports.iter().any(|report| report["ended"] == "committed"), "{what}: {reports:?}");
            for (task, report) in reports.iter().enumerate() {
                assert_eq!((&report["task"], &report["tasks"]), (&task.into(), &TASKS.into()), "{what}");
            }
            assert_same(&many_place, &one_place, &what);
            assert_nothing_else(&many_place, &what);
        }
    }
}

#[test]
fn four_processes_write_to_s3_what_one_writes() {
    let folder = tempfile::tempdir().unwrap();
    let server =
        S3Server::start(Faults { slow_down: 2, reset: 1, lost_reply: 2, seed: 5, ..Faults::default() })
            .unwrap();
    let environment: Environment = server.environment().into_iter().collect();
    for (number, args) in COMMANDS.iter().enumerate() {
        let (one, one_place) = at(folder.path(), &format!("one-{number}"));
        alone(&with_destination(args, &one));
        // Uploads whose beginning was not answered are left for `prune`.
        let url = format!("s3://{BUCKET}/run-{number}");
        let reports = together(&with_destination(args, &url), TORCHRUN, &server.environment());
        assert!(reports.iter().any(|report| report["ended"] == "committed"), "{args:?}: {reports:?}");
        assert_same(&open_url_with(&url, &environment).unwrap(), &one_place, &format!("{args:?}"));
    }
}

/// A task is killed in the middle, the others say what is missing; the same command, alone, finishes it.
#[test]
fn a_task_that_is_killed_is_made_up_for() {
    let folder = tempfile::tempdir().unwrap();
    // About 25 MB, so that there is a middle.
    let source = at(folder.path(), "source").0;
    let seed =
        ["seed", &source, "--model", "llama3:debugmodel", "--to", "titan", "--dp-shard", "4", "--json"];
    alone(&seed);
    let commands: [&[&str]; 3] = [
        &["reshard", &source, "DST", "--dp-shard", "8"],
        &["reshard", &source, "DST", "--to", "dcp", "--dp-shard", "8"],
        &["reshard", &source, "DST", "--dp-shard", "8", "--compress"],
    ];
    for (number, args) in commands.iter().enumerate() {
        let (one, one_place) = at(folder.path(), &format!("one-{number}"));
        alone(&with_destination(args, &one));
        let mut killed_midway = 0;
        for attempt in 0..6u64 {
            let (many, many_place) = at(folder.path(), &format!("many-{number}-{attempt}"));
            let args = with_destination(args, &many);
            let mut victim = start(&args, TORCHRUN, 0, &[]);
            let begun = Instant::now();
            // Later and later after the first object of the job is there.
            while !Path::new(&many).join(".titan-job/job.json").exists()
                && begun.elapsed() < Duration::from_secs(20)
            {
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(attempt * 15));
            victim.kill().unwrap();
            let was_killed = !victim.wait().unwrap().success();
            let others: Vec<Child> = (1..TASKS).map(|task| start(&args, TORCHRUN, task, &[])).collect();
            for other in others {
                let report = succeeded(&other.wait_with_output().unwrap());
                assert!(
                    !was_killed || report["ended"] != "committed" || report["missing_objects"] == 0,
                    "{report}"
                );
            }
            let is_whole = dcp::format::open(&many_place).is_ok();
            if !is_whole {
                killed_midway += 1;
                let report = succeeded(&command(&args).output().unwrap());
                assert_eq!(report["ended"], "committed");
                assert!(report["resumed_objects"].as_u64().unwrap() >= 6, "{report}");
            }
            let what = format!("{args:?}, try {attempt}");
            assert_same(&many_place, &one_place, &what);
            assert_nothing_else(&many_place, &what);
            std::fs::remove_dir_all(&many).unwrap();
        }
        assert!(killed_midway > 0, "no task was killed before it had finished: {args:?}");
    }
}

/// `to-hf` puts config.json once, whoever finishes last, and `from-hf` reads it back in tasks.
#[test]
fn an_export_and_an_import_are_shared() {
    let folder = tempfile::tempdir().unwrap();
    let (source, _) = at(folder.path(), "source");
    alone(&["seed", &source, "--config", SMALL_MODEL, "--json"]);
    let (one, one_place) = at(folder.path(), "one");
    let (many, many_place) = at(folder.path(), "many");
    let export = ["to-hf", &source, "DST", "--config", SMALL_MODEL, "--shard-size", "20kB"];
    alone(&with_destination(&export, &one));
    together(&with_destination(&export, &many), SRUN, &[]);
    assert!(contents(&many_place).contains_key("config.json"));
    assert_same(&many_place, &one_place, "to-hf");
    let (back, back_place) = at(folder.path(), "back");
    let (backs, backs_place) = at(folder.path(), "backs");
    alone(&["from-hf", &one, &back, "--dp-shard", "3", "--json"]);
    together(&["from-hf", &one, &backs, "--dp-shard", "3", "--json"], SRUN, &[]);
    assert_same(&backs_place, &back_place, "from-hf");
}

#[test]
fn what_a_task_prints() {
    let folder = tempfile::tempdir().unwrap();
    let runs: Vec<Vec<&str>> = vec![
        vec!["reshard", LLAMA, "TMP/out", "--dp-shard", "3", "--task", "0/2"],
        vec!["ls", "TMP/out"],
        vec!["verify", "TMP/out"],
        vec!["reshard", LLAMA, "TMP/out", "--dp-shard", "4", "--task", "1/2"],
        vec!["reshard", LLAMA, "TMP/out", "--dp-shard", "3", "--dry-run"],
        vec!["reshard", LLAMA, "TMP/out", "--dp-shard", "3", "--task", "1/2"],
        vec!["reshard", LLAMA, "TMP/out", "--dp-shard", "3", "--task", "0/2"],
        vec!["convert", LLAMA, "TMP/model.pt", "--task", "1/2"],
        vec!["convert", LLAMA, "TMP/model.pt", "--task", "2/2"],
    ];
    let runs: Vec<&[&str]> = runs.iter().map(Vec::as_slice).collect();
    insta::assert_snapshot!(super::session(folder.path(), &runs));
}

#[test]
fn contradicting_launchers_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let (out, place) = at(folder.path(), "out");
    let args = ["reshard", LLAMA, &out, "--dp-shard", "3"];
    let output = command(&args).envs(SRUN(1)).envs(TORCHRUN(2)).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8(output.stderr).unwrap();
    for word in ["SLURM_PROCID=1", "SLURM_NTASKS=4", "RANK=2", "WORLD_SIZE=4", "--task"] {
        assert!(said.contains(word), "{said}");
    }
    assert_eq!(contents(&place).len(), 0);
    let args = [&args[..], &["--task", "0/1", "--json"]].concat();
    let report = succeeded(&command(&args).envs(SRUN(1)).envs(TORCHRUN(2)).output().unwrap());
    assert_eq!(report["ended"], "committed");
}
