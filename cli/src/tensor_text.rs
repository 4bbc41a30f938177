//! Elements as text: single elements, and arrays the way numpy prints them.

use dcp::model::DType;
use dcp::numbers::to_f64;
use serde_json::json;

/// Each element as text, exactly enough digits to read it back. `None` for types that pack elements into groups.
pub(crate) fn elements(dtype: DType, bytes: &[u8]) -> Option<Vec<String>> {
    macro_rules! integers {
        ($type:ty) => {
            bytes.as_chunks().0.iter().map(|b| <$type>::from_le_bytes(*b).to_string()).collect()
        };
    }
    if dtype.block_elements() != 1 {
        return None;
    }
    Some(match dtype {
        DType::Bool => bytes.iter().map(|&b| if b == 0 { "False" } else { "True" }.to_owned()).collect(),
        DType::U8 => integers!(u8),
        DType::I8 => integers!(i8),
        DType::U16 => integers!(u16),
        DType::I16 => integers!(i16),
        DType::U32 => integers!(u32),
        DType::I32 => integers!(i32),
        DType::U64 => integers!(u64),
        DType::I64 => integers!(i64),
        DType::F64 => to_f64(dtype, bytes)?.into_iter().map(float64).collect(),
        DType::C64 | DType::C128 => to_f64(dtype, bytes)?
            .chunks_exact(2)
            .map(|pair| match (dtype, pair[1].is_sign_negative()) {
                (DType::C64, negative) => complex(float32(pair[0]), float32(pair[1]), negative),
                (_, negative) => complex(float64(pair[0]), float64(pair[1]), negative),
            })
            .collect(),
        _ => match to_f64(dtype, bytes) {
            Some(numbers) => numbers.into_iter().map(float32).collect(),
            // Scales, halves of complex numbers: the bits, most significant first.
            None => bytes.chunks_exact(dtype.block_bytes() as usize).map(hex).collect(),
        },
    })
}

fn float32(number: f64) -> String {
    plain(format!("{:?}", number as f32))
}

fn float64(number: f64) -> String {
    plain(format!("{number:?}"))
}

/// Rust's shortest text in numpy's spelling: `1.0` as `1.`, `NaN` as `nan`.
fn plain(text: String) -> String {
    match text.as_str() {
        "NaN" | "-NaN" => "nan".to_owned(),
        other => other.strip_suffix(".0").map(|whole| format!("{whole}.")).unwrap_or(text),
    }
}

fn complex(re: String, im: String, negative: bool) -> String {
    let sign = if negative && im.starts_with('-') { "" } else { "+" };
    format!("{re}{sign}{im}j")
}

fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().rev().map(|byte| format!("{byte:02x}")).collect();
    format!("0x{digits}")
}

/// One element's text as JSON: a number where JSON has it, else the text.
pub(crate) fn json_of(text: &str) -> serde_json::Value {
    match text {
        "True" => json!(true),
        "False" => json!(false),
        _ => {
            let number = text.strip_suffix('.').map_or_else(|| text.to_owned(), |whole| format!("{whole}.0"));
            serde_json::from_str(&number)
                .ok()
                .filter(serde_json::Value::is_number)
                .unwrap_or_else(|| json!(text))
        }
    }
}

/// Elements of an array, some left out in the middle of its dims.
pub(crate) struct Shown {
    /// For each dim, how many elements are shown.
    pub(crate) shape: Vec<usize>,
    /// For each dim, how many come before the gap; `None` where none is left out.
    pub(crate) gap: Vec<Option<usize>>,
    /// The shown elements, row-major.
    pub(crate) texts: Vec<String>,
}

impl Shown {
    /// The array as numpy prints it: brackets, columns aligned, `...` for what is left out.
    pub(crate) fn render(&self) -> String {
        let width = self.texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        let mut out = String::new();
        self.render_dim(0, 0, width, &mut out);
        out
    }

    /// Renders the part of the array whose first element is `first`, from dim `dim` on.
    fn render_dim(&self, dim: usize, first: usize, width: usize, out: &mut String) {
        if dim == self.shape.len() {
            // A scalar stands alone, and needs no column.
            let text = &self.texts[first];
            out.push_str(&if dim == 0 { text.clone() } else { format!("{text:>width$}") });
            return;
        }
        let inner = dim + 1 == self.shape.len();
        let separator = match inner {
            true => " ".to_owned(),
            false => format!("{}{}", "\n".repeat(self.shape.len() - dim - 1), " ".repeat(dim + 1)),
        };
        let step: usize = self.shape[dim + 1..].iter().product();
        out.push('[');
        for index in 0..self.shape[dim] {
            if index > 0 {
                out.push_str(&separator);
            }
            if self.gap[dim] == Some(index) {
                out.push_str("...");
                out.push_str(&separator);
            }
            self.render_dim(dim + 1, first + index * step, width, out);
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_element_has_a_text() {
        let f32s: Vec<u8> = [1.0, -0.5, 1e-7, f32::NAN, f32::NEG_INFINITY, 0.1]
            .iter()
            .flat_map(|x: &f32| x.to_le_bytes())
            .collect();
        assert_eq!(elements(DType::F32, &f32s).unwrap(), ["1.", "-0.5", "1e-7", "nan", "-inf", "0.1"]);
        assert_eq!(elements(DType::I64, &u64::MAX.to_le_bytes()).unwrap(), ["-1"]);
        assert_eq!(elements(DType::U64, &u64::MAX.to_le_bytes()).unwrap(), ["18446744073709551615"]);
        assert_eq!(elements(DType::C64, &f32s[..8]).unwrap(), ["1.-0.5j"]);
        assert_eq!(elements(DType::C64, &f32s[12..20]).unwrap(), ["nan-infj"]);
        assert_eq!(elements(DType::Bool, &[0, 1]).unwrap(), ["False", "True"]);
        assert_eq!(elements(DType::F8E8M0, &[0x7f]).unwrap(), ["0x7f"]);
        assert_eq!(elements(DType::F4, &[0]), None);
    }

    #[test]
    fn arrays_are_printed_as_numpy_does() {
        let texts = (0..8).map(|n| n.to_string()).collect();
        let shown = Shown { shape: vec![2, 2, 2], gap: vec![None, None, Some(1)], texts };
        assert_eq!(shown.render(), "[[[0 ... 1]\n  [2 ... 3]]\n\n [[4 ... 5]\n  [6 ... 7]]]");
        assert_eq!(Shown { shape: vec![0], gap: vec![None], texts: vec![] }.render(), "[]");
        assert_eq!(Shown { shape: vec![], gap: vec![], texts: vec!["7".into()] }.render(), "7");
    }

    #[test]
    fn json_has_numbers_where_it_can() {
        assert_eq!(json_of("1.").to_string(), "1.0");
        assert_eq!(json_of("-3").to_string(), "-3");
        assert_eq!(json_of("nan").to_string(), "\"nan\"");
        assert_eq!(json_of("True").to_string(), "true");
    }
}
