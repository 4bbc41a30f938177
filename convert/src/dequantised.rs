//! Quantised tensors as the bfloat16 that they stand for: a [`Reader`] that computes them when they are read.
//!
//! | names in the source | value of an element | here |
//! |---|---|---|
//! | `X` float8_e4m3fn `[O, I]`, `X_scale_inv` float32 `[ceil(O/128), ceil(I/128)]` | `f32(X[o, i]) * scale[o / 128, i / 128]` | `X` |
//! | `X_blocks` uint8 `[..., R, G, 16]`, `X_scales` uint8 `[..., R, G]` | `code * 2^(scale - 127)`, 32 of a group: byte `j` holds element `2j` in its low half, `2j + 1` in its high half | `X_blocks` `[..., R, 32 G]` |
//!
//! Both are rounded once to bfloat16, to the nearest, ties to even. A scale of 255 is no number by the specification of OCP
//! Microscaling, and 2^128 in the code that runs the model: it is an error here.
//!
//! Source: DeepSeek-V3 `inference/kernel.py` (`weight_dequant`); transformers `integrations/mxfp4.py`
//! (`convert_moe_packed_tensors`), 5.23; OCP Microscaling Formats v1.0, section 5.

use dcp::copy::TensorReader;
use dcp::format::{Elements, Reader};
use dcp::layout::Region;
use dcp::model::{Catalog, Chunk, ChunkTable, DType, Fqn, Tensor, TensorSpec, Value};
use dcp::storage::{Place, ReadAt};
use half::bf16;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

/// Rows and columns that share a scale, of 8 bits.
const TILE: u64 = 128;
/// Elements that share a scale, of 4 bits.
const GROUP: u64 = 32;
/// Rows computed at a time hold about so many elements.
const ELEMENTS: u64 = 1 << 16;
/// Longest row, of which one at least is held.
const COLUMNS_MAX: u64 = 1 << 24;
/// What the codes of 4 bits stand for; the upper half is negative.
const CODES: [f32; 16] =
    [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// How a tensor is packed, and in what.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Packing {
    Tiles { scales: Fqn },
    Groups { scales: Fqn },
}

/// A checkpoint without quantised tensors.
#[derive(Debug)]
pub struct Dequantised {
    source: Arc<dyn Reader>,
    catalog: Catalog,
    packed: HashMap<Fqn, Packing>,
}

/// The checkpoint as it is where nothing in it is quantised, else as what it stands for; and how many tensors that is.
///
/// Errors: [`dcp::Error::BadTensor`] for scales that do not fit.
pub fn dequantised(source: Arc<dyn Reader>) -> dcp::Result<(Arc<dyn Reader>, usize)> {
    let from = source.catalog();
    let mut packed: HashMap<Fqn, Packing> = HashMap::new();
    for (fqn, tensor) in &from.tensors {
        let with = |suffix: &str| {
            let scales = from.tensors.get_key_value(format!("{fqn}{suffix}").as_str());
            scales.map(|(name, tensor)| (name.clone(), tensor))
        };
        let blocks = fqn.as_str().strip_suffix("_blocks").filter(|_| tensor.spec.dtype == DType::U8);
        if let (DType::F8E4M3, Some((scales, found))) = (tensor.spec.dtype, with("_scale_inv")) {
            let tiles: Vec<u64> = tensor.spec.shape.iter().map(|len| len.div_ceil(TILE)).collect();
            let fits = tiles.len() == 2 && found.spec == TensorSpec::new(DType::F32, tiles);
            check(fits, fqn, &found.spec)?;
            packed.insert(fqn.clone(), Packing::Tiles { scales });
        } else if let Some((scales, found)) =
            blocks.and_then(|name| from.tensors.get_key_value(format!("{name}_scales").as_str()))
        {
            let shape = &tensor.spec.shape;
            let groups = shape.split_last().map(|(&bytes, rest)| (bytes, rest));
            let fits = groups == Some((GROUP / 2, &found.spec.shape[..]))
                && found.spec.dtype == DType::U8
                && shape.len() >= 3;
            check(fits, fqn, &found.spec)?;
            packed.insert(fqn.clone(), Packing::Groups { scales: scales.clone() });
        }
    }
    if packed.is_empty() {
        return Ok((source, 0));
    }
    let count = packed.len();
    let scales: Vec<&Fqn> = packed.values().map(Packing::scales).collect();
    let mut catalog = Catalog { objects: from.objects.clone(), step: from.step, ..Catalog::new(from.format) };
    catalog.findings = from.findings.clone();
    for (fqn, tensor) in from.tensors.iter().filter(|(fqn, _)| !scales.contains(fqn)) {
        let tensor = match packed.get(fqn) {
            None => tensor.clone(),
            Some(packing) => unpacked(fqn, packing, tensor)?,
        };
        catalog.tensors.insert(fqn.clone(), tensor);
    }
    drop(scales);
    Ok((Arc::new(Dequantised { source, catalog, packed }), count))
}

fn check(fits: bool, fqn: &Fqn, scales: &TensorSpec) -> dcp::Result<()> {
    let message =
        || format!("its scales are {} {:?}, which does not fit its shape", scales.dtype, scales.shape);
    if fits { Ok(()) } else { Err(dcp::Error::BadTensor { fqn: fqn.to_string(), message: message() }) }
}

/// The tensor that a packed one stands for: one chunk, in the object of its first.
fn unpacked(fqn: &Fqn, packing: &Packing, tensor: &Tensor) -> dcp::Result<Tensor> {
    let mut shape = tensor.spec.shape.clone();
    if let Packing::Groups { .. } = packing {
        shape.pop();
        shape.iter_mut().last().into_iter().for_each(|groups| *groups = groups.saturating_mul(GROUP));
    }
    if shape.last().is_some_and(|&columns| columns > COLUMNS_MAX) {
        let message = format!("rows of shape {shape:?} have more than {COLUMNS_MAX} elements");
        return Err(dcp::Error::BadTensor { fqn: fqn.to_string(), message });
    }
    let first = tensor.chunks.all(&tensor.spec.shape)?.into_iter().next();
    let object = first.map_or(0, |chunk| chunk.object);
    let chunk = Chunk { region: Region::whole(&shape), object, byte_offset: 0, byte_len: 0 };
    let spec = TensorSpec::new(DType::BF16, shape);
    Ok(Tensor { spec, path: tensor.path.clone(), chunks: ChunkTable::Listed(vec![chunk]), placements: None })
}

impl Packing {
    fn scales(&self) -> &Fqn {
        match self {
            Packing::Tiles { scales } | Packing::Groups { scales } => scales,
        }
    }
}

impl Reader for Dequantised {
    fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    fn place(&self) -> &Place {
        self.source.place()
    }

    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> dcp::Result<Elements> {
        match self.packed.get(fqn) {
            None => self.source.resolve(fqn, tensor, chunk),
            Some(packing) => {
                let (fqn, packing, shape) = (fqn.clone(), packing.clone(), tensor.spec.shape.clone());
                let source = Arc::new(Unpacked { source: self.source.clone(), fqn, packing, shape });
                Ok(Elements { source, byte_offset: 0, strides: None, crc32: None })
            }
        }
    }

    fn value(&self, fqn: &Fqn) -> dcp::Result<Value> {
        self.source.value(fqn)
    }
}

/// The bytes of one unpacked tensor, row-major bfloat16.
#[derive(Debug)]
struct Unpacked {
    source: Arc<dyn Reader>,
    fqn: Fqn,
    packing: Packing,
    shape: Vec<u64>,
}

impl ReadAt for Unpacked {
    fn byte_len(&self) -> u64 {
        2 * self.shape.iter().product::<u64>()
    }

    /// Computes the whole rows that hold the bytes, some at a time.
    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> dcp::Result<()> {
        let row_bytes = 2 * self.shape.last().copied().unwrap_or(0);
        let (packed, scales) = (
            TensorReader::new(&*self.source, self.fqn.as_str())?,
            TensorReader::new(&*self.source, self.packing.scales().as_str())?,
        );
        let (mut at, end) = (byte_offset, byte_offset + target.len() as u64);
        let mut rows = Vec::new();
        while at < end {
            let first = at / row_bytes;
            let last = end.div_ceil(row_bytes).min(first + (ELEMENTS / (row_bytes / 2)).max(1));
            rows.clear();
            match &self.packing {
                Packing::Tiles { .. } => self.tiles(&packed, &scales, first..last, &mut rows)?,
                Packing::Groups { .. } => self.groups(&packed, &scales, first..last, &mut rows)?,
            }
            let until = (last * row_bytes).min(end);
            let bytes = rows.iter().flat_map(|value| value.to_le_bytes());
            let part = &mut target[(at - byte_offset) as usize..(until - byte_offset) as usize];
            let skipped = (at - first * row_bytes) as usize;
            part.iter_mut().zip(bytes.skip(skipped)).for_each(|(target, byte)| *target = byte);
            at = until;
        }
        Ok(())
    }
}

impl Unpacked {
    fn tiles(
        &self,
        packed: &TensorReader,
        scales: &TensorReader,
        rows: std::ops::Range<u64>,
        target: &mut Vec<bf16>,
    ) -> dcp::Result<()> {
        let columns = self.shape[1];
        let tiles = columns.div_ceil(TILE);
        let values: &[f32; 256] = &VALUES;
        let mut bytes = vec![0; ((rows.end - rows.start) * columns) as usize];
        packed.read(&Region::new([rows.start, 0], [rows.end - rows.start, columns]), &mut bytes)?;
        let first_tile = rows.start / TILE;
        let tile_rows = rows.end.div_ceil(TILE) - first_tile;
        let mut factors = vec![0; (4 * tile_rows * tiles) as usize];
        scales.read(&Region::new([first_tile, 0], [tile_rows, tiles]), &mut factors)?;
        let factor = |row: u64, column: u64| {
            let at = 4 * ((row / TILE - first_tile) * tiles + column / TILE) as usize;
            f32::from_le_bytes([factors[at], factors[at + 1], factors[at + 2], factors[at + 3]])
        };
        for (row, bytes) in rows.zip(bytes.chunks_exact(columns as usize)) {
            for (first, tile) in (0..columns).step_by(TILE as usize).zip(bytes.chunks(TILE as usize)) {
                let factor = factor(row, first);
                target.extend(tile.iter().map(|&byte| bf16::from_f32(values[usize::from(byte)] * factor)));
            }
        }
        Ok(())
    }

    fn groups(
        &self,
        packed: &TensorReader,
        scales: &TensorReader,
        rows: std::ops::Range<u64>,
        target: &mut Vec<bf16>,
    ) -> dcp::Result<()> {
        let outer = &self.shape[..self.shape.len() - 1];
        let groups = self.shape[self.shape.len() - 1] / GROUP;
        let (mut bytes, mut exponents) = (vec![0; (groups * GROUP / 2) as usize], vec![0; groups as usize]);
        for row in rows {
            let (mut start, mut rest) = (vec![0; outer.len()], row);
            for (at, len) in start.iter_mut().zip(outer).rev() {
                (*at, rest) = (rest % len, rest / len);
            }
            let mut extent = vec![1; outer.len()];
            start.push(0);
            extent.push(groups);
            scales.read(&Region::new(&start[..], &extent[..]), &mut exponents)?;
            start.push(0);
            extent.push(GROUP / 2);
            packed.read(&Region::new(&start[..], &extent[..]), &mut bytes)?;
            for (bytes, &exponent) in bytes.chunks_exact(GROUP as usize / 2).zip(&exponents) {
                if exponent == u8::MAX {
                    let message = format!("row {row} has a scale of 255, which is no number");
                    return Err(dcp::Error::BadTensor { fqn: self.fqn.to_string(), message });
                }
                let factor = power_of_two(exponent);
                for byte in bytes {
                    let codes = [byte & 15, byte >> 4].map(usize::from);
                    target.extend(codes.map(|code| bf16::from_f32(CODES[code] * factor)));
                }
            }
        }
        Ok(())
    }
}

/// 2^(exponent - 127), exactly; the least is no normal number.
fn power_of_two(exponent: u8) -> f32 {
    f32::from_bits(if exponent == 0 { 1 << 22 } else { u32::from(exponent) << 23 })
}

/// The value of every byte.
static VALUES: LazyLock<[f32; 256]> = LazyLock::new(|| std::array::from_fn(|byte| e4m3(byte as u8)));

/// A float of 4 bits exponent and 3 bits mantissa, without infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * (exponent as f32 - 7.0).exp2(),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dcp::model::numbers;

    #[test]
    fn codes_are_those_of_the_specification() {
        assert_eq!(power_of_two(127), 1.0);
        assert_eq!(power_of_two(128), 2.0);
        assert_eq!(f64::from(power_of_two(0)), 2f64.powi(-127));
        assert_eq!(f64::from(power_of_two(254)), 2f64.powi(127));
        for (byte, value) in [
            (0x00, 0.0),
            (0x01, 2f32.powi(-9)),
            (0x07, 7.0 * 2f32.powi(-9)),
            (0x08, 2f32.powi(-6)),
            (0x38, 1.0),
            (0x7e, 448.0),
            (0xfe, -448.0),
            (0x80, -0.0),
        ] {
            assert_eq!(e4m3(byte).to_bits(), f32::to_bits(value), "{byte:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        // As the rest of the program reads this type.
        let bytes: Vec<u8> = (0..=u8::MAX).collect();
        for (byte, value) in bytes.iter().zip(numbers::to_f64(DType::F8E4M3, &bytes).unwrap()) {
            let found = f64::from(e4m3(*byte));
            assert!(found.to_bits() == value.to_bits() || found.is_nan() && value.is_nan(), "{byte:#x}");
        }
    }
}
