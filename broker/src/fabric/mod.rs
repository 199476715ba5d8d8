//! The fabric: QUIC between nodes, on one UDP socket a node.
//!
//! It moves opaque bytes and knows neither directory nor raft. Only this room names quinn.
//!
//! ```text
//!            call, open_upload                             ControlService
//!   Fabric ---------------------> Link (control) =====> acceptor ----------->
//!      |      post                                                PostService
//!      +------------> 4 lanes --> Link (posts)   =====> sessions ----------->
//! ```
//!
//! Invariants:
//!
//! * Who is at the other end is what its certificate says, checked on each connection, both ways.
//! * Each peer has a connection for control and another for posts: bulk never starves a heartbeat.
//! * A call is told `Unreachable` only where nothing was sent; a post `NotSent` only where it never
//!   will be delivered.
//! * A lost connection alone loses, doubles and reorders no post (see `lane`).
//! * Nothing is repeated behind the caller's back but the connecting itself.

mod accept;
mod anyone;
mod authority;
mod common;
mod control;
mod dev_ca;
mod endpoint;
mod hello;
mod lane;
mod link;
mod names;
mod peering;
mod posts;
mod refusals;
mod settings;
mod stats;
#[cfg(test)]
mod tests;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use posthorn_core::ids::NodeId;
use quinn::Endpoint;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use accept::Acceptor;
use common::Common;
use hello::are_apart;
use link::Link;
use posts::{Lanes, Sessions};
use tls::{Papers, TlsSetupError, Verdict};
use wire::CloseCode;

pub use anyone::Told;
pub use authority::Authority;
pub use control::{CallError, ControlService, Refusal, Upload, UploadCut, UploadReader};
pub use dev_ca::{DevAuthority, DevAuthorityError, NodePapers};
pub use hello::{
    ClusterId, NotVersions, PROTOCOL_VERSIONS, PeerIdentity, ProtocolVersions, TurnedAway,
};
pub use lane::PostError;
pub use link::DialError;
pub use posts::{PostRefused, PostReply, PostService, Reply};
pub use settings::{FabricLimits, FabricLimitsError, FabricSettings};
pub use stats::{ByPurpose, Count, FabricStats, Purpose, RefusalCause};
pub use tls::{TlsError, TlsFiles};

/// How long closing waits for peers to hear of it.
const CLOSING_MAX: Duration = Duration::from_secs(3);

/// Who asks for longer has not thought of a number.
const DEADLINE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub node: NodeId,
    /// `host:port`. Resolved at each dial, so that it may move.
    pub address: Arc<str>,
}

/// A handle; clones are the same fabric. It runs until it is closed.
#[derive(Clone)]
pub struct Fabric {
    common: Arc<Common>,
    local: SocketAddr,
    /// None once closed: the tasks' own handles are then the last.
    endpoint: Arc<Mutex<Option<Endpoint>>>,
    /// Grows by who is first spoken to. Bounded by `peers_max`.
    peers: Arc<RwLock<BTreeMap<NodeId, Arc<PeerTasks>>>>,
}

struct PeerTasks {
    control: Link,
    lanes: Lanes,
}

/// The fabric cannot start.
#[derive(Debug, thiserror::Error)]
pub enum FabricError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("limits: {0}")]
    Limits(#[from] FabricLimitsError),
    #[error("cannot listen on {listen}: {error}")]
    Listen { listen: SocketAddr, error: io::Error },
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
    #[error("TLS: {0}")]
    Setup(String),
}

impl Fabric {
    /// Takes the socket and reads the papers. Peers are let in by `serve`. To be called inside a
    /// runtime.
    pub fn bind(settings: FabricSettings) -> Result<Fabric, FabricError> {
        settings.check()?;
        let papers = Papers::load(&settings.files, &settings.cluster, settings.node)?;
        let crypto = papers.server_config(Verdict::default())?;
        let reset_seed = papers.reset_seed;
        let common = Arc::new(Common::new(settings, getrandom::u64()?, papers));
        let listen = common.settings.listen;
        let cannot = |error| FabricError::Listen { listen, error };
        let endpoint = endpoint::bind(&common.settings, crypto, &reset_seed, common.tasks.clone())
            .map_err(cannot)?;
        let local = endpoint.local_addr().map_err(cannot)?;
        let endpoint = Arc::new(Mutex::new(Some(endpoint)));
        Ok(Fabric { common, local, endpoint, peers: Arc::default() })
    }

    /// Lets peers in. To be called once.
    pub fn serve(
        &self,
        control: Arc<dyn ControlService>,
        posts: Arc<dyn PostService>,
    ) -> Result<(), FabricError> {
        let Some(endpoint) = self.endpoint.lock().clone() else { return Ok(()) };
        let sessions = Sessions::new(&self.common, posts, getrandom::u64()?);
        let acceptor = Acceptor::new(&self.common, endpoint, control, sessions);
        self.common.spawn(acceptor.run());
        Ok(())
    }

    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// Who we are to peers.
    pub fn identity(&self) -> &PeerIdentity {
        &self.common.identity
    }

    pub fn stats(&self) -> &Arc<FabricStats> {
        &self.common.stats
    }

    /// From now on only this cluster's nodes are worked with, and those that belong to none yet.
    /// Connections to nodes known to be of another are closed.
    pub fn set_cluster_id(&self, id: ClusterId) {
        let before = self.common.cluster.send_replace(Some(id));
        debug_assert!(!are_apart(before, Some(id)), "a node does not change its cluster");
    }

    /// None while this node belongs to no cluster.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        *self.common.cluster.borrow()
    }

    /// This process's release, as peers are told.
    pub fn software(&self) -> &str {
        &self.common.settings.software
    }

    /// The cluster uses this protocol version: who does not speak it is worked with no longer.
    pub fn use_version(&self, version: u32) {
        self.common.version.send_if_modified(|used| {
            let is_later = version > *used;
            *used = version.max(*used);
            is_later
        });
    }

    /// The nodes that no work is possible with, as far as they were met, and why: their versions or
    /// their cluster are not ours.
    pub fn watch_refusals(&self) -> watch::Receiver<BTreeMap<NodeId, TurnedAway>> {
        self.common.refusals.subscribe()
    }

    /// Every file that its papers are in.
    pub fn paper_files(&self) -> [PathBuf; 3] {
        let TlsFiles { ca_file, cert_file, key_file } = &self.common.settings.files;
        [ca_file.clone(), cert_file.clone(), key_file.clone()]
    }

    /// When the first certificate of its papers expires, the authority's included, in seconds since
    /// 1970. None, if none ever does.
    pub fn papers_expire_at_s(&self) -> Option<u64> {
        self.common.papers().expires_at_s
    }

    /// Reads the papers again, for the connections to come; those that are up live on. What is
    /// wrong with them leaves the old ones in force. Reads files: it may block for a moment.
    pub fn reload(&self) -> Result<(), TlsError> {
        let FabricSettings { files, cluster, node, .. } = &self.common.settings;
        let papers = Papers::load(files, cluster, *node)?;
        self.common.papers.send_replace(Arc::new(papers));
        Ok(())
    }

    /// Asks a peer, and waits for the answer no longer than the deadline.
    pub async fn call(
        &self,
        peer: &Peer,
        method: u8,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let deadline = after(deadline);
        let tasks = self.tasks(peer)?;
        let question = (method, request);
        control::call(&self.common, &tasks.control, &peer.address, question, deadline).await
    }

    /// Asks every node of this cluster that is at a name (`host:port`), but ourselves. Returns what
    /// came before the deadline.
    pub async fn ask_all_at(
        &self,
        name: &str,
        method: u8,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Vec<Told>, DialError> {
        let Some(endpoint) = self.endpoint.lock().clone() else { return Err(DialError::Closed) };
        anyone::ask(&self.common, &endpoint, name, (method, request), after(deadline)).await
    }

    /// Begins a question whose body is told bit by bit. Each step, this one included, waits no
    /// longer than the patience.
    pub async fn open_upload(
        &self,
        peer: &Peer,
        method: u8,
        header: Bytes,
        patience: Duration,
    ) -> Result<Upload, CallError> {
        let tasks = self.tasks(peer)?;
        let question = (method, header);
        control::open_upload(&self.common, &tasks.control, &peer.address, question, patience).await
    }

    /// Posts a frame. Frames of one order key reach the peer's service in the order of these calls.
    ///
    /// Never waits. Where it returns an error, nothing is sent and the reply is dropped untold.
    /// Otherwise the reply is told once, at the deadline at the latest but for a few milliseconds.
    /// While the peer cannot be reached, frames wait in its lanes until their deadlines.
    pub fn post(
        &self,
        peer: &Peer,
        order_key: u64,
        frame: Bytes,
        reply: impl PostReply,
        deadline: Duration,
    ) -> Result<(), PostRefused> {
        if frame.len() > self.common.settings.limits.frame_bytes_max {
            return Err(PostRefused::TooLarge(frame.len()));
        }
        let tasks = self.tasks(peer).map_err(|error| match error {
            DialError::TooManyPeers => PostRefused::TooManyPeers,
            _ => PostRefused::Closed,
        })?;
        let deadline = after(deadline);
        let to = (&peer.address, order_key);
        let posted = tasks.lanes.post(to, frame, Box::new(reply), deadline);
        if posted == Err(PostRefused::LaneFull) {
            self.common.stats.lanes_full.add(1);
        }
        posted
    }

    /// A node is not to be waited for any longer: what was posted to it and not answered is told so, at
    /// once. What is posted from now on is sent as ever.
    pub fn give_up(&self, node: NodeId) {
        if let Some(tasks) = self.peers.read().get(&node) {
            tasks.lanes.give_up();
        }
    }

    /// Drops all connections with a node, whoever dialed them. They are dialed again when needed;
    /// lanes resume.
    pub fn drop_connections(&self, node: NodeId) {
        // Nobody listens where there is no connection.
        let _ = self.common.dropped.send(node);
    }

    /// Ends all connections and tasks and lets the socket go. What was posted and not answered is
    /// told before this returns.
    pub async fn close(&self) {
        let endpoint = self.endpoint.lock().take();
        // Before the peers are let go: no task for a peer starts after it.
        self.common.closing.cancel();
        // The lanes' tasks end when nobody can post to them any more.
        self.peers.write().clear();
        if let Some(endpoint) = endpoint {
            endpoint.close(CloseCode::Done.into(), b"closed");
        }
        self.common.tasks.close();
        if timeout(CLOSING_MAX, self.common.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.common.tasks.len(), "closed with tasks left");
        }
    }

    fn tasks(&self, peer: &Peer) -> Result<Arc<PeerTasks>, DialError> {
        if let Some(tasks) = self.peers.read().get(&peer.node) {
            return Ok(tasks.clone());
        }
        let Some(endpoint) = self.endpoint.lock().clone() else { return Err(DialError::Closed) };
        let mut peers = self.peers.write();
        if let Some(tasks) = peers.get(&peer.node) {
            return Ok(tasks.clone());
        }
        if self.common.closing.is_cancelled() {
            return Err(DialError::Closed);
        }
        if peers.len() >= self.common.settings.limits.peers_max {
            return Err(DialError::TooManyPeers);
        }
        let control = Link::start(&self.common, endpoint.clone(), peer.node, Purpose::Control);
        let posts = Link::start(&self.common, endpoint, peer.node, Purpose::Posts);
        let lanes = Lanes::start(&self.common, &posts, peer.node, &peer.address);
        let tasks = Arc::new(PeerTasks { control, lanes });
        peers.insert(peer.node, tasks.clone());
        Ok(tasks)
    }
}

fn after(deadline: Duration) -> Instant {
    Instant::now() + deadline.min(DEADLINE_MAX)
}

impl From<getrandom::Error> for FabricError {
    fn from(error: getrandom::Error) -> FabricError {
        FabricError::Random(error)
    }
}

impl From<TlsSetupError> for FabricError {
    fn from(error: TlsSetupError) -> FabricError {
        FabricError::Setup(error.to_string())
    }
}
