//! What the job saves, and whether what a run holds is exactly that.
//!
//! Every byte is a function of tensor, position and step, so that any reader can tell which step it is of.

use super::RANKS;
use dcp::coordinate::{Coordinator, Peers, threads};
use dcp::copy::CopyOptions;
use dcp::format::{Reader, by_name};
use dcp::layout::{Layout, Mesh, Placement, Region, copy_box, row_major};
use dcp::load::{Memory, Origin, Request, RequestTensor, load};
use dcp::model::{DType, TensorSpec, Value};
use dcp::save::{HostMemory, SaveOptions, Saved, Saver, State, StateTensor, StateValue};
use dcp::storage::Place;
use std::sync::Arc;
use std::time::Duration;

/// How long a rank waits for another: it is a thread beside it.
const RANK_TIMEOUT: Duration = Duration::from_secs(60);

const TENSORS: [(&str, [u64; 2], [Placement; 2]); 4] = [
    ("both", [256, 128], [Placement::Shard { dim: 0 }, Placement::Shard { dim: 1 }]),
    ("rows", [300, 128], [Placement::Shard { dim: 0 }, Placement::Replicate]),
    ("everywhere", [64, 512], [Placement::Replicate, Placement::Replicate]),
    ("stage", [128, 96], [Placement::Only { coordinate: 1 }, Placement::Shard { dim: 0 }]),
];

/// What a rank saves as a step.
pub fn state(rank: u32, step: u64) -> State {
    let tensor = |(name, shape, placements): (&str, [u64; 2], [Placement; 2])| StateTensor {
        fqn: name.into(),
        spec: TensorSpec::new(DType::F32, shape),
        path: Vec::new(),
        placements: placements.to_vec(),
        local: region(shape, placements, rank)
            .map(|region| Arc::new(HostMemory::new(cut(&shape, &whole(name, &shape, step), &region))) as _),
    };
    let tensors = TENSORS.into_iter().map(tensor).collect();
    let value = StateValue { fqn: "step".into(), path: Vec::new(), value: Value::Int(step as i64) };
    State { mesh: Some(mesh()), tensors, values: vec![value] }
}

/// Saves a step as a job of as many ranks, each with its own way to the run; what each is told.
pub fn save_all(runs: &[Place], step: u64) -> Vec<Result<Saved, dcp::Error>> {
    let save = |(rank, (run, coordinator)): (u32, (&Place, Peers))| {
        let options = SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(by_name("titan")?) };
        let mut saver = Saver::new(run.clone(), options, Arc::new(coordinator))?;
        saver.save(step, state(rank, step))?.wait_done()
    };
    std::thread::scope(|scope| {
        let ranks = (0..).zip(runs.iter().zip(threads(RANKS, RANK_TIMEOUT)));
        let ranks: Vec<_> = ranks.map(|rank| scope.spawn(move || save(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("saving does not panic")).collect()
    })
}

/// Loads the newest step as a job of as many ranks; gives the step, and whether every rank has exactly what was saved
/// as that one.
///
/// Errors: what loading gives.
pub fn load_newest(run: &Place) -> Result<(u64, bool), dcp::Error> {
    let loaded: Result<Vec<(u64, bool)>, dcp::Error> = std::thread::scope(|scope| {
        let ranks = threads(RANKS, RANK_TIMEOUT).into_iter();
        let ranks: Vec<_> = ranks.map(|rank| scope.spawn(move || load_rank(run, &rank))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("loading does not panic")).collect()
    });
    let loaded = loaded?;
    let step = loaded[0].0;
    Ok((step, loaded.iter().all(|&one| one == (step, true))))
}

/// A rank's memory of every tensor.
struct Held([Vec<u8>; TENSORS.len()]);

impl Memory for Held {
    fn request(&mut self, _: &dyn Reader) -> Result<Request, dcp::Error> {
        let tensors = TENSORS.map(|(fqn, shape, placements)| RequestTensor {
            fqn: fqn.into(),
            spec: TensorSpec::new(DType::F32, shape),
            placements: placements.to_vec(),
        });
        Ok(Request { mesh: Some(mesh()), tensors: tensors.into() })
    }

    fn take(&mut self, tensor: usize, bytes: &[u8]) -> Result<(), dcp::Error> {
        self.0[tensor] = bytes.to_vec();
        Ok(())
    }
}

fn load_rank(run: &Place, coordinator: &dyn Coordinator) -> Result<(u64, bool), dcp::Error> {
    let rank = coordinator.rank();
    let mut held = Held(TENSORS.map(|_| Vec::new()));
    let origin = Origin::Newest(run.clone());
    let loaded = load(&origin, coordinator, "look", &mut held, CopyOptions::default())?;
    let step = loaded.step.expect("a run's step");
    let mut equal = loaded.reader.value(&"step".into())? == Value::Int(step as i64);
    for ((name, shape, placements), found) in TENSORS.into_iter().zip(&held.0) {
        let region = region(shape, placements, rank);
        let expected = region.map(|region| cut(&shape, &whole(name, &shape, step), &region));
        equal &= *found == expected.unwrap_or_default();
    }
    Ok((step, equal))
}

fn mesh() -> Arc<Mesh> {
    Arc::new(Mesh::new([("dp", 2), ("tp", 2)]).expect("a mesh"))
}

fn region(shape: [u64; 2], placements: [Placement; 2], rank: u32) -> Option<Region> {
    Layout::new(mesh(), placements.to_vec(), shape.to_vec()).expect("a layout").region(rank)
}

fn whole(name: &str, shape: &[u64], step: u64) -> Vec<u8> {
    let seed =
        name.bytes().fold(step.wrapping_mul(0x9e37_79b9_7f4a_7c15), |seed, byte| seed ^ u64::from(byte) << 7);
    (0..4 * shape.iter().product::<u64>()).map(|at| (seed.wrapping_mul(2 * at + 1) >> 40) as u8).collect()
}

fn cut(shape: &[u64], whole: &[u8], region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; 4 * region.elements() as usize];
    let from = 4 * region.position_in(&Region::whole(shape), &row_major(shape)) as usize;
    copy_box(&whole[from..], &row_major(shape), &mut bytes, &row_major(&region.extent), &region.extent, 4);
    bytes
}
