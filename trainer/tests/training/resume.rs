//! A run that is saved in the background while it goes on, and resumed: on the same mesh with the same bits, on another with
//! the same text and the same losses but for the order of sums.

use crate::llama::{Cut, ONE, STEP_TOKENS, STEPS, Training, hyper, model};
use crate::parity::groups;
use crate::support::{LONG, Rank, numbers, run_well};
use dcp::coordinate::{Alone, Coordinator, Peers};
use dcp::format;
use dcp::load::Origin;
use dcp::save::{SaveOptions, Saver};
use dcp::storage::{Place, open_url};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use trainer::checkpoint::{self, Content, DataPlace, Parts, Resumed};
use trainer::coordinate::StoreKeys;
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::model::Llama3;

const SAVED: u64 = 5;
const TOLERANCE: f64 = 1e-5;

/// A rank's way to the others, and where it trains.
struct Job<'a> {
    model: &'a Llama3,
    groups: &'a Groups,
    coordinator: Arc<dyn Coordinator>,
    rank: u32,
    cut: Cut,
}

impl Job<'_> {
    /// Trains to the end, saving on the way; gives the losses from the save on, and the last parameters.
    fn train_and_save(&self, run: &Place, format: &str) -> (Vec<(f64, f64)>, Vec<f64>) {
        let mut training = Training::new(self.model, self.groups, self.rank, self.cut, None);
        training.until(SAVED);
        let options = SaveOptions::new(format::by_name(format).unwrap());
        let mut saver = Saver::new(run.clone(), options, self.coordinator.clone()).unwrap();
        let state = training.state(Content::Full);
        training.text.saving = Some(saver.save(SAVED, state).unwrap());
        let losses = training.until(STEPS);
        training.text.saving.take().unwrap().wait_done().unwrap();
        (losses, parameters(&training))
    }

    fn resume(&self, run: &Place, tag: &str) -> (Vec<(f64, f64)>, Vec<f64>) {
        let origin = Origin::Newest(run.clone());
        let begun = Training::new(self.model, self.groups, self.rank, self.cut, None);
        let resumed =
            checkpoint::load(&origin, &*self.coordinator, tag, begun.tensors(), Parts::ALL).unwrap();
        self.check(&resumed);
        let mut training = Training::new(self.model, self.groups, self.rank, self.cut, Some(&resumed));
        training.runner = begun.runner;
        let losses = training.until(STEPS);
        (losses, parameters(&training))
    }

    fn check(&self, resumed: &Resumed) {
        assert_eq!((resumed.step, resumed.schedule_step), (SAVED, SAVED));
        assert_eq!(resumed.tokens_seen, SAVED * STEP_TOKENS);
        let DataPlace::Ranks(ranks) = &resumed.data else { panic!("{:?}", resumed.data) };
        assert_eq!(resumed.stored.differences(&hyper()), Vec::<String>::new());
        assert_eq!(resumed.passed_over, []);
        // Every rank's generator goes on where it was, or none does.
        let is_same = ranks.len() == self.coordinator.ranks() as usize;
        assert_eq!(
            (resumed.rng.is_some(), resumed.notes.is_empty()),
            (is_same, is_same),
            "{:?}",
            resumed.notes
        );
    }
}

fn parameters(training: &Training) -> Vec<f64> {
    let params = training.runner.units.iter().flat_map(|unit| &unit.params);
    params.flat_map(|param| numbers(&param.shard)).collect()
}

fn close(found: &[(f64, f64)], expected: &[(f64, f64)]) {
    for ((loss, norm), (expected_loss, expected_norm)) in found.iter().zip(expected) {
        let off = |found: &f64, expected: &f64| (found - expected).abs() / expected;
        assert!(off(loss, expected_loss) <= TOLERANCE, "{loss}, expected {expected_loss}");
        assert!(off(norm, expected_norm) <= 10.0 * TOLERANCE, "{norm}, expected {expected_norm}");
    }
    assert_eq!(found.len(), expected.len());
}

/// A folder that rank 0 makes, and removes when it is dropped.
struct Shared {
    path: String,
    _folder: Option<TempDir>,
}

impl Shared {
    fn new(rank: &Rank) -> Shared {
        let folder = (rank.rank == 0).then(|| tempfile::tempdir().unwrap());
        if let Some(folder) = &folder {
            rank.store.set("folder", folder.path().to_str().unwrap().as_bytes()).unwrap();
        }
        let path = String::from_utf8(rank.store.get("folder", LONG).unwrap()).unwrap();
        Shared { path, _folder: folder }
    }

    fn run(&self, name: &str) -> Place {
        open_url(&format!("{}/{name}", self.path)).unwrap()
    }
}

fn coordinator(rank: &Rank) -> Arc<dyn Coordinator> {
    let keys = StoreKeys::new(Arc::new(rank.store.prefix("save").unwrap()));
    Arc::new(Peers::new(Arc::new(keys), rank.rank, rank.size, Duration::from_secs(60)).unwrap())
}

pub fn saved_and_resumed(rank: &Rank, format: &str, model: &Llama3) {
    let folder = Shared::new(rank);
    let cut = Cut { dp_shard: 2, ..ONE };
    let (groups, run) = (groups(rank, cut), folder.run("two"));
    let two = Job { model, groups: &groups, coordinator: coordinator(rank), rank: rank.rank, cut };
    let (losses, last) = two.train_and_save(&run, format);
    assert!(two.resume(&run, "first") == (losses.clone(), last.clone()), "the same mesh gives the same bits");
    assert!(two.resume(&run, "second") == (losses.clone(), last), "a second time as the first");

    if rank.rank == 0 {
        let nobody = Groups::default();
        let one = Job { model, groups: &nobody, coordinator: Arc::new(Alone), rank: 0, cut: ONE };
        close(&one.resume(&run, "alone").0, &losses);
        one.train_and_save(&folder.run("one"), format);
    }
    two.coordinator.meet("the run of one rank is saved").unwrap();
    close(&two.resume(&folder.run("one"), "from one").0, &losses);
    two.coordinator.meet("done").unwrap();
}

/// From two shards of two ranks that share layers, which cut both dims of some tensors and one dim of others twice, to other
/// meshes of as many ranks and to one, and back.
fn moved(rank: &Rank, format: &str) {
    let (folder, coordinator) = (Shared::new(rank), coordinator(rank));
    let both = Cut { dp_shard: 2, tp: 2, ..ONE };
    let others = [
        ("sequences", Cut { cp: 2, tp: 2, ..ONE }),
        ("layers", Cut { tp: 4, ..ONE }),
        ("copies", Cut { dp_replicate: 2, cp: 2, ..ONE }),
    ];
    let groups_of_both = groups(rank, both);
    let model = &model();
    let of_both =
        Job { model, groups: &groups_of_both, coordinator: coordinator.clone(), rank: rank.rank, cut: both };
    let run = folder.run("both");
    let (losses, last) = of_both.train_and_save(&run, format);
    assert!(of_both.resume(&run, "same") == (losses.clone(), last), "the same mesh gives the same bits");
    for (name, cut) in others {
        let groups = groups(rank, cut);
        let job = Job { model, groups: &groups, coordinator: coordinator.clone(), rank: rank.rank, cut };
        close(&job.resume(&run, name).0, &losses);
        if name == "copies" {
            job.train_and_save(&folder.run(name), format);
        }
    }
    close(&of_both.resume(&folder.run("copies"), "back").0, &losses);
    if rank.rank == 0 {
        let nobody = Groups::default();
        let one = Job { model, groups: &nobody, coordinator: Arc::new(Alone), rank: 0, cut: ONE };
        close(&one.resume(&run, "alone").0, &losses);
    }
    coordinator.meet("done").unwrap();
}

#[test]
fn a_run_goes_on_from_what_it_saved_in_the_native_format() {
    rng::set_threads(1).unwrap();
    run_well("resume::a_run_goes_on_from_what_it_saved_in_the_native_format", 2, |rank| {
        saved_and_resumed(rank, "titan", &model());
    });
}

#[test]
fn a_run_goes_on_from_what_it_saved_in_the_format_of_pytorch() {
    run_well("resume::a_run_goes_on_from_what_it_saved_in_the_format_of_pytorch", 2, |rank| {
        saved_and_resumed(rank, "dcp", &model());
    });
}

#[test]
fn a_run_that_shares_layers_moves_in_the_native_format() {
    run_well("resume::a_run_that_shares_layers_moves_in_the_native_format", 4, |rank| moved(rank, "titan"));
}

#[test]
fn a_run_that_shares_layers_moves_in_the_format_of_pytorch() {
    run_well("resume::a_run_that_shares_layers_moves_in_the_format_of_pytorch", 4, |rank| moved(rank, "dcp"));
}
