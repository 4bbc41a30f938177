//! The trainer's figures beside those of the real TorchTitan 0.2.2 on one rank, from its own seed checkpoint, on every kind of
//! mesh. `cargo xtask parity` runs this and writes `docs/parity.md`.

use super::{config, folder, run_well};
use e2e::trainer::{Figures, figures};
use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::Path;

/// Both print and sum in another order: what is left is far below a step's change of the loss.
const TOLERANCE: f64 = 1e-4;

/// The most that losses and norms are off, relative to what is expected, beyond the digits that are printed.
#[track_caller]
fn worst(name: &str, found: &Figures, expected: &Figures, steps: RangeInclusive<u64>) -> [f64; 2] {
    assert!(found.keys().copied().eq(steps.clone()), "{name}: steps {:?}, expected {steps:?}", found.keys());
    let mut most = [0f64; 2];
    for step in steps {
        let ((loss, norm), (expected_loss, expected_norm)) = (found[&step], expected[&step]);
        let off = |found: f64, expected: f64, printed: f64| {
            ((found - expected).abs() - printed).max(0.0) / expected
        };
        let offs = [off(loss, expected_loss, 1e-5), off(norm, expected_norm, 1e-4)];
        assert!(
            offs.iter().all(|off| *off <= TOLERANCE),
            "{name}, step {step}: {found:?}\nexpected {expected:?}"
        );
        most = [most[0].max(offs[0]), most[1].max(offs[1])];
    }
    println!("{name}: losses at most {:.1e} off, norms {:.1e}, beyond what is printed", most[0], most[1]);
    most
}

/// Panics where figures are further off than the tolerance.
#[track_caller]
pub(super) fn assert_equal(name: &str, found: &Figures, expected: &Figures, steps: RangeInclusive<u64>) {
    worst(name, found, expected, steps);
}

/// TorchTitan's figures; what it saves is below the folder.
pub(super) fn torchtitan(peer: &e2e::Peer, folder: &Path, flags: &[&str]) -> Figures {
    torchtitan_on(peer, folder, 1, flags)
}

/// The same on several ranks.
pub(super) fn torchtitan_on(peer: &e2e::Peer, folder: &Path, ranks: u32, flags: &[&str]) -> Figures {
    let script = e2e::workspace().join("tests/peers/torchtitan_cpu.py");
    let (config, ranks) = (config(), format!("--nproc_per_node={ranks}"));
    let mut args = vec!["-m", "torch.distributed.run", "--standalone", &ranks];
    args.extend([script.to_str().unwrap(), "--job.config_file", config.to_str().unwrap()]);
    args.extend(flags);
    figures(&peer.run(folder, args).unwrap_or_else(|error| panic!("{error}")))
}

/// The trainer's.
pub(super) fn ours(folder: &Path, flags: &[&str]) -> Figures {
    let said = run_well(folder, flags, &[]);
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains(" - WARNING - ")).collect();
    // On a CPU there is one.
    assert!(warnings.iter().all(|line| line.contains("mfu is a share")), "{warnings:?}");
    figures(&said)
}

/// Short names of flags.
const SHORT: &[(&str, &str)] = &[
    ("local=", "--training.local_batch_size="),
    ("global=", "--training.global_batch_size="),
    ("pp=", "--parallelism.pipeline_parallel_degree="),
    ("schedule=", "--parallelism.pipeline_parallel_schedule="),
    ("csv=", "--parallelism.pipeline_parallel_schedule_csv="),
    ("replicate=", "--parallelism.data_parallel_replicate_degree="),
    ("shard=", "--parallelism.data_parallel_shard_degree="),
    ("cp=", "--parallelism.context_parallel_degree="),
    ("rotate=", "--parallelism.context_parallel_rotate_method="),
    ("balancer=", "--parallelism.context_parallel_load_balancer="),
    ("tp=", "--parallelism.tensor_parallel_degree="),
    ("reshard=", "--parallelism.fsdp_reshard_after_forward="),
    ("loss=whole", "--parallelism.disable_loss_parallel"),
    ("ac=", "--activation_checkpoint.mode="),
    ("every=", "--activation_checkpoint.selective_ac_option="),
];

/// Number of ranks, and what else is chosen. A step has four sequences of 256 tokens everywhere.
const RUNS: &[(u32, &str)] = &[
    (1, ""),
    (1, "local=2 global=4"),
    (1, "local=1 global=4"),
    (1, "ac=full"),
    (1, "ac=selective every=2"),
    (1, "ac=selective every=op"),
    // Data parallelism.
    (2, "local=2"),
    (4, "local=1"),
    (2, "local=2 replicate=2"),
    (4, "local=1 replicate=2"),
    (2, "local=2 reshard=always"),
    (2, "local=1 global=4 reshard=never ac=full"),
    // Pipelines.
    (2, "pp=2 schedule=1F1B"),
    (2, "pp=2 schedule=GPipe"),
    (2, "pp=2 schedule=Interleaved1F1B"),
    (2, "pp=2 schedule=LoopedBFS"),
    (2, "pp=2 schedule=InterleavedZeroBubble"),
    (2, "pp=2 schedule=ZBVZeroBubble"),
    (2, "pp=2 schedule=DualPipeV"),
    (2, "pp=2 schedule=PipelineScheduleSingle csv=schedule.csv"),
    (4, "pp=4 schedule=1F1B"),
    (4, "pp=4 schedule=GPipe"),
    (4, "pp=4 schedule=Interleaved1F1B"),
    (4, "pp=4 schedule=LoopedBFS"),
    (4, "pp=4 schedule=InterleavedZeroBubble"),
    (4, "pp=4 schedule=ZBVZeroBubble"),
    (2, "pp=2 schedule=ZBVZeroBubble local=2 global=4 ac=full"),
    (4, "pp=2 schedule=1F1B local=2"),
    (4, "pp=2 schedule=InterleavedZeroBubble local=2 ac=selective every=op reshard=always"),
    (4, "pp=2 schedule=GPipe local=1 global=4 replicate=2"),
    // Tensor parallelism.
    (2, "tp=2"),
    (4, "tp=4"),
    (2, "tp=2 loss=whole"),
    (2, "tp=2 ac=full"),
    (2, "tp=2 ac=selective every=2 local=2 global=4"),
    (2, "tp=2 ac=selective every=op"),
    (4, "tp=2 local=2"),
    (4, "tp=2 replicate=2 local=2"),
    (4, "tp=2 pp=2 schedule=1F1B"),
    (8, "tp=2 replicate=2 local=1"),
    (8, "tp=2 pp=2 schedule=1F1B local=2"),
    (8, "tp=2 pp=2 schedule=GPipe local=1 global=4 ac=full"),
    (8, "tp=2 pp=2 schedule=ZBVZeroBubble local=2 ac=selective every=2"),
    (8, "tp=2 pp=2 schedule=Interleaved1F1B local=2 ac=selective every=op"),
    // Context parallelism.
    (2, "cp=2 rotate=allgather balancer=headtail"),
    (2, "cp=2 rotate=allgather balancer=None"),
    (2, "cp=2 rotate=alltoall balancer=headtail"),
    (2, "cp=2 rotate=alltoall balancer=None"),
    (4, "cp=4 rotate=allgather balancer=headtail"),
    (4, "cp=4 rotate=alltoall balancer=headtail"),
    (4, "cp=2 local=2"),
    (4, "cp=2 tp=2"),
    (8, "cp=2 tp=2 pp=2 schedule=1F1B"),
    (8, "cp=2 tp=2 pp=2 schedule=1F1B local=2 global=4 ac=full"),
    (8, "cp=2 tp=2 pp=2 schedule=ZBVZeroBubble ac=selective every=2"),
    (8, "cp=2 tp=2 pp=2 schedule=Interleaved1F1B ac=selective every=op"),
];

/// The file `schedule.csv`: GPipe, backward from the last microbatch on, in two parts on the second rank.
const SCHEDULE: &str = "\
0F0,0F1,0F2,0F3,,,0B3,0B2,0B1,0B0
,1F0,1F1,1F2,1F3,1I3,1I2,1W3,1I1,1W2,1I0,1W1,1W0
";

/// The flags that short names stand for.
pub(super) fn long_flags(ranks: u32, choices: &str) -> Vec<String> {
    let long = |word: &str| {
        let found =
            SHORT.iter().find_map(|(short, long)| Some(format!("{long}{}", word.strip_prefix(short)?)));
        found.unwrap_or_else(|| panic!("`{word}` is no short name"))
    };
    let ranks = (ranks > 1).then(|| format!("--nproc={ranks}"));
    choices.split_whitespace().map(long).chain(ranks).collect()
}

#[test]
fn figures_are_torchtitans_on_every_mesh() {
    let Some(peer) = e2e::models() else { return };
    let folder = folder();
    torchtitan(&peer, folder.path(), &["--checkpoint.create_seed_checkpoint"]);
    let expected = torchtitan(&peer, folder.path(), &["--checkpoint.load_only"]);
    assert!(expected.keys().copied().eq(1..=10), "{expected:?}");
    std::fs::write(folder.path().join("schedule.csv"), SCHEDULE).unwrap();
    let mut table = String::new();
    for (ranks, choices) in RUNS {
        let name = format!("{ranks} ranks: {choices}");
        let flags = long_flags(*ranks, choices);
        let flags: Vec<&str> = flags.iter().map(String::as_str).chain(["--checkpoint.load_only"]).collect();
        let [loss, norm] = worst(&name, &ours(folder.path(), &flags), &expected, 1..=10);
        let choices = if choices.is_empty() { String::new() } else { format!("`{choices}`") };
        let _ = writeln!(table, "| {ranks} | {choices} | {loss:.1e} | {norm:.1e} |");
    }
    if let Some(path) = std::env::var_os("TITAN_PARITY_TABLE") {
        std::fs::write(path, document(&expected, &table)).unwrap();
    }
}

fn document(expected: &Figures, table: &str) -> String {
    let figures = |of: fn(&(f64, f64)) -> String| expected.values().map(of).collect::<Vec<_>>().join(" ");
    let short: String = SHORT.iter().fold(String::new(), |mut text, (short, long)| {
        let _ = writeln!(text, "| `{short}` | `{long}` |");
        text
    });
    format!(
        "# Losses and norms on every mesh\n\n\
         Made by `cargo xtask parity`: do not edit.\n\n\
         `titan-train` from the seed checkpoint of the real TorchTitan 0.2.2, beside what that TorchTitan prints on one rank: the \
         small Llama\n(`tests/peers/torchtitan.toml`: 6 layers, four sequences of 256 tokens a step, float32), ten steps on a \
         CPU.\n\n\
         TorchTitan's losses: {}\n\nand gradient norms: {}\n\n\
         The table has the most that ours are off in any step, relative, beyond the digits that are printed. At most 1e-4 is \
         allowed; 0 means\nthe same digits.\n\n\
         | ranks | choices | loss | norm |\n|---|---|---|---|\n{table}\n\
         What the short names stand for:\n\n| short | flag |\n|---|---|\n{short}",
        figures(|(loss, _)| format!("{loss:.5}")),
        figures(|(_, norm)| format!("{norm:.4}")),
    )
}
