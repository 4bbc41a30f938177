//! Writes a region of a tensor as a numpy file.
//!
//! | bytes | content |
//! |---|---|
//! | 6 | `\x93NUMPY` |
//! | 2 | version 1.0 |
//! | 2 | length of the header, little-endian |
//! | header | a Python dict, padded with spaces and ended by a newline, so that the data is aligned to 64 bytes |
//! | rest | the elements, row-major |
//!
//! Source: numpy/lib/format.py, numpy 2.

use crate::error::{CliError, Result};
use dcp::copy::TensorReader;
use dcp::layout::Region;
use dcp::model::DType;
use dcp::storage::Place;

/// Bytes read and written at once.
const STRIP_BYTES: u64 = 16 << 20;
const ALIGNMENT_BYTES: usize = 64;

/// numpy's name of a type, and whether it is the type itself or only its bits.
fn descr(dtype: DType) -> Option<(&'static str, bool)> {
    Some(match dtype {
        DType::Bool => ("|b1", true),
        DType::U8 => ("|u1", true),
        DType::I8 => ("|i1", true),
        DType::U16 => ("<u2", true),
        DType::I16 => ("<i2", true),
        DType::U32 => ("<u4", true),
        DType::I32 => ("<i4", true),
        DType::U64 => ("<u8", true),
        DType::I64 => ("<i8", true),
        DType::F16 => ("<f2", true),
        DType::F32 => ("<f4", true),
        DType::F64 => ("<f8", true),
        DType::C64 => ("<c8", true),
        DType::C128 => ("<c16", true),
        other if other.block_elements() != 1 => return None,
        other => match other.block_bytes() {
            1 => ("|u1", false),
            2 => ("<u2", false),
            4 => ("<u4", false),
            _ => return None,
        },
    })
}

/// Writes the region with the dims that are kept. Returns a note where numpy has no such type and bits are written.
///
/// Errors: a type that packs elements into groups; what reading and writing give.
pub(crate) fn write(
    source: &TensorReader<'_>,
    region: &Region,
    kept: &[bool],
    place: &Place,
) -> Result<Option<String>> {
    let dtype = source.spec().dtype;
    let Some((descr, exact)) = descr(dtype) else {
        return Err(CliError::usage(format!(
            "{dtype} packs several elements into a byte, which numpy cannot hold"
        )));
    };
    let shape = region.extent.iter().zip(kept).filter(|(_, kept)| **kept).map(|(extent, _)| *extent);
    let header = header(descr, &shape.collect::<Vec<_>>());
    let data_bytes = dtype.bytes(region.elements());
    let byte_len = data_bytes.and_then(|data| data.checked_add(header.len() as u64));
    let byte_len = byte_len.ok_or_else(|| CliError::usage("the slice is over 2^64 bytes"))?;
    let writer = place.store.create(&place.key, Some(byte_len))?;
    writer.write_at(0, &header)?;
    let mut byte_offset = header.len() as u64;
    let mut buffer = Vec::new();
    for strip in region.strips(STRIP_BYTES / dtype.block_bytes()) {
        let strip_bytes = dtype.bytes(strip.elements()).unwrap_or(0);
        buffer.resize(strip_bytes as usize, 0);
        source.read(&strip, &mut buffer)?;
        writer.write_at(byte_offset, &buffer)?;
        byte_offset += strip_bytes;
    }
    writer.finish()?;
    let bits = dtype.block_bytes() * 8;
    Ok((!exact).then(|| format!("numpy has no {dtype}; its bits are written as uint{bits}")))
}

fn header(descr: &str, shape: &[u64]) -> Vec<u8> {
    const FIXED_BYTES: usize = 10;
    let dims: Vec<_> = shape.iter().map(u64::to_string).collect();
    let comma = if dims.len() == 1 { "," } else { "" };
    let dict =
        format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}{comma}), }}", dims.join(", "));
    let end = (FIXED_BYTES + dict.len() + 1).next_multiple_of(ALIGNMENT_BYTES);
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    // A shape has few dims, so that the header is far from 2^16 bytes; were it not, numpy would refuse the file.
    bytes.extend(((end - FIXED_BYTES) as u16).to_le_bytes());
    bytes.extend(dict.as_bytes());
    bytes.resize(end - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_aligned_and_spell_tuples_as_python_does() {
        for (shape, text) in [(&[][..], "()"), (&[3][..], "(3,)"), (&[3, 4][..], "(3, 4)")] {
            let header = header("<f4", shape);
            assert_eq!(header.len() % ALIGNMENT_BYTES, 0);
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}");
            assert!(header[10..].starts_with(text.as_bytes()));
            assert_eq!(usize::from(u16::from_le_bytes([header[8], header[9]])), header.len() - 10);
        }
    }
}
