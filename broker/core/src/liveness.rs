//! Who is alive: the others, as the leader sees them, and we, as we may still claim to be.
//!
//! The two sides are one promise. A run stops acting at its last acknowledged beat's *sending* plus
//! `lease_max`; the leader gives it up at that beat's *hearing* plus `patience`. Sending comes
//! before hearing and `lease_max < patience`, so nobody is given up while it still acts, as long as
//! no clock runs faster than another by more than `patience / lease_max`.

use std::collections::BTreeMap;
use std::ops::Add;
use std::time::Duration;

use crate::ids::NodeRun;

/// A point in time by a node's own clock, which never steps and counts while the machine sleeps.
/// Two nodes' points cannot be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub Duration);

/// The leader's side: which runs have been silent for too long.
///
/// A new leader makes a new one: it has heard from nobody yet, and must not take its own ignorance
/// for their death.
#[derive(Debug)]
pub struct FailureDetector {
    patience: Duration,
    heard: BTreeMap<NodeRun, BootTime>,
}

/// Our own side: how long we may act without word from a leader that has a quorum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    lease_max: Duration,
    sent_at: BootTime,
}

impl Add<Duration> for BootTime {
    type Output = BootTime;

    fn add(self, duration: Duration) -> BootTime {
        BootTime(self.0 + duration)
    }
}

impl FailureDetector {
    pub fn new(patience: Duration) -> FailureDetector {
        FailureDetector { patience, heard: BTreeMap::new() }
    }

    /// Forgets who is no longer current and begins to watch who is new.
    pub fn watch(&mut self, now: BootTime, runs: impl Iterator<Item = NodeRun>) {
        self.heard = runs.map(|run| (run, self.heard.get(&run).copied().unwrap_or(now))).collect();
    }

    /// A current run showed a sign of life. Who acknowledges it must have told us first: a run
    /// that we do not watch would be given up by nobody's clock.
    ///
    /// False if it comes too late, and must not be acknowledged: the run may be evicted at any moment.
    pub fn on_beat(&mut self, now: BootTime, run: NodeRun) -> bool {
        let heard = self.heard.entry(run).or_insert(now);
        let is_in_time = now < *heard + self.patience;
        if is_in_time {
            *heard = (*heard).max(now);
        }
        is_in_time
    }

    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.heard.values().min().map(|heard| *heard + self.patience)
    }

    /// The runs whose silence has outlasted our patience. They are named again until they are no
    /// longer watched, since an eviction that was proposed may not have been committed.
    pub fn silent(&self, now: BootTime) -> impl Iterator<Item = NodeRun> + '_ {
        let is_silent = move |heard: BootTime| heard + self.patience <= now;
        self.heard.iter().filter(move |(_, heard)| is_silent(**heard)).map(|(run, _)| *run)
    }
}

impl Lease {
    pub fn new(lease_max: Duration, sent_at: BootTime) -> Lease {
        Lease { lease_max, sent_at }
    }

    /// A beat sent then was acknowledged. Acknowledgements may overtake each other.
    pub fn on_acknowledged(&mut self, sent_at: BootTime) {
        self.sent_at = self.sent_at.max(sent_at);
    }

    pub fn ends_at(&self) -> BootTime {
        self.sent_at + self.lease_max
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::NodeId;

    const PATIENCE: Duration = Duration::from_secs(3);

    #[test]
    fn who_is_silent_is_named_until_no_longer_watched() {
        let mut detector = FailureDetector::new(PATIENCE);
        detector.watch(at(0), [run(1), run(2)].into_iter());
        assert!(detector.on_beat(at(2), run(2)));

        assert_eq!(detector.poll_timeout(), Some(at(3)));
        assert_eq!(silent(&detector, at(2)), []);
        assert_eq!(silent(&detector, at(3)), [run(1)]);
        assert_eq!(silent(&detector, at(5)), [run(1), run(2)]);

        detector.watch(at(5), [run(2), run(3)].into_iter());
        assert_eq!(silent(&detector, at(5)), [run(2)]);
        assert_eq!(silent(&detector, at(8)), [run(2), run(3)]);

        assert!(!detector.on_beat(at(5), run(2)), "its eviction may be under way");
        assert!(detector.on_beat(at(9), run(4)));
        assert_eq!(silent(&detector, at(12)), [run(2), run(3), run(4)], "watched from its beat on");
    }

    #[test]
    fn a_late_acknowledgement_does_not_shorten_the_lease() {
        let mut lease = Lease::new(Duration::from_secs(2), at(0));
        lease.on_acknowledged(at(1));
        lease.on_acknowledged(at(0));
        assert_eq!(lease.ends_at(), at(3));
    }

    fn silent(detector: &FailureDetector, now: BootTime) -> Vec<NodeRun> {
        detector.silent(now).collect()
    }

    fn at(second: u64) -> BootTime {
        BootTime(Duration::from_secs(second))
    }

    fn run(node: u32) -> NodeRun {
        NodeRun { node: NodeId(node), incarnation: 1 }
    }
}
