//! The training state as a checkpoint has it: parameters under their own names, moments under `optimizer.state.`, as
//! torchtitan 0.2 names them, and values.
//!
//! ```text
//! FQN                                        the parameter, in the type that it is stored in
//! optimizer.state.FQN.exp_avg, .exp_avg_sq   of its type and shape
//! optimizer.state.FQN.step                   float32, no dims
//! train_state.step                           int, steps done
//! data.rank_R                                str, the place in the data of the shards that rank R owns, JSON
//! ```

use crate::error::{Error, Result};
use crate::ffi::memory;
use crate::optimizer::Optimizer;
use crate::shard::Unit;
use dcp::coordinate::Coordinator;
use dcp::copy::CopyOptions;
use dcp::layout::Placement;
use dcp::load::{self, Request, RequestTensor};
use dcp::model::{DType, Fqn, PathPart, TensorSpec, Value};
use dcp::plan::{Degrees, Revealed, mesh_of, place};
use dcp::save::{Source, State, StateTensor, StateValue};
use dcp::storage::Place;
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Kind, Tensor};

const OPTIMIZER: &str = "optimizer";
const STEP: (&str, &str) = ("train_state", "step");
const DATA: &str = "data";

/// What of the state is no tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Progress {
    /// Steps done.
    pub step: u64,
    /// The place in the data: to save, of the shards that this rank owns; as loaded, of every rank that saved.
    pub data: Vec<String>,
}

/// One tensor of the state on this rank.
struct Entry<'a> {
    fqn: String,
    path: Vec<PathPart>,
    shape: Vec<u64>,
    local: &'a Tensor,
}

fn entries<'a>(units: &'a [Unit], optimizer: &'a Optimizer) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for (unit, moments) in units.iter().zip(&optimizer.state) {
        for (param, moments) in unit.params.iter().zip(moments) {
            let shape: Vec<u64> = param.shape.iter().map(|&size| size as u64).collect();
            let of_optimizer = |name: &str, shape: &[u64], local: &'a Tensor| {
                let key = format!("state.{}.{name}", param.fqn);
                let fqn = format!("{OPTIMIZER}.{key}");
                let path = vec![PathPart::Key(OPTIMIZER.to_owned()), PathPart::Key(key)];
                Entry { fqn, path, shape: shape.to_vec(), local }
            };
            let path = vec![PathPart::Key(param.fqn.clone())];
            entries.push(of_optimizer("exp_avg", &shape, &moments.exp_avg));
            entries.push(of_optimizer("exp_avg_sq", &shape, &moments.exp_avg_sq));
            entries.push(of_optimizer("step", &[], &moments.step));
            entries.push(Entry { fqn: param.fqn.clone(), path, shape, local: &param.shard });
        }
    }
    entries
}

fn placements(degrees: Degrees, entry: &Entry) -> Vec<Placement> {
    place(degrees, entry.shape.len(), 0, Revealed::NoTp).to_vec()
}

/// The type that a tensor of the state is stored in.
fn dtype(tensor: &Tensor) -> DType {
    match tensor.kind() {
        Kind::BFloat16 => DType::BF16,
        _ => DType::F32,
    }
}

/// This rank's share of the state. Its memory is the live tensors': nothing may change them until the save has its copy.
///
/// Errors: [`dcp::Error::Usage`] for too many ranks.
pub fn state(
    units: &[Unit],
    optimizer: &Optimizer,
    degrees: Degrees,
    rank: u32,
    progress: &Progress,
) -> Result<State> {
    let tensors = entries(units, optimizer).into_iter().map(|entry| StateTensor {
        placements: placements(degrees, &entry),
        fqn: Fqn::new(&*entry.fqn),
        spec: TensorSpec::new(dtype(entry.local), entry.shape),
        path: entry.path,
        local: (entry.local.numel() > 0).then(|| Arc::new(HostTensor::new(entry.local)) as Arc<dyn Source>),
    });
    let value = |(first, second): (&str, &str), value| StateValue {
        fqn: Fqn::new(format!("{first}.{second}")),
        path: vec![PathPart::Key(first.to_owned()), PathPart::Key(second.to_owned())],
        value,
    };
    let mut values = vec![value(STEP, Value::Int(progress.step as i64))];
    let data = progress.data.iter().map(|data| Value::Str(data.clone()));
    values.extend(data.map(|data| value((DATA, &format!("rank_{rank}")), data)));
    Ok(State { mesh: Some(Arc::new(mesh_of(degrees)?)), tensors: tensors.collect(), values })
}

/// Loads the newest complete step of a run into this rank's shards. Called by all ranks with the same `tag`, once.
///
/// Errors: as [`dcp::load::load`]; [`Error::Usage`] for a checkpoint without a step.
pub fn load(
    run: &Place,
    coordinator: &dyn Coordinator,
    tag: &str,
    units: &[Unit],
    optimizer: &Optimizer,
    degrees: Degrees,
) -> Result<Progress> {
    let entries = entries(units, optimizer);
    let byte_len = |entry: &Entry| entry.local.numel() * entry.local.kind().elt_size_in_bytes();
    let mut buffers: Vec<Vec<u8>> = entries.iter().map(|entry| vec![0; byte_len(entry)]).collect();
    let tensors = entries.iter().zip(&mut buffers).map(|(entry, target)| RequestTensor {
        fqn: &entry.fqn,
        placements: placements(degrees, entry),
        target,
    });
    let request = Request { mesh: Some(Arc::new(mesh_of(degrees)?)), tensors: tensors.collect() };
    let loaded = load::load(run, coordinator, tag, request, CopyOptions::default())?;
    for (entry, bytes) in entries.iter().zip(&buffers) {
        memory::write(entry.local, bytes)?;
    }
    let (reader, mut data) = (&loaded.reader, Vec::new());
    let mut step = None;
    for fqn in reader.catalog().values.keys() {
        if fqn.as_str() == format!("{}.{}", STEP.0, STEP.1) {
            step = match reader.value(fqn)? {
                Value::Int(step) => u64::try_from(step).ok(),
                _ => None,
            };
        } else if fqn.as_str().strip_prefix(DATA).is_some_and(|rest| rest.starts_with(".rank_"))
            && let Value::Str(text) = reader.value(fqn)?
        {
            data.push(text);
        }
    }
    let step = step.ok_or_else(|| {
        let place = reader.place().display();
        Error::Usage(format!(
            "{place}: no step is in `train_state.step`: it is no checkpoint of a training run"
        ))
    })?;
    Ok(Progress { step, data })
}

/// A contiguous tensor in host memory, for the threads of a save.
#[derive(Debug)]
struct HostTensor {
    byte_len: u64,
    /// Its bytes. Handles of tensors may not be used by two threads at once.
    bytes: Mutex<Tensor>,
}

impl HostTensor {
    fn new(tensor: &Tensor) -> Self {
        let byte_len = (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
        HostTensor { byte_len, bytes: Mutex::new(tensor.detach()) }
    }
}

impl Source for HostTensor {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read(&self, byte_offset: u64, target: &mut [u8]) -> dcp::Result<()> {
        let part = || -> Result<Tensor> {
            let tensor = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
            let bytes = tensor.f_view([-1])?.f_view_dtype(Kind::Uint8)?;
            Ok(bytes.f_narrow(0, byte_offset as i64, target.len() as i64)?)
        };
        let read = part().and_then(|part| memory::read(&part, target));
        read.map_err(|error| dcp::Error::Io {
            object: "a tensor".to_owned(),
            action: "copying it",
            source: std::io::Error::other(error),
        })
    }
}
