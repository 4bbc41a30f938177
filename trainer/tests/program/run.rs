//! Runs of the binary on the text of `fixtures/text/words`, and what they leave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/text/words");
/// A run that takes longer hangs, on a busy machine too.
pub const HANGS_AFTER: Duration = Duration::from_secs(240);
/// Variables by which a launcher of the tests' own could be taken for that of the run.
const LAUNCHERS: [&str; 8] = [
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "MASTER_ADDR",
    "SLURM_STEP_ID",
    "SLURM_PROCID",
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
];

/// A folder with the configuration of a small job.
pub struct Job {
    pub folder: TempDir,
}

impl Job {
    /// Twelve small steps, saved every second in the background.
    pub fn new() -> Job {
        let folder = tempfile::tempdir().unwrap();
        let dump = folder.path().display();
        let toml = format!(
            r#"
[job]
dump_folder = "{dump}"
[metrics]
log_freq = 1
enable_jsonl = true
[model]
hf_assets_path = "{FIXTURE}/tokenizer"
[lr_scheduler]
warmup_steps = 2
[training]
global_batch_size = 4
local_batch_size = 1
seq_len = 64
steps = 12
dataset_path = "{FIXTURE}/corpus"
mixed_precision_param = "float32"
[activation_checkpoint]
mode = "none"
[checkpoint]
enable = true
interval = 2
async_mode = "async_with_pinned_mem"
last_save_model_only = false
[debug]
seed = 7
"#
        );
        std::fs::write(folder.path().join("job.toml"), toml).unwrap();
        Job { folder }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The command that runs it with more flags.
    pub fn command(&self, flags: &[&str]) -> Command {
        let mut command = bare(&[]);
        command.arg("--job.config_file").arg(self.path("job.toml")).args(flags);
        command
    }

    /// Runs it to its end, whichever that is.
    pub fn run(&self, flags: &[&str]) -> Ended {
        Ended::of(self.command(flags).spawn().unwrap())
    }

    /// Runs it to a good end.
    pub fn run_well(&self, flags: &[&str]) -> Ended {
        let ended = self.run(flags);
        assert_eq!(ended.code, Some(0), "{flags:?}:\n{}", ended.text);
        ended
    }

    /// Loss and norm of every step, of its last time.
    pub fn figures(&self) -> BTreeMap<u64, (f64, f64)> {
        let text = std::fs::read_to_string(self.path("metrics.jsonl")).unwrap_or_default();
        let mut figures = BTreeMap::new();
        for line in text.lines() {
            let Ok(record) = serde_json::from_str::<serde_json::Value>(line) else { continue };
            if record["kind"] == "step" {
                let number = |key: &str| record[key].as_f64().unwrap();
                figures.insert(
                    record["step"].as_u64().unwrap(),
                    (number("global_avg_loss"), number("grad_norm")),
                );
            }
        }
        figures
    }
}

/// The command with these flags and no configuration.
pub fn bare(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_titan-train"));
    command.args(flags);
    for variable in LAUNCHERS {
        command.env_remove(variable);
    }
    // Threads of libtorch that wait for each other are slow where tests share the cores.
    command.env("OMP_NUM_THREADS", "1").env("TITAN_TORCH_CUDA", "off").env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// How a run ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub text: String,
}

impl Ended {
    pub fn of(child: Child) -> Ended {
        let (sender, receiver) = std::sync::mpsc::channel();
        let id = child.id();
        std::thread::spawn(move || sender.send(child.wait_with_output()));
        let Ok(output) = receiver.recv_timeout(HANGS_AFTER) else {
            kill(id);
            panic!("the run hangs");
        };
        let Output { status, stdout, stderr } = output.unwrap();
        let text = format!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        Ended { code: status.code(), text }
    }

    /// Lines of the log that are errors.
    pub fn errors(&self) -> Vec<&str> {
        self.text.lines().filter(|line| line.contains(" - ERROR - ") || line.starts_with("error: ")).collect()
    }
}

/// SIGKILL.
pub fn kill(id: u32) {
    signal(id, "KILL");
}

pub fn signal(id: u32, name: &str) {
    let _ = Command::new("kill").arg(format!("-{name}")).arg(id.to_string()).stderr(Stdio::null()).status();
}

/// The processes that a launcher has started.
pub fn children(id: u32) -> Vec<u32> {
    let path = format!("/proc/{id}/task/{id}/children");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Returns when a condition holds; panics when it does not in time.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANGS_AFTER;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The tensors of a checkpoint, by name.
pub fn tensors(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let place = dcp::storage::open_url(folder.to_str().unwrap()).unwrap();
    let reader = dcp::format::open(&place).unwrap();
    let mut whole: Vec<(String, dcp::layout::Region, Vec<u8>)> = Vec::new();
    for (fqn, tensor) in &reader.catalog().tensors {
        let byte_len = tensor.spec.bytes().unwrap() as usize;
        let region = dcp::layout::Region::whole(&tensor.spec.shape);
        whole.push((fqn.to_string(), region, vec![0; byte_len]));
    }
    let wanted = whole.iter_mut().map(|(fqn, region, target)| dcp::copy::Wanted {
        fqn,
        region: region.clone(),
        dtype: None,
        target,
    });
    dcp::copy::load(&*reader, wanted.collect(), dcp::copy::CopyOptions::default(), &()).unwrap();
    whole.into_iter().map(|(fqn, _, bytes)| (fqn, bytes)).collect()
}
