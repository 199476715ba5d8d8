//! What all tasks of a fabric share. Nothing here changes but by being replaced as a whole.

use std::sync::Arc;

use posthorn_core::ids::NodeId;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hello::{ClusterId, Introduction, PeerIdentity, ProtocolVersions};
use super::refusals::Refusals;
use super::settings::FabricSettings;
use super::stats::FabricStats;
use super::tls::Papers;

/// Wishes to drop connections that wait to be heard. Who is further behind drops its connection to
/// be safe.
const DROP_WISHES: usize = 64;

pub(super) struct Common {
    pub(super) settings: FabricSettings,
    pub(super) identity: PeerIdentity,
    pub(super) papers: watch::Sender<Arc<Papers>>,
    pub(super) cluster: watch::Sender<Option<ClusterId>>,
    /// The protocol version that the cluster uses.
    pub(super) version: watch::Sender<u32>,
    pub(super) refusals: Refusals,
    pub(super) stats: Arc<FabricStats>,
    /// Whose connections are to be dropped.
    pub(super) dropped: broadcast::Sender<NodeId>,
    pub(super) closing: CancellationToken,
    pub(super) tasks: TaskTracker,
    runtime: Handle,
}

impl Common {
    /// To be called inside a runtime, on which all tasks will run.
    pub(super) fn new(settings: FabricSettings, process: u64, papers: Papers) -> Common {
        let versions = settings.versions;
        let identity = PeerIdentity { node: settings.node, process, versions };
        Common {
            settings,
            identity,
            papers: watch::Sender::new(Arc::new(papers)),
            cluster: watch::Sender::new(None),
            version: watch::Sender::new(versions.min),
            refusals: Refusals::default(),
            stats: Arc::new(FabricStats::default()),
            dropped: broadcast::Sender::new(DROP_WISHES),
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
            runtime: Handle::current(),
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    pub(super) fn papers(&self) -> Arc<Papers> {
        self.papers.borrow().clone()
    }

    pub(super) fn introduction(&self) -> Introduction {
        let ProtocolVersions { min, max } = self.identity.versions;
        let versions = ProtocolVersions { min: min.max(*self.version.borrow()), max };
        Introduction {
            identity: PeerIdentity { versions, ..self.identity.clone() },
            cluster: *self.cluster.borrow(),
            software: self.settings.software.clone(),
        }
    }
}
