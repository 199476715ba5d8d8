//! Points in time as API Gateway writes them, always in UTC.

use std::fmt;

use serde::{Serialize, Serializer};

/// `29/Nov/2023:08:04:03 +0000`, as in events and access logs. Holds milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommonLogTime(pub u64);

/// `2026-09-25T00:22:29.887Z` (ISO 8601), as in answers to GetConnection. Holds milliseconds since
/// 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsoTime(pub u64);

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A day and the time of it.
pub(crate) struct Civil {
    pub year: u64,
    /// From 0.
    pub month: usize,
    /// From 1.
    pub day: u64,
    pub hour: u64,
    pub minute: u64,
    pub second: u64,
    pub millisecond: u64,
}

impl fmt::Display for CommonLogTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, millisecond: _ } = civil(self.0);
        let month = MONTHS[month];
        write!(f, "{day:02}/{month}/{year:04}:{hour:02}:{minute:02}:{second:02} +0000")
    }
}

impl fmt::Display for IsoTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Civil { year, month, day, hour, minute, second, millisecond } = civil(self.0);
        let month = month + 1;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
        )
    }
}

impl Serialize for CommonLogTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for IsoTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// After Howard Hinnant's `civil_from_days` (chrono-Compatible Low-Level Date Algorithms), whose
/// years begin in March, so that the leap day is their last, and whose eras of 400 years are equal.
pub(crate) fn civil(milliseconds: u64) -> Civil {
    const ERA_DAYS: u64 = 146_097;
    const DAYS_BEFORE_1970: u64 = 719_468;
    let seconds = milliseconds / 1000;
    let day = seconds / 86_400 + DAYS_BEFORE_1970;
    let (era, day) = (day / ERA_DAYS, day % ERA_DAYS);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let is_next_year = month_from_march >= 10;
    Civil {
        year: era * 400 + year + u64::from(is_next_year),
        month: (month_from_march as usize + 2) % 12,
        day: day - (153 * month_from_march + 2) / 5 + 1,
        hour: seconds / 3600 % 24,
        minute: seconds / 60 % 60,
        second: seconds % 60,
        millisecond: milliseconds % 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_written_as_they_were_recorded() {
        let time = 1_701_245_043_417;
        assert_eq!(CommonLogTime(time).to_string(), "29/Nov/2023:08:04:03 +0000");
        assert_eq!(IsoTime(time).to_string(), "2023-11-29T08:04:03.417Z");
        assert_eq!(CommonLogTime(0).to_string(), "01/Jan/1970:00:00:00 +0000");
        assert_eq!(IsoTime(951_782_400_000).to_string(), "2000-02-29T00:00:00.000Z");
        assert_eq!(IsoTime(4_107_542_399_999).to_string(), "2100-02-28T23:59:59.999Z");
        assert_eq!(IsoTime(4_107_542_400_000).to_string(), "2100-03-01T00:00:00.000Z");
        assert!(IsoTime(u64::MAX).to_string().ends_with("Z"), "no time is too late");
    }

    proptest! {
        #[test]
        fn times_agree_with_the_time_crate(milliseconds in 0..253_402_300_800_000u64) {
            let nanoseconds = i128::from(milliseconds) * 1_000_000;
            let time = time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap();
            let (year, month, day) = time.to_calendar_date();
            let (hour, minute, second, millisecond) = time.to_hms_milli();
            let month = u8::from(month);
            prop_assert_eq!(
                IsoTime(milliseconds).to_string(),
                format!(
                    "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
                )
            );
        }
    }
}
