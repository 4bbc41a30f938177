//! Numbers as people read them.

/// A size: `640 B`, `1.15 MB`, three digits, powers of 1000.
pub fn bytes(byte_len: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if byte_len < 1000 {
        return format!("{byte_len} B");
    }
    let mut value = byte_len as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let decimals = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// `1 tensor`, `2 tensors`.
pub fn count(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// A number with its digits in groups of three: `8,030,261,248`.
pub fn thousands(number: u64) -> String {
    grouped(number.to_string())
}

/// Commas between groups of three digits before the point: `-1,234.5`. What is no number stays.
pub fn grouped(number: String) -> String {
    let digits_begin = usize::from(number.starts_with('-'));
    let digits_end = number.find('.').unwrap_or(number.len());
    if !number[digits_begin..digits_end].bytes().all(|byte| byte.is_ascii_digit()) {
        return number;
    }
    let mut grouped = String::with_capacity(number.len() * 4 / 3);
    for (place, char) in number.char_indices() {
        if place > digits_begin && place < digits_end && (digits_end - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(char);
    }
    grouped
}

/// A rate of floating-point operations: `353.0 TFLOP/s`, `61.2 GFLOP/s`.
pub fn flops(per_second: f64) -> String {
    match per_second {
        rate if rate < 1e12 => format!("{:.1} GFLOP/s", rate / 1e9),
        rate => format!("{:.1} TFLOP/s", rate / 1e12),
    }
}

/// A time: `1.23 ms`, `2.84 s`, `12.0 min`.
pub fn seconds(seconds: f64) -> String {
    match seconds {
        0.0 => "0 s".to_owned(),
        seconds if seconds < 1e-3 => format!("{:.1} us", seconds * 1e6),
        seconds if seconds < 1.0 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 600.0 => format!("{seconds:.2} s"),
        seconds if seconds < 36_000.0 => format!("{:.1} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (byte_len, shown) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (99_960, "100 kB"),
            (999_600, "1.00 MB"),
            (1_143_580, "1.14 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(byte_len), shown);
        }
    }

    #[test]
    fn digits_are_grouped() {
        for (number, shown) in [(0, "0"), (999, "999"), (1000, "1,000"), (8_030_261_248, "8,030,261,248")] {
            assert_eq!(thousands(number), shown);
        }
    }

    #[test]
    fn rates_have_units() {
        assert_eq!([flops(989e12), flops(61.2e9)], ["989.0 TFLOP/s", "61.2 GFLOP/s"]);
        assert_eq!([count(1, "rank"), count(16_384, "rank")], ["1 rank", "16,384 ranks"]);
    }

    #[test]
    fn times_have_units() {
        for (time, shown) in
            [(0.0, "0 s"), (15e-6, "15.0 us"), (0.25, "250.0 ms"), (2.842, "2.84 s"), (900.0, "15.0 min")]
        {
            assert_eq!(seconds(time), shown);
        }
        assert_eq!(seconds(72_000.0), "20.0 h");
    }
}
