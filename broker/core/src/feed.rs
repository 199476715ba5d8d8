//! What somebody who looks on has yet to see.
//!
//! Invariants:
//!
//! * It is bounded: what comes while it is full is lost, and how much was is told in its place.
//! * What is given out is in the order in which it came.
//! * The end is never lost, and nothing comes behind it.

use std::collections::VecDeque;

/// Items that wait, each with how many were lost before it.
#[derive(Debug)]
pub struct Feed<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    lost: u64,
    is_over: bool,
}

#[derive(Debug)]
struct Waiting<T> {
    item: T,
    bytes: usize,
    lost_before: u64,
}

impl<T> Default for Feed<T> {
    fn default() -> Feed<T> {
        Feed { waiting: VecDeque::new(), bytes: 0, lost: 0, is_over: false }
    }
}

impl<T> Feed<T> {
    /// Items that wait at once.
    pub const ITEMS_MAX: usize = 1024;
    /// The same in bytes.
    pub const BYTES_MAX: usize = 256 * 1024;

    pub fn push(&mut self, item: T, bytes: usize) {
        if self.is_over {
            return;
        }
        if self.waiting.len() >= Self::ITEMS_MAX || self.bytes + bytes > Self::BYTES_MAX {
            self.lost += 1;
            return;
        }
        self.wait(item, bytes);
    }

    /// The last item, which there is always room for.
    pub fn end(&mut self, item: T, bytes: usize) {
        if !self.is_over {
            self.wait(item, bytes);
            self.is_over = true;
        }
    }

    /// Items of about `bytes_max`, one at least if any waits, each with how many were lost before it.
    pub fn take(&mut self, bytes_max: usize) -> Vec<(u64, T)> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while bytes < bytes_max
            && let Some(next) = self.waiting.pop_front()
        {
            bytes += next.bytes.max(1);
            self.bytes -= next.bytes;
            taken.push((next.lost_before, next.item));
        }
        taken
    }

    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether everything was taken, the end included.
    pub fn is_over(&self) -> bool {
        self.is_over && self.waiting.is_empty()
    }

    fn wait(&mut self, item: T, bytes: usize) {
        let lost_before = std::mem::take(&mut self.lost);
        self.bytes += bytes;
        self.waiting.push_back(Waiting { item, bytes, lost_before });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_does_not_fit_is_counted_where_it_would_have_been() {
        let mut feed = Feed::default();
        feed.push('a', Feed::<char>::BYTES_MAX);
        feed.push('b', 1);
        feed.push('c', 1);
        assert_eq!(feed.take(1), [(0, 'a')]);
        feed.push('d', 1);
        assert_eq!(feed.take(9), [(2, 'd')]);
        assert!(feed.is_empty() && !feed.is_over());
    }

    #[test]
    fn the_end_is_told_however_full_it_is() {
        let mut feed = Feed::default();
        for number in 0..2000 {
            feed.push(number, 0);
        }
        feed.end(9999, 1);
        feed.push(1, 0);
        feed.end(2, 0);
        let taken = feed.take(usize::MAX);
        assert_eq!((taken.len(), taken.last()), (1025, Some(&(976, 9999))));
        assert!(feed.is_over());
    }

    proptest! {
        #[test]
        fn nothing_is_missing_but_what_is_said_to_be(
            steps in proptest::collection::vec((0_usize..200_000, 0_usize..300_000), 1..200),
        ) {
            let (mut feed, mut next, mut seen) = (Feed::default(), 0_u64, 0);
            let mut look = |feed: &mut Feed<u64>, bytes| {
                for (lost, number) in feed.take(bytes) {
                    seen += lost;
                    assert_eq!(number, seen);
                    seen += 1;
                }
            };
            for (bytes, taken) in steps {
                feed.push(next, bytes);
                next += 1;
                look(&mut feed, taken);
                prop_assert!(feed.bytes <= Feed::<u64>::BYTES_MAX);
            }
            feed.end(next, 0);
            look(&mut feed, usize::MAX);
            prop_assert_eq!(seen, next + 1);
        }
    }
}
