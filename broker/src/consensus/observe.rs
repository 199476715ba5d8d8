//! Keeps the gauges of the directory and of raft current.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::async_runtime::WatchReceiver as _;
use posthorn_core::ids::NodeRun;

use crate::consensus::Consensus;
use crate::consensus::types::RaftId;
use crate::telemetry::Metrics;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

struct Observer {
    consensus: Consensus,
    metrics: Arc<Metrics>,
    /// The last that was known.
    leader: Option<RaftId>,
    /// Since when each run that is over has been known to have debts.
    indebted: BTreeMap<NodeRun, Instant>,
}

/// Looks every second, and whenever raft has something new to say of the leader.
pub(super) async fn observe(consensus: Consensus, metrics: Arc<Metrics>) {
    let mut raft = consensus.raft.metrics();
    let mut observer = Observer { consensus, metrics, leader: None, indebted: BTreeMap::new() };
    let mut interval = tokio::time::interval(LOOK_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => observer.look(),
            // Raft ends with the node.
            Ok(()) = raft.changed() => observer.look_at_leader(raft.borrow_watched().current_leader),
        }
    }
}

impl Observer {
    fn look(&mut self) {
        let Observer { consensus, metrics, .. } = self;
        let (entries, debts) = consensus.replica.read(|directory| {
            (directory.len(), directory.indebted_runs().collect::<BTreeMap<_, _>>())
        });
        let metrics = &metrics.directory;
        metrics.entries.set(entries as f64);
        metrics.debts.set(debts.values().sum::<u64>() as f64);
        let raft = consensus.raft_status();
        let index = |index: Option<u64>| index.unwrap_or_default();
        metrics.applied_index.set(index(raft.applied_index) as f64);
        let lag = index(raft.committed_index).saturating_sub(index(raft.applied_index));
        metrics.lag_entries.set(lag as f64);
        let log_entries = raft.last_log_index.map_or(0, |last| {
            last + 1 - raft.purged_index.map_or(0, |purged| purged + 1).min(last + 1)
        });
        metrics.log_entries.set(log_entries as f64);
        metrics.snapshot_index.set(index(raft.snapshot_index) as f64);
        metrics.term.set(raft.term as f64);
        let is_ready = consensus.may_act().is_some();
        metrics.is_ready.set(f64::from(u8::from(is_ready)));
        let now = Instant::now();
        self.indebted.retain(|run, _| debts.contains_key(run));
        for run in debts.into_keys() {
            self.indebted.entry(run).or_insert(now);
        }
        let oldest = self.indebted.values().min().map(|since| now - *since);
        metrics.debts_oldest_seconds.set(oldest.unwrap_or_default().as_secs_f64());
    }

    /// A leader that is lost is no change, another one is.
    fn look_at_leader(&mut self, leader: Option<RaftId>) {
        if leader.is_some() && leader != self.leader {
            self.leader = leader;
            self.metrics.directory.leader_changes.increment(1);
        }
    }
}
