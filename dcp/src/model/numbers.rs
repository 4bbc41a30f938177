//! Elements as numbers: for comparing, counting and showing them.

use super::{DType, can_cast, cast};

/// Decodes packed elements to `f64`, two numbers (real, imaginary) for each complex one. 64-bit integers beyond 2^53
/// lose their last bits. `None` for the types without a plain numeric reading here (`F4`, `F6`, `F8_E8M0`, `C32`).
pub fn to_f64(dtype: DType, bytes: &[u8]) -> Option<Vec<f64>> {
    macro_rules! decode {
        ($type:ty) => {
            bytes
                .as_chunks::<{ size_of::<$type>() }>()
                .0
                .iter()
                .map(|b| <$type>::from_le_bytes(*b) as f64)
                .collect()
        };
    }
    Some(match dtype {
        DType::Bool | DType::U8 => bytes.iter().map(|&byte| f64::from(byte)).collect(),
        DType::I8 => decode!(i8),
        DType::U16 => decode!(u16),
        DType::I16 => decode!(i16),
        DType::U32 => decode!(u32),
        DType::I32 => decode!(i32),
        DType::U64 => decode!(u64),
        DType::I64 => decode!(i64),
        DType::F32 | DType::C64 => decode!(f32),
        DType::F64 | DType::C128 => decode!(f64),
        float if can_cast(float, DType::F64) => {
            let elements = bytes.len() / float.block_bytes() as usize;
            let mut wide = vec![0; elements * 8];
            cast(float, bytes, DType::F64, &mut wide);
            wide.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        }
        _ => return None,
    })
}

/// Number of elements that are not numbers, and that are infinite.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct NonFinite {
    /// NaNs.
    pub nan: u64,
    /// Infinities of either sign.
    pub inf: u64,
}

impl NonFinite {
    /// Counts in packed elements of a floating-point or complex type; other types have none.
    pub fn count(dtype: DType, bytes: &[u8]) -> Self {
        let tally = |exponent_full: u64, nan: u64| NonFinite { nan, inf: exponent_full - nan };
        match dtype {
            DType::F32 | DType::C64 => {
                let bits = bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b) & 0x7fff_ffff);
                tally(
                    bits.clone().filter(|&b| b >= 0x7f80_0000).count() as u64,
                    bits.filter(|&b| b > 0x7f80_0000).count() as u64,
                )
            }
            DType::F64 | DType::C128 => {
                let infinite = 0x7ff0_0000_0000_0000;
                let bits = bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b) & (u64::MAX >> 1));
                tally(
                    bits.clone().filter(|&b| b >= infinite).count() as u64,
                    bits.filter(|&b| b > infinite).count() as u64,
                )
            }
            DType::F16 | DType::BF16 | DType::C32 => {
                let infinite = if dtype == DType::BF16 { 0x7f80 } else { 0x7c00 };
                let bits = bytes.as_chunks::<2>().0.iter().map(|b| u16::from_le_bytes(*b) & 0x7fff);
                tally(
                    bits.clone().filter(|&b| b >= infinite).count() as u64,
                    bits.filter(|&b| b > infinite).count() as u64,
                )
            }
            DType::F8E4M3 | DType::F8E4M3Fnuz | DType::F8E5M2 | DType::F8E5M2Fnuz => {
                let values = to_f64(dtype, bytes).unwrap_or_default();
                let count = |test: fn(&&f64) -> bool| values.iter().filter(test).count() as u64;
                NonFinite { nan: count(|v| v.is_nan()), inf: count(|v| v.is_infinite()) }
            }
            DType::F8E8M0 => {
                NonFinite { nan: bytes.iter().filter(|&&byte| byte == 0xff).count() as u64, inf: 0 }
            }
            _ => NonFinite::default(),
        }
    }

    /// Both counts together with another's.
    pub fn plus(self, other: Self) -> Self {
        NonFinite { nan: self.nan + other.nan, inf: self.inf + other.inf }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_is_not_finite() {
        let bytes: Vec<u8> = [1.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, f32::MAX]
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        assert_eq!(NonFinite::count(DType::F32, &bytes), NonFinite { nan: 2, inf: 2 });
        assert_eq!(NonFinite::count(DType::BF16, &[0x80, 0x7f, 0xc1, 0xff]), NonFinite { nan: 1, inf: 1 });
        assert_eq!(NonFinite::count(DType::F8E4M3, &[0x7f, 0x7e, 0xff]), NonFinite { nan: 2, inf: 0 });
        assert_eq!(NonFinite::count(DType::I32, &[0xff; 4]), NonFinite::default());
    }

    #[test]
    fn reads_numbers_of_every_plain_type() {
        assert_eq!(to_f64(DType::I16, &[0xff, 0xff, 2, 0]), Some(vec![-1.0, 2.0]));
        assert_eq!(to_f64(DType::BF16, &[0x80, 0x3f]), Some(vec![1.0]));
        assert_eq!(to_f64(DType::F4, &[0]), None);
    }
}
