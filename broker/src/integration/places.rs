//! How many calls of one backend may be under way, how many more may wait for that, and how long. So a
//! backend that hangs costs its own callers something, and nobody else.

use std::time::Duration;

use metrics::Gauge;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::api::PlacesSettings;
use crate::integration::CallError;

pub(super) struct Places {
    /// For calls under way.
    calls: Semaphore,
    /// For calls that wait for such a place.
    queue: Semaphore,
    queue_timeout: Duration,
    /// How many wait, at all backends.
    waiting: Gauge,
}

/// Counts a call that waits, however its waiting ends.
struct Waiting<'a>(&'a Gauge);

impl Places {
    pub(super) fn new(settings: PlacesSettings, waiting: Gauge) -> Places {
        let PlacesSettings { concurrency_max, queue_max, queue_timeout } = settings;
        let (calls, queue) = (Semaphore::new(concurrency_max), Semaphore::new(queue_max));
        Places { calls, queue, queue_timeout, waiting }
    }

    /// Waits for a place among the calls under way, unless too many wait already.
    pub(super) async fn take(&self) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(place) = self.calls.try_acquire() {
            return Ok(place);
        }
        let _queued = self.queue.try_acquire().map_err(|_| CallError::Overloaded)?;
        self.waiting.increment(1);
        let _waiting = Waiting(&self.waiting);
        match tokio::time::timeout(self.queue_timeout, self.calls.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            // It is never closed.
            Ok(Err(_)) => Err(CallError::Overloaded),
            Err(_) => Err(CallError::QueuedTooLong(self.queue_timeout)),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_call_so_many_wait_and_not_for_ever() {
        let queue_timeout = Duration::from_millis(10);
        let settings = PlacesSettings { concurrency_max: 1, queue_max: 1, queue_timeout };
        let places = Places::new(settings, Gauge::noop());
        let first = places.take().await.expect("there is a place");
        let (second, third) = tokio::join!(places.take(), places.take());
        let said = |taken: Result<_, CallError>| taken.map(|_| ()).unwrap_err().to_string();
        assert_eq!(said(second), "no turn within 10 ms: too many calls are under way");
        assert_eq!(said(third), "too many calls are under way");
        drop(first);
        assert!(places.take().await.is_ok(), "its turn has come");
    }
}
