//! Elements of tensors and arrays, and the brackets around them.

use super::numbers::Width;
use crate::model::DType;
use half::{bf16, f16};

/// Larger tensors and arrays are shown by their corners, as PyTorch and numpy do.
const SUMMARY_ELEMENTS_MIN: u64 = 1001;
/// Elements shown at either end of a dim of a summary.
const EDGE: u64 = 3;

/// One element.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Element {
    Bool(bool),
    Int(i128),
    Float(f64, Width),
    Complex([f64; 2], Width),
}

/// Decodes an element from its bytes. `None` where there are too few.
pub(super) fn element(dtype: DType, bytes: &[u8]) -> Option<Element> {
    /// The first `N` bytes from the `part`-th such group on.
    fn take<const N: usize>(bytes: &[u8], part: usize) -> Option<[u8; N]> {
        bytes.get(part * N..(part + 1) * N)?.try_into().ok()
    }
    let half = |part| take(bytes, part).map(|bits| f16::from_le_bytes(bits).to_f64());
    let single = |part| take(bytes, part).map(|bits| f64::from(f32::from_le_bytes(bits)));
    let double = |part| take(bytes, part).map(f64::from_le_bytes);
    Some(match dtype {
        DType::Bool => Element::Bool(*bytes.first()? != 0),
        DType::U8 | DType::F4x2 | DType::F4 | DType::F6E2M3 | DType::F6E3M2 => {
            Element::Int((*bytes.first()?).into())
        }
        DType::I8 => Element::Int(i8::from_le_bytes(take(bytes, 0)?).into()),
        DType::U16 => Element::Int(u16::from_le_bytes(take(bytes, 0)?).into()),
        DType::I16 => Element::Int(i16::from_le_bytes(take(bytes, 0)?).into()),
        DType::U32 => Element::Int(u32::from_le_bytes(take(bytes, 0)?).into()),
        DType::I32 => Element::Int(i32::from_le_bytes(take(bytes, 0)?).into()),
        DType::U64 => Element::Int(u64::from_le_bytes(take(bytes, 0)?).into()),
        DType::I64 => Element::Int(i64::from_le_bytes(take(bytes, 0)?).into()),
        DType::F16 => Element::Float(half(0)?, Width::F16),
        DType::BF16 => Element::Float(bf16::from_le_bytes(take(bytes, 0)?).to_f64(), Width::BF16),
        DType::F32 => Element::Float(single(0)?, Width::F32),
        DType::F64 => Element::Float(double(0)?, Width::F64),
        DType::C32 => Element::Complex([half(0)?, half(1)?], Width::F16),
        DType::C64 => Element::Complex([single(0)?, single(1)?], Width::F32),
        DType::C128 => Element::Complex([double(0)?, double(1)?], Width::F64),
        // An exponent alone; all bits set is NaN.
        DType::F8E8M0 => Element::Float(
            match *bytes.first()? {
                0xff => f64::NAN,
                exponent => 2f64.powi(i32::from(exponent) - 127),
            },
            Width::F32,
        ),
        DType::F8E4M3 | DType::F8E4M3Fnuz | DType::F8E5M2 | DType::F8E5M2Fnuz => {
            Element::Float(*crate::model::numbers::to_f64(dtype, bytes.get(..1)?)?.first()?, Width::F16)
        }
    })
}

/// Which elements of a row-major array are shown, and where the rest is left out.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    shape: &'a [u64],
    pub(super) summary: bool,
}

impl<'a> Shown<'a> {
    pub(super) fn new(shape: &'a [u64]) -> Self {
        let elements = shape.iter().fold(1u64, |product, &n| product.saturating_mul(n));
        Shown { shape, summary: elements >= SUMMARY_ELEMENTS_MIN }
    }

    /// The indexes shown of a dim of `size`; `None` for what is left out.
    fn indexes(&self, size: u64) -> Vec<Option<u64>> {
        if self.summary && size > 2 * EDGE {
            let (first, last) = ((0..EDGE).map(Some), (size - EDGE..size).map(Some));
            first.chain([None]).chain(last).collect()
        } else {
            (0..size).map(Some).collect()
        }
    }

    /// Positions of the elements shown, in order.
    pub(super) fn positions(&self) -> Vec<u64> {
        self.shape.iter().fold(vec![0], |positions, &size| {
            let indexes: Vec<u64> = self.indexes(size).into_iter().flatten().collect();
            let below = |position: u64| indexes.iter().map(move |index| position * size + index);
            positions.into_iter().flat_map(below).collect()
        })
    }

    /// Puts brackets around the texts of the elements shown. `left_out` stands for the rest of the innermost dim.
    pub(super) fn brackets(&self, texts: &[String], left_out: &str) -> String {
        let mut out = String::new();
        self.nest(&mut out, self.shape, &mut texts.iter(), left_out);
        out
    }

    fn nest<'t>(
        &self,
        out: &mut String,
        shape: &[u64],
        texts: &mut impl Iterator<Item = &'t String>,
        left_out: &str,
    ) {
        let Some((&size, inner)) = shape.split_first() else {
            out.push_str(texts.next().map_or("", String::as_str));
            return;
        };
        out.push('[');
        for (at, index) in self.indexes(size).into_iter().enumerate() {
            out.push_str(if at > 0 { ", " } else { "" });
            match index {
                Some(_) => self.nest(out, inner, texts, left_out),
                None => out.push_str(if inner.is_empty() { left_out } else { "..." }),
            }
        }
        out.push(']');
    }
}
