//! What the raft leader does for the directory's runs: hears their beats and has the silent evicted.
//!
//! * Nobody is told "over" before this replica has applied all that earlier leaders committed.
//! * No beat is acknowledged unless a quorum has lately followed us: a leader that was deposed
//!   without knowing it must not extend a lease that its successor does not know of.

use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use parking_lot::Mutex;
use posthorn_core::directory::{Applied, Command};
use posthorn_core::ids::NodeRun;
use posthorn_core::liveness::FailureDetector;
use tracing::{info, warn};

use crate::clock::boot_now;
use crate::consensus::machine::Replica;
use crate::consensus::proposals::{commit, read_index};
use crate::consensus::types::Raft;
use crate::telemetry::Metrics;

/// Between two looks at who leads and who is silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);

/// Shared by the leader's task and whoever passes beats on.
#[derive(Clone)]
pub(super) struct Leadership {
    raft: Raft,
    replica: Replica,
    /// How long after a quorum's last word we still take ourselves for the leader: no other can be
    /// elected sooner.
    quorum_silence_max: Duration,
    patience: Duration,
    /// While we lead, and our replica has all that earlier leaders committed.
    leading: Arc<Mutex<Option<Leading>>>,
}

struct Leading {
    term: u64,
    detector: FailureDetector,
    epoch: u64,
}

impl Leadership {
    pub(super) fn new(
        raft: Raft,
        replica: Replica,
        quorum_silence_max: Duration,
        patience: Duration,
    ) -> Leadership {
        Leadership { raft, replica, quorum_silence_max, patience, leading: Arc::default() }
    }

    /// A run says that it lives. Answers whether it is current; None if that is not ours to say.
    pub(super) fn on_beat(&self, run: NodeRun) -> Option<bool> {
        let term = self.leads_since_term()?;
        let mut leading = self.leading.lock();
        let leading = leading.as_mut().filter(|leading| leading.term == term)?;
        let is_current = self.replica.read(|directory| directory.is_current(run));
        if is_current {
            leading.detector.on_beat(boot_now(), run);
        }
        Some(is_current)
    }

    /// Watches over the runs whenever this node leads, for ever.
    pub(super) async fn watch(self, metrics: Arc<Metrics>) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let term = self.leads_since_term();
            metrics.directory.is_leader.set(f64::from(u8::from(term.is_some())));
            match term {
                Some(term) if self.begin_term(term).await => self.evict_silent(&metrics).await,
                Some(_) => (),
                None => self.end_term(),
            }
        }
    }

    /// Forgets who was heard, once another may have led. As long as our term is not over, nobody else
    /// has heard beats, and a quorum that is late for a moment must not make the dead look alive.
    fn end_term(&self) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut leading = self.leading.lock();
        let is_ours = |leading: &Leading| {
            metrics.current_leader == Some(metrics.id) && leading.term == metrics.current_term
        };
        if !leading.as_ref().is_some_and(is_ours) {
            *leading = None;
        }
    }

    /// The term that we lead, if a quorum has followed us lately.
    pub(super) fn leads_since_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(metrics.id) {
            return None;
        }
        // Who votes alone is a quorum, and has nobody whose word could be noted.
        if metrics.membership_config.voter_ids().eq([metrics.id]) {
            return Some(metrics.current_term);
        }
        let acked_at = metrics.last_quorum_acked?.into_inner();
        (acked_at.elapsed() <= self.quorum_silence_max).then_some(metrics.current_term)
    }

    /// True once our replica has all that was committed before this term.
    async fn begin_term(&self, term: u64) -> bool {
        if self.leading.lock().as_ref().is_some_and(|leading| leading.term == term) {
            return true;
        }
        let caught_up = async {
            let index = read_index(&self.raft).await.ok()?;
            self.replica.wait_applied(index).await;
            Some(())
        };
        if !matches!(tokio::time::timeout(BARRIER_TIMEOUT, caught_up).await, Ok(Some(()))) {
            return false;
        }
        info!(term, "this node leads");
        let detector = FailureDetector::new(self.patience);
        // An epoch that no directory has, so that the runs are watched at the next look.
        *self.leading.lock() = Some(Leading { term, detector, epoch: u64::MAX });
        true
    }

    async fn evict_silent(&self, metrics: &Metrics) {
        for run in self.silent_runs() {
            match commit(&self.raft, Command::Evict { run }.into()).await {
                Ok(Applied::Evicted) => {
                    warn!(%run, "evicted for its silence");
                    metrics.directory.evictions.increment(1);
                }
                Ok(_) => (),
                Err(error) => {
                    warn!(%run, %error, "cannot evict");
                    return;
                }
            }
        }
    }

    fn silent_runs(&self) -> Vec<NodeRun> {
        let now = boot_now();
        let mut leading = self.leading.lock();
        let Some(leading) = leading.as_mut() else { return Vec::new() };
        self.replica.read(|directory| {
            if leading.epoch != directory.epoch() {
                leading.epoch = directory.epoch();
                leading.detector.watch(now, directory.current_runs().map(|(run, _)| run));
            }
        });
        leading.detector.silent(now).collect()
    }
}
