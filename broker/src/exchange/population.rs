//! How many there are of something, and that there are not too many.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Clone, Default)]
pub struct Population(Arc<AtomicU64>);

/// One of them, for as long as it is held.
#[derive(Debug)]
pub struct Resident(Population);

impl Population {
    /// None where there are as many as there may be.
    pub fn enter(&self, max: Option<u64>) -> Option<Resident> {
        let resident = Resident(self.clone());
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        // Who is not let in is taken out again as `resident` goes.
        max.is_none_or(|max| before < max).then_some(resident)
    }

    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let population = Population::default();
        let first = population.enter(Some(2));
        let second = population.enter(Some(2));
        assert!(first.is_some() && second.is_some());
        assert!(population.enter(Some(2)).is_none());
        assert!(population.enter(Some(2)).is_none(), "who was refused takes no place");
        drop(first);
        assert!(population.enter(Some(2)).is_some());
        assert!(population.enter(None).is_some());
    }
}
