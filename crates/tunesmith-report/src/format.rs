//! Numbers as people read them: `41.2k`, `12:04`, `3.1 GiB`, `9.8e-5`. The progress line and the report share these.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A magnitude with three significant digits and a decimal suffix: `812`, `41.2k`, `1.93M`, `7.02G`.
pub fn si(x: f64) -> String {
    if !x.is_finite() {
        return plain_non_finite(x);
    }
    let (scale, suffix) = match x.abs() {
        a if a < 999.5 => (1.0, ""),
        a if a < 999.5e3 => (1e3, "k"),
        a if a < 999.5e6 => (1e6, "M"),
        a if a < 999.5e9 => (1e9, "G"),
        _ => (1e12, "T"),
    };
    format!("{}{suffix}", three_digits(x / scale, suffix.is_empty()))
}

/// At most three significant digits; trailing zeros go only where no suffix says that the number was rounded.
fn three_digits(x: f64, trim: bool) -> String {
    let a = x.abs();
    let digits = match a {
        _ if a >= 99.95 => 0,
        _ if a >= 9.995 => 1,
        _ => 2,
    };
    let text = format!("{x:.digits$}");
    if trim && text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

/// A learning rate: `0`, `9.8e-5`, `0.001`, `1.25e-4`; at most three significant digits.
pub fn rate(x: f64) -> String {
    if x == 0.0 {
        return "0".to_owned();
    }
    if !x.is_finite() {
        return plain_non_finite(x);
    }
    let text = format!("{x:.2e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let mantissa = if mantissa.contains('.') {
        mantissa.trim_end_matches('0').trim_end_matches('.')
    } else {
        mantissa
    };
    match exponent {
        "0" | "-1" | "-2" => {
            format!("{:.4}", x).trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        _ => format!("{mantissa}e{exponent}"),
    }
}

/// A loss: four decimals while it is an ordinary size, scientific beyond.
pub fn loss(x: f64) -> String {
    match x.abs() {
        _ if !x.is_finite() => plain_non_finite(x),
        a if a >= 1e4 || (a > 0.0 && a < 1e-3) => format!("{x:.3e}"),
        _ => format!("{x:.4}"),
    }
}

/// A duration on a clock: `0:07`, `12:04`, `1:02:33`, `2d 03:15`.
pub fn clock(d: Duration) -> String {
    let s = (d.as_secs_f64().round()) as u64;
    let (days, hours, minutes, seconds) = (s / 86400, s / 3600 % 24, s / 60 % 60, s % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{seconds:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{seconds:02}"),
        _ => format!("{days}d {hours:02}:{minutes:02}"),
    }
}

/// A duration in words: `340 ms`, `7.2 s`, `12 min 04 s`, `1 h 02 min`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    match s {
        _ if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        _ if s < 59.95 => format!("{s:.1} s"),
        _ if s < 3599.5 => {
            let s = s.round() as u64;
            format!("{} min {:02} s", s / 60, s % 60)
        }
        _ => {
            let minutes = (s / 60.0).round() as u64;
            format!("{} h {:02} min", minutes / 60, minutes % 60)
        }
    }
}

/// Bytes in binary units: `512 B`, `640 KiB`, `3.1 GiB`.
pub fn bytes(n: u64) -> String {
    let mut x = n as f64;
    if n < 1024 {
        return format!("{n} B");
    }
    for unit in ["KiB", "MiB", "GiB"] {
        x /= 1024.0;
        if x < 1023.5 {
            let digits = if x < 99.95 { 1 } else { 0 };
            return format!("{x:.digits$} {unit}");
        }
    }
    format!("{:.1} TiB", x / 1024.0)
}

/// A count with thin groups: `1 234 567` (U+202F, a narrow space that does not break).
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(c);
    }
    out
}

/// A share of a whole: `100 %`, `99.98 %`, `0 %`. A share that is not all never rounds to 100, and one that is not
/// nothing never rounds to 0. The space is U+202F, which does not break.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    if part == 0 || part == whole {
        return if part == 0 { "0\u{202f}%" } else { "100\u{202f}%" }.to_owned();
    }
    let p = part as f64 / whole as f64 * 100.0;
    match p {
        _ if p < 0.01 => "< 0.01\u{202f}%".to_owned(),
        _ if p > 99.99 => "> 99.99\u{202f}%".to_owned(),
        _ if !(1.0..=99.0).contains(&p) => format!("{p:.2}\u{202f}%"),
        _ => format!("{p:.1}\u{202f}%"),
    }
}

/// A moment in UTC, to the minute: `2026-03-01 14:05 UTC`.
pub fn utc(t: SystemTime) -> String {
    let s = t.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(s / 86400);
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", s / 3600 % 24, s / 60 % 60)
}

/// Year, month and day of a day number counted from 1970-01-01: the proleptic Gregorian calendar, in years that begin
/// on 1 March so that the leap day is the last one.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468; // days from 0000-03-01
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153; // 0 is March
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

fn plain_non_finite(x: f64) -> String {
    if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "∞"
    } else {
        "−∞"
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes() {
        for (x, want) in [
            (0.0, "0"),
            (7.0, "7"),
            (0.25, "0.25"),
            (812.4, "812"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (41_180.0, "41.2k"),
            (412_345.0, "412k"),
            (999_600.0, "1.00M"),
            (1.93e6, "1.93M"),
            (7.02e9, "7.02G"),
            (-41_180.0, "-41.2k"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "∞"),
        ] {
            assert_eq!(si(x), want, "si({x})");
        }
    }

    #[test]
    fn rates_and_losses() {
        for (x, want) in [
            (0.0, "0"),
            (9.8e-5, "9.8e-5"),
            (2e-5, "2e-5"),
            (1.254e-4, "1.25e-4"),
            (1e-3, "1e-3"),
            (0.01, "0.01"),
            (0.125, "0.125"),
            (1.0, "1"),
            (1e-10, "1e-10"),
        ] {
            assert_eq!(rate(x), want, "rate({x})");
        }
        for (x, want) in [
            (1.43121, "1.4312"),
            (0.0, "0.0000"),
            (11.5, "11.5000"),
            (2.5e-5, "2.500e-5"),
            (123456.0, "1.235e5"),
            (f64::NEG_INFINITY, "−∞"),
        ] {
            assert_eq!(loss(x), want, "loss({x})");
        }
    }

    #[test]
    fn durations() {
        for (s, on_clock, in_words) in [
            (0.0004, "0:00", "0 ms"),
            (0.34, "0:00", "340 ms"),
            (7.24, "0:07", "7.2 s"),
            (59.97, "1:00", "1 min 00 s"),
            (724.0, "12:04", "12 min 04 s"),
            (3753.0, "1:02:33", "1 h 03 min"),
            (184_500.0, "2d 03:15", "51 h 15 min"),
        ] {
            let d = Duration::from_secs_f64(s);
            assert_eq!((clock(d).as_str(), duration(d).as_str()), (on_clock, in_words), "{s} s");
        }
    }

    #[test]
    fn sizes_counts_and_shares() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (640 << 20, "640 MiB"),
            (3_328_599_655, "3.1 GiB"),
            (139 << 30, "139 GiB"),
            (2 << 40, "2.0 TiB"),
        ] {
            assert_eq!(bytes(n), want, "bytes({n})");
        }
        assert_eq!(count(0), "0");
        assert_eq!(count(1234), "1\u{202f}234");
        assert_eq!(count(123_456_789), "123\u{202f}456\u{202f}789");
        for (part, whole, want) in [
            (0, 0, "–"),
            (0, 9, "0\u{202f}%"),
            (9, 9, "100\u{202f}%"),
            (1, 3, "33.3\u{202f}%"),
            (9998, 10_000, "99.98\u{202f}%"),
            (999_999, 1_000_000, "> 99.99\u{202f}%"),
            (1, 1_000_000, "< 0.01\u{202f}%"),
        ] {
            assert_eq!(percent(part, whole), want, "{part}/{whole}");
        }
    }

    #[test]
    fn calendar() {
        for (s, want) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (1_772_373_900, "2026-03-01 14:05 UTC"),
        ] {
            assert_eq!(utc(UNIX_EPOCH + Duration::from_secs(s)), want);
        }
    }
}
