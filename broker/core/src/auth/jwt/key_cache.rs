//! When to fetch an issuer's keys, and how long to believe those that were fetched.
//!
//! ```text
//!  fetched          refresh_at          stale_at                    forget_at
//!     |--- use them ----|-- and fetch ------|-- fetch first, then use --|-- unknown -->
//! ```
//!
//! Invariants:
//!
//! * At most one fetch is under way, and fetches are not begun more often than `ATTEMPTS` says,
//!   whatever tokens clients make up.
//! * While the issuer cannot be reached, its last keys are good until `forget_at`. Without keys
//!   nobody is let in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::auth::jwt::KeySet;
use crate::auth::throttle::{Rate, Throttle, TokenBucket};

/// One in ten seconds, and after a rest three.
const ATTEMPTS: Throttle = Throttle::new(Rate(100), 3);
/// How long keys are good while nobody can be asked for newer ones.
const UNREACHABLE_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// After a fetch that failed, old keys are not waited with for this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// The keys of one issuer.
#[derive(Debug)]
pub struct KeyCache {
    held: Option<Held>,
    attempts: TokenBucket,
    is_fetching: bool,
}

#[derive(Debug)]
struct Held {
    keys: Arc<KeySet>,
    refresh_at: Instant,
    stale_at: Instant,
    forget_at: Instant,
}

/// What who needs keys is to do. Who is told to fetch must tell what came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advice {
    Use(Arc<KeySet>),
    /// They are good, and it is time to fetch newer ones beside.
    UseAndFetch(Arc<KeySet>),
    /// Fetch, then take the [`latest`](KeyCache::latest).
    Fetch,
    /// Somebody is fetching: when that is over, take the latest.
    Wait,
    /// There are none, and the issuer was asked too often already.
    None,
}

impl KeyCache {
    pub fn new(now: Instant) -> KeyCache {
        KeyCache { held: None, attempts: TokenBucket::new(now), is_fetching: false }
    }

    /// Somebody needs the keys.
    pub fn ask(&mut self, now: Instant) -> Advice {
        let Some(held) = self.held.as_ref().filter(|held| now < held.forget_at) else {
            return self.begin(now).unwrap_or(Advice::None);
        };
        let (keys, is_fresh, is_stale) =
            (held.keys.clone(), now < held.refresh_at, now >= held.stale_at);
        if is_fresh {
            return Advice::Use(keys);
        }
        match self.begin(now) {
            Some(advice) if is_stale => advice,
            Some(Advice::Fetch) => Advice::UseAndFetch(keys),
            Some(_) | None => Advice::Use(keys),
        }
    }

    /// A token names a key that is not among `seen`, the keys that were good a moment ago.
    pub fn ask_for_newer(&mut self, now: Instant, seen: &Arc<KeySet>) -> Advice {
        match self.latest(now) {
            Some(keys) if !Arc::ptr_eq(&keys, seen) => Advice::Use(keys),
            Some(_) | None => self.begin(now).unwrap_or(Advice::None),
        }
    }

    /// The keys as they are, however old.
    pub fn latest(&self, now: Instant) -> Option<Arc<KeySet>> {
        let held = self.held.as_ref().filter(|held| now < held.forget_at);
        held.map(|held| held.keys.clone())
    }

    /// `age_max` is how long the issuer says that they may be kept.
    pub fn on_fetched(&mut self, now: Instant, keys: KeySet, age_max: Duration) {
        self.is_fetching = false;
        self.held = Some(Held {
            keys: Arc::new(keys),
            refresh_at: now + age_max * 3 / 4,
            stale_at: now + age_max,
            forget_at: now + UNREACHABLE_MAX.max(age_max),
        });
    }

    pub fn on_failed(&mut self, now: Instant) {
        self.is_fetching = false;
        if let Some(held) = &mut self.held {
            held.stale_at = held.stale_at.max(now + PATIENCE);
        }
    }

    /// None if the issuer was asked too often.
    fn begin(&mut self, now: Instant) -> Option<Advice> {
        if self.is_fetching {
            return Some(Advice::Wait);
        }
        self.attempts.take(now, ATTEMPTS).ok()?;
        self.is_fetching = true;
        Some(Advice::Fetch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_secs(600);

    #[test]
    fn keys_are_fetched_once_and_refreshed_before_they_are_stale() {
        let (start, mut cache) = new();
        assert_eq!(cache.ask(start), Advice::Fetch);
        assert_eq!(cache.ask(start), Advice::Wait);
        cache.on_fetched(start, KeySet::default(), AGE);
        let keys = cache.latest(start).unwrap();
        assert_eq!(cache.ask(start + AGE / 2), Advice::Use(keys.clone()));
        let late = start + AGE * 4 / 5;
        assert_eq!(cache.ask(late), Advice::UseAndFetch(keys.clone()));
        assert_eq!(cache.ask(late), Advice::Use(keys.clone()), "one fetch is enough");
        cache.on_fetched(late, KeySet::default(), AGE);
        let Advice::Use(newer) = cache.ask(late) else { panic!("they are fresh") };
        assert!(!Arc::ptr_eq(&keys, &newer));
    }

    #[test]
    fn stale_keys_are_not_used_before_the_issuer_was_asked() {
        let (start, mut cache) = fetched();
        let keys = cache.latest(start).unwrap();
        let late = start + AGE;
        assert_eq!(cache.ask(late), Advice::Fetch);
        assert_eq!(cache.ask(late), Advice::Wait);
        cache.on_failed(late);
        assert_eq!(cache.latest(late), Some(keys.clone()));
        assert_eq!(
            cache.ask(late),
            Advice::UseAndFetch(keys.clone()),
            "nobody waits again so soon"
        );
        cache.on_failed(late);
        assert_eq!(cache.ask(late + PATIENCE), Advice::Fetch);
    }

    #[test]
    fn keys_of_an_issuer_that_is_gone_are_forgotten_in_the_end() {
        let (start, mut cache) = fetched();
        let end = start + UNREACHABLE_MAX;
        assert!(cache.latest(end - Duration::from_secs(1)).is_some());
        assert_eq!(cache.latest(end), None);
        assert_eq!(cache.ask(end), Advice::Fetch);
    }

    #[test]
    fn an_issuer_that_fails_is_not_asked_by_every_client() {
        let (start, mut cache) = new();
        for _ in 0..3 {
            assert_eq!(cache.ask(start), Advice::Fetch);
            cache.on_failed(start);
        }
        assert_eq!(cache.ask(start), Advice::None);
        assert_eq!(cache.ask(start + Duration::from_secs(10)), Advice::Fetch);
    }

    #[test]
    fn keys_that_are_made_up_cause_few_fetches() {
        let (start, mut cache) = fetched();
        let seen = cache.latest(start).unwrap();
        assert_eq!(cache.ask_for_newer(start, &seen), Advice::Fetch);
        assert_eq!(cache.ask_for_newer(start, &seen), Advice::Wait);
        cache.on_fetched(start, KeySet::default(), AGE);
        let newer = cache.latest(start).unwrap();
        assert_eq!(cache.ask_for_newer(start, &seen), Advice::Use(newer.clone()));
        assert_eq!(cache.ask_for_newer(start, &newer), Advice::Fetch);
        cache.on_failed(start);
        assert_eq!(cache.ask_for_newer(start, &newer), Advice::None);
        assert_eq!(cache.ask(start), Advice::Use(newer), "those that are known are good");
    }

    fn new() -> (Instant, KeyCache) {
        let start = Instant::now();
        (start, KeyCache::new(start))
    }

    fn fetched() -> (Instant, KeyCache) {
        let (start, mut cache) = new();
        assert_eq!(cache.ask(start), Advice::Fetch);
        cache.on_fetched(start, KeySet::default(), AGE);
        (start, cache)
    }
}
