//! Tensors as PyTorch prints them, on one line.
//!
//! Source: `torch/_tensor_str.py`, PyTorch 2.11.

use super::elements::{Element, Shown, element};
use super::numbers::{exponent_text, non_finite};
use crate::model::{DType, InlineTensor};

/// How the elements of a tensor, or the real or imaginary parts of one, are written.
#[derive(Clone, Copy, Debug)]
struct FloatFormat {
    is_scientific: bool,
    /// All numbers are integers, and are followed by a point.
    is_whole: bool,
    width: usize,
}

impl FloatFormat {
    fn of(numbers: &[f64]) -> Self {
        let plain: Vec<f64> = numbers.iter().copied().filter(|n| n.is_finite() && *n != 0.0).collect();
        let mut format = FloatFormat { is_scientific: false, is_whole: true, width: 1 };
        if plain.is_empty() {
            return format;
        }
        let max = plain.iter().fold(0f64, |max, n| max.max(n.abs()));
        let min = plain.iter().fold(f64::INFINITY, |min, n| min.min(n.abs()));
        format.is_whole = plain.iter().all(|n| n.fract() == 0.0);
        format.is_scientific = max / min > 1000.0 || max > 1e8 || min < 1e-4;
        format.width = plain.iter().map(|&n| format.bare(n).len()).max().unwrap_or(1);
        format
    }

    fn bare(&self, number: f64) -> String {
        if let Some(text) = non_finite(number) {
            return text.to_owned();
        }
        if self.is_scientific {
            let text = format!("{number:.4e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            return format!("{mantissa}e{}", exponent_text(exponent.parse().unwrap_or(0)));
        }
        if self.is_whole { format!("{number:.0}.") } else { format!("{number:.4}") }
    }

    fn write(&self, number: f64) -> String {
        format!("{:>width$}", self.bare(number), width = self.width)
    }
}

pub(super) fn tensor_repr(tensor: &InlineTensor) -> String {
    let (dtype, shape) = (tensor.spec.dtype, &tensor.spec.shape);
    let mut suffixes = Vec::new();
    let empty = shape.contains(&0);
    if empty && shape.len() != 1 {
        let sizes: Vec<_> = shape.iter().map(u64::to_string).collect();
        suffixes.push(format!("size=({})", sizes.join(", ")));
    }
    let implied = match empty {
        true => dtype == DType::F32,
        false => matches!(dtype, DType::F32 | DType::I64 | DType::Bool | DType::C64),
    };
    if !implied {
        suffixes.push(format!("dtype=torch.{dtype}"));
    }
    let elements = if empty { "[]".to_owned() } else { elements(tensor) };
    let mut text = format!("tensor({elements}");
    suffixes.iter().for_each(|suffix| text += &format!(", {suffix}"));
    text + ")"
}

fn elements(tensor: &InlineTensor) -> String {
    let (dtype, shown) = (tensor.spec.dtype, Shown::new(&tensor.spec.shape));
    let item_bytes = dtype.block_bytes();
    let read = |at: u64| element(dtype, tensor.bytes.get((at * item_bytes) as usize..)?);
    let elements: Option<Vec<Element>> = shown.positions().into_iter().map(read).collect();
    // More elements than bytes: the types that pack several in one.
    let Some(elements) = elements else { return format!("<{} bytes>", tensor.bytes.len()) };
    let real: Vec<f64> = elements.iter().map(|element| parts(element)[0]).collect();
    let imaginary: Vec<f64> = elements.iter().map(|element| parts(element)[1]).collect();
    let (real, imaginary) = (FloatFormat::of(&real), FloatFormat::of(&imaginary));
    let text = |element: &Element| match element {
        Element::Bool(flag) => if *flag { "True" } else { "False" }.to_owned(),
        Element::Int(int) => int.to_string(),
        Element::Float(number, _) => real.write(*number),
        Element::Complex([re, im], _) => {
            let imaginary = imaginary.write(*im);
            let imaginary = imaginary.trim_start();
            let sign = if imaginary.starts_with('-') { "" } else { "+" };
            format!("{}{sign}{imaginary}j", real.write(*re))
        }
    };
    let mut texts: Vec<String> = elements.iter().map(text).collect();
    if !matches!(elements.first(), Some(Element::Float(..) | Element::Complex(..))) {
        let width = texts.iter().map(String::len).max().unwrap_or(0);
        texts.iter_mut().for_each(|text| *text = format!("{text:>width$}"));
    }
    shown.brackets(&texts, " ...")
}

fn parts(element: &Element) -> [f64; 2] {
    match element {
        Element::Float(number, _) => [*number, 0.0],
        Element::Complex(parts, _) => *parts,
        Element::Bool(_) | Element::Int(_) => [0.0, 0.0],
    }
}
