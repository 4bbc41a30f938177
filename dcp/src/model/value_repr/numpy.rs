//! numpy's scalars and arrays as numpy 2 prints them, on one line.
//!
//! Source: `numpy/_core/arrayprint.py`, numpy 2.4.

use super::elements::{Element, Shown, element};
use super::numbers::{Width, complex_repr, non_finite, positional, scalar_repr, scientific};
use super::{bytes_repr, str_repr};
use crate::model::{DType, NumpyType};

/// Digits behind the point.
const PRECISION: usize = 8;

/// An element that numpy has and PyTorch has not, too.
#[derive(Clone, Debug)]
enum Item {
    Number(Element),
    Text(String),
    Bytes(Vec<u8>),
}

pub(super) fn scalar(dtype: &str, bytes: &[u8]) -> String {
    let Some((numpy, item)) = NumpyType::parse(dtype).and_then(|numpy| Some((numpy, item(&numpy, bytes)?)))
    else {
        return unreadable(dtype, bytes);
    };
    match item {
        Item::Number(Element::Bool(flag)) => if flag { "np.True_" } else { "np.False_" }.to_owned(),
        Item::Number(Element::Int(int)) => format!("np.{}({int})", name(&numpy)),
        Item::Number(Element::Float(number, width)) => {
            format!("np.{}({})", name(&numpy), scalar_repr(number, width))
        }
        Item::Number(Element::Complex([re, im], width)) => {
            let text = complex_repr(re, im, width);
            let inner = text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(&text);
            format!("np.{}({inner})", name(&numpy))
        }
        Item::Text(text) => format!("np.str_({})", str_repr(&text)),
        Item::Bytes(bytes) => format!("np.bytes_({})", bytes_repr(&bytes)),
    }
}

pub(super) fn array(dtype: &str, shape: &[u64], bytes: &[u8]) -> String {
    let shown = Shown::new(shape);
    let empty = shape.contains(&0);
    let Some((numpy, items)) = NumpyType::parse(dtype).and_then(|numpy| {
        let read = |at: u64| item(&numpy, bytes.get((at * numpy.item_bytes) as usize..)?);
        let items: Option<Vec<Item>> = shown.positions().into_iter().map(read).collect();
        Some((numpy, items?))
    }) else {
        return format!("array({})", unreadable(dtype, bytes));
    };
    let elements = match empty {
        true => "[]".to_owned(),
        false => shown.brackets(&texts(&items, shape.is_empty()), "..."),
    };
    let mut text = format!("array({elements}");
    if (empty && shape != [0]) || shown.summary {
        let sizes: Vec<_> = shape.iter().map(u64::to_string).collect();
        let comma = if sizes.len() == 1 { "," } else { "" };
        text += &format!(", shape=({}{comma})", sizes.join(", "));
    }
    let implied = matches!(
        (numpy.order, numpy.kind, numpy.item_bytes),
        (_, 'b', _) | ('<', 'i' | 'f', 8) | ('<', 'c', 16)
    );
    if empty || !implied {
        text += &match (numpy.order, numpy.kind) {
            ('>', _) | (_, 'S' | 'U') => format!(", dtype='{numpy}'"),
            _ => format!(", dtype={}", name(&numpy)),
        };
    }
    text + ")"
}

fn unreadable(dtype: &str, bytes: &[u8]) -> String {
    format!("<{} bytes of {dtype}>", bytes.len())
}

/// numpy's name of a numeric type.
fn name(numpy: &NumpyType) -> String {
    let kind = match numpy.kind {
        'b' => return "bool".to_owned(),
        'i' => "int",
        'u' => "uint",
        'c' => "complex",
        _ => "float",
    };
    format!("{kind}{}", numpy.item_bytes * 8)
}

/// Decodes an element. `None` for the 80-bit and 128-bit floats.
fn item(numpy: &NumpyType, bytes: &[u8]) -> Option<Item> {
    let mut bytes = bytes.get(..numpy.item_bytes as usize)?.to_vec();
    let dtype = match (numpy.kind, numpy.item_bytes) {
        ('b', _) => DType::Bool,
        ('i', 1) => DType::I8,
        ('i', 2) => DType::I16,
        ('i', 4) => DType::I32,
        ('i', 8) => DType::I64,
        ('u', 1) => DType::U8,
        ('u', 2) => DType::U16,
        ('u', 4) => DType::U32,
        ('u', 8) => DType::U64,
        ('f', 2) => DType::F16,
        ('f', 4) => DType::F32,
        ('f', 8) => DType::F64,
        ('c', 8) => DType::C64,
        ('c', 16) => DType::C128,
        ('S', _) => {
            let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            bytes.truncate(end);
            return Some(Item::Bytes(bytes));
        }
        ('U', _) => {
            let code = |unit: &[u8; 4]| match numpy.order {
                '>' => u32::from_be_bytes(*unit),
                _ => u32::from_le_bytes(*unit),
            };
            let text: Option<String> =
                bytes.as_chunks::<4>().0.iter().map(|unit| char::from_u32(code(unit))).collect();
            return Some(Item::Text(text?.trim_end_matches('\0').to_owned()));
        }
        _ => return None,
    };
    if numpy.order == '>' {
        let part = if numpy.kind == 'c' { bytes.len() / 2 } else { bytes.len() };
        bytes.chunks_mut(part.max(1)).for_each(<[u8]>::reverse);
    }
    element(dtype, &bytes).map(Item::Number)
}

/// Texts of elements, of one width where they are numbers.
fn texts(items: &[Item], is_0d: bool) -> Vec<String> {
    let numbers: Vec<[f64; 2]> = items
        .iter()
        .filter_map(|item| match item {
            Item::Number(Element::Float(number, _)) => Some([*number, 0.0]),
            Item::Number(Element::Complex(parts, _)) => Some(*parts),
            _ => None,
        })
        .collect();
    let width = items.iter().find_map(|item| match item {
        Item::Number(Element::Float(_, width) | Element::Complex(_, width)) => Some(*width),
        _ => None,
    });
    let width = width.unwrap_or(Width::F64);
    let part = |part: usize| numbers.iter().map(|parts| parts[part]).collect::<Vec<_>>();
    let real = FloatFormat::of(&part(0), width, false);
    let imaginary = FloatFormat::of(&part(1), width, true);
    let int_width = items.iter().map(|item| match item {
        Item::Number(Element::Int(int)) => int.to_string().len(),
        _ => 0,
    });
    let int_width = int_width.max().unwrap_or(0);
    let text = |item: &Item| match item {
        Item::Number(Element::Bool(true)) => if is_0d { "True" } else { " True" }.to_owned(),
        Item::Number(Element::Bool(false)) => "False".to_owned(),
        Item::Number(Element::Int(int)) => format!("{int:>int_width$}"),
        Item::Number(Element::Float(number, _)) => real.write(*number),
        Item::Number(Element::Complex([re, im], _)) => {
            let imaginary = imaginary.write(*im);
            let end = imaginary.trim_end().len();
            format!("{}{}j{}", real.write(*re), &imaginary[..end], &imaginary[end..])
        }
        Item::Text(text) => str_repr(text),
        Item::Bytes(bytes) => bytes_repr(bytes),
    };
    items.iter().map(text).collect()
}

/// numpy's `FloatingFormat`: all numbers of an array with the same places before and behind the point.
#[derive(Clone, Copy, Debug)]
struct FloatFormat {
    is_scientific: bool,
    /// A plus before what is not negative, as imaginary parts have.
    plus: bool,
    width: Width,
    left: usize,
    right: usize,
    /// Digits of the mantissa behind the point, and of the exponent.
    fraction: usize,
    exponent: usize,
}

impl FloatFormat {
    fn of(numbers: &[f64], width: Width, plus: bool) -> Self {
        let finite: Vec<f64> = numbers.iter().copied().filter(|n| n.is_finite()).collect();
        let magnitudes = || finite.iter().map(|n| n.abs()).filter(|&n| n != 0.0);
        let (max, min) = (magnitudes().fold(0f64, f64::max), magnitudes().fold(f64::INFINITY, f64::min));
        let large = match width {
            Width::F16 | Width::BF16 => 1e3,
            Width::F32 => 1e6,
            Width::F64 => 1e8,
        };
        let is_scientific = max >= large || min < 1e-4 || (max > 0.0 && max / min > 1000.0);
        let mut format =
            FloatFormat { is_scientific, plus, width, left: 0, right: 0, fraction: 0, exponent: 2 };
        for &number in &finite {
            let (text, exponent) = format.unpadded(number);
            let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
            format.left = format.left.max(whole.len());
            format.fraction = format.fraction.max(fraction.len());
            format.exponent = format.exponent.max(exponent.unsigned_abs().to_string().len());
        }
        format.right = match is_scientific {
            true => format.exponent + 2 + format.fraction,
            false => format.fraction,
        };
        if finite.len() < numbers.len() {
            // numpy makes room for `nan` and for `inf` with its sign.
            let longest = 3 + usize::from(plus || numbers.contains(&f64::NEG_INFINITY));
            format.left = format.left.max(longest.saturating_sub(format.right + 1));
        }
        format
    }

    /// The number with its sign and point, and its exponent.
    fn unpadded(&self, number: f64) -> (String, i32) {
        let (text, exponent) = match self.is_scientific {
            true => scientific(number, self.width, PRECISION),
            false => (positional(number, self.width, PRECISION), 0),
        };
        let sign = if self.plus && !text.starts_with('-') { "+" } else { "" };
        (format!("{sign}{text}"), exponent)
    }

    fn write(&self, number: f64) -> String {
        if let Some(text) = non_finite(number) {
            let sign = if self.plus && !text.starts_with('-') { "+" } else { "" };
            let width = self.left + self.right + 1;
            return format!("{:>width$}", format!("{sign}{text}"));
        }
        if self.is_scientific {
            // Digits are filled up with those of the exact value, not with zeros.
            let text = format!("{number:.fraction$e}", fraction = self.fraction);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let sign = if self.plus && !mantissa.starts_with('-') { "+" } else { "" };
            let point = if self.fraction == 0 { "." } else { "" };
            let exponent: i32 = exponent.parse().unwrap_or(0);
            let digits = format!("{:0>width$}", exponent.unsigned_abs(), width = self.exponent);
            let mantissa = format!("{sign}{mantissa}{point}");
            let width = self.left + 1 + self.fraction;
            return format!("{mantissa:>width$}e{}{digits}", if exponent < 0 { '-' } else { '+' });
        }
        let (text, _) = self.unpadded(number);
        let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
        format!("{whole:>left$}.{fraction:<right$}", left = self.left, right = self.right)
    }
}
