//! Quotas: how often something may happen in a day, a week or a month, all of them in UTC.

use crate::auth::time::{calendar_day, day_number};

const DAY_MS: u64 = 86_400_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    limit: u64,
    period: Period,
}

/// With the day on which it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Day,
    /// Days behind Sunday.
    Week {
        offset: u64,
    },
    /// Days behind the first.
    Month {
        offset: u64,
    },
}

/// API Gateway's words for a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeriodName {
    Day,
    Week,
    Month,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuotaError {
    #[error("the offset of a quota must be 0 in the DAY period")]
    DayOffset,
    #[error("the offset of a quota must be from 0 to 6 in the WEEK period")]
    WeekOffset,
    #[error("the offset of a quota must be from 0 to 27 in the MONTH period")]
    MonthOffset,
}

/// What was used of a quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaUse {
    /// Of which period `count` speaks: its first day, counted from 1970.
    period_start: u64,
    count: u64,
}

/// Nothing was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Limit Exceeded")]
pub struct QuotaExceeded;

impl Quota {
    /// `offset` is the day on which the period begins: of a week 0 for Sunday to 6, of a month 0 for
    /// the first to 27, and of a day 0.
    pub fn new(limit: u64, period: PeriodName, offset: u32) -> Result<Quota, QuotaError> {
        let offset = u64::from(offset);
        let period = match period {
            PeriodName::Day if offset == 0 => Period::Day,
            PeriodName::Day => return Err(QuotaError::DayOffset),
            PeriodName::Week if offset <= 6 => Period::Week { offset },
            PeriodName::Week => return Err(QuotaError::WeekOffset),
            PeriodName::Month if offset <= 27 => Period::Month { offset },
            PeriodName::Month => return Err(QuotaError::MonthOffset),
        };
        Ok(Quota { limit, period })
    }
}

impl Period {
    /// The first day of the period at that time.
    fn start(self, now_ms: u64) -> u64 {
        // 1 January 1970 was a Thursday.
        const SUNDAY: u64 = 3;
        let today = now_ms / DAY_MS;
        match self {
            Period::Day => today,
            Period::Week { offset } => {
                let since = (today + 7 - (SUNDAY + offset) % 7) % 7;
                today.saturating_sub(since)
            }
            Period::Month { offset } => {
                let (year, month, day) = calendar_day(now_ms);
                let (year, month) = match (day > offset, month) {
                    (true, month) => (year, month),
                    (false, 1) => (year.saturating_sub(1), 12),
                    (false, month) => (year, month - 1),
                };
                // There is no period before 1970, and none after 9999 that would end.
                day_number(year, month, offset + 1).unwrap_or(0)
            }
        }
    }
}

impl QuotaUse {
    /// Uses one. A clock that is set back does not bring back what was used.
    pub fn take(&mut self, now_ms: u64, quota: Quota) -> Result<(), QuotaExceeded> {
        self.peek(now_ms, quota)?;
        self.count += 1;
        Ok(())
    }

    /// Whether one is left.
    pub fn peek(&mut self, now_ms: u64, quota: Quota) -> Result<(), QuotaExceeded> {
        let period_start = quota.period.start(now_ms);
        if period_start > self.period_start {
            *self = QuotaUse { period_start, count: 0 };
        }
        if self.count < quota.limit { Ok(()) } else { Err(QuotaExceeded) }
    }

    pub fn used(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::time::parse_extended;
    use proptest::prelude::*;

    #[test]
    fn a_quota_is_whole_again_when_its_period_begins() {
        for (period, offset, last, first) in [
            (PeriodName::Day, 0, "2026-03-01T23:59:59.999Z", "2026-03-02"),
            // 1 March 2026 is a Sunday.
            (PeriodName::Week, 0, "2026-02-28T23:59:59.999Z", "2026-03-01"),
            (PeriodName::Week, 1, "2026-03-01T23:59:59.999Z", "2026-03-02"),
            (PeriodName::Week, 6, "2026-03-06T23:59:59.999Z", "2026-03-07"),
            (PeriodName::Month, 0, "2026-02-28T23:59:59.999Z", "2026-03-01"),
            (PeriodName::Month, 14, "2026-03-14T23:59:59.999Z", "2026-03-15"),
            (PeriodName::Month, 27, "2026-12-27T23:59:59.999Z", "2026-12-28"),
            (PeriodName::Month, 5, "2027-01-05T23:59:59.999Z", "2027-01-06"),
        ] {
            let quota = Quota::new(2, period, offset).unwrap();
            let mut used = QuotaUse::default();
            let mut take = |text| used.take(parse_extended(text).unwrap(), quota);
            let taken = [take(last), take(last), take(last), take(first), take(first), take(first)];
            let expected = [Ok(()), Ok(()), Err(QuotaExceeded), Ok(()), Ok(()), Err(QuotaExceeded)];
            assert_eq!(taken, expected, "{period:?} {offset}");
            assert_eq!(take(last), Err(QuotaExceeded), "set back");
        }
    }

    #[test]
    fn an_offset_lies_within_its_period() {
        let refused = |period, offset| Quota::new(1, period, offset).unwrap_err();
        assert_eq!(refused(PeriodName::Day, 1), QuotaError::DayOffset);
        assert_eq!(refused(PeriodName::Week, 7), QuotaError::WeekOffset);
        assert_eq!(refused(PeriodName::Month, 28), QuotaError::MonthOffset);
    }

    proptest! {
        #[test]
        fn a_period_has_begun_and_is_not_over(now_ms in 3_000_000_000..200_000_000_000_000u64, offset in 0..=27u64) {
            let today = now_ms / DAY_MS;
            let week = Period::Week { offset: offset % 7 }.start(now_ms);
            prop_assert!(week <= today && today < week + 7);
            prop_assert_eq!((week + 4) % 7, offset % 7, "counted from Sunday");
            let month = Period::Month { offset }.start(now_ms);
            prop_assert!(month <= today && today < month + 31);
            prop_assert_eq!(calendar_day(month * DAY_MS).2, offset + 1);
        }

        #[test]
        fn no_time_is_too_odd(now_ms: u64, offset in 0..=27u64) {
            let _ = Period::Month { offset }.start(now_ms);
            let _ = Period::Week { offset: offset % 7 }.start(now_ms);
        }
    }
}
