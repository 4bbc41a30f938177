//! Numbers as Python and numpy print them.

use half::{bf16, f16};

/// Which floating-point type a number was stored in: its shortest text depends on it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Width {
    F16,
    BF16,
    F32,
    F64,
}

impl Width {
    fn round(self, number: f64) -> f64 {
        match self {
            Width::F16 => f16::from_f64(number).to_f64(),
            Width::BF16 => bf16::from_f64(number).to_f64(),
            Width::F32 => f64::from(number as f32),
            Width::F64 => number,
        }
    }

    /// From this magnitude on, numpy prints a scalar with an exponent.
    fn positional_end(self) -> f64 {
        match self {
            Width::F16 | Width::BF16 => 1e3,
            Width::F32 => 1e6,
            Width::F64 => 1e16,
        }
    }
}

/// The shortest decimal digits that read back as the same number of its width: `1.25e-3` as Rust writes it.
fn shortest(number: f64, width: Width) -> String {
    match width {
        Width::F64 => format!("{number:e}"),
        Width::F32 => format!("{:e}", number as f32),
        Width::F16 | Width::BF16 => {
            let reads_back = |text: &String| text.parse().is_ok_and(|parsed| width.round(parsed) == number);
            let candidates = (0..17).map(|digits| format!("{number:.digits$e}"));
            candidates.into_iter().find(reads_back).unwrap_or_else(|| format!("{number:e}"))
        }
    }
}

fn split(text: &str) -> (&str, i32) {
    match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().unwrap_or(0)),
        None => (text, 0),
    }
}

/// `nan`, `inf` or `-inf`.
pub(super) fn non_finite(number: f64) -> Option<&'static str> {
    match number {
        _ if number.is_nan() => Some("nan"),
        f64::INFINITY => Some("inf"),
        f64::NEG_INFINITY => Some("-inf"),
        _ => None,
    }
}

/// A Python `float`.
pub(super) fn float_repr(number: f64) -> String {
    scalar_repr(number, Width::F64)
}

/// A numpy scalar: the shortest text, without an exponent where the number is neither small nor large.
pub(super) fn scalar_repr(number: f64, width: Width) -> String {
    if let Some(text) = non_finite(number) {
        return text.to_owned();
    }
    if number == 0.0 || (1e-4..width.positional_end()).contains(&number.abs()) {
        let plain = positional(number, width, usize::MAX);
        return if plain.ends_with('.') { plain + "0" } else { plain };
    }
    let text = shortest(number, width);
    let (mantissa, exponent) = split(&text);
    format!("{mantissa}e{}", exponent_text(exponent))
}

/// Sign and at least two digits.
pub(super) fn exponent_text(exponent: i32) -> String {
    format!("{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The shortest text without an exponent, but rounded to `fraction_max` digits behind the point. Ends in the point where
/// nothing is behind it.
pub(super) fn positional(number: f64, width: Width, fraction_max: usize) -> String {
    let text = shortest(number, width);
    let (mantissa, exponent) = split(&text);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(mantissa) => ("-", mantissa),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(|&digit| digit != '.').collect();
    let whole_len = exponent + 1;
    let (whole, fraction) = if whole_len <= 0 {
        ("0".to_owned(), "0".repeat(whole_len.unsigned_abs() as usize) + &digits)
    } else if digits.len() <= whole_len as usize {
        (format!("{digits:0<width$}", width = whole_len as usize), String::new())
    } else {
        (digits[..whole_len as usize].to_owned(), digits[whole_len as usize..].to_owned())
    };
    if fraction.len() > fraction_max {
        let rounded = format!("{number:.fraction_max$}");
        return rounded.trim_end_matches('0').to_owned();
    }
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

/// Mantissa, with its point, and exponent: the shortest, but rounded to `fraction_max` digits behind the point.
pub(super) fn scientific(number: f64, width: Width, fraction_max: usize) -> (String, i32) {
    let mut text = shortest(number, width);
    if split(&text).0.split_once('.').is_some_and(|(_, fraction)| fraction.len() > fraction_max) {
        text = format!("{number:.fraction_max$e}");
    }
    let (mantissa, exponent) = split(&text);
    let mantissa = match mantissa.contains('.') {
        true => mantissa.trim_end_matches('0').to_owned(),
        false => format!("{mantissa}."),
    };
    (mantissa, exponent)
}

/// A complex number of parts of this width.
pub(super) fn complex_repr(re: f64, im: f64, width: Width) -> String {
    let short = |number: f64| {
        let text = scalar_repr(number, width);
        text.strip_suffix(".0").map(str::to_owned).unwrap_or(text)
    };
    if re == 0.0 && re.is_sign_positive() {
        return format!("{}j", short(im));
    }
    let sign = if short(im).starts_with('-') { "" } else { "+" };
    format!("({}{sign}{}j)", short(re), short(im))
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
            (0.0001, "0.0001"),
            (1e16, "1e+16"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (123456789012345.0, "123456789012345.0"),
            (9999999999999998.0, "9999999999999998.0"),
            (-0.0, "-0.0"),
            (0.1, "0.1"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float_repr(float), text);
        }
    }

    #[test]
    fn complex_numbers_as_python_prints_them() {
        for ((re, im), text) in [
            ((1.0, 2.0), "(1+2j)"),
            ((0.0, -0.5), "-0.5j"),
            ((-0.0, -0.5), "(-0-0.5j)"),
            ((1.0, -0.0), "(1-0j)"),
            ((f64::NAN, f64::INFINITY), "(nan+infj)"),
            ((10.0, 100.0), "(10+100j)"),
            ((1e16, f64::NAN), "(1e+16+nanj)"),
        ] {
            assert_eq!(complex_repr(re, im, Width::F64), text);
        }
    }
}
