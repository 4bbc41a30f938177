//! Four ranks save and load: what is there afterwards, whatever dies when.

mod chosen;

use super::*;
use crate::commit::steps;
use crate::coordinate::threads;
use crate::copy::CopyOptions;
use crate::format;
use crate::layout::{Layout, Mesh, Placement, Region, copy_box, row_major};
use crate::load::{Loaded, Memory, Origin, Request, RequestTensor, complete, load, newest_complete};
use crate::model::{DType, FqnFilter, TensorSpec, Value};
use crate::prune::{Policy, plan};
use crate::storage::faulty::{Call, Fault, Faults, FaultyStore, Operation};
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Storage};
use crate::verify::{VerifyOptions, verify};
use rustix::io::Errno;
use std::time::Duration;

const RANKS: u32 = 4;
const REPLICATE: Placement = Placement::Replicate;
const ROWS: Placement = Placement::Shard { dim: 0 };
const COLUMNS: Placement = Placement::Shard { dim: 1 };

/// Name, shape and placements on the mesh dp 2 x tp 2 of what is saved.
fn tensors() -> Vec<(&'static str, Vec<u64>, [Placement; 2])> {
    vec![
        ("both", vec![8, 6], [ROWS, COLUMNS]),
        ("rows", vec![5, 3], [ROWS, REPLICATE]),
        ("everywhere", vec![7], [REPLICATE, REPLICATE]),
        ("scalar", vec![], [REPLICATE, REPLICATE]),
        ("empty", vec![0, 4], [ROWS, REPLICATE]),
        ("stage", vec![4, 4], [Placement::Only { coordinate: 1 }, ROWS]),
    ]
}

fn mesh() -> Arc<Mesh> {
    Arc::new(Mesh::new([("dp", 2), ("tp", 2)]).unwrap())
}

/// The bytes of a whole tensor; another `version`, other bytes.
fn whole(name: &str, shape: &[u64], version: u64) -> Vec<u8> {
    let seed = name
        .bytes()
        .fold(version.wrapping_mul(0x9e37_79b9), |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
    (0..4 * shape.iter().product::<u64>()).map(|at| (seed.wrapping_mul(at + 1) >> 13) as u8).collect()
}

fn cut(shape: &[u64], whole: &[u8], region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; 4 * region.elements() as usize];
    if !region.is_empty() {
        let from = 4 * region.position_in(&Region::whole(shape), &row_major(shape)) as usize;
        copy_box(
            &whole[from..],
            &row_major(shape),
            &mut bytes,
            &row_major(&region.extent),
            &region.extent,
            4,
        );
    }
    bytes
}

fn region_of(shape: &[u64], placements: [Placement; 2], rank: u32) -> Option<Region> {
    Layout::new(mesh(), placements.to_vec(), shape.to_vec()).unwrap().region(rank)
}

fn state(rank: u32, version: u64) -> State {
    let tensor = |(name, shape, placements): (&str, Vec<u64>, [Placement; 2])| StateTensor {
        local: region_of(&shape, placements, rank).map(|region| {
            Arc::new(HostMemory::new(cut(&shape, &whole(name, &shape, version), &region))) as _
        }),
        fqn: name.into(),
        spec: TensorSpec::new(DType::F32, shape),
        path: Vec::new(),
        placements: placements.to_vec(),
    };
    let value = |name: String, value| StateValue { fqn: name.as_str().into(), path: Vec::new(), value };
    State {
        mesh: Some(mesh()),
        tensors: tensors().into_iter().map(tensor).collect(),
        values: vec![
            value("version".to_owned(), Value::Int(version as i64)),
            value(format!("rng.{rank}"), Value::Bytes(vec![rank as u8, version as u8])),
        ],
    }
}

fn options(format: &str) -> SaveOptions {
    SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(format::by_name(format).unwrap()) }
}

/// All ranks save `version` as a step, each through its own store.
fn save_all(
    stores: &[Arc<dyn Storage>],
    options: &SaveOptions,
    step: u64,
    version: u64,
) -> Vec<Result<Saved>> {
    let coordinators = threads(RANKS, Duration::from_secs(20));
    std::thread::scope(|scope| {
        let save = |(rank, coordinator)| {
            let run = Place { store: Arc::clone(&stores[rank as usize]), key: Key::new("run").unwrap() };
            scope.spawn(move || {
                let mut saver = Saver::new(run, options.clone(), Arc::new(coordinator))?;
                let saving = saver.save(step, state(rank, version))?;
                saving.wait_staged();
                saving.wait_done()
            })
        };
        let saves: Vec<_> = (0..).zip(coordinators).map(save).collect();
        saves.into_iter().map(|save| save.join().unwrap()).collect()
    })
}

fn must_save(store: &Arc<dyn Storage>, options: &SaveOptions, step: u64, version: u64) {
    for saved in save_all(&same_store(store), options, step, version) {
        saved.unwrap();
    }
}

/// All ranks load the newest step; it must be `expected`, bit for bit, on every rank. Returns the step.
fn load_all(store: &Arc<dyn Storage>, versions: &[u64]) -> (u64, u64) {
    load_each(&same_store(store), versions)
}

/// The same, each rank through its own store.
fn load_each(stores: &[Arc<dyn Storage>], versions: &[u64]) -> (u64, u64) {
    let found: Vec<(u64, u64)> = try_load(stores).into_iter().map(Result::unwrap).collect();
    assert!(found.iter().all(|one| *one == found[0]), "{found:?}");
    assert!(versions.contains(&found[0].1), "{found:?}, expected one of {versions:?}");
    found[0]
}

/// A rank's memory of all tensors.
struct Ranks {
    wanted: Vec<(&'static str, Vec<u64>, [Placement; 2])>,
    dtype: DType,
    memory: Vec<Vec<u8>>,
}

impl Ranks {
    fn new(dtype: DType) -> Self {
        let wanted = tensors();
        let memory = vec![vec![0xAA]; wanted.len()];
        Ranks { wanted, dtype, memory }
    }
}

impl Memory for Ranks {
    fn request(&mut self, _: &dyn crate::format::Reader) -> Result<Request> {
        let tensor = |(name, shape, placements): &(&'static str, Vec<u64>, [Placement; 2])| RequestTensor {
            fqn: (*name).into(),
            spec: TensorSpec::new(self.dtype, shape.clone()),
            placements: placements.to_vec(),
        };
        Ok(Request { mesh: Some(mesh()), tensors: self.wanted.iter().map(tensor).collect() })
    }

    fn take(&mut self, tensor: usize, bytes: &[u8]) -> Result<()> {
        self.memory[tensor] = bytes.to_vec();
        Ok(())
    }
}

/// All ranks load, each through its own store, and look at what they have.
fn load_from<T: Send>(
    stores: &[Arc<dyn Storage>],
    origin: impl Fn(Place) -> Origin + Sync,
    memory: impl Fn() -> Ranks + Sync,
    options: CopyOptions,
    look: impl Fn(u32, Loaded, Ranks) -> T + Sync,
) -> Vec<Result<T>> {
    let coordinators = threads(RANKS, Duration::from_secs(20));
    std::thread::scope(|scope| {
        let load = |(rank, coordinator)| {
            let run = Place { store: Arc::clone(&stores[rank as usize]), key: Key::new("run").unwrap() };
            let (origin, memory, look) = (&origin, &memory, &look);
            scope.spawn(move || {
                let mut memory = memory();
                let loaded = load(&origin(run), &coordinator, "load", &mut memory, options)?;
                Ok(look(rank, loaded, memory))
            })
        };
        let loads: Vec<_> = (0..).zip(coordinators).map(load).collect();
        loads.into_iter().map(|load| load.join().unwrap()).collect()
    })
}

/// Step and version of what a rank has loaded, which must be of one version, bit for bit.
fn look(rank: u32, loaded: Loaded, ranks: Ranks) -> (u64, u64) {
    let Value::Int(version) = loaded.reader.value(&"version".into()).unwrap() else { panic!() };
    let version = version as u64;
    assert!(loaded.amplification() <= 1.0 + 1e-9, "{loaded:?}");
    for ((name, shape, placements), bytes) in ranks.wanted.iter().zip(&ranks.memory) {
        let region = region_of(shape, *placements, rank);
        // What a rank holds nothing of is not handed to it.
        let expected = region.map_or(vec![0xAA], |region| cut(shape, &whole(name, shape, version), &region));
        assert_eq!(bytes, &expected, "{name} of version {version}");
    }
    let rng = loaded.reader.value(&format!("rng.{rank}").as_str().into()).unwrap();
    assert_eq!(rng, Value::Bytes(vec![rank as u8, version as u8]));
    (loaded.step.unwrap(), version)
}

/// What loading the newest step gives each rank.
fn try_load(stores: &[Arc<dyn Storage>]) -> Vec<Result<(u64, u64)>> {
    load_from(stores, Origin::Newest, || Ranks::new(DType::F32), CopyOptions::default(), look)
}

fn same_store(store: &Arc<dyn Storage>) -> Vec<Arc<dyn Storage>> {
    vec![store.clone(); RANKS as usize]
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStore::new())
}

#[test]
fn four_ranks_save_and_load() {
    for (format, compress) in [("titan", false), ("titan", true), ("dcp", false)] {
        let store = memory();
        let options = SaveOptions { compress, prove_untorn: true, ..options(format) };
        for saved in save_all(&same_store(&store), &options, 10, 1) {
            assert_eq!(saved.unwrap().streamed_bytes, 0);
        }
        assert_eq!(load_all(&store, &[1]), (10, 1));
        let run = Place { store: store.clone(), key: Key::new("run").unwrap() };
        let newest = newest_complete(&run, None).unwrap();
        let deep = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 2 };
        let report = verify(&*newest.reader, &deep, &()).unwrap();
        assert!(report.is_sound() && report.tensors == tensors().len(), "{:?}", report.findings);
        // Every byte is written once, whoever holds it.
        assert_eq!(report.read_bytes, newest.reader.catalog().tensor_bytes());
        assert!(matches!(newest_complete(&run, Some(10)), Err(Error::NoneComplete { .. })));
    }
}

#[test]
fn a_second_save_of_a_step_takes_its_place_or_is_refused() {
    let store = memory();
    must_save(&store, &options("titan"), 10, 1);
    must_save(&store, &options("titan"), 10, 2);
    assert_eq!(load_all(&store, &[2]), (10, 2));
    let refuse = SaveOptions { existing: Existing::Refuse, ..options("titan") };
    let outcomes = save_all(&same_store(&store), &refuse, 10, 3);
    assert!(matches!(outcomes[0], Err(Error::AlreadySaved { .. })), "{outcomes:?}");
    assert!(outcomes[1..].iter().all(|one| matches!(one, Err(Error::RankFailed { rank: 0, .. }))));
    assert_eq!(load_all(&store, &[2]), (10, 2));
    let dcp = memory();
    must_save(&dcp, &options("dcp"), 10, 1);
    let outcomes = save_all(&same_store(&dcp), &options("dcp"), 10, 2);
    assert!(matches!(outcomes[0], Err(Error::AlreadySaved { .. })), "{outcomes:?}");
    assert_eq!(load_all(&dcp, &[1]), (10, 1));
}

/// Prunes once nobody is saving: nothing but whole checkpoints is left.
fn clean(store: &Arc<dyn Storage>) {
    let run = Place { store: store.clone(), key: Key::new("run").unwrap() };
    let (older_than, now) = (Duration::ZERO, std::time::SystemTime::UNIX_EPOCH);
    let policy = Policy { keep_latest: None, keep_every: None, older_than, now };
    for report in plan(&run, policy).unwrap().run(&()) {
        assert!(report.error.is_none() && report.notes.is_empty(), "{report:?}");
    }
    for step in steps(&run).unwrap() {
        let reader = complete(&step.place).unwrap();
        let attempt = &reader.catalog().attributes["attempt"];
        let objects = store.list(&step.place.key).unwrap();
        let (own, others): (Vec<_>, Vec<_>) =
            objects.iter().partition(|object| object.key.parent().name() == attempt);
        assert_eq!((own.len(), others.len()), (2 * RANKS as usize, 1), "{objects:?}");
    }
    assert_eq!(store.unfinished(&Key::root()).unwrap(), []);
}

/// A 4-rank job dies before, in the middle of, and after every single operation on its store in turn. Afterwards the
/// step before or the new one loads bit for bit on all ranks; `prune` leaves nothing but that; and a new job saves the step.
#[test]
#[expect(clippy::disallowed_macros, reason = "the number of crash points is a figure of docs/reliability.md")]
fn a_job_that_dies_at_any_operation_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut points = 0;
    for (number, on_disk) in [(0u64, false), (1, true)] {
        for death in [Fault::DieBefore, Fault::DieTorn, Fault::DieAfter] {
            for operation in 0.. {
                let path = folder.path().join(format!("{number}-{death:?}-{operation}"));
                let inner: Arc<dyn Storage> = match on_disk {
                    true => Arc::new(LocalStore::new(&path)),
                    false => memory(),
                };
                must_save(&inner, &options("titan"), 10, 1);
                // A save of the next step, then one of the same step again.
                let step = if operation % 2 == 0 { 20 } else { 10 };
                let faults = Faults::at(operation, death);
                // One process: its ranks are threads, and die together.
                let dying: Arc<dyn Storage> = Arc::new(FaultyStore::new(inner.clone(), &faults));
                let outcomes = save_all(&same_store(&dying), &options("titan"), step, 2);
                let past_the_end = faults.hits().is_empty();
                let (newest, version) = load_all(&inner, &[1, 2]);
                if outcomes[0].is_ok() {
                    assert_eq!(version, 2, "{death:?} at {operation}: committed and not there");
                }
                clean(&inner);
                assert_eq!(
                    load_all(&inner, &[version]),
                    (newest, version),
                    "{death:?} at {operation}: pruned"
                );
                must_save(&inner, &options("titan"), step, 3);
                load_all(&inner, &[3]);
                if on_disk {
                    std::fs::remove_dir_all(&path).unwrap();
                }
                if past_the_end {
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} crash points");
    assert!(points > 100, "{points}");
}

/// Memory that changes while it is read: every read gives other bytes.
#[derive(Debug)]
struct Restless(std::sync::atomic::AtomicU64, u64);

impl Source for Restless {
    fn byte_len(&self) -> u64 {
        self.1
    }

    fn read(&self, _: u64, target: &mut [u8]) -> Result<()> {
        target.fill(self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed) as u8);
        Ok(())
    }
}

/// A state of one rank and one tensor.
fn alone(source: Arc<dyn Source>) -> State {
    let spec = TensorSpec::new(DType::U8, [source.byte_len()]);
    let (path, placements) = (Vec::new(), Vec::new());
    let tensor = StateTensor { fqn: "w".into(), spec, path, placements, local: Some(source) };
    State { mesh: None, tensors: vec![tensor], values: Vec::new() }
}

fn saver(store: &Arc<dyn Storage>, options: SaveOptions) -> Saver {
    let run = Place { store: store.clone(), key: Key::new("run").unwrap() };
    Saver::new(run, options, Arc::new(crate::coordinate::Alone)).unwrap()
}

#[test]
fn a_state_that_changes_while_it_is_copied_is_not_committed() {
    let store = memory();
    let mut saver = saver(&store, SaveOptions { prove_untorn: true, ..options("titan") });
    let saving = saver.save(1, alone(Arc::new(Restless(0.into(), 5 << 20)))).unwrap();
    saving.wait_staged();
    let error = saving.wait_done().unwrap_err();
    assert!(matches!(&error, Error::Torn { fqn, .. } if fqn == "w"), "{error}");
    assert_eq!(store.list(&Key::root()).unwrap(), []);
    // Who has the error has it; the saver goes on.
    saver.save(2, alone(Arc::new(HostMemory::new(vec![1; 100])))).unwrap().wait_done().unwrap();
}

#[test]
fn a_state_larger_than_the_budget_is_streamed() {
    let store = memory();
    let bytes: Vec<u8> = (0..40u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut saver = saver(&store, SaveOptions { memory_bytes_max: 32 << 20, ..options("titan") });
    let saving = saver.save(1, alone(Arc::new(HostMemory::new(bytes.clone())))).unwrap();
    saving.wait_staged();
    let saved = saving.wait_done().unwrap();
    assert_eq!((saved.staged_bytes, saved.streamed_bytes), (0, 40 << 20));
    let run = Place { store, key: Key::new("run").unwrap() };
    let newest = newest_complete(&run, None).unwrap();
    let mut found = vec![0; bytes.len()];
    let region = Region::whole(&[bytes.len() as u64]);
    crate::copy::TensorReader::new(&*newest.reader, "w").unwrap().read(&region, &mut found).unwrap();
    assert!(found == bytes);
}

#[test]
fn an_error_in_the_background_fails_the_next_call() {
    let inner = memory();
    let faults = Faults::at(2, Fault::Fail);
    let store: Arc<dyn Storage> = Arc::new(FaultyStore::new(inner.clone(), &faults));
    let mut saver = saver(&store, options("titan"));
    saver.save(1, alone(Arc::new(HostMemory::new(vec![1; 100])))).unwrap();
    let error = saver.save(2, alone(Arc::new(HostMemory::new(vec![2; 100])))).unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error}");
    saver.save(3, alone(Arc::new(HostMemory::new(vec![3; 100])))).unwrap();
    saver.finish().unwrap();
    let run = Place { store: inner, key: Key::new("run").unwrap() };
    assert_eq!(newest_complete(&run, None).unwrap().step, 3);
}

#[test]
fn a_rank_that_fails_keeps_the_others_from_committing() {
    for operation in 0..20 {
        let inner = memory();
        let faults = Faults::at(operation, Fault::DieBefore);
        // Rank 2 is a process of its own, and its store dies; the others' lives on.
        let mut stores = same_store(&inner);
        stores[2] = Arc::new(FaultyStore::new(inner.clone(), &faults));
        let outcomes = save_all(&stores, &options("titan"), 10, 1);
        if faults.hits().is_empty() {
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
            assert!(operation > 3, "rank 2 wrote something");
            return;
        }
        assert!(matches!(outcomes[0], Err(Error::RankFailed { rank: 2, .. })), "{outcomes:?}");
        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        let run = Place { store: inner, key: Key::new("run").unwrap() };
        assert!(matches!(newest_complete(&run, None), Err(Error::NoneComplete { .. })));
    }
    panic!("the save has more than 20 operations on one rank");
}

/// From some operation on a rank's disk takes nothing more, whatever it says: every rank is told once what happened and to
/// whom, nothing is committed, and the step before loads.
#[test]
fn a_disk_that_fails_is_told_and_the_step_before_stands() {
    const WRITES: [Operation; 4] = [Operation::Create, Operation::WriteAt, Operation::Finish, Operation::Put];
    for errno in [Errno::NOSPC, Errno::IO, Errno::ROFS, Errno::ACCESS] {
        let number = errno.raw_os_error();
        for rank in [0, 2] {
            for first in 0.. {
                assert!(first < 100, "a save has more than 100 operations on one rank");
                let inner = memory();
                must_save(&inner, &options("titan"), 10, 1);
                let fails = move |at: &Call<'_>| {
                    (at.index >= first && WRITES.contains(&at.operation)).then_some(Fault::Errno(number))
                };
                let faults = Faults::by(fails);
                let mut stores = same_store(&inner);
                stores[rank] = Arc::new(FaultyStore::new(inner.clone(), &faults));
                let outcomes = save_all(&stores, &options("titan"), 20, 2);
                if faults.hits().is_empty() {
                    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
                    assert!(first > 3, "rank {rank} wrote something");
                    break;
                }
                let expected = std::io::Error::from(errno).to_string();
                for (other, outcome) in outcomes.iter().enumerate() {
                    let error = outcome.as_ref().unwrap_err();
                    let is_clear = match error {
                        Error::Io { source, .. } => other == rank && source.raw_os_error() == Some(number),
                        Error::RankFailed { rank: at, .. } => other != rank && *at as usize == rank,
                        _ => false,
                    };
                    assert!(is_clear && error.with_causes().contains(&expected), "rank {other}: {error:?}");
                }
                assert_eq!(load_all(&inner, &[1]), (10, 1));
                clean(&inner);
                must_save(&inner, &options("titan"), 20, 3);
                load_all(&inner, &[3]);
            }
        }
    }
}

/// Memory of any length, all zeros.
#[derive(Debug)]
struct Zeros(u64);

impl Source for Zeros {
    fn byte_len(&self) -> u64 {
        self.0
    }

    fn read(&self, _: u64, target: &mut [u8]) -> Result<()> {
        target.fill(0);
        Ok(())
    }
}

/// Larger than any disk: refused before anything is written.
#[test]
fn a_state_that_no_disk_holds_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Storage> = Arc::new(LocalStore::new(folder.path()));
    let mut saver = saver(&store, options("titan"));
    saver.save(1, alone(Arc::new(HostMemory::new(vec![1; 100])))).unwrap().wait_done().unwrap();
    let error = saver.save(2, alone(Arc::new(Zeros(1 << 50)))).unwrap().wait_done().unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed, .. } if needed >= 1 << 50), "{error}");
    let run = Place { store: store.clone(), key: Key::new("run").unwrap() };
    assert_eq!(newest_complete(&run, None).unwrap().step, 1);
    assert_eq!(store.list(&Key::new("run/step-2").unwrap()).unwrap(), []);
    assert_eq!(store.unfinished(&Key::root()).unwrap(), []);
}

#[test]
fn a_damaged_step_is_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let store: Arc<dyn Storage> = Arc::new(LocalStore::new(folder.path()));
    must_save(&store, &options("titan"), 10, 1);
    must_save(&store, &options("titan"), 20, 2);
    let objects = store.list(&Key::new("run/step-20").unwrap()).unwrap();
    let shard = objects.iter().find(|object| object.key.name().ends_with("r00003-0000.safetensors")).unwrap();
    let path = folder.path().join(shard.key.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    // Its lengths are right, so that only reading it tells.
    assert_eq!(load_all(&store, &[1]), (10, 1));
    std::fs::write(&path, &bytes[1..]).unwrap();
    assert_eq!(load_all(&store, &[1]), (10, 1));
}

#[test]
fn formats_without_slots_are_refused() {
    let run = Place { store: memory(), key: Key::root() };
    for format in ["pt", "safetensors"] {
        let saver = Saver::new(run.clone(), options(format), Arc::new(crate::coordinate::Alone));
        assert!(matches!(saver, Err(Error::Usage(_))), "{format}");
    }
}

/// While ranks load a step it is saved again, and what it was before is removed: all load the one or all the other.
#[test]
fn a_step_that_is_replaced_while_it_is_loaded_is_not_mixed() {
    for rank in 0..RANKS as usize {
        for call in 0..12 {
            let inner = memory();
            must_save(&inner, &options("titan"), 10, 1);
            let old = inner.list(&Key::root()).unwrap();
            let shared = inner.clone();
            let replace = move |at: &Call<'_>| {
                if at.index == call {
                    must_save(&shared, &options("titan"), 10, 2);
                    for object in &old {
                        assert!(shared.remove(&object.key).unwrap());
                    }
                }
                None
            };
            let mut stores = same_store(&inner);
            stores[rank] = Arc::new(FaultyStore::new(inner.clone(), &Faults::by(replace)));
            load_each(&stores, &[1, 2]);
        }
    }
}

#[test]
fn a_rank_that_cannot_read_is_named_to_the_others() {
    let inner = memory();
    must_save(&inner, &options("titan"), 10, 1);
    let mut stores = same_store(&inner);
    stores[2] = Arc::new(FaultyStore::new(inner, &Faults::at(0, Fault::DieBefore)));
    let outcomes = try_load(&stores);
    for (rank, outcome) in outcomes.iter().enumerate() {
        match outcome {
            Err(Error::RankFailed { rank: 2, .. }) if rank != 2 => {}
            Err(Error::Io { .. }) if rank == 2 => {}
            other => panic!("rank {rank}: {other:?}"),
        }
    }
}
