//! Values as Python prints them.

mod elements;
mod numbers;
mod numpy;
mod torch;

use super::Value;
use num_bigint::BigInt;
use numbers::{Width, complex_repr, float_repr};
use std::fmt::Write;

impl Value {
    /// The value as Python's `repr` gives it, for tensors and arrays without its line breaks: numbers rounded, padded and
    /// left out as PyTorch 2.11 and numpy 2 do. `<module.name>` stands for what was not decoded.
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
        Value::Complex(re, im) => *out += &complex_repr(*re, *im, Width::F64),
        Value::Str(text) => *out += &str_repr(text),
        Value::Bytes(bytes) => *out += &bytes_repr(bytes),
        Value::ByteArray(bytes) => *out += &format!("bytearray({})", bytes_repr(bytes)),
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
        Value::Tensor(tensor) => *out += &torch::tensor_repr(tensor),
        Value::NumpyScalar { dtype, bytes } => *out += &numpy::scalar(dtype, bytes),
        Value::NumpyArray { dtype, shape, bytes } => *out += &numpy::array(dtype, shape, bytes),
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

fn str_repr(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for char in text.chars() {
        match char {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            char if char == quote => out.extend(['\\', char]),
            char if is_printable(char) => out.push(char),
            char => {
                let _ = match char as u32 {
                    code @ 0..=0xff => write!(out, "\\x{code:02x}"),
                    code @ 0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// Whether Python's `str.isprintable` holds.
fn is_printable(char: char) -> bool {
    use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};
    match char.general_category_group() {
        GeneralCategoryGroup::Other => false,
        GeneralCategoryGroup::Separator => char == ' ',
        _ => true,
    }
}

fn bytes_repr(bytes: &[u8]) -> String {
    let quote = if bytes.contains(&b'\'') && !bytes.contains(&b'"') { '"' } else { '\'' };
    let mut out = format!("b{quote}");
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
    out
}

#[cfg(test)]
mod tests;
