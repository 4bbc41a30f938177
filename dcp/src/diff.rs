//! How do two checkpoints differ, whatever their formats and shardings?

use crate::copy::{Progress, TensorReader};
use crate::error::Result;
use crate::format::Reader;
use crate::layout::Region;
use crate::model::{DType, Fqn, FqnFilter, TensorSpec, Value};
use crate::numbers::to_f64;
use crate::threads::{Queue, in_threads, lock};
use std::sync::Mutex;

/// Bytes of each side read at once.
const STRIP_BYTES: u64 = 8 << 20;

/// What counts as a difference.
#[derive(Clone, Debug)]
pub struct DiffOptions {
    /// Which names to compare.
    pub filter: FqnFilter,
    /// Relative tolerance: numbers may differ by `atol + rtol * |b|`.
    pub rtol: f64,
    /// Absolute tolerance. With both tolerances 0, bits are compared.
    pub atol: f64,
    /// Threads that read.
    pub threads: usize,
}

/// One difference.
#[derive(Clone, PartialEq, Debug)]
pub enum Difference {
    /// Only the first has it.
    OnlyInA(Fqn),
    /// Only the second has it.
    OnlyInB(Fqn),
    /// A tensor in one, a value in the other.
    Kind(Fqn),
    /// Shapes differ; values are not compared.
    Shape(Fqn, Vec<u64>, Vec<u64>),
    /// Types differ; values are compared as numbers.
    DType(Fqn, DType, DType),
    /// Elements differ.
    Elements {
        /// The tensor.
        fqn: Fqn,
        /// How many elements differ by more than the tolerance.
        count: u64,
        /// Of how many.
        total: u64,
        /// Position of the first.
        first: Vec<u64>,
        /// Largest absolute difference, for types that are numbers.
        max_abs: Option<f64>,
    },
    /// Values differ.
    Value(Fqn, Box<(Value, Value)>),
}

impl Difference {
    /// The name concerned.
    pub fn fqn(&self) -> &Fqn {
        match self {
            Difference::OnlyInA(fqn)
            | Difference::OnlyInB(fqn)
            | Difference::Kind(fqn)
            | Difference::Shape(fqn, ..)
            | Difference::DType(fqn, ..)
            | Difference::Elements { fqn, .. }
            | Difference::Value(fqn, _) => fqn,
        }
    }
}

/// What was compared and found.
#[derive(Clone, Debug, Default)]
pub struct DiffReport {
    /// Every difference, by name.
    pub differences: Vec<Difference>,
    /// Tensors in both.
    pub tensors: usize,
    /// Values in both.
    pub values: usize,
    /// Bytes compared, of the first checkpoint.
    pub bytes: u64,
}

/// Compares two checkpoints.
///
/// Errors: what reading either gives.
pub fn diff(
    a: &dyn Reader,
    b: &dyn Reader,
    options: &DiffOptions,
    progress: &dyn Progress,
) -> Result<DiffReport> {
    let mut report = DiffReport::default();
    let (in_a, in_b) = (a.catalog(), b.catalog());
    let chosen = |fqn: &&Fqn| options.filter.matches(fqn.as_str());
    let has = |catalog: &crate::model::Catalog, fqn: &Fqn| {
        catalog.tensors.contains_key(fqn) || catalog.values.contains_key(fqn)
    };
    let mut common = Vec::new();
    for fqn in in_a.tensors.keys().chain(in_a.values.keys()).filter(chosen) {
        match (in_a.tensors.get(fqn), in_b.tensors.get(fqn)) {
            _ if !has(in_b, fqn) => report.differences.push(Difference::OnlyInA(fqn.clone())),
            (Some(of_a), Some(of_b)) => {
                report.tensors += 1;
                if of_a.spec.shape != of_b.spec.shape {
                    let (of_a, of_b) = (of_a.spec.shape.clone(), of_b.spec.shape.clone());
                    report.differences.push(Difference::Shape(fqn.clone(), of_a, of_b));
                    continue;
                }
                if of_a.spec.dtype != of_b.spec.dtype {
                    report.differences.push(Difference::DType(fqn.clone(), of_a.spec.dtype, of_b.spec.dtype));
                }
                common.push(fqn);
            }
            (None, None) => {
                report.values += 1;
                let values = (a.value(fqn)?, b.value(fqn)?);
                if !equal_values(a, b, fqn, &values)? {
                    report.differences.push(Difference::Value(fqn.clone(), Box::new(values)));
                }
            }
            _ => report.differences.push(Difference::Kind(fqn.clone())),
        }
    }
    for fqn in in_b.tensors.keys().chain(in_b.values.keys()).filter(chosen).filter(|fqn| !has(in_a, fqn)) {
        report.differences.push(Difference::OnlyInB(fqn.clone()));
    }
    let queue = Queue::new(common);
    let shared = Mutex::new(&mut report);
    in_threads(options.threads.max(1), &|| {
        while let Some(fqn) = queue.next() {
            let (found, bytes) = diff_tensor(a, b, fqn, options, progress)?;
            let mut report = lock(&shared);
            report.differences.extend(found);
            report.bytes += bytes;
        }
        Ok(())
    })?;
    report.differences.sort_by(|x, y| x.fqn().cmp(y.fqn()));
    Ok(report)
}

/// Decoded values are compared; opaque ones by their archives, where both have one.
fn equal_values(a: &dyn Reader, b: &dyn Reader, fqn: &Fqn, values: &(Value, Value)) -> Result<bool> {
    if values.0.is_opaque() && values.1.is_opaque() {
        return Ok(a.value_archive(fqn)? == b.value_archive(fqn)?);
    }
    Ok(values.0 == values.1)
}

fn diff_tensor(
    a: &dyn Reader,
    b: &dyn Reader,
    fqn: &Fqn,
    options: &DiffOptions,
    progress: &dyn Progress,
) -> Result<(Option<Difference>, u64)> {
    let (a, b) = (TensorReader::new(a, fqn.as_str())?, TensorReader::new(b, fqn.as_str())?);
    let mut tally = Tally::default();
    let mut bytes = 0;
    let strips = strips_of(a.spec());
    for strip in strips {
        let mut of_a = vec![0; a.spec().dtype.bytes(strip.elements()).unwrap_or(0) as usize];
        let mut of_b = vec![0; b.spec().dtype.bytes(strip.elements()).unwrap_or(0) as usize];
        a.read(&strip, &mut of_a)?;
        b.read(&strip, &mut of_b)?;
        let same_type = a.spec().dtype == b.spec().dtype;
        if !(same_type && of_a == of_b) {
            tally.compare((a.spec().dtype, &of_a), (b.spec().dtype, &of_b), &strip, options);
        }
        bytes += of_a.len() as u64;
        progress.advance(of_a.len() as u64);
    }
    let total = a.spec().elements().unwrap_or(0);
    let Tally { count, first, max_abs } = tally;
    let found = (count > 0).then(|| Difference::Elements { fqn: fqn.clone(), count, total, first, max_abs });
    Ok((found, bytes))
}

/// Strips of whole blocks; a tensor whose last dim does not fill blocks comes whole.
fn strips_of(spec: &TensorSpec) -> Vec<Region> {
    let per_block = spec.dtype.block_elements();
    let whole = Region::whole(&spec.shape);
    if per_block == 1 {
        return whole.strips(STRIP_BYTES / spec.dtype.block_bytes()).collect();
    }
    let Some((&last, outer)) = spec.shape.split_last().filter(|(last, _)| **last % per_block == 0) else {
        return vec![whole];
    };
    let blocks = [outer, &[last / per_block]].concat();
    let in_elements = |mut strip: Region| {
        if let (Some(start), Some(extent)) = (strip.start.last_mut(), strip.extent.last_mut()) {
            *start *= per_block;
            *extent *= per_block;
        }
        strip
    };
    Region::whole(&blocks).strips(STRIP_BYTES / spec.dtype.block_bytes()).map(in_elements).collect()
}

#[derive(Default)]
struct Tally {
    count: u64,
    first: Vec<u64>,
    max_abs: Option<f64>,
}

impl Tally {
    fn compare(&mut self, a: (DType, &[u8]), b: (DType, &[u8]), strip: &Region, options: &DiffOptions) {
        let exact = a.0 == b.0 && options.rtol == 0.0 && options.atol == 0.0;
        match (to_f64(a.0, a.1), to_f64(b.0, b.1)) {
            (Some(of_a), Some(of_b)) => {
                let per_element = if matches!(a.0, DType::C64 | DType::C128) { 2 } else { 1 };
                let block_bytes = a.0.block_bytes() as usize / per_element;
                let bits = |index: usize| index * block_bytes..(index + 1) * block_bytes;
                let mut counted = None;
                for (index, (x, y)) in of_a.iter().zip(&of_b).enumerate() {
                    let both_nan = x.is_nan() && y.is_nan();
                    let close = (x - y).abs() <= options.atol + options.rtol * y.abs();
                    let differs = match exact {
                        true => a.1[bits(index)] != b.1[bits(index)],
                        false => x != y && !both_nan && !close,
                    };
                    let element = index / per_element;
                    if differs && counted != Some(element) {
                        counted = Some(element);
                        self.add(element as u64, strip);
                    }
                    if differs && !both_nan {
                        self.max_abs = Some(self.max_abs.unwrap_or(0.0).max((x - y).abs()));
                    }
                }
            }
            _ => {
                let block_bytes = a.0.block_bytes() as usize;
                let pairs = a.1.chunks(block_bytes).zip(b.1.chunks(block_bytes)).enumerate();
                for (index, _) in pairs.filter(|(_, (x, y))| x != y) {
                    self.add(index as u64 * a.0.block_elements(), strip);
                }
            }
        }
    }

    fn add(&mut self, element: u64, strip: &Region) {
        if self.count == 0 {
            let mut rest = element;
            self.first = strip.start.clone();
            for dim in (0..strip.rank()).rev() {
                self.first[dim] += rest % strip.extent[dim];
                rest /= strip.extent[dim];
            }
        }
        self.count += 1;
    }
}
