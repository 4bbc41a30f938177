//! Converts floating-point elements between types, rounding to nearest even as PyTorch's `tensor.to` does.

use super::DType;
use half::{bf16, f16};

/// Whether [`cast`] converts between the two types.
pub fn can_cast(from: DType, to: DType) -> bool {
    from == to || (from.is_float() && matches!(to, DType::F64 | DType::F32 | DType::F16 | DType::BF16))
}

/// Converts packed elements; `target` must have room for as many elements as `source` holds.
///
/// Panics: where [`can_cast`] says no, or sizes do not agree.
pub fn cast(from: DType, source: &[u8], to: DType, target: &mut [u8]) {
    assert!(can_cast(from, to), "no conversion from {from} to {to}");
    let elements = source.len() / from.block_bytes() as usize;
    assert_eq!(target.len(), elements * to.block_bytes() as usize);
    match from {
        _ if from == to => target.copy_from_slice(source),
        // PyTorch converts double to a half type through float, so twice-rounded ties are matched on purpose.
        DType::F64 => {
            widen(source.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32), to, target)
        }
        DType::F32 => widen(source.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)), to, target),
        DType::F16 => {
            widen(source.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()), to, target)
        }
        DType::BF16 => {
            widen(source.as_chunks::<2>().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()), to, target)
        }
        _ => {
            let table: Vec<f32> = (0..=255).map(|bits| float8(from, bits)).collect();
            widen(source.iter().map(|&bits| table[bits as usize]), to, target);
        }
    }
}

fn widen(values: impl Iterator<Item = f32>, to: DType, target: &mut [u8]) {
    match to {
        DType::F64 => fill(values.map(|v| f64::from(v).to_le_bytes()), target),
        DType::F32 => fill(values.map(f32::to_le_bytes), target),
        DType::F16 => fill(values.map(|v| f16::from_f32(v).to_le_bytes()), target),
        _ => fill(values.map(|v| bf16::from_f32(v).to_le_bytes()), target),
    }
}

fn fill<const BYTES: usize>(values: impl Iterator<Item = [u8; BYTES]>, target: &mut [u8]) {
    target.as_chunks_mut::<BYTES>().0.iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

/// The value of an 8-bit float. Sources: OCP 8-bit Floating Point Specification 1.0 (E4M3, E5M2); the `fnuz` variants
/// as in PyTorch 2.11, c10/util/Float8_*fnuz.h: bias one higher, no infinities, `0x80` the only NaN.
fn float8(dtype: DType, bits: u8) -> f32 {
    let (exponent_bits, bias, fnuz) = match dtype {
        DType::F8E4M3 => (4, 7, false),
        DType::F8E4M3Fnuz => (4, 8, true),
        DType::F8E5M2 => (5, 15, false),
        _ => (5, 16, true),
    };
    let mantissa_bits = 7 - exponent_bits;
    let exponent = i32::from(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = f32::from(bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits) as f32;
    let sign = if bits & 0x80 == 0 { 1.0 } else { -1.0 };
    let top = (1 << exponent_bits) - 1;
    match dtype {
        _ if fnuz && bits == 0x80 => f32::NAN,
        DType::F8E4M3 if bits & 0x7f == 0x7f => f32::NAN,
        DType::F8E5M2 if exponent == top && mantissa == 0.0 => sign * f32::INFINITY,
        DType::F8E5M2 if exponent == top => f32::NAN,
        _ if exponent == 0 => sign * mantissa * 2f32.powi(1 - bias),
        _ => sign * (1.0 + mantissa) * 2f32.powi(exponent - bias),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(from: DType, source: &[u8], to: DType) -> Vec<u8> {
        let mut target = vec![0; source.len() / from.block_bytes() as usize * to.block_bytes() as usize];
        cast(from, source, to, &mut target);
        target
    }

    #[test]
    fn rounds_to_nearest_even_and_keeps_specials() {
        let f32s = |v: f32| v.to_le_bytes();
        // 1 + 2^-8 is halfway between two bf16 values; the even one is 1.0.
        assert_eq!(
            one(DType::F32, &f32s(1.0 + 2f32.powi(-8)), DType::BF16),
            bf16::from_f32(1.0).to_le_bytes()
        );
        assert_eq!(one(DType::F32, &f32s(f32::INFINITY), DType::F16), f16::INFINITY.to_le_bytes());
        assert_eq!(one(DType::F32, &f32s(70000.0), DType::F16), f16::INFINITY.to_le_bytes());
        let nan = one(DType::F64, &f64::NAN.to_le_bytes(), DType::BF16);
        assert!(bf16::from_le_bytes([nan[0], nan[1]]).is_nan());
        // Just above a tie of bf16, but on it once rounded to f32: PyTorch 2.11 gives the even neighbour.
        let above = 1.0 + 2f64.powi(-8) + 1e-12;
        assert_eq!(one(DType::F64, &above.to_le_bytes(), DType::BF16), bf16::from_f32(1.0).to_le_bytes());
    }

    #[test]
    fn float8_values() {
        assert_eq!(float8(DType::F8E4M3, 0x7e), 448.0);
        assert!(float8(DType::F8E4M3, 0xff).is_nan());
        assert_eq!(float8(DType::F8E4M3, 0x01), 2f32.powi(-9));
        assert_eq!(float8(DType::F8E5M2, 0x7b), 57344.0);
        assert_eq!(float8(DType::F8E5M2, 0xfc), f32::NEG_INFINITY);
        assert_eq!(float8(DType::F8E4M3Fnuz, 0x7f), 240.0);
        assert_eq!(float8(DType::F8E5M2Fnuz, 0x7f), 57344.0);
        assert!(float8(DType::F8E5M2Fnuz, 0x80).is_nan());
        assert_eq!(float8(DType::F8E4M3, 0xb8), -1.0);
    }
}
