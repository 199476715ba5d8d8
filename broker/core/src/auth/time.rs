//! Points in time as AWS signs and compares them, always in UTC.

use std::fmt;

use crate::event::time::{Civil, civil};

const DAY_MS: u64 = 86_400_000;

/// `20150830T123600Z` (ISO 8601 basic format). Holds milliseconds since 1970, of which it shows whole
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BasicTime(pub u64);

/// The day of a [`BasicTime`]: `20150830`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BasicDay(pub u64);

impl BasicTime {
    pub const CHARS: usize = 16;

    /// None unless it is exactly the text of a point in time from 1970 to 9999.
    pub fn parse(text: &str) -> Option<BasicTime> {
        let is_framed = text.len() == Self::CHARS && text.is_ascii();
        if !is_framed || &text[8..9] != "T" || !text.ends_with('Z') {
            return None;
        }
        let day = day_ms(number(&text[..4])?, number(&text[4..6])?, number(&text[6..8])?)?;
        let time = time_ms(number(&text[9..11])?, number(&text[11..13])?, number(&text[13..15])?)?;
        Some(BasicTime(day + time))
    }
}

/// `2015-08-30`, `2015-08-30T12:36Z`, `2015-08-30T12:36:00Z` and `2015-08-30T12:36:00.123Z` (ISO 8601
/// in the forms that policies use), as milliseconds since 1970.
pub fn parse_extended(text: &str) -> Option<u64> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00Z"));
    let [year, month, day] = split::<3>(date, '-')?;
    let day = day_ms(fixed(year, 4)?, fixed(month, 2)?, fixed(day, 2)?)?;
    let time = time.strip_suffix('Z')?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let (hour, minute, second) = match split::<3>(time, ':') {
        Some([hour, minute, second]) => (hour, minute, second),
        None => {
            let [hour, minute] = split::<2>(time, ':')?;
            (hour, minute, "00")
        }
    };
    let time = time_ms(fixed(hour, 2)?, fixed(minute, 2)?, fixed(second, 2)?)?;
    let is_fraction = (1..=9).contains(&fraction.len());
    let thousandths = number(fraction.get(..3).unwrap_or(fraction)).filter(|_| is_fraction)?;
    let scale = [100, 10, 1][fraction.len().min(3) - 1];
    Some(day + time + thousandths * scale)
}

/// The days since 1970 of a day of the calendar. None if there is no such day from then to 9999.
///
/// After Howard Hinnant's `days_from_civil` (chrono-Compatible Low-Level Date Algorithms).
pub fn day_number(year: u64, month: u64, day: u64) -> Option<u64> {
    let is_leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1970..=9999).contains(&year) || !(1..=days).contains(&day) {
        return None;
    }
    // Years begin in March here, so that the leap day is their last.
    let year = year - u64::from(month <= 2);
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Year, month from 1, and day from 1.
pub fn calendar_day(milliseconds: u64) -> (u64, u64, u64) {
    let Civil { year, month, day, .. } = civil(milliseconds);
    (year, month as u64 + 1, day)
}

fn day_ms(year: u64, month: u64, day: u64) -> Option<u64> {
    day_number(year, month, day).map(|days| days * DAY_MS)
}

fn time_ms(hour: u64, minute: u64, second: u64) -> Option<u64> {
    let is_time = hour < 24 && minute < 60 && second < 60;
    is_time.then_some((hour * 3600 + minute * 60 + second) * 1000)
}

fn split<const PARTS: usize>(text: &str, at: char) -> Option<[&str; PARTS]> {
    let mut parts = text.split(at);
    let mut taken = [""; PARTS];
    for part in &mut taken {
        *part = parts.next()?;
    }
    parts.next().is_none().then_some(taken)
}

fn fixed(text: &str, digits: usize) -> Option<u64> {
    number(text).filter(|_| text.len() == digits)
}

/// Digits alone: no sign, no spaces.
fn number(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number)
}

impl fmt::Display for BasicTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { hour, minute, second, .. } = civil(self.0);
        write!(f, "{}T{hour:02}{minute:02}{second:02}Z", BasicDay(self.0))
    }
}

impl fmt::Display for BasicDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = calendar_day(self.0);
        write!(f, "{year:04}{month:02}{day:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_basic_format_has_one_form() {
        assert_eq!(BasicTime::parse("20150830T123600Z"), Some(BasicTime(1_440_938_160_000)));
        for bad in [
            "",
            "20150830T123600",
            "20150830t123600Z",
            "20150230T123600Z",
            "20150830T243600Z",
            "2015-08-30T12:36Z",
            "20150830T12360+Z",
            "20150830T1236ä0Z",
            "19691231T235959Z",
        ] {
            assert_eq!(BasicTime::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_extended_format_may_leave_out_the_time_or_its_end() {
        let day = 1_440_892_800_000;
        assert_eq!(parse_extended("2015-08-30"), Some(day));
        assert_eq!(parse_extended("2015-08-30T00:01Z"), Some(day + 60_000));
        assert_eq!(parse_extended("2015-08-30T00:00:01Z"), Some(day + 1000));
        assert_eq!(parse_extended("2015-08-30T00:00:00.12Z"), Some(day + 120));
        assert_eq!(parse_extended("2015-08-30T00:00:00.123456Z"), Some(day + 123));
        for bad in ["", "2015", "2015-8-30", "2015-08-30T", "2015-08-30T00Z", "2015-08-30T00:00"] {
            assert_eq!(parse_extended(bad), None, "{bad}");
        }
        assert_eq!(parse_extended("2015-08-30T00:00:00.Z"), None);
        assert_eq!(parse_extended("2015-08-30T00:00:00.1234567890Z"), None);
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(seconds in 0..253_402_300_800u64) {
            let time = BasicTime(seconds * 1000);
            prop_assert_eq!(BasicTime::parse(&time.to_string()), Some(time));
            let extended = crate::event::time::IsoTime(time.0).to_string();
            prop_assert_eq!(parse_extended(&extended), Some(time.0));
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,30}", digits in "[0-9TZ:.-]{0,26}") {
            let _ = (BasicTime::parse(&text), BasicTime::parse(&digits));
            let _ = (parse_extended(&text), parse_extended(&digits));
        }
    }
}
