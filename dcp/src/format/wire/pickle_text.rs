//! Text arguments of protocol 0: quoted strings, raw-unicode-escape, decimal numbers.

/// Decodes the argument of STRING: a Python 2 string literal with its quotes, as `repr` wrote it.
pub(super) fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let inner = match line {
        [b'\'', inner @ .., b'\''] | [b'"', inner @ .., b'"'] => inner,
        _ => return None,
    };
    let mut decoded = Vec::with_capacity(inner.len());
    let mut rest = inner;
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            decoded.push(*first);
            continue;
        }
        let [escape, tail @ ..] = rest else { return None };
        rest = tail;
        decoded.push(match escape {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'v' => 11,
            b'\\' | b'\'' | b'"' => *escape,
            b'x' => take_number(&mut rest, 2, 16)?.try_into().ok()?,
            b'0'..=b'7' => {
                let digits =
                    1 + rest.iter().take(2).take_while(|digit| (b'0'..=b'7').contains(digit)).count();
                let mut octal = &inner[inner.len() - rest.len() - 1..];
                rest = &rest[digits - 1..];
                take_number(&mut octal, digits, 8)?.try_into().ok()?
            }
            _ => return None,
        });
    }
    Some(decoded)
}

/// Decodes the argument of UNICODE: Latin-1 with escapes of 4 (`\u00e9`) and 8 (`\U0001f600`) digits. Lone surrogates are refused.
pub(super) fn raw_unicode_escape(line: &[u8]) -> Option<String> {
    let mut units = Vec::with_capacity(line.len());
    let mut rest = line;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let digits = match (first, rest.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                units.push(u32::from(*first));
                continue;
            }
        };
        rest = &rest[1..];
        units.push(take_number(&mut rest, digits, 16)?);
    }
    // Python 2 on narrow builds wrote astral characters as two escaped surrogates.
    let mut text = String::with_capacity(units.len());
    let mut units = units.into_iter().peekable();
    while let Some(unit) = units.next() {
        let pair = units.next_if(|low| (0xd800..0xdc00).contains(&unit) && (0xdc00..0xe000).contains(low));
        let code = match pair {
            Some(low) => 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00),
            None => unit,
        };
        text.push(char::from_u32(code)?);
    }
    Some(text)
}

/// Takes exactly `digits` digits off the front.
fn take_number(rest: &mut &[u8], digits: usize, radix: u32) -> Option<u32> {
    let (number, tail) = rest.split_at_checked(digits)?;
    *rest = tail;
    number.iter().try_fold(0u32, |value, &digit| {
        value.checked_mul(radix)?.checked_add(char::from(digit).to_digit(radix)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn string_literals() {
        let cases: &[(&[u8], Option<&[u8]>)] = &[
            (b"'abc'", Some(b"abc")),
            (b"\"it's\"", Some(b"it's")),
            (br"'a\n\t\\\'\x00\xff\101\0z'", Some(b"a\n\t\\'\x00\xffA\0z")),
            (br"'\1234'", Some(b"S4")),
            (b"abc", None),
            (b"'abc", None),
            (b"'", None),
            (br"'\x1'", None),
            (br"'\777'", None),
            (br"'\'", None),
        ];
        for (line, expected) in cases {
            assert_eq!(unquote(line).as_deref(), *expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn unicode_escapes() {
        let cases: &[(&[u8], Option<&str>)] = &[
            (b"plain\xe9", Some("plain\u{e9}")),
            (br"\u20ac\U0001F600", Some("\u{20ac}\u{1f600}")),
            (br"\ud83d\ude00", Some("\u{1f600}")),
            (br"\n\", Some(r"\n\")),
            (br"\ud83d", None),
            (br"\u12", None),
            (br"\U00110000", None),
        ];
        for (line, expected) in cases {
            assert_eq!(raw_unicode_escape(line).as_deref(), *expected, "{}", line.escape_ascii());
        }
    }
}
