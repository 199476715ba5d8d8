//! Which protocol version the cluster uses, and whether this node can go along.
//!
//! A release speaks a range of versions. The directory says which one is used: it is raised, by the
//! leader, once every member's run speaks a later one, and never lowered. What came with a version is
//! proposed only once that is used.
//!
//! Invariants:
//!
//! * No member is sent a command that it cannot read: who does not speak the version that is used is
//!   turned away by the fabric of every node that has learnt of it.
//! * A node that most voters turn away ends itself with their reason. One that serves does not: it is
//!   the others who are in the wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use parking_lot::Mutex;
use posthorn_core::directory::{Command, Directory};
use posthorn_core::ids::{NodeId, NodeRun};
use tracing::{info, warn};

use crate::config::node::ClusterSettings;
use crate::consensus::machine::Replica;
use crate::consensus::proposals::Proposals;
use crate::consensus::run::Standing;
use crate::consensus::types::Raft;
use crate::consensus::{Consensus, Failure};
use crate::fabric::{Fabric, ProtocolVersions, RefusalCause};
use crate::telemetry::{Metrics, PeerRefused};

const LOOK_INTERVAL: Duration = Duration::from_millis(200);
const RAISE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the runs speak that have sent beats to this node.
#[derive(Clone, Default)]
pub(super) struct Speakers {
    heard: Arc<Mutex<BTreeMap<NodeRun, ProtocolVersions>>>,
}

pub(super) struct Versions {
    node: NodeId,
    initial_voters: Vec<NodeId>,
    raft: Raft,
    replica: Replica,
    fabric: Fabric,
    proposals: Proposals,
    speakers: Speakers,
    standing: Arc<Standing>,
    metrics: Arc<Metrics>,
}

impl Speakers {
    pub(super) fn on_beat(&self, run: NodeRun, versions: ProtocolVersions) {
        self.heard.lock().insert(run, versions);
    }

    /// What a current run speaks, if it was heard. Others are forgotten.
    fn of(&self, directory: &Directory, run: NodeRun) -> Option<ProtocolVersions> {
        let mut heard = self.heard.lock();
        heard.retain(|run, _| directory.is_current(*run));
        heard.get(&run).copied()
    }
}

impl Versions {
    pub(super) fn new(
        consensus: &Consensus,
        settings: &ClusterSettings,
        fabric: Fabric,
        speakers: Speakers,
        metrics: Arc<Metrics>,
    ) -> Versions {
        let Consensus { node, raft, replica, standing, proposals, .. } = consensus.clone();
        let initial_voters = settings.initial_voters.iter().map(|voter| voter.id).collect();
        Versions {
            node,
            initial_voters,
            raft,
            replica,
            fabric,
            proposals,
            speakers,
            standing,
            metrics,
        }
    }

    /// Resolves if this node cannot go along with its cluster.
    pub(super) async fn keep(self) -> Failure {
        let mut used = 0;
        let mut shown = self.replica.watch_version();
        loop {
            let version = *shown.borrow_and_update();
            if version != used {
                used = version;
                if let Err(failure) = self.use_version(version) {
                    return failure;
                }
            }
            self.count_refusals();
            if let Some(failure) = self.turned_away() {
                return failure;
            }
            if self.proposals.is_leading() {
                self.raise(version).await;
            }
            // It ends only with the replica, which we hold.
            drop(tokio::time::timeout(LOOK_INTERVAL, shown.changed()).await);
        }
    }

    fn use_version(&self, version: u32) -> Result<(), Failure> {
        let own = self.fabric.identity().versions;
        if version > own.max {
            let reason = format!(
                "the cluster uses protocol version {version}, and this release speaks {own}"
            );
            return Err(Failure::Incompatible(reason.into()));
        }
        info!(version, "the protocol version of the cluster");
        self.metrics.directory.protocol_version.set(f64::from(version));
        self.fabric.use_version(version);
        Ok(())
    }

    /// As the leader.
    async fn raise(&self, used: u32) {
        let Some(version) = self.spoken_by_all().filter(|version| *version > used) else { return };
        let raised = self.proposals.propose(Command::Raise { version }, RAISE_TIMEOUT).await;
        if let Err(error) = raised {
            warn!(version, %error, "cannot raise the protocol version");
        }
    }

    /// The highest version that every member speaks. None while a member has no run that was heard:
    /// it may come back as the release that it was.
    fn spoken_by_all(&self) -> Option<u32> {
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let members: Vec<_> =
            membership.membership().nodes().map(|(_, member)| member.node).collect();
        self.replica.read(|directory| {
            let runs = members.iter().map(|member| directory.current(*member));
            let runs: Vec<_> = runs.collect::<Option<_>>()?;
            let others = directory.current_runs().map(|(run, _)| run);
            let spoken = runs.into_iter().chain(others).map(|run| match run.node == self.node {
                true => Some(self.fabric.identity().versions.max),
                false => self.speakers.of(directory, run).map(|versions| versions.max),
            });
            spoken.collect::<Option<Vec<_>>>()?.into_iter().min()
        })
    }

    fn count_refusals(&self) {
        for cause in RefusalCause::ALL {
            let counter = self.metrics.directory.peers_refused.at(label_of(cause));
            counter.absolute(self.fabric.stats().refused(cause));
        }
    }

    /// Whether most voters do not work with us.
    fn turned_away(&self) -> Option<Failure> {
        if self.standing.may_act().is_some() {
            return None;
        }
        let metrics = self.raft.metrics();
        let membership = metrics.borrow_watched().membership_config.clone();
        let known = membership.membership();
        let voters = known.voter_ids().filter_map(|id| known.get_node(&id));
        let voters: Vec<_> = voters.map(|member| member.node).collect();
        let voters = if voters.is_empty() { &self.initial_voters } else { &voters };
        let refusals = self.fabric.watch_refusals();
        let refusals = refusals.borrow();
        let by = |cause| {
            let of_cause =
                |node: &&NodeId| refusals.get(node).is_some_and(|away| away.cause == cause);
            let by: Vec<_> = voters.iter().filter(of_cause).collect();
            (by.len() > voters.len() / 2)
                .then(|| refusals.get(by[0]).map(|away| away.reason.clone()))
        };
        if let Some(Some(reason)) = by(RefusalCause::Version) {
            return Some(Failure::Incompatible(reason.into()));
        }
        by(RefusalCause::AnotherCluster).map(|_| {
            let reason = "the data directory belongs to another cluster than most voters do";
            Failure::Store(reason.into())
        })
    }
}

fn label_of(cause: RefusalCause) -> PeerRefused {
    match cause {
        RefusalCause::NoCertificate => PeerRefused::NoCertificate,
        RefusalCause::UntrustedCertificate => PeerRefused::UntrustedCertificate,
        RefusalCause::ExpiredCertificate => PeerRefused::ExpiredCertificate,
        RefusalCause::NoNodeName => PeerRefused::NoNodeName,
        RefusalCause::AnotherClusterName => PeerRefused::AnotherClusterName,
        RefusalCause::AnotherNode => PeerRefused::AnotherNode,
        RefusalCause::Version => PeerRefused::Version,
        RefusalCause::AnotherCluster => PeerRefused::AnotherCluster,
        RefusalCause::MalformedHello => PeerRefused::MalformedHello,
        RefusalCause::FailedHandshake => PeerRefused::FailedHandshake,
        RefusalCause::TooMany => PeerRefused::TooMany,
    }
}
