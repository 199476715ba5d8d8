//! One node: builds the rooms bottom-up, and takes them down top-down.

mod drain;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use posthorn_core::connection::CloseCause;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::api::{self, Api, Callers, admin};
use crate::config::Config;
use crate::config::node::NodeSettings;
use crate::config::tls::TlsSettings;
use crate::consensus::{Consensus, Failure, Fence, StartError, Started};
use crate::descriptors::Shares;
use crate::draining::Draining;
use crate::edge::{self, Edge};
use crate::exchange::outboxes::Outboxes;
use crate::exchange::stage::{Lasting, Stages};
use crate::exchange::{Gateway, Limits};
use crate::fabric::{Fabric, FabricError, FabricSettings, ProtocolVersions, TlsFiles};
use crate::integration::reach::Reach;
use crate::operator::Operator;
use crate::reload::{Definitions, ListenerTls, Watched};
use crate::telemetry::{Exporter, Metrics, Registry};
use crate::tls::{ServerTls, TlsError};

/// How long calls of the API may take to end.
const API_GRACE: Duration = Duration::from_secs(5);
/// How long a node that has left still answers the others, until all of them have heard of it.
const LINGER: Duration = Duration::from_millis(300);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// A node whose doors are open and who has not yet asked anybody anything.
pub struct Node {
    config: Config,
    listening: Listening,
    listeners: Listeners,
    exporter: Exporter,
    fabric: Fabric,
    gateway: Arc<Gateway>,
    started: Started,
    edge_tls: Option<Arc<ServerTls>>,
    api_tls: Option<Arc<ServerTls>>,
    callers: Arc<Callers>,
    /// What is made anew when its files change.
    watched_certificates: Vec<Watched>,
    watched_definitions: Watched,
}

/// Where a node listens, ports that the system picked included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    pub edge: SocketAddr,
    pub api: SocketAddr,
    pub admin: SocketAddr,
    pub fabric: SocketAddr,
}

struct Listeners {
    edge: TcpListener,
    api: TcpListener,
    admin: TcpListener,
}

/// Why a node does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("{key}: cannot listen at {address}: {error}")]
    Listen { key: &'static str, address: SocketAddr, error: std::io::Error },
    #[error("fabric: {0}")]
    Fabric(#[source] FabricError),
    #[error("node.data_dir: {0}")]
    Store(Arc<str>),
    #[error("this release does not work with the cluster: {0}")]
    Incompatible(Arc<str>),
    #[error("this node was removed from the cluster; started again, it asks to join it again")]
    Removed,
    #[error("raft: {0}")]
    Raft(String),
    #[error("metrics: {0}")]
    Metrics(String),
    #[error("{key}: {error}")]
    Tls { key: &'static str, error: TlsError },
}

impl From<Failure> for NodeError {
    fn from(failure: Failure) -> NodeError {
        match failure {
            Failure::Store(error) => NodeError::Store(error),
            Failure::Incompatible(error) => NodeError::Incompatible(error),
            Failure::Removed => NodeError::Removed,
        }
    }
}

impl Node {
    pub async fn start(config: Config, versions: ProtocolVersions) -> Result<Node, NodeError> {
        let exporter =
            Exporter::install().map_err(|error| NodeError::Metrics(error.to_string()))?;
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let mut watched_certificates = Vec::new();
        let edge_tls = config.edge.tls.as_ref();
        let edge_tls = edge_tls
            .map(|tls| listener_tls("edge.tls", tls, edge::PROTOCOLS, &mut watched_certificates))
            .transpose()?;
        let api_tls = config.api.tls.as_ref();
        let api_tls = api_tls
            .map(|tls| listener_tls("api.tls", tls, api::PROTOCOLS, &mut watched_certificates))
            .transpose()?;
        let listeners = Listeners::open(&config)?;
        let fabric = Fabric::bind(fabric_settings(&config, versions)).map_err(NodeError::Fabric)?;
        watched_certificates.push(Watched::new(Arc::new(fabric.clone())));
        let started = Consensus::start(
            &config.node,
            &config.cluster,
            config.fabric.advertise.clone(),
            fabric.clone(),
            metrics.clone(),
        );
        let started = started.await.map_err(|error| match error {
            StartError::Raft(error) => NodeError::Raft(error),
            StartError::DataDir(_)
            | StartError::Store(_)
            | StartError::Snapshot(_)
            | StartError::Opening(_) => NodeError::Store(error.to_string().into()),
        })?;
        let listening = listeners.listening(fabric.local_address())?;
        let lasting = Lasting::new(config.aws.clone(), reach(&config, listening));
        let stages = Stages::new(&config, &lasting, &metrics);
        let key_sets = lasting.key_sets();
        let callers = Callers::new(&config.principals, &config.api, key_sets);
        let callers = Arc::new(callers);
        let limits = Limits {
            reply_bytes_max: config.api.payload_bytes_max as usize,
            disconnect_retry_max: config.cluster.disconnect_retry_max_s.0,
        };
        let outboxes = Arc::new(Outboxes::new(&config.edge));
        let consensus = started.consensus.clone();
        let gateway =
            Gateway::new(consensus, fabric.clone(), stages, outboxes, limits, metrics.clone());
        let definitions =
            Definitions::new(&config, gateway.clone(), callers.clone(), lasting, metrics);
        let watched_definitions = Watched::new(Arc::new(definitions));
        Ok(Node {
            config,
            listening,
            listeners,
            exporter,
            fabric,
            gateway,
            started,
            edge_tls,
            api_tls,
            callers,
            watched_certificates,
            watched_definitions,
        })
    }

    /// Whether a node could start with these settings, as far as that shows without starting it.
    pub fn check(config: &Config) -> Result<(), NodeError> {
        for (key, tls, protocols) in [
            ("edge.tls", &config.edge.tls, edge::PROTOCOLS),
            ("api.tls", &config.api.tls, api::PROTOCOLS),
        ] {
            if let Some(tls) = tls {
                listener_tls(key, tls, protocols, &mut Vec::new())?;
            }
        }
        Ok(())
    }

    pub fn listening(&self) -> Listening {
        self.listening
    }

    /// To have the node end in order.
    pub fn draining(&self) -> &Draining {
        self.gateway.draining()
    }

    /// Serves until the node is to be drained, then ends in order. `hangups` changes with each SIGHUP.
    pub async fn run(self, hangups: watch::Receiver<()>) -> Result<(), NodeError> {
        let Node { config, listeners, exporter, fabric, gateway, started, listening, .. } = self;
        info!(node = %config.node.id, ?listening, "started");
        let Listeners { edge: edge_listener, api: api_listener, admin: admin_listener } = listeners;
        let (background, clients, calls) =
            (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
        let (serving, all) = (CancellationToken::new(), CancellationToken::new());

        let operator = Operator::new(
            config.cluster.name.clone(),
            started.consensus.clone(),
            gateway.clone(),
            fabric.clone(),
            started.service.clone(),
        );
        fabric.serve(operator.clone(), gateway.clone()).map_err(NodeError::Fabric)?;
        let (consensus, mut failure) = (started.consensus.clone(), started.failure.clone());
        let fences = started.run(&background, &all);
        spawn(&background, &all, answer_fences(fences, gateway.clone()));
        spawn(&background, &all, gateway.clone().follow_evictions());
        spawn(&background, &all, exporter.clone().run_upkeep());
        for watched in self.watched_certificates.into_iter().chain([self.watched_definitions]) {
            let metrics = gateway.metrics().clone();
            spawn(&background, &all, watched.keep_fresh(hangups.clone(), metrics));
        }
        let shares = Shares::claim();
        let edge = Edge::new(&config.edge, self.edge_tls, gateway.clone(), shares);
        background.spawn(edge.serve(edge_listener, clients.clone(), serving.clone()));
        let (callers, admin) = (self.callers, config.admin.clone());
        let api =
            Api::new(&config.api, self.api_tls, gateway.clone(), callers.clone(), operator.clone());
        calls.spawn(api.serve(api_listener, shares, cancelled(&serving)));
        background.spawn(admin::serve(
            admin_listener,
            admin,
            operator.clone(),
            exporter,
            callers,
            cancelled(&all),
        ));

        let (drain, low) = (drain::Shell::new(&config, &gateway, &consensus), OnceLock::new());
        let failed = tokio::select! {
            () = drain.run() => None,
            never = leave_if_low(&config.node, &operator, &gateway, &low) => match never {},
            failure = failure_of(&mut failure) => Some(failure),
        };
        if failed.is_some() {
            // Others settle what is owed once this run has left.
            drain.close_all().await;
        }
        serving.cancel();
        calls.close();
        if tokio::time::timeout(API_GRACE, calls.wait()).await.is_err() {
            warn!(left = calls.len(), "calls under way were cut off");
        }
        consensus.leave().await;
        if failed.is_none() && consensus.has_peers() {
            tokio::time::sleep(LINGER).await;
        }
        consensus.shut_down().await;
        all.cancel();
        background.close();
        if tokio::time::timeout(API_GRACE, background.wait()).await.is_err() {
            warn!(left = background.len(), "tasks were cut off");
        }
        fabric.close().await;
        gateway.flush_access_logs().await;
        info!("ended");
        failed.or(low.into_inner()).map_or(Ok(()), |failure| Err(failure.into()))
    }
}

impl Listeners {
    fn open(config: &Config) -> Result<Listeners, NodeError> {
        let open = |key, address| {
            edge::listen(address).map_err(|error| NodeError::Listen { key, address, error })
        };
        Ok(Listeners {
            edge: open("edge.listen", config.edge.listen)?,
            api: open("api.listen", config.api.listen)?,
            admin: open("admin.listen", config.admin.listen)?,
        })
    }

    fn listening(&self, fabric: SocketAddr) -> Result<Listening, NodeError> {
        let at = |key, listener: &TcpListener| {
            let address = SocketAddr::from(([0, 0, 0, 0], 0));
            listener.local_addr().map_err(|error| NodeError::Listen { key, address, error })
        };
        Ok(Listening {
            edge: at("edge.listen", &self.edge)?,
            api: at("api.listen", &self.api)?,
            admin: at("admin.listen", &self.admin)?,
            fabric,
        })
    }
}

fn spawn(
    tasks: &TaskTracker,
    stop: &CancellationToken,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.clone();
    tasks.spawn(async move { stop.run_until_cancelled(task).await });
}

fn cancelled(token: &CancellationToken) -> impl Future<Output = ()> + Send + 'static {
    token.clone().cancelled_owned()
}

/// Ends all that a fenced run owned, each time that one is.
async fn answer_fences(mut fences: mpsc::Receiver<Fence>, gateway: Arc<Gateway>) {
    while let Some(Fence { run, done }) = fences.recv().await {
        let closed = gateway.connections();
        gateway.close_all(&CloseCause::Fenced);
        while gateway.connections() > 0 {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        info!(%run, closed, "ended what the run owned");
        // Nobody waits where the node is being taken down.
        let _ = done.send(());
    }
}

/// Has the node drained while its disk still has some room.
async fn leave_if_low(
    settings: &NodeSettings,
    operator: &Operator,
    gateway: &Gateway,
    low: &OnceLock<Failure>,
) -> Infallible {
    let why = operator.disk_is_low(&settings.data_dir, settings.disk_free_bytes_min).await;
    // Nobody else sets it.
    drop(low.set(Failure::Store(why.into())));
    gateway.draining().begin();
    std::future::pending().await
}

async fn failure_of(failure: &mut watch::Receiver<Option<Failure>>) -> Failure {
    loop {
        if let Some(failure) = failure.borrow_and_update().clone() {
            return failure;
        }
        if failure.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The TLS of a listener, from now on read anew when its files change.
fn listener_tls(
    section: &'static str,
    settings: &TlsSettings,
    protocols: &'static [&'static str],
    watched: &mut Vec<Watched>,
) -> Result<Arc<ServerTls>, NodeError> {
    let tls = ServerTls::load(settings, protocols)
        .map_err(|error| NodeError::Tls { key: section, error })?;
    watched.push(Watched::new(Arc::new(ListenerTls { section, tls: tls.clone() })));
    Ok(tls)
}

/// Whom backends' names may lead to.
fn reach(config: &Config, listening: Listening) -> Reach {
    let Listening { edge, api, admin, fabric: _ } = listening;
    Reach::new(config.integrations.denied_addresses.clone(), vec![edge, api, admin])
}

fn fabric_settings(config: &Config, versions: ProtocolVersions) -> FabricSettings {
    let written = &config.fabric;
    let files = TlsFiles {
        ca_file: written.ca_file.clone(),
        cert_file: written.cert_file.clone(),
        key_file: written.key_file.clone(),
    };
    let name = config.cluster.name.clone();
    let settings = FabricSettings::new(written.listen, config.node.id, name, files);
    FabricSettings {
        versions,
        keep_alive: written.keep_alive_ms.0,
        idle_timeout: written.idle_timeout_ms.0,
        ..settings
    }
}
