//! The replicated directory: openraft over sled, and what a node does to be part of it.
//!
//! Only this room names openraft or sled.
//!
//! * Reading is local: [`Consensus::replica`]. What it may have missed, [`Consensus::barrier`] has it
//!   catch up on.
//! * Writing goes through the leader, in batches: [`Consensus::registrar`].
//! * Whether this node may act at all is a question of its lease: [`Consensus::may_act`].

mod barrier;
mod bootstrap;
mod data_dir;
mod leader;
mod machine;
mod network;
mod observe;
mod proposals;
mod registrar;
mod run;
mod service;
mod snapshot;
mod status;
mod store;
mod types;
mod versions;
mod wire;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use openraft::{Config as RaftConfig, SnapshotPolicy};
use posthorn_core::directory::Command;
use posthorn_core::ids::{ClusterName, DiskId, NodeId, NodeRun};
use posthorn_core::tenure::{Tenure, Timing};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

pub use barrier::NoQuorum;
use bootstrap::Bootstrap;
use data_dir::DataDir;
pub use data_dir::DataDirError;
use leader::Leadership;
use machine::Machine;
pub use machine::Replica;
use network::Network;
use proposals::Proposals;
pub use registrar::Registrar;
pub use run::Fence;
use run::{RunHolder, Standing, Word};
use service::Service;
pub use snapshot::SnapshotError;
pub use status::{MemberStatus, NotReady, RaftStatus};
use store::LogStore;
pub use store::StoreError;
use types::Raft;
use versions::{Speakers, Versions};

use crate::config::node::ClusterSettings;
use crate::fabric::{ControlService, Fabric};
use crate::telemetry::Metrics;

/// Log entries between two snapshots. Each carries up to a thousand connections.
const ENTRIES_BETWEEN_SNAPSHOTS: u64 = 5_000;
/// Entries kept behind a snapshot, for followers that are a little behind.
const ENTRIES_KEPT: u64 = 1_000;
/// Entries that one message carries: small enough to be sent between two heartbeats.
const ENTRIES_A_MESSAGE: u64 = 64;
/// How long the cluster may take to hear that a run is over.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);
const LEAVE_PAUSE: Duration = Duration::from_millis(50);

/// A cheap handle to this node's part in the directory.
#[derive(Clone)]
pub struct Consensus {
    node: NodeId,
    raft: Raft,
    replica: Replica,
    registrar: Registrar,
    barrier: barrier::Barrier,
    standing: Arc<Standing>,
    proposals: Proposals,
    words: mpsc::Sender<Word>,
}

/// What `start` gives beside the handle.
pub struct Started {
    pub consensus: Consensus,
    /// What the fabric is to answer other nodes with.
    pub service: Arc<dyn ControlService>,
    fences: mpsc::Receiver<Fence>,
    /// Told when this node can go on no longer: the process must end then, and trust nothing that
    /// it wrote last.
    pub failure: watch::Receiver<Option<Failure>>,
    tasks: Tasks,
}

/// Why this node can go on no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Its data directory failed, or is of another cluster.
    Store(Arc<str>),
    /// Its release does not speak what the cluster speaks.
    Incompatible(Arc<str>),
}

/// Why this node cannot take part.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("raft: {0}")]
    Raft(String),
    #[error("opening the data directory came to no end: {0}")]
    Opening(#[from] tokio::task::JoinError),
}

struct Tasks {
    bootstrap: Bootstrap,
    leadership: Leadership,
    holder: RunHolder,
    words: mpsc::Receiver<Word>,
    failed: watch::Sender<Option<Failure>>,
    versions: Versions,
    store: LogStore,
    metrics: Arc<Metrics>,
}

impl Consensus {
    /// Opens the store and starts raft on it. Nothing is asked of other nodes before
    /// [`Started::run`].
    pub async fn start(
        node: NodeId,
        data_dir: &Path,
        settings: &ClusterSettings,
        fabric_address: Arc<str>,
        fabric: Fabric,
        metrics: Arc<Metrics>,
    ) -> Result<Started, StartError> {
        let (data_dir, cluster) = (data_dir.to_owned(), settings.name.clone());
        let spoken = fabric.identity().versions.max;
        let opening = move || open(&data_dir, node, &cluster, spoken);
        let (store, machine) = tokio::task::spawn_blocking(opening).await??;
        let (replica, snapshots) = (machine.replica(), machine.snapshots());
        let raft_id = store.identity().raft_id;
        let config = raft_config(settings).map_err(|error| StartError::Raft(error.to_string()))?;
        let network = Network::new(fabric.clone());
        let raft = Raft::new(raft_id, Arc::new(config), network, store.clone(), machine).await;
        let raft = raft.map_err(|error| StartError::Raft(error.to_string()))?;

        let leadership = Leadership::new(
            raft.clone(),
            replica.clone(),
            vote_lease(settings),
            settings.patience_ms.0,
        );
        let proposals = Proposals::new(raft.clone(), fabric.clone(), leadership.clone());
        let standing = Arc::new(Standing::new(node));
        let (registrar, barrier) = (Registrar::default(), barrier::Barrier::default());
        let (fence, fences) = mpsc::channel(1);
        let (words, heard) = RunHolder::channel();
        let (failed, failure) = watch::channel(None);
        let timing = Timing {
            lease_max: settings.lease_ms.0,
            beat_interval: settings.beat_ms.0,
            join_interval: settings.beat_ms.0,
        };
        let holder = RunHolder {
            tenure: Tenure::new(node, store.identity().incarnation, timing),
            disk: DiskId(raft_id),
            fabric_address: fabric_address.clone(),
            store: store.clone(),
            proposals: proposals.clone(),
            registrar: registrar.clone(),
            standing: standing.clone(),
            fences: fence,
            beat_timeout: settings.beat_ms.0 * 2,
        };
        let speakers = Speakers::default();
        let service = Service {
            raft_id,
            raft: raft.clone(),
            store: store.clone(),
            leadership: leadership.clone(),
            snapshots,
            speakers: speakers.clone(),
        };
        let bootstrap = Bootstrap {
            node,
            raft_id,
            fabric_address,
            initial_voters: settings.initial_voters.clone(),
            raft: raft.clone(),
            store: store.clone(),
            fabric: fabric.clone(),
        };
        let consensus =
            Consensus { node, raft, replica, registrar, barrier, standing, proposals, words };
        let versions = Versions::new(&consensus, settings, fabric, speakers, metrics.clone());
        let words = heard;
        let tasks =
            Tasks { bootstrap, leadership, holder, versions, words, failed, store, metrics };
        Ok(Started { consensus, service: Arc::new(service), fences, failure, tasks })
    }

    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This node's copy of the directory. It may be behind.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    pub fn registrar(&self) -> &Registrar {
        &self.registrar
    }

    /// The run as which this node may accept a post or start a call, at this very moment.
    pub fn may_act(&self) -> Option<NodeRun> {
        self.standing.may_act()
    }

    /// The run of which this node knows every connection: what has no mailbox here is over, for it
    /// and all runs of this node before.
    pub fn known_run(&self) -> Option<NodeRun> {
        self.may_act().or_else(|| self.standing.left())
    }

    /// True while this node is part of a quorum and can register connections.
    pub fn watch_ready(&self) -> watch::Receiver<bool> {
        self.standing.watch_ready()
    }

    /// Returns once the replica has applied all that was committed before the call.
    pub async fn barrier(&self) -> Result<(), NoQuorum> {
        self.barrier.wait().await
    }

    /// Has another voter lead whenever this node does, for ever.
    pub async fn lead_no_longer(&self) {
        self.proposals.lead_no_longer().await;
    }

    /// Ends this run in the directory. What it still owned is left to others.
    pub async fn leave(&self) {
        // Where nobody listens, no run was ever begun.
        let _ = self.words.send(Word::Leaving).await;
        let Some(run) = self.may_act() else { return };
        let left = async {
            loop {
                match self.proposals.propose(Command::Evict { run }, LEAVE_TIMEOUT).await {
                    Ok(_) => return,
                    Err(error) => info!(%run, %error, "waiting to leave"),
                }
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
        };
        match tokio::time::timeout(LEAVE_TIMEOUT, left).await {
            Ok(()) => info!(%run, "left"),
            Err(_) => warn!(%run, "left without a word"),
        }
        self.standing.leave(run);
    }

    /// Whether runs of other nodes know of this one.
    pub fn has_peers(&self) -> bool {
        let is_other = |run: NodeRun| run.node != self.node;
        self.replica.read(|directory| directory.current_runs().any(|(run, _)| is_other(run)))
    }

    /// Ends raft on this node.
    pub async fn shut_down(&self) {
        if let Err(error) = self.raft.shutdown().await {
            error!(%error, "raft did not end cleanly");
        }
    }
}

impl Started {
    /// Spawns everything that keeps this node part of the cluster. Each fence that comes is to be
    /// answered by ending all that the run owned.
    pub fn run(self, tasks: &TaskTracker, stop: &CancellationToken) -> mpsc::Receiver<Fence> {
        let Started { consensus, fences, tasks: parts, .. } = self;
        let Tasks { bootstrap, leadership, holder, versions, words, failed, store, metrics } =
            parts;
        let spawn = |task: futures_util::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(task).await });
        };
        spawn(Box::pin(leadership.watch(metrics.clone())));
        let barrier = consensus.barrier.clone();
        spawn(Box::pin(barrier.serve(consensus.proposals.clone(), consensus.replica.clone())));
        let (registrar, heard) = (consensus.registrar.clone(), consensus.words.clone());
        let fenced = move |run| drop(heard.try_send(Word::Fenced(run)));
        spawn(Box::pin(registrar.serve(consensus.proposals.clone(), metrics.clone(), fenced)));
        spawn(Box::pin(observe::observe(consensus.clone(), metrics)));
        let (sender, raft) = (consensus.words.clone(), consensus.raft.clone());
        spawn(Box::pin(async move {
            let belonging = async {
                match bootstrap.run().await {
                    Ok(_) => holder.hold(sender, words).await.to_string(),
                    Err(error) => error.to_string(),
                }
            };
            let store_failed = |failure: String| Failure::Store(failure.into());
            let failure = tokio::select! {
                failure = belonging => store_failed(failure),
                failure = store.failure() => store_failed(failure.to_string()),
                failure = raft_failure(&raft) => store_failed(failure),
                failure = versions.keep() => failure,
            };
            failed.send_replace(Some(failure));
        }));
        fences
    }
}

/// Resolves when raft has ended of itself, as when a snapshot can be neither written nor read.
async fn raft_failure(raft: &Raft) -> String {
    let mut metrics = raft.metrics();
    loop {
        let state = metrics.borrow_watched().running_state.clone();
        if let Err(error) = state {
            return format!("raft has ended: {error}");
        }
        if metrics.changed().await.is_err() {
            return "raft has ended".to_owned();
        }
    }
}

/// Blocks. The log comes first: it keeps other processes out of the directory.
fn open(
    path: &Path,
    node: NodeId,
    cluster: &ClusterName,
    spoken: u32,
) -> Result<(LogStore, Machine), StartError> {
    let data_dir = DataDir::admit(path, node, cluster)?;
    let store = LogStore::open(path, spoken)?;
    data_dir.sign()?;
    let machine = Machine::open(path)?;
    Ok((store, machine))
}

/// How long a voter that has heard a leader votes for no other: openraft takes its longest election
/// timeout for that.
fn vote_lease(settings: &ClusterSettings) -> Duration {
    settings.election_timeout_ms.0 * 3 / 5
}

fn raft_config(settings: &ClusterSettings) -> Result<RaftConfig, openraft::ConfigError> {
    let millis = |duration: Duration| duration.as_millis() as u64;
    let vote_lease = millis(vote_lease(settings));
    let election_timeout = millis(settings.election_timeout_ms.0);
    let config = RaftConfig {
        cluster_name: settings.name.to_string(),
        heartbeat_interval: millis(settings.heartbeat_ms.0),
        // A voter stands for election after the lease and a time between these two: so after the
        // timeout that was set, and up to a fifth more.
        election_timeout_min: election_timeout - vote_lease,
        election_timeout_max: vote_lease,
        // A leader that hears nobody falls silent, so that those who hear it can elect another.
        quorum_loss_probe_interval: Some(election_timeout * 2),
        // Otherwise a node that was cut off comes back with a larger term and unseats the leader.
        enable_pre_vote: Some(true),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(ENTRIES_BETWEEN_SNAPSHOTS),
        max_in_snapshot_log_to_keep: ENTRIES_KEPT,
        max_payload_entries: ENTRIES_A_MESSAGE,
        // A purge of many entries stalls the store.
        purge_batch_size: 256,
        ..RaftConfig::default()
    };
    config.validate()
}
