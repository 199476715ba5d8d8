//! What the raft leader does for the directory's runs: hears their beats and has the silent evicted.
//!
//! * Nobody is told "over" before this replica has applied all that earlier leaders committed.
//! * No beat is acknowledged unless a quorum has lately followed us: a leader that was deposed
//!   without knowing it must not extend a lease that its successor does not know of.
//! * For the same reason none is acknowledged from the moment on that we hand leadership over: a
//!   successor may be elected sooner than our own silence would allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use openraft::async_runtime::{Instant as _, WatchReceiver as _};
use parking_lot::Mutex;
use posthorn_core::directory::{Applied, Command};
use posthorn_core::ids::NodeRun;
use posthorn_core::liveness::FailureDetector;
use tracing::{info, warn};

use crate::clock::boot_now;
use crate::config::node::ClusterSettings;
use crate::consensus::machine::Replica;
use crate::consensus::proposals::{commit, is_member, read_index};
use crate::consensus::types::{LogId, Raft, RaftId, RaftMetrics};
use crate::consensus::vote_lease;
use crate::telemetry::Metrics;

/// Between two looks at who leads and who is silent.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const BARRIER_TIMEOUT: Duration = Duration::from_secs(2);

/// Shared by the leader's task and whoever passes beats on.
#[derive(Clone)]
pub(super) struct Leadership {
    pub(super) raft: Raft,
    pub(super) replica: Replica,
    /// How long after a quorum's last word we still take ourselves for the leader: no other can be
    /// elected sooner.
    quorum_silence_max: Duration,
    patience: Duration,
    /// While we lead, and our replica has all that earlier leaders committed.
    leading: Arc<Mutex<Option<Leading>>>,
    /// The last term that we led and handed over. Written under the lock of `leading`.
    handed_over: Arc<AtomicU64>,
}

/// A voter that may lead in our stead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Successor {
    raft_id: RaftId,
    /// How much of our log it has.
    matching: Option<u64>,
    /// Since its last word.
    silence: Option<Duration>,
}

struct Leading {
    term: u64,
    detector: FailureDetector,
    epoch: u64,
}

impl Leadership {
    pub(super) fn new(raft: Raft, replica: Replica, settings: &ClusterSettings) -> Leadership {
        let (quorum_silence_max, patience) = (vote_lease(settings), settings.patience_ms.0);
        let (leading, handed_over) = (Arc::default(), Arc::default());
        Leadership { raft, replica, quorum_silence_max, patience, leading, handed_over }
    }

    /// A run says that it lives. Answers whether it is current; None if that is not ours to say.
    pub(super) fn on_beat(&self, run: NodeRun) -> Option<bool> {
        let term = self.leads_since_term()?;
        let mut leading = self.leading.lock();
        let leading = leading.as_mut().filter(|leading| leading.term == term)?;
        let disk = self.replica.read(|directory| {
            directory.run(run).filter(|known| known.evicted_at.is_none()).map(|known| known.disk)
        });
        // Who is no longer a member is told to end, and its silence will have it evicted. So is who was
        // silent for too long.
        let is_current = disk.is_some_and(|disk| is_member(&self.raft, disk));
        Some(is_current && leading.detector.on_beat(boot_now(), run))
    }

    /// The term that we lead, once our replica has all that was committed before it.
    pub(super) fn begun_term(&self) -> Option<u64> {
        let term = self.leads_since_term()?;
        self.leading.lock().as_ref().is_some_and(|leading| leading.term == term).then_some(term)
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

    /// Has another voter lead whenever we do, for ever.
    pub(super) async fn hand_over_always(&self) {
        loop {
            self.hand_over_to_any().await;
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    /// Has another voter lead, if we do. Returns once it does, or after a while.
    pub(super) async fn hand_over_to_any(&self) {
        if let Some(successor) = self.successor() {
            self.hand_over(successor).await;
        }
    }

    pub(super) async fn hand_over(&self, successor: RaftId) {
        let term = {
            let mut leading = self.leading.lock();
            let Some(term) = self.leads_since_term() else { return };
            *leading = None;
            self.handed_over.store(term, Ordering::SeqCst);
            term
        };
        let began = std::time::Instant::now();
        if let Err(error) = self.raft.trigger().transfer_leader(successor).await {
            warn!(%error, "cannot hand leadership over");
            return;
        }
        let has_begun = |metrics: &RaftMetrics| {
            metrics.current_term > term && metrics.current_leader.is_some_and(|id| id != metrics.id)
        };
        // Where the successor does not stand, another does, after the usual time.
        let waited = self.raft.wait(Some(self.quorum_silence_max * 4));
        match waited.metrics(has_begun, "another leads").await {
            Ok(_) => info!(took_ms = began.elapsed().as_millis() as u64, "handed leadership over"),
            Err(error) => warn!(%error, "nobody has taken leadership over yet"),
        }
    }

    /// Who is to lead in our stead, if we lead.
    fn successor(&self) -> Option<RaftId> {
        self.leads_since_term()?;
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let (heard, matching) = (metrics.heartbeat.as_ref()?, metrics.replication.as_ref()?);
        let voters = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
        let successors = voters.map(|raft_id| Successor {
            raft_id,
            matching: matching.get(&raft_id).and_then(|log| log.as_ref().map(LogId::index)),
            silence: heard.get(&raft_id).copied().flatten().map(|at| at.into_inner().elapsed()),
        });
        best_of(successors, self.quorum_silence_max)
    }

    /// The term that we lead, if a quorum has followed us lately.
    pub(super) fn leads_since_term(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        let is_ours = metrics.current_leader == Some(metrics.id);
        if !is_ours || metrics.current_term == self.handed_over.load(Ordering::SeqCst) {
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

/// The one that has most of the log, among those that were heard lately.
fn best_of(successors: impl Iterator<Item = Successor>, silence_max: Duration) -> Option<RaftId> {
    let is_heard = |one: &Successor| one.silence.is_some_and(|silence| silence <= silence_max);
    let best = successors.filter(is_heard).max_by_key(|one| (one.matching, one.raft_id));
    best.map(|one| one.raft_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_most_of_the_log_and_was_heard_lately_is_to_lead() {
        let voter = |raft_id, matching, silence| Successor {
            raft_id,
            matching,
            silence: Some(Duration::from_millis(silence)),
        };
        let silence_max = Duration::from_millis(500);
        let voters = [voter(1, Some(7), 10), voter(2, Some(9), 400), voter(3, Some(10), 501)];
        assert_eq!(best_of(voters.into_iter(), silence_max), Some(2));
        assert_eq!(best_of([voter(1, None, 10)].into_iter(), silence_max), Some(1));
        let never_heard = Successor { silence: None, ..voter(1, Some(7), 0) };
        assert_eq!(best_of([never_heard].into_iter(), silence_max), None);
    }
}
