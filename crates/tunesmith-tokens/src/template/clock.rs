//! `strftime_now`: a date as text, for templates that put today's date into their system prompt.
//!
//! The time is UTC and stands still for the life of a template, so that every row of a run sees the same date.

/// C's `strftime` in the C locale; directives that it does not know are kept as they are.
pub(super) fn strftime(format: &str, unix_seconds: i64) -> String {
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    const DAYS: [&str; 7] =
        ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let (days, second_of_day) = (unix_seconds.div_euclid(86_400), unix_seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) =
        (second_of_day / 3600, second_of_day / 60 % 60, second_of_day % 60);
    let hour12 = (hour + 11) % 12 + 1;
    let weekday = (days + 4).rem_euclid(7);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[weekday as usize]);
    let day_of_year = days - days_since_epoch(year, 1, 1) + 1;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        let unpadded = directive == Some('-');
        if unpadded {
            directive = chars.next();
        }
        let pad = |value: i64, width: usize| {
            if unpadded { value.to_string() } else { format!("{value:0width$}") }
        };
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => pad(year.rem_euclid(100), 2),
            Some('m') => pad(month, 2),
            Some('d') => pad(day, 2),
            Some('e') => format!("{day:2}"),
            Some('H') => pad(hour, 2),
            Some('I') => pad(hour12, 2),
            Some('M') => pad(minute, 2),
            Some('S') => pad(second, 2),
            Some('f') => "000000".into(),
            Some('j') => pad(day_of_year, 3),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.into(),
            Some('B') => month_name.into(),
            Some('b' | 'h') => month_name[..3].into(),
            Some('A') => day_name.into(),
            Some('a') => day_name[..3].into(),
            Some('w') => weekday.to_string(),
            Some('u') => ((weekday + 6) % 7 + 1).to_string(),
            Some('F') => format!("{year}-{month:02}-{day:02}"),
            Some('D' | 'x') => format!("{month:02}/{day:02}/{:02}", year.rem_euclid(100)),
            Some('T' | 'X') => format!("{hour:02}:{minute:02}:{second:02}"),
            Some('R') => format!("{hour:02}:{minute:02}"),
            Some('c') => {
                format!(
                    "{} {} {day:2} {hour:02}:{minute:02}:{second:02} {year}",
                    &day_name[..3],
                    &month_name[..3]
                )
            }
            // A time without a zone, as Python's naive datetimes.
            Some('z' | 'Z') => String::new(),
            Some('s') => unix_seconds.to_string(),
            Some('n') => "\n".into(),
            Some('t') => "\t".into(),
            Some('%') => "%".into(),
            Some(other) => format!("%{other}"),
            None => "%".into(),
        });
    }
    out
}

/// Year, month and day of a day number since 1970-01-01 in the Gregorian calendar: March-based years make the leap day
/// the last day of the year, so that month lengths follow one linear formula.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468; // since 0000-03-01
    let era = days.div_euclid(146_097); // 400 years
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`].
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let shifted_month = (month + 9) % 12;
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // Values of Python's datetime.fromtimestamp(t, UTC).strftime(format).
        for (seconds, format, expected) in [
            (0, "%d %b %Y", "01 Jan 1970"),
            (951_782_400, "%Y-%m-%d %A %j", "2000-02-29 Tuesday 060"),
            (1_753_445_700, "%d %B %Y, %I:%M %p", "25 July 2025, 12:15 PM"),
            (1_753_445_700, "%-d/%-m/%y %H:%M:%S %a 100%%", "25/7/25 12:15:00 Fri 100%"),
            (-1, "%F %T", "1969-12-31 23:59:59"),
            (4_102_444_799, "%c", "Thu Dec 31 23:59:59 2099"),
        ] {
            assert_eq!(strftime(format, seconds), expected, "{format}");
        }
    }
}
