//! How one process comes to act as a run of its node, and when it must stop.
//!
//! ```text
//!                persisted          joined             beat acknowledged
//!  Persisting --------------> Joining ------> Proving --------------------> Serving
//!      ^                         |               |                             |
//!      |  a later run was known  |               |        lease ended, fenced  |
//!      +-------------------------+               v                             |
//!      +------------------------------------- Fencing <-----------------------+
//!                    all is ended
//! ```
//!
//! From every state, `leave` goes to Left, which is the last.
//!
//! * An incarnation is on disk before it is used: no two lives of a process are one run.
//! * A run serves only while an acknowledged beat says so. That it has joined is not enough: the
//!   join may have been committed long before its answer came.
//! * A new run begins only once everything that the last one owned is ended.

use std::collections::VecDeque;
use std::time::Duration;

use crate::directory::Applied;
use crate::ids::{NodeId, NodeRun};
use crate::liveness::{BootTime, Lease};

#[derive(Debug)]
pub struct Tenure {
    node: NodeId,
    timing: Timing,
    state: State,
    actions: VecDeque<Action>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long an acknowledged beat lets us act. Below the leader's patience by the factor that
    /// clocks' rates may differ.
    pub lease_max: Duration,
    /// Between two beats.
    pub beat_interval: Duration,
    /// Between two attempts to join.
    pub join_interval: Duration,
}

#[derive(Debug)]
enum State {
    Persisting { run: NodeRun },
    Joining { run: NodeRun, attempt_at: BootTime },
    Proving { run: NodeRun, beat_at: BootTime },
    Serving { run: NodeRun, beat_at: BootTime, lease: Lease },
    Fencing { run: NodeRun },
    Left,
}

/// Where a process is on its way to act as a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It is not yet known to be a run that may act.
    Joining,
    Serving,
    /// What the last run owned is being ended.
    Fencing,
    /// The process takes its leave.
    Left,
}

/// What the shell is to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Write the incarnation to disk, then call [`Tenure::on_persisted`].
    Persist { incarnation: u32 },
    /// Propose to join; the outcome goes to [`Tenure::on_join`].
    Join { run: NodeRun },
    /// Tell the leader that we live; its answer goes to [`Tenure::on_acknowledged`] or
    /// [`Tenure::on_fenced`].
    Beat { run: NodeRun },
    /// Connections may be registered from now on.
    Serve { run: NodeRun },
    /// The lease was extended to this point.
    Extend { ends_at: BootTime },
    /// Close all that the run owns, then call [`Tenure::on_ended`].
    Fence { run: NodeRun },
}

impl Tenure {
    /// `on_disk` is the last incarnation that the locked data directory has used.
    pub fn new(node: NodeId, on_disk: Option<u32>, timing: Timing) -> Tenure {
        let run = NodeRun { node, incarnation: on_disk.map_or(1, |last| last + 1) };
        let state = State::Persisting { run };
        let actions = VecDeque::from([Action::Persist { incarnation: run.incarnation }]);
        Tenure { node, timing, state, actions }
    }

    pub fn on_persisted(&mut self, now: BootTime) {
        if let State::Persisting { run } = self.state {
            self.attempt(now, run);
        }
    }

    /// What the proposal to join as `run` came to. No call where that is unknown: another attempt
    /// follows anyway.
    pub fn on_join(&mut self, now: BootTime, run: NodeRun, applied: Applied) {
        match self.state {
            State::Joining { run: current, .. } if current == run => (),
            _ => return,
        }
        match applied {
            Applied::Joined => {
                self.state = State::Proving { run, beat_at: now };
                self.beat(now);
            }
            Applied::Superseded { latest } => self.persist(latest + 1),
            // Another process speaks for this node, or did until lately: its silence must first get
            // it evicted, and that is not ours to hasten.
            Applied::Occupied { .. } => (),
            Applied::Evicted
            | Applied::Updated
            | Applied::Repeated
            | Applied::Fenced
            | Applied::Raised => (),
        }
    }

    /// The leader acknowledged a beat that we sent then.
    pub fn on_acknowledged(&mut self, run: NodeRun, sent_at: BootTime) {
        let lease_max = self.timing.lease_max;
        match &mut self.state {
            State::Proving { run: current, beat_at } if *current == run => {
                let lease = Lease::new(lease_max, sent_at);
                self.state = State::Serving { run, beat_at: *beat_at, lease };
                let ends_at = lease.ends_at();
                self.actions.extend([Action::Extend { ends_at }, Action::Serve { run }]);
            }
            State::Serving { run: current, lease, .. } if *current == run => {
                lease.on_acknowledged(sent_at);
                self.actions.push_back(Action::Extend { ends_at: lease.ends_at() });
            }
            State::Persisting { .. }
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Serving { .. }
            | State::Fencing { .. }
            | State::Left => (),
        }
    }

    /// The directory holds this run for over.
    pub fn on_fenced(&mut self, run: NodeRun) {
        match self.state {
            State::Proving { run: current, .. } | State::Serving { run: current, .. }
                if current == run =>
            {
                self.fence(run);
            }
            State::Persisting { .. }
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Serving { .. }
            | State::Fencing { .. }
            | State::Left => (),
        }
    }

    /// Everything that the fenced run owned is ended.
    pub fn on_ended(&mut self) {
        if let State::Fencing { run } = self.state {
            self.persist(run.incarnation + 1);
        }
    }

    /// The process takes its leave: no run begins any more, and none shows signs of life.
    pub fn leave(&mut self) {
        self.state = State::Left;
        self.actions.clear();
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        match self.state {
            State::Serving { run, lease, .. } if lease.ends_at() <= now => self.fence(run),
            State::Serving { beat_at, .. } | State::Proving { beat_at, .. } if beat_at <= now => {
                self.beat(now);
            }
            State::Joining { run, attempt_at } if attempt_at <= now => self.attempt(now, run),
            State::Serving { .. }
            | State::Proving { .. }
            | State::Joining { .. }
            | State::Persisting { .. }
            | State::Fencing { .. }
            | State::Left => (),
        }
    }

    pub fn poll_timeout(&self) -> Option<BootTime> {
        match self.state {
            State::Serving { beat_at, lease, .. } => Some(beat_at.min(lease.ends_at())),
            State::Proving { beat_at, .. } => Some(beat_at),
            State::Joining { attempt_at, .. } => Some(attempt_at),
            State::Persisting { .. } | State::Fencing { .. } | State::Left => None,
        }
    }

    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The run that we act as.
    pub fn serving(&self) -> Option<NodeRun> {
        match self.state {
            State::Serving { run, .. } => Some(run),
            State::Persisting { .. }
            | State::Joining { .. }
            | State::Proving { .. }
            | State::Fencing { .. }
            | State::Left => None,
        }
    }

    pub fn phase(&self) -> Phase {
        match self.state {
            State::Persisting { .. } | State::Joining { .. } | State::Proving { .. } => {
                Phase::Joining
            }
            State::Serving { .. } => Phase::Serving,
            State::Fencing { .. } => Phase::Fencing,
            State::Left => Phase::Left,
        }
    }

    fn persist(&mut self, incarnation: u32) {
        let run = NodeRun { node: self.node, incarnation };
        self.state = State::Persisting { run };
        self.actions.push_back(Action::Persist { incarnation });
    }

    fn attempt(&mut self, now: BootTime, run: NodeRun) {
        let attempt_at = now + self.timing.join_interval;
        self.state = State::Joining { run, attempt_at };
        self.actions.push_back(Action::Join { run });
    }

    fn beat(&mut self, now: BootTime) {
        if let State::Serving { run, beat_at, .. } | State::Proving { run, beat_at } =
            &mut self.state
        {
            *beat_at = now + self.timing.beat_interval;
            self.actions.push_back(Action::Beat { run: *run });
        }
    }

    fn fence(&mut self, run: NodeRun) {
        self.state = State::Fencing { run };
        self.actions.push_back(Action::Fence { run });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMING: Timing = Timing {
        lease_max: Duration::from_secs(4),
        beat_interval: Duration::from_secs(1),
        join_interval: Duration::from_secs(2),
    };

    #[test]
    fn who_has_left_begins_nothing_any_more() {
        let mut tenure = Tenure::new(NodeId(0), Some(6), TIMING);
        tenure.on_persisted(at(0));
        tenure.on_join(at(0), run(7), Applied::Joined);
        tenure.on_acknowledged(run(7), at(0));
        tenure.leave();
        tenure.on_fenced(run(7));
        tenure.on_ended();
        tenure.handle_timeout(at(100));
        assert_eq!((drain(&mut tenure), tenure.poll_timeout()), (Vec::new(), None));
        assert_eq!(tenure.serving(), None);
    }

    #[test]
    fn a_run_serves_from_its_first_acknowledged_beat_on() {
        let mut tenure = Tenure::new(NodeId(0), Some(6), TIMING);
        assert_eq!(drain(&mut tenure), [Action::Persist { incarnation: 7 }]);
        tenure.on_persisted(at(0));
        assert_eq!(drain(&mut tenure), [Action::Join { run: run(7) }]);
        tenure.handle_timeout(at(2));
        assert_eq!(drain(&mut tenure), [Action::Join { run: run(7) }]);

        tenure.on_join(at(3), run(7), Applied::Joined);
        assert_eq!(drain(&mut tenure), [Action::Beat { run: run(7) }]);
        assert_eq!(tenure.serving(), None);
        tenure.on_acknowledged(run(7), at(3));
        let served = [Action::Extend { ends_at: at(7) }, Action::Serve { run: run(7) }];
        assert_eq!(drain(&mut tenure), served);
        assert_eq!(tenure.serving(), Some(run(7)));
    }

    #[test]
    fn a_run_without_acknowledgement_ends_all_before_the_next_begins() {
        let mut tenure = serving(at(0));
        tenure.handle_timeout(at(3));
        assert_eq!(drain(&mut tenure), [Action::Beat { run: run(1) }]);
        tenure.handle_timeout(at(4));
        assert_eq!(drain(&mut tenure), [Action::Fence { run: run(1) }]);

        tenure.on_acknowledged(run(1), at(3));
        assert_eq!(drain(&mut tenure), [], "too late");
        tenure.on_ended();
        tenure.on_persisted(at(5));
        let rejoin = Action::Join { run: run(2) };
        assert_eq!(drain(&mut tenure), [Action::Persist { incarnation: 2 }, rejoin]);
    }

    #[test]
    fn a_fenced_run_begins_anew_and_a_word_about_an_earlier_run_is_ignored() {
        let mut tenure = serving(at(0));
        tenure.on_fenced(run(9));
        assert_eq!(drain(&mut tenure), []);
        tenure.on_fenced(run(1));
        assert_eq!(drain(&mut tenure), [Action::Fence { run: run(1) }]);
    }

    #[test]
    fn a_node_whose_disk_was_lost_goes_on_from_what_the_directory_knows() {
        let mut tenure = Tenure::new(NodeId(0), None, TIMING);
        tenure.on_persisted(at(0));
        tenure.on_join(at(0), run(1), Applied::Superseded { latest: 8 });
        tenure.on_persisted(at(1));
        let actions = [
            Action::Persist { incarnation: 1 },
            Action::Join { run: run(1) },
            Action::Persist { incarnation: 9 },
            Action::Join { run: run(9) },
        ];
        assert_eq!(drain(&mut tenure), actions);
    }

    #[test]
    fn a_second_process_for_one_node_waits() {
        let mut tenure = Tenure::new(NodeId(0), None, TIMING);
        tenure.on_persisted(at(0));
        tenure.on_join(at(0), run(1), Applied::Occupied { current: 8 });
        assert_eq!(tenure.poll_timeout(), Some(at(2)));
        assert_eq!(tenure.serving(), None);
    }

    fn serving(now: BootTime) -> Tenure {
        let mut tenure = Tenure::new(NodeId(0), None, TIMING);
        tenure.on_persisted(now);
        tenure.on_join(now, run(1), Applied::Joined);
        tenure.on_acknowledged(run(1), now);
        drain(&mut tenure);
        tenure
    }

    fn run(incarnation: u32) -> NodeRun {
        NodeRun { node: NodeId(0), incarnation }
    }

    fn at(second: u64) -> BootTime {
        BootTime(Duration::from_secs(second))
    }

    fn drain(tenure: &mut Tenure) -> Vec<Action> {
        std::iter::from_fn(|| tenure.poll_action()).collect()
    }
}
