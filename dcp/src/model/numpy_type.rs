//! Element types of numpy values.

use std::fmt;

/// The longest fixed-width byte string or text, in bytes or characters.
const WIDTH_MAX: u64 = 1 << 28;

/// A numpy type whose elements are plain bytes: booleans, integers, floats, complex numbers, fixed-width byte strings
/// and text. Objects, records and dates are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct NumpyType {
    /// Byte order: `<`, `>`, or `|` where there is none.
    pub(crate) order: char,
    /// Kind: one of `b i u f c S U`.
    pub(crate) kind: char,
    /// Bytes of an element.
    pub(crate) item_bytes: u64,
    /// The number behind the kind: bytes, or characters for text.
    pub(crate) width: u64,
}

impl NumpyType {
    /// Parses numpy's dtype string, such as `<f4`, `|b1` or `<U8`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut chars = text.chars();
        let (order, kind) = (chars.next()?, chars.next()?);
        let width: u64 = chars.as_str().parse().ok()?;
        let known = match kind {
            'b' => width == 1,
            'i' | 'u' => matches!(width, 1 | 2 | 4 | 8),
            'f' => matches!(width, 2 | 4 | 8 | 12 | 16),
            'c' => matches!(width, 8 | 16 | 24 | 32),
            'S' | 'U' => width <= WIDTH_MAX,
            _ => false,
        };
        let item_bytes = if kind == 'U' { width * 4 } else { width };
        (known && matches!(order, '<' | '>' | '|')).then_some(NumpyType { order, kind, item_bytes, width })
    }
}

impl fmt::Display for NumpyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}{}", self.order, self.kind, self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_parsed_and_printed() {
        for (text, item_bytes) in [("<f4", 4), (">i8", 8), ("|b1", 1), ("<c16", 16), ("<U3", 12), ("|S5", 5)]
        {
            let parsed = NumpyType::parse(text).unwrap();
            assert_eq!((parsed.to_string().as_str(), parsed.item_bytes), (text, item_bytes));
        }
        for bad in
            ["", "<", "f4", "<f", "<f3", "<i16", "|O8", "<M8", "|V4", "=f4", "<U999999999999", "\u{e9}f4"]
        {
            assert_eq!(NumpyType::parse(bad), None, "{bad}");
        }
    }
}
