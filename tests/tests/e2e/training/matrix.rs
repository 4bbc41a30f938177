//! Runs that are saved on one mesh and go on on another, also by way of `titan-ckpt reshard` and of the real TorchTitan.
//!
//! `TITAN_MESHES` says on how many meshes each goes on; `cargo xtask test --long` sets it to all.

use super::folder;
use super::parity::{assert_equal, long_flags, torchtitan_on};
use e2e::trainer::{Figures, figures, titan_ckpt};
use std::collections::BTreeSet;
use std::path::Path;

/// A kind of mesh.
struct Mesh {
    name: &'static str,
    ranks: u32,
    /// As in `parity`.
    choices: &'static str,
    /// For `titan-ckpt reshard`.
    degrees: &'static str,
}

const MESHES: [Mesh; 8] = [
    mesh("one rank", 1, "", "--dp-shard 1"),
    mesh("FSDP 2", 2, "local=2", "--dp-shard 2"),
    mesh("HSDP 2 x 2", 4, "local=1 replicate=2", "--dp-replicate 2 --dp-shard 2"),
    mesh("TP 2", 2, "tp=2", "--tp 2"),
    mesh("PP 2", 2, "pp=2 schedule=ZBVZeroBubble", "--pp 2"),
    mesh("CP 2", 2, "cp=2", "--cp 2"),
    mesh("FSDP 2 x TP 2", 4, "local=2 tp=2", "--dp-shard 2 --tp 2"),
    mesh("TP 2 x PP 2", 4, "tp=2 pp=2 schedule=Interleaved1F1B", "--tp 2 --pp 2"),
];

const fn mesh(name: &'static str, ranks: u32, choices: &'static str, degrees: &'static str) -> Mesh {
    Mesh { name, ranks, choices, degrees }
}

/// Sequences of a run, by checksum, in the order of their steps.
type Text = BTreeSet<String>;

/// Runs on a mesh; gives figures and text.
fn run_on(folder: &Path, mesh: &Mesh, flags: &[&str]) -> (Figures, Text) {
    let choices = long_flags(mesh.ranks, mesh.choices);
    let flags: Vec<&str> = choices.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    let ranks = (0..mesh.ranks).map(|rank| rank.to_string()).collect::<Vec<_>>().join(",");
    let variables = [("RUST_LOG", "debug".to_owned()), ("LOG_RANK", ranks)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value));
    let said = super::run_well(folder, &flags, &variables);
    let text = said.lines().filter_map(|line| Some(line.split_once("sequences from ")?.1));
    let text = text.flat_map(|line| line.split_once(": ").map_or("", |(_, sums)| sums).split(' '));
    (figures(&said), text.map(str::to_owned).collect())
}

/// Up to step 5 of ten, and saved.
const SAVED: [&str; 4] = [
    "--training.steps=5",
    "--lr_scheduler.total_steps=10",
    "--debug.seed=7",
    "--checkpoint.async_mode=async",
];

/// The flags that load a checkpoint whole.
fn from(path: &Path) -> [String; 3] {
    [
        format!("--checkpoint.initial_load_path={}", path.display()),
        "--checkpoint.no-initial_load_model_only".to_owned(),
        "--checkpoint.load_only".to_owned(),
    ]
}

/// `titan-ckpt reshard`.
fn reshard(from: &Path, to: &Path, format: &str, degrees: &str) {
    let mut command = titan_ckpt();
    command.arg("reshard").args([from, to]).args(["--to", format]).args(degrees.split_whitespace());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{degrees}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn every_mesh_goes_on_from_every_mesh() {
    let going_on: usize =
        std::env::var("TITAN_MESHES").map_or(2, |text| text.parse().expect("TITAN_MESHES is a number"));
    let at = folder();
    let (whole, whole_text) = run_on(at.path(), &MESHES[0], &["--debug.seed=7", "--checkpoint.no-enable"]);
    let saved = |index: usize| at.path().join(format!("run-{index}/step-5"));
    let mut texts = Vec::new();
    for (index, mesh) in MESHES.iter().enumerate() {
        let into = format!("--checkpoint.folder=run-{index}");
        let (found, text) = run_on(at.path(), mesh, &[&SAVED[..], &[&into]].concat());
        assert_equal(mesh.name, &found, &whole, 1..=5);
        texts.push(text);
    }
    let goes_on = |what: &str, path: &Path, to: &Mesh, before: &Text| {
        let flags = from(path);
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let (found, text) = run_on(at.path(), to, &flags);
        assert_equal(&format!("{what}, on {}", to.name), &found, &whole, 6..=10);
        assert!(text.is_disjoint(before), "{what}, on {}: a sequence came twice", to.name);
        assert!(text.union(before).eq(&whole_text), "{what}, on {}: other sequences", to.name);
    };
    let mut pairs = 0;
    for (index, mesh) in MESHES.iter().enumerate() {
        // The same mesh comes last: other tests have it.
        for next in 1..=going_on.min(MESHES.len()) {
            let to = &MESHES[(index + next) % MESHES.len()];
            goes_on(&format!("saved on {}", mesh.name), &saved(index), to, &texts[index]);
            pairs += 1;
        }
        let (next, after) = (&MESHES[(index + 3) % MESHES.len()], &MESHES[(index + 5) % MESHES.len()]);
        let path = |name: &str| at.path().join(format!("{name}-{index}"));
        reshard(&saved(index), &path("dcp"), "dcp", next.degrees);
        goes_on(&format!("saved on {}, resharded to DCP", mesh.name), &path("dcp"), next, &texts[index]);
        reshard(&path("dcp"), &path("titan"), "titan", after.degrees);
        goes_on(&format!("saved on {}, to DCP and back", mesh.name), &path("titan"), after, &texts[index]);
    }
    println!("{pairs} pairs of meshes, {} by way of DCP and back", MESHES.len());
}

/// The data of several data-parallel ranks is another in TorchTitan: there, what it computes from two of our checkpoints of
/// the same state is compared.
#[test]
fn torchtitan_goes_on_from_layers_that_ranks_share() {
    let Some(peer) = e2e::models() else { return };
    let at = folder();
    let save = |mesh: &Mesh, name: &str| {
        let into = format!("--checkpoint.folder={name}");
        run_on(at.path(), mesh, &[&SAVED[..], &["--checkpoint.format=dcp", &into]].concat()).0
    };
    let [tp, fsdp_tp] = [&MESHES[3], &MESHES[6]];
    let (whole, _) = run_on(at.path(), &MESHES[0], &["--debug.seed=7", "--checkpoint.no-enable"]);
    for (mesh, name) in [(&MESHES[0], "one"), (tp, "tp"), (fsdp_tp, "fsdp-tp")] {
        assert_equal(mesh.name, &save(mesh, name), &whole, 1..=5);
    }
    let goes_on = |name: &str, mesh: &Mesh, more: &[&str]| {
        let choices = long_flags(1, mesh.choices);
        let into = format!("--checkpoint.folder={name}");
        let flags = [&["--checkpoint.load_only", "--checkpoint.load_step=5", &into], more].concat();
        let flags: Vec<&str> = choices.iter().map(String::as_str).chain(flags).collect();
        torchtitan_on(&peer, at.path(), mesh.ranks, &flags)
    };
    assert_equal("TorchTitan on TP 2 from our TP 2", &goes_on("tp", tp, &[]), &whole, 6..=10);
    let anew = ["--checkpoint.exclude_from_loading=dataloader"];
    let expected = goes_on("one", fsdp_tp, &anew);
    let found = goes_on("fsdp-tp", fsdp_tp, &anew);
    assert!(found[&6].0 < whole[&4].0, "it goes on with what was learned: {found:?}");
    assert_equal("TorchTitan on FSDP 2 x TP 2 from ours", &found, &expected, 6..=10);
}
