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
mod candidacy;
mod compaction;
mod data_dir;
mod leader;
mod machine;
#[doc(hidden)]
pub mod measure;
mod members;
mod network;
mod observe;
mod proposals;
mod registrar;
mod removal;
mod run;
mod seeds;
mod service;
mod snapshot;
mod status;
mod store;
mod types;
mod versions;
mod wire;

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
use tracing::{debug, error, info, warn};

pub use barrier::NoQuorum;
use bootstrap::Bootstrap;
use candidacy::Candidacy;
use compaction::Compaction;
use data_dir::DataDir;
pub use data_dir::{DataDirError, free_bytes};
use leader::Leadership;
use machine::Machine;
pub use machine::Replica;
use members::Members;
use network::Network;
use proposals::Proposals;
pub use registrar::Registrar;
pub use removal::RemovalError;
pub use run::Fence;
use run::{RunHolder, Standing, Word};
use seeds::Seeds;
use service::Service;
pub use snapshot::SnapshotError;
pub use status::{MemberStatus, NotReady, RaftStatus};
use store::LogStore;
pub use store::StoreError;
use types::Raft;
use versions::{Speakers, Versions};

use crate::config::node::{ClusterSettings, NodeSettings};
use crate::fabric::{ControlService, Fabric};
use crate::telemetry::Metrics;

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
    members: Members,
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
    /// The cluster has given it up. Started again, it asks to become a member again.
    Removed,
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
    candidacy: Candidacy,
    leadership: Leadership,
    members: Members,
    holder: RunHolder,
    words: mpsc::Receiver<Word>,
    failed: watch::Sender<Option<Failure>>,
    versions: Versions,
    compaction: Compaction,
    store: LogStore,
    metrics: Arc<Metrics>,
}

impl Consensus {
    /// Opens the store and starts raft on it. Nothing is asked of other nodes before
    /// [`Started::run`].
    pub async fn start(
        own: &NodeSettings,
        settings: &ClusterSettings,
        fabric_address: Arc<str>,
        fabric: Fabric,
        metrics: Arc<Metrics>,
    ) -> Result<Started, StartError> {
        let (data_dir, spoken) = (own.data_dir.clone(), fabric.identity().versions.max);
        let (node, own, cluster) = (own.id, own.clone(), settings.name.clone());
        let opening = move || open(&own, &cluster, spoken);
        let (store, machine) = tokio::task::spawn_blocking(opening).await??;
        let (replica, snapshots) = (machine.replica(), machine.snapshots().counted(&metrics));
        let raft_id = store.identity().raft_id;
        let raft = start_raft(settings, &fabric, store.clone(), machine).await?;
        let leadership = Leadership::new(raft.clone(), replica.clone(), settings);
        let members = Members::new(&leadership, settings, metrics.clone());
        let seeds = Seeds::new(node, settings, raft.clone(), fabric.clone());
        let proposals = Proposals::new(raft.clone(), fabric.clone(), leadership.clone());
        let standing = Arc::new(Standing::new(node));
        let (registrar, barrier) = (Registrar::default(), barrier::Barrier::default());
        let (fence, fences) = mpsc::channel(1);
        let (words, heard) = RunHolder::channel();
        let (failed, failure) = watch::channel(None);
        let holder = RunHolder {
            tenure: Tenure::new(node, store.identity().incarnation, timing(settings)),
            disk: DiskId(raft_id),
            fabric_address: fabric_address.clone(),
            store: store.clone(),
            replica: replica.clone(),
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
            members: members.clone(),
            may_form: bootstrap::is_first(node, &settings.initial_voters),
            snapshots,
            speakers: speakers.clone(),
        };
        let consensus = Consensus {
            node,
            raft,
            replica,
            registrar,
            barrier,
            standing,
            proposals,
            members: members.clone(),
            words,
        };
        let candidacy = Candidacy::new(&consensus, &store, &fabric_address, seeds.clone());
        let bootstrap = Bootstrap { raft_id, fabric_address, seeds, store: store.clone() };
        let versions = Versions::new(&consensus, settings, fabric, speakers, metrics.clone());
        let compaction = Compaction::new(&consensus, &store, data_dir, settings, metrics.clone());
        let tasks = Tasks {
            bootstrap,
            candidacy,
            leadership,
            members,
            holder,
            words: heard,
            failed,
            versions,
            compaction,
            store,
            metrics,
        };
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

    /// Ends this run in the directory, and leads no longer. What it still owned is left to others.
    pub async fn leave(&self) {
        // Where nobody listens, no run was ever begun.
        let _ = self.words.send(Word::Leaving).await;
        self.proposals.hand_over().await;
        let Some(run) = self.may_act() else { return };
        // Before the directory gives the run up: nobody acts as one that is over.
        self.standing.leave(run);
        let left = async {
            loop {
                match self.proposals.propose(Command::Evict { run }, LEAVE_TIMEOUT).await {
                    Ok(_) => return,
                    Err(error) => debug!(%run, %error, "waiting to leave"),
                }
                tokio::time::sleep(LEAVE_PAUSE).await;
            }
        };
        match tokio::time::timeout(LEAVE_TIMEOUT, left).await {
            Ok(()) => info!(%run, "left"),
            Err(_) => warn!(%run, "left without a word"),
        }
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
        let Tasks { bootstrap, candidacy, leadership, members, holder, .. } = parts;
        let Tasks { versions, compaction, words, failed, store, metrics, .. } = parts;
        let spawn = |task: futures_util::future::BoxFuture<'static, ()>| {
            let stop = stop.clone();
            tasks.spawn(async move { stop.run_until_cancelled(task).await });
        };
        spawn(Box::pin(leadership.watch(metrics.clone())));
        spawn(Box::pin(members.govern()));
        let barrier = consensus.barrier.clone();
        spawn(Box::pin(barrier.serve(consensus.proposals.clone(), consensus.replica.clone())));
        let (registrar, heard) = (consensus.registrar.clone(), consensus.words.clone());
        let fenced = move |run| drop(heard.try_send(Word::Fenced(run)));
        spawn(Box::pin(registrar.serve(consensus.proposals.clone(), metrics.clone(), fenced)));
        spawn(Box::pin(observe::observe(consensus.clone(), metrics)));
        spawn(Box::pin(compaction.keep()));
        let (sender, raft) = (consensus.words.clone(), consensus.raft.clone());
        spawn(Box::pin(async move {
            let store_failed =
                |error: &dyn std::fmt::Display| Failure::Store(error.to_string().into());
            let belonging = async {
                if let Err(error) = bootstrap.run().await {
                    return store_failed(&error);
                }
                tokio::select! {
                    error = holder.hold(sender, words) => store_failed(&error),
                    () = Box::pin(candidacy.keep()) => Failure::Removed,
                }
            };
            let failure = tokio::select! {
                failure = belonging => failure,
                failure = store.failure() => store_failed(&failure),
                failure = raft_failure(&raft) => store_failed(&failure),
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
    own: &NodeSettings,
    cluster: &ClusterName,
    spoken: u32,
) -> Result<(LogStore, Machine), StartError> {
    let path = &own.data_dir;
    let data_dir = DataDir::admit(path, own.id, cluster, own.disk_free_bytes_min)?;
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

/// On the disk that was opened. It knows where the members are from itself.
async fn start_raft(
    settings: &ClusterSettings,
    fabric: &Fabric,
    store: LogStore,
    machine: Machine,
) -> Result<Raft, StartError> {
    let failed = |error: &dyn std::fmt::Display| StartError::Raft(error.to_string());
    let config = raft_config(settings).map_err(|error| failed(&error))?;
    let addresses = network::Addresses::default();
    let network = Network::new(fabric.clone(), addresses.clone());
    let raft_id = store.identity().raft_id;
    let raft = Raft::new(raft_id, Arc::new(config), network, store, machine).await;
    let raft = raft.map_err(|error| failed(&error))?;
    // Set once, here.
    let _ = addresses.set(raft.metrics());
    Ok(raft)
}

fn timing(settings: &ClusterSettings) -> Timing {
    Timing {
        lease_max: settings.lease_ms.0,
        beat_interval: settings.beat_ms.0,
        join_interval: settings.beat_ms.0,
    }
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
        // Who led and restarts does not know how much was committed: without an election, which tells,
        // its directory would be behind, and be believed.
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(settings.snapshot_entries),
        max_in_snapshot_log_to_keep: settings.snapshot_entries / 5,
        max_payload_entries: ENTRIES_A_MESSAGE,
        // A purge of many entries stalls the store.
        purge_batch_size: 256,
        ..RaftConfig::default()
    };
    config.validate()
}
