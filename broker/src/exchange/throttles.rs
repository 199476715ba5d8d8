//! How often clients may connect and send, at this node.
//!
//! What was used is kept apart from the limits, which come with each reading of the configuration: a
//! new reading does not hand out a new burst.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use posthorn_core::auth::throttle::{Throttle, Throttled, TokenBucket};

/// Who shares one bucket.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Account,
    Route { api: Arc<str>, stage: Arc<str>, key: Box<str> },
}

/// The buckets of all places that have a limit.
#[derive(Debug, Default)]
pub(super) struct Throttles {
    buckets: Mutex<BTreeMap<Place, Bucket>>,
}

type Bucket = Arc<Mutex<TokenBucket>>;

/// A limit, and what is left of it. Nobody but those whom it limits waits for its lock.
#[derive(Debug, Clone)]
pub struct Limiter {
    throttle: Throttle,
    bucket: Bucket,
}

impl Throttles {
    pub(super) fn limiter(&self, place: Place, throttle: Throttle) -> Limiter {
        let mut buckets = self.buckets.lock();
        let bucket = buckets
            .entry(place)
            .or_insert_with(|| Arc::new(Mutex::new(TokenBucket::new(Instant::now()))));
        Limiter { throttle, bucket: bucket.clone() }
    }

    /// Forgets the buckets that no limiter uses any more.
    pub(super) fn forget_unused(&self) {
        self.buckets.lock().retain(|_, bucket| Arc::strong_count(bucket) > 1);
    }
}

impl Limiter {
    pub fn take(&self, now: Instant) -> Result<(), Throttled> {
        self.bucket.lock().take(now, self.throttle)
    }

    /// Takes from both, or from neither. Everybody names them in the same order: that of the account
    /// first.
    pub(super) fn take_both(
        first: Option<&Limiter>,
        second: Option<&Limiter>,
        now: Instant,
    ) -> Result<(), Throttled> {
        match (first, second) {
            (None, None) => Ok(()),
            (Some(one), None) | (None, Some(one)) => one.take(now),
            (Some(first), Some(second)) => {
                let (mut one, mut other) = (first.bucket.lock(), second.bucket.lock());
                one.peek(now, first.throttle)?;
                other.take(now, second.throttle)?;
                one.take(now, first.throttle)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use posthorn_core::auth::throttle::Rate;

    #[test]
    fn a_place_has_one_bucket_whatever_its_limit() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        let route =
            |key: &str| Place::Route { api: "a".into(), stage: "s".into(), key: key.into() };
        let two = throttles.limiter(route("x"), Throttle::new(Rate::per_second(1), 2));
        assert_eq!((two.take(now), two.take(now)), (Ok(()), Ok(())));
        let again = throttles.limiter(route("x"), Throttle::new(Rate::per_second(1), 2));
        assert!(again.take(now).is_err());
        let other = throttles.limiter(route("y"), Throttle::new(Rate::per_second(1), 2));
        assert!(other.take(now).is_ok());
        drop((two, again));
        throttles.forget_unused();
        let anew = throttles.limiter(route("x"), Throttle::new(Rate::per_second(1), 2));
        assert!(anew.take(now).is_ok());
    }

    #[test]
    fn who_is_refused_by_one_is_not_charged_by_the_other() {
        let (throttles, now) = (Throttles::default(), Instant::now());
        let limiter = |key: &str, burst| {
            let place = Place::Route { api: "a".into(), stage: "s".into(), key: key.into() };
            throttles.limiter(place, Throttle::new(Rate(1), burst))
        };
        let (wide, narrow) = (limiter("wide", 2), limiter("narrow", 1));
        let take = |first, second| Limiter::take_both(first, second, now).is_ok();
        assert!(take(Some(&wide), Some(&narrow)));
        assert!(!take(Some(&wide), Some(&narrow)));
        assert!(!take(Some(&narrow), Some(&wide)));
        assert!(take(Some(&wide), None), "one was left");
        assert!(!take(None, Some(&wide)));
        assert!(take(None, None));
    }
}
