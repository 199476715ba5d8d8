//! Token buckets: how often something may happen.
//!
//! Invariants:
//!
//! * All numbers are integers, so that nothing is gained or lost by rounding, however often a bucket
//!   is asked.
//! * A bucket knows only its level. Its limits come with every question, so that they may change
//!   while it is in use.

use std::time::{Duration, Instant};

/// A `throttling_rate_limit` and a `throttling_burst_limit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Throttle {
    rate: Rate,
    /// How many may happen at once after a rest.
    burst: u32,
}

/// How many per second, in thousandths. API Gateway's rates may have fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate(pub u64);

/// Too many; nothing was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Too Many Requests")]
pub struct Throttled {
    /// When it would be granted if nobody else asked. None: never.
    pub retry_after: Option<Duration>,
}

/// Full when it is made.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    /// What was taken and has not come back yet, in [`TOKEN`]s.
    taken: u128,
    settled_at: Instant,
}

/// A token in millionths of millionths: a nanosecond at one thousandth of a token a second brings
/// one of these.
const TOKEN: u128 = 1_000_000_000_000;

impl Rate {
    pub const fn per_second(count: u32) -> Rate {
        Rate(count as u64 * 1000)
    }
}

impl Throttle {
    /// If either is zero, nothing is ever granted: so it is with API Gateway.
    pub const fn new(rate: Rate, burst: u32) -> Throttle {
        Throttle { rate, burst }
    }

    fn is_closed(self) -> bool {
        self.rate == Rate(0) || self.burst == 0
    }

    fn capacity(self) -> u128 {
        u128::from(self.burst) * TOKEN
    }
}

impl TokenBucket {
    pub fn new(now: Instant) -> TokenBucket {
        TokenBucket { taken: 0, settled_at: now }
    }

    /// Takes a token.
    pub fn take(&mut self, now: Instant, throttle: Throttle) -> Result<(), Throttled> {
        self.peek(now, throttle)?;
        self.taken += TOKEN;
        Ok(())
    }

    /// Whether a token could be taken now. Who must take from several buckets asks all of them
    /// first, so that one that refuses does not cost the others a token.
    pub fn peek(&mut self, now: Instant, throttle: Throttle) -> Result<(), Throttled> {
        self.settle(now, throttle);
        if throttle.is_closed() {
            return Err(Throttled { retry_after: None });
        }
        let needed = (self.taken + TOKEN).saturating_sub(throttle.capacity());
        if needed == 0 {
            return Ok(());
        }
        let nanoseconds = needed.div_ceil(u128::from(throttle.rate.0));
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        Err(Throttled { retry_after: Some(Duration::from_nanos(nanoseconds)) })
    }

    /// Whether it is as good as new, and may be forgotten.
    pub fn is_full(&mut self, now: Instant, throttle: Throttle) -> bool {
        self.settle(now, throttle);
        self.taken == 0
    }

    fn settle(&mut self, now: Instant, throttle: Throttle) {
        let elapsed = now.saturating_duration_since(self.settled_at).as_nanos();
        let returned = elapsed.saturating_mul(u128::from(throttle.rate.0));
        // A smaller burst than before: what is owed beyond it is forgiven.
        self.taken = self.taken.min(throttle.capacity()).saturating_sub(returned);
        self.settled_at = self.settled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const THROTTLE: Throttle = Throttle::new(Rate::per_second(10), 3);

    #[test]
    fn a_burst_is_granted_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let mut take = |after_ms| bucket.take(start + Duration::from_millis(after_ms), THROTTLE);
        let refused = |ms| Err(Throttled { retry_after: Some(Duration::from_millis(ms)) });
        assert_eq!([take(0), take(0), take(0), take(0)], [Ok(()), Ok(()), Ok(()), refused(100)]);
        assert_eq!([take(99), take(100), take(100)], [refused(1), Ok(()), refused(100)]);
        assert_eq!(
            [take(1000), take(1000), take(1000), take(1000)].map(|one| one.is_ok()),
            [true, true, true, false]
        );
        assert_eq!(take(500), refused(100), "time does not run backwards");
    }

    #[test]
    fn a_rate_may_be_a_fraction() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let throttle = Throttle::new(Rate(500), 1);
        assert_eq!(bucket.take(start, throttle), Ok(()));
        let retry_after = Some(Duration::from_secs(2));
        assert_eq!(bucket.take(start, throttle), Err(Throttled { retry_after }));
        assert_eq!(bucket.take(start + Duration::from_secs(2), throttle), Ok(()));
    }

    #[test]
    fn zero_grants_nothing() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        for throttle in [Throttle::new(Rate(0), 5), Throttle::new(Rate::per_second(5), 0)] {
            let later = start + Duration::from_secs(1000);
            assert_eq!(bucket.take(later, throttle), Err(Throttled { retry_after: None }));
        }
    }

    #[test]
    fn who_looks_takes_nothing() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let throttle = Throttle::new(Rate::per_second(1), 1);
        assert_eq!(bucket.peek(start, throttle), Ok(()));
        assert!(bucket.is_full(start, throttle));
        assert_eq!(bucket.take(start, throttle), Ok(()));
        assert!(!bucket.is_full(start, throttle));
        assert!(bucket.is_full(start + Duration::from_secs(1), throttle));
    }

    #[test]
    fn limits_may_change_while_they_are_in_use() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let wide = Throttle::new(Rate::per_second(1), 100);
        assert!((0..100).all(|_| bucket.take(start, wide).is_ok()));
        let retry_after = Some(Duration::from_secs(1));
        let narrow = Throttle::new(Rate::per_second(1), 1);
        assert_eq!(bucket.take(start, narrow), Err(Throttled { retry_after }));
        assert_eq!(bucket.take(start + Duration::from_secs(1), narrow), Ok(()));
    }

    proptest! {
        #[test]
        fn never_more_than_the_burst_and_the_rate_are_granted(
            rate in 1..5_000_000u64,
            burst in 1..50u32,
            steps in prop::collection::vec(0..50_000_000u64, 1..200),
        ) {
            let start = Instant::now();
            let throttle = Throttle::new(Rate(rate), burst);
            let mut bucket = TokenBucket::new(start);
            let (mut elapsed_ns, mut granted) = (0u128, 0u128);
            for step_ns in steps {
                elapsed_ns += u128::from(step_ns);
                let now = start + Duration::from_nanos(elapsed_ns as u64);
                match bucket.take(now, throttle) {
                    Ok(()) => granted += 1,
                    Err(Throttled { retry_after }) => {
                        let at = now + retry_after.unwrap();
                        let just_before = at - Duration::from_nanos(1);
                        prop_assert!(bucket.clone().peek(just_before, throttle).is_err());
                        prop_assert!(bucket.clone().peek(at, throttle).is_ok());
                    }
                }
            }
            let earned = elapsed_ns * u128::from(rate) / TOKEN;
            prop_assert!(granted <= u128::from(burst) + earned);
        }

        #[test]
        fn who_asks_as_often_as_allowed_is_never_refused(rate in 1..1000u32, count in 1..500u32) {
            let start = Instant::now();
            let throttle = Throttle::new(Rate::per_second(rate), 2);
            let mut bucket = TokenBucket::new(start);
            // Two, since a nanosecond is not a fraction of every rate.
            for index in 0..count {
                let after = u128::from(index) * 1_000_000_000;
                let after = Duration::from_nanos(after.div_ceil(u128::from(rate)) as u64);
                prop_assert!(bucket.take(start + after, throttle).is_ok());
            }
        }
    }
}
