//! Values as Python prints them.

use super::numbers::to_f64;
use super::{DType, InlineTensor, Value};
use num_bigint::BigInt;
use std::fmt::Write;

/// Elements of a tensor or array that are printed before the rest is left out.
const ELEMENTS_MAX: usize = 1000;

impl Value {
    /// The value as Python's `repr` gives it, for tensors and arrays without its line breaks.
    pub fn py_repr(&self) -> String {
        let mut text = String::new();
        write_value(&mut text, self);
        text
    }
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::None => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Int(int) => *out += &int.to_string(),
        Value::BigInt(bytes) => *out += &BigInt::from_signed_bytes_le(bytes).to_string(),
        Value::Float(float) => *out += &float_repr(*float),
        Value::Complex(re, im) => *out += &complex_repr(*re, *im),
        Value::Str(text) => write_str(out, text),
        Value::Bytes(bytes) => write_bytes(out, bytes),
        Value::ByteArray(bytes) => {
            out.push_str("bytearray(");
            write_bytes(out, bytes);
            out.push(')');
        }
        Value::List(items) => write_items(out, "[", items, "]"),
        Value::Tuple(items) if items.len() == 1 => write_items(out, "(", items, ",)"),
        Value::Tuple(items) => write_items(out, "(", items, ")"),
        Value::Set(items) if items.is_empty() => out.push_str("set()"),
        Value::Set(items) => write_items(out, "{", items, "}"),
        Value::Dict(pairs) => write_pairs(out, pairs),
        Value::OrderedDict(pairs) if pairs.is_empty() => out.push_str("OrderedDict()"),
        Value::OrderedDict(pairs) => {
            out.push_str("OrderedDict(");
            write_pairs(out, pairs);
            out.push(')');
        }
        Value::Size(sizes) => {
            let _ = write!(out, "torch.Size({sizes:?})");
        }
        Value::DType(dtype) => *out += &format!("torch.{dtype}"),
        Value::Device(device) => match device.split_once(':') {
            Some((kind, index)) => *out += &format!("device(type='{kind}', index={index})"),
            None => *out += &format!("device(type='{device}')"),
        },
        Value::Tensor(tensor) => write_tensor(out, tensor),
        Value::NumpyScalar { dtype, bytes } => write_numpy_scalar(out, dtype, bytes),
        Value::NumpyArray { dtype, shape, bytes } => {
            out.push_str("array(");
            write_elements(out, shape, &mut numpy_elements(dtype, bytes).into_iter());
            out.push(')');
        }
        Value::Opaque { global } => *out += &format!("<{global}>"),
    }
}

fn write_items(out: &mut String, open: &str, items: &[Value], close: &str) {
    out.push_str(open);
    for (index, item) in items.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_value(out, item);
    }
    out.push_str(close);
}

fn write_pairs(out: &mut String, pairs: &[(Value, Value)]) {
    out.push('{');
    for (index, (key, value)) in pairs.iter().enumerate() {
        out.push_str(if index > 0 { ", " } else { "" });
        write_value(out, key);
        out.push_str(": ");
        write_value(out, value);
    }
    out.push('}');
}

/// The shortest text that reads back as the same number, in Python's choice of notation.
fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        exponent @ -4..16 => {
            let _ = exponent;
            let plain = float.to_string();
            if plain.contains('.') { plain } else { format!("{plain}.0") }
        }
        exponent if exponent < 0 => format!("{mantissa}e-{:02}", -exponent),
        exponent => format!("{mantissa}e+{exponent:02}"),
    }
}

fn complex_repr(re: f64, im: f64) -> String {
    let short = |float: f64| float_repr(float).trim_end_matches(".0").to_owned();
    if re == 0.0 && re.is_sign_positive() {
        return format!("{}j", short(im));
    }
    let sign = if im.is_sign_negative() || im.is_nan() { "" } else { "+" };
    format!("({}{sign}{}j)", short(re), short(im))
}

fn write_str(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => out.extend(['\\', char]),
            char if (char as u32) < 0x20 || (0x7f..0xa1).contains(&(char as u32)) => {
                let _ = write!(out, "\\x{:02x}", char as u32);
            }
            char => out.push(char),
        }
    }
    out.push(quote);
}

fn write_bytes(out: &mut String, bytes: &[u8]) {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    out.push('b');
    out.push(quote);
    for &byte in bytes {
        match byte {
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            byte if char::from(byte) == quote => out.extend(['\\', quote]),
            0x20..0x7f => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\x{byte:02x}");
            }
        }
    }
    out.push(quote);
}

fn write_tensor(out: &mut String, tensor: &InlineTensor) {
    let dtype = tensor.spec.dtype;
    let numbers = to_f64(dtype, &tensor.bytes).unwrap_or_default();
    let texts: Vec<String> = numbers
        .iter()
        .map(|&number| match dtype {
            DType::Bool => if number == 0.0 { "False" } else { "True" }.to_owned(),
            _ if !dtype.is_float() => format!("{number}"),
            _ if numbers.iter().all(|n| n.fract() == 0.0) => format!("{number}."),
            _ => format!("{number:.4}"),
        })
        .collect();
    out.push_str("tensor(");
    write_elements(out, &tensor.spec.shape, &mut texts.into_iter());
    if !matches!(dtype, DType::F32 | DType::I64 | DType::Bool) {
        *out += &format!(", dtype=torch.{dtype}");
    }
    out.push(')');
}

fn write_numpy_scalar(out: &mut String, dtype: &str, bytes: &[u8]) {
    let name = match dtype.as_bytes() {
        [_, b'b', ..] => "bool".to_owned(),
        [_, kind, ..] => {
            let kind = match kind {
                b'i' => "int",
                b'u' => "uint",
                b'c' => "complex",
                _ => "float",
            };
            format!("{kind}{}", bytes.len() * 8)
        }
        _ => dtype.to_owned(),
    };
    let text = numpy_elements(dtype, bytes).into_iter().next().unwrap_or_default();
    *out += &format!("np.{name}({text})");
}

fn numpy_elements(dtype: &str, bytes: &[u8]) -> Vec<String> {
    let own = match dtype.get(1..) {
        Some("b1") => DType::Bool,
        Some("i1") => DType::I8,
        Some("i2") => DType::I16,
        Some("i4") => DType::I32,
        Some("i8") => DType::I64,
        Some("u1") => DType::U8,
        Some("u2") => DType::U16,
        Some("u4") => DType::U32,
        Some("u8") => DType::U64,
        Some("f2") => DType::F16,
        Some("f4") => DType::F32,
        Some("f8") => DType::F64,
        _ => return vec![format!("<{} bytes of {dtype}>", bytes.len())],
    };
    let numbers = to_f64(own, bytes).unwrap_or_default();
    numbers
        .into_iter()
        .map(|number| match own {
            DType::Bool => if number == 0.0 { "False" } else { "True" }.to_owned(),
            DType::F32 => float_repr((number as f32).to_string().parse().unwrap_or(number)),
            DType::F16 | DType::F64 => float_repr(number),
            _ => format!("{number}"),
        })
        .collect()
}

/// Nested brackets around elements in row-major order; what is too long ends in `...`.
fn write_elements(out: &mut String, shape: &[u64], elements: &mut dyn Iterator<Item = String>) {
    let Some((&size, inner)) = shape.split_first() else {
        out.push_str(&elements.next().unwrap_or_default());
        return;
    };
    out.push('[');
    for index in 0..size {
        out.push_str(if index > 0 { ", " } else { "" });
        if index as usize >= ELEMENTS_MAX {
            out.push_str("...");
            break;
        }
        write_elements(out, inner, elements);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_prints_them() {
        for (float, text) in [
            (0.001, "0.001"),
            (1e-5, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e16, "1e+16"),
            (123456789012345.0, "123456789012345.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (f64::NAN, "nan"),
        ] {
            assert_eq!(Value::Float(float).py_repr(), text);
        }
    }

    #[test]
    fn text_bytes_and_containers() {
        let pairs = vec![(Value::Str("it's".into()), Value::Tuple(vec![Value::Int(1)]))];
        assert_eq!(Value::Dict(pairs.clone()).py_repr(), r#"{"it's": (1,)}"#);
        assert_eq!(Value::OrderedDict(pairs).py_repr(), r#"OrderedDict({"it's": (1,)})"#);
        assert_eq!(Value::Bytes(b"a'\n\x00".to_vec()).py_repr(), r#"b"a'\n\x00""#);
        assert_eq!(Value::Complex(1.0, 2.0).py_repr(), "(1+2j)");
        assert_eq!(Value::BigInt(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]).py_repr(), "18446744073709551616");
    }
}
