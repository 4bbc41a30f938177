//! How a frame's bytes are compressed. `docs/format-titan.md` section 6.
//!
//! | codec | name | stored bytes |
//! |---|---|---|
//! | 0 | raw | the elements |
//! | 1 | exp | 2-byte floats: each element rotated left by 1 bit, so that the exponent fills the top byte; then as 2 |
//! | 2 | planes | byte k of every element together, least significant first, each plane one zstd frame |
//!
//! Weights and optimizer state have no repeats to find; what compresses is the skew of the exponent's byte. So zstd
//! runs at level -100, which looks for next to no matches, with Huffman coding of literals forced, which it would
//! leave out at that level. Measured in bytes and in bytes per second that beats levels 1 and 3.

use crate::model::DType;
use std::io;
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, ParamSwitch};

/// The elements as they are.
pub(crate) const RAW: u8 = 0;
const EXP: u8 = 1;
const PLANES: u8 = 2;
/// zstd level: the larger the negative number, the fewer matches are looked for.
const LEVEL: i32 = -100;

/// Appends the stored form of `raw` to `stored` and returns its codec: raw where compression saves under 3 %.
pub(crate) fn encode(dtype: DType, raw: &[u8], stored: &mut Vec<u8>) -> u8 {
    let codec = if matches!(dtype, DType::F16 | DType::BF16) { EXP } else { PLANES };
    let planes = split(codec, dtype, raw);
    let from = stored.len();
    // zstd fails for want of memory only; raw is then still right.
    match compress(dtype, &planes, stored) {
        Ok(()) if (stored.len() - from) as u64 * 100 <= raw.len() as u64 * 97 => codec,
        _ => {
            stored.truncate(from);
            stored.extend_from_slice(raw);
            RAW
        }
    }
}

/// Restores the `raw_bytes` bytes that were stored. Allocates no more than about twice that.
///
/// Errors: an unknown codec, bytes that are not zstd's, another length; in words.
pub(crate) fn decode(codec: u8, dtype: DType, stored: &[u8], raw_bytes: usize) -> Result<Vec<u8>, String> {
    let planes = match codec {
        RAW => stored.to_vec(),
        EXP | PLANES => zstd::bulk::decompress(stored, raw_bytes).map_err(|error| error.to_string())?,
        other => return Err(format!("codec {other} is unknown; known: {RAW}, {EXP}, {PLANES}")),
    };
    if planes.len() != raw_bytes {
        return Err(format!("it holds {} bytes, expected {raw_bytes}", planes.len()));
    }
    Ok(if codec == RAW { planes } else { join(codec, dtype, planes) })
}

/// Bytes of the number that is split in planes: a complex element is two.
fn width(dtype: DType) -> usize {
    match dtype {
        DType::C32 => 2,
        DType::C64 => 4,
        DType::C128 => 8,
        other => other.block_bytes() as usize,
    }
}

fn compress(dtype: DType, planes: &[u8], stored: &mut Vec<u8>) -> io::Result<()> {
    let width = width(dtype);
    let mut compressor = Compressor::new(LEVEL)?;
    compressor.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
    let plane = planes.len() / width;
    for index in 0..width {
        // Bytes that fill no element follow the last plane.
        let end = if index + 1 == width { planes.len() } else { (index + 1) * plane };
        stored.extend_from_slice(&compressor.compress(&planes[index * plane..end])?);
    }
    Ok(())
}

fn split(codec: u8, dtype: DType, raw: &[u8]) -> Vec<u8> {
    let (width, mut planes) = (width(dtype), vec![0; raw.len()]);
    let plane = raw.len() / width;
    let (elements, rest) = raw.split_at(plane * width);
    if codec == EXP {
        let (low, high) = planes.split_at_mut(plane);
        for ((element, low), high) in elements.chunks_exact(2).zip(low).zip(high) {
            [*low, *high] = u16::from_le_bytes([element[0], element[1]]).rotate_left(1).to_le_bytes();
        }
    } else {
        for (index, target) in planes.chunks_exact_mut(plane.max(1)).take(width).enumerate() {
            for (element, byte) in elements.chunks_exact(width).zip(target) {
                *byte = element[index];
            }
        }
    }
    planes[plane * width..].copy_from_slice(rest);
    planes
}

fn join(codec: u8, dtype: DType, planes: Vec<u8>) -> Vec<u8> {
    let (width, mut raw) = (width(dtype), vec![0; planes.len()]);
    let plane = planes.len() / width;
    let (elements, rest) = raw.split_at_mut(plane * width);
    if codec == EXP {
        let (low, high) = planes.split_at(plane);
        for ((element, low), high) in elements.chunks_exact_mut(2).zip(low).zip(high) {
            let number = u16::from_le_bytes([*low, *high]).rotate_right(1);
            element.copy_from_slice(&number.to_le_bytes());
        }
    } else {
        for (index, source) in planes.chunks_exact(plane.max(1)).take(width).enumerate() {
            for (element, byte) in elements.chunks_exact_mut(width).zip(source) {
                element[index] = *byte;
            }
        }
    }
    rest.copy_from_slice(&planes[plane * width..]);
    raw
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;
    use proptest::prelude::*;

    /// Bell-shaped numbers of about 0.02, as weights are.
    fn weights(count: usize) -> impl Iterator<Item = f32> {
        let mut state = 1u64;
        let mut uniform = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 40) as f32 / (1 << 24) as f32
        };
        (0..count).map(move |_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02)
    }

    fn encoded(dtype: DType, raw: &[u8]) -> (u8, f64) {
        let mut stored = vec![9, 9];
        let codec = encode(dtype, raw, &mut stored);
        assert_eq!(&stored[..2], [9, 9]);
        assert_eq!(decode(codec, dtype, &stored[2..], raw.len()).unwrap(), raw);
        (codec, raw.len() as f64 / (stored.len() - 2) as f64)
    }

    #[test]
    fn weights_compress_as_measured() {
        let raw: Vec<u8> = weights(1 << 20).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        let (codec, ratio) = encoded(DType::BF16, &raw);
        assert!(codec == EXP && ratio > 1.45, "codec {codec}, ratio {ratio}");
        let raw: Vec<u8> = weights(1 << 20).flat_map(f32::to_le_bytes).collect();
        let (codec, ratio) = encoded(DType::F32, &raw);
        assert!(codec == PLANES && ratio > 1.15, "codec {codec}, ratio {ratio}");
        let raw: Vec<u8> = weights(1 << 18).flat_map(|x| bf16::from_f32(x).to_f32().to_le_bytes()).collect();
        let (codec, ratio) = encoded(DType::F32, &raw);
        assert!(codec == PLANES && ratio > 2.5, "codec {codec}, ratio {ratio}");
    }

    #[test]
    fn what_does_not_compress_is_stored_raw() {
        let mut state = 1u64;
        let noise: Vec<u8> = (0..100_000)
            .map(|_| {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 56) as u8
            })
            .collect();
        assert_eq!(encoded(DType::U8, &noise).0, RAW);
        assert_eq!(encoded(DType::F32, &[1, 2, 3, 4]).0, RAW);
        assert_eq!(encoded(DType::F64, &[]).0, RAW);
    }

    #[test]
    fn damaged_frames_are_errors() {
        let raw = vec![7; 10_000];
        let mut stored = Vec::new();
        assert_eq!(encode(DType::F32, &raw, &mut stored), PLANES);
        assert!(decode(PLANES, DType::F32, &stored, 9_999).is_err());
        assert!(decode(PLANES, DType::F32, &stored, 10_001).is_err());
        assert!(decode(PLANES, DType::F32, &stored[1..], 10_000).is_err());
        assert!(decode(3, DType::F32, &stored, 10_000).unwrap_err().contains("codec 3"));
        assert!(decode(RAW, DType::F32, &stored, 10_000).is_err());
    }

    proptest! {
        #[test]
        fn every_type_and_length_comes_back(
            raw in proptest::collection::vec(prop_oneof![Just(0u8), any::<u8>()], 0..400),
            repeat in 1usize..20,
        ) {
            let raw = raw.repeat(repeat);
            for dtype in DType::all() {
                encoded(dtype, &raw);
            }
        }

        #[test]
        fn no_stored_bytes_panic(
            codec in 0u8..4, stored in proptest::collection::vec(any::<u8>(), 0..200), raw_bytes in 0usize..500,
        ) {
            let _ = decode(codec, DType::BF16, &stored, raw_bytes);
        }
    }
}
