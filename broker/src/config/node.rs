//! The settings of one node, beside the APIs that it serves.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthorn_derive::Setting;
use serde::Deserialize;
use serde::de::{Deserializer, Error, Unexpected, Visitor};

use crate::config::tls::TlsSettings;
use crate::config::values::{Limit, Millis, Seconds};
use posthorn_core::auth::throttle::{Rate, Throttle};
use posthorn_core::ids::{ClusterName, NodeId};
use posthorn_core::proxies::{NotAnIpBlock, Proxies};

/// Who this node is, and where its disk lies.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct NodeSettings {
    /// The node's ordinal, unique in the cluster and stable over restarts; or `hostname`, to take
    /// the number that ends the host's name, as a StatefulSet gives it.
    #[serde(deserialize_with = "node_id")]
    #[setting(words = "whole number, or `hostname`")]
    pub id: NodeId,
    /// What must survive a restart, relative to this file. Two processes cannot share one.
    pub data_dir: PathBuf,
    /// Room that the disk of the data directory is to have. With less, the node does not start, and
    /// one that runs takes its leave as if it were asked to end, if the others can do without it.
    #[serde(default = "defaults::disk_free_bytes_min")]
    pub disk_free_bytes_min: u64,
}

/// The cluster as every node of it must see it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct ClusterSettings {
    /// Ends the name in every node's certificate: `node-{id}.{name}`.
    #[serde(deserialize_with = "cluster_name")]
    pub name: ClusterName,
    /// The nodes that form the cluster at its first start: 1, 3 or 5. Afterwards, where a node that
    /// knows nobody yet asks first.
    pub initial_voters: Vec<Voter>,
    /// Where else a node that knows nobody yet, or nobody any more, asks: `host:port`, each name for
    /// as many nodes as it leads to when it is asked.
    #[serde(default)]
    pub peers: Vec<Arc<str>>,
    /// How many nodes vote: 1, 3 or 5, the lowest ordinals. The others learn, and serve as well.
    /// Where it is missing, 3, or 5 if so many form the cluster.
    #[setting(words = "1, 3 or 5")]
    pub voters_max: Option<usize>,
    /// How long a voter may be away before a learner takes its place, and a learner before it is no
    /// longer a member. Longer than any restart takes.
    #[serde(default = "defaults::voter_absence_max_s")]
    pub voter_absence_max_s: Seconds,
    /// Between two heartbeats of the Raft leader, in milliseconds, as all that ends in `_ms`.
    #[serde(default = "defaults::heartbeat_ms")]
    pub heartbeat_ms: Millis,
    /// How long a voter hears nothing before it stands for election; up to a fifth more, by chance. At
    /// least 5 times the heartbeat.
    #[serde(default = "defaults::election_timeout_ms")]
    pub election_timeout_ms: Millis,
    /// Between two beats of a run to the leader. At most a third of the lease.
    #[serde(default = "defaults::beat_ms")]
    pub beat_ms: Millis,
    /// How long a run may act without word from a leader that has a quorum.
    #[serde(default = "defaults::lease_ms")]
    pub lease_ms: Millis,
    /// How long a run may be silent before the leader gives it up: at least 1.5 times the lease.
    /// The cluster is safe while no node's clock runs faster than another's by more than that.
    #[serde(default = "defaults::patience_ms")]
    pub patience_ms: Millis,
    /// How long a `$disconnect` that is not answered is tried again. Then it is given up, which is
    /// counted and logged.
    #[serde(default = "defaults::disconnect_retry_max_s")]
    pub disconnect_retry_max_s: Seconds,
    /// Log entries between two snapshots of the directory, at least 10. A fifth of them is kept behind each, for
    /// followers that are a little behind; who is further behind is given the snapshot.
    #[serde(default = "defaults::snapshot_entries")]
    pub snapshot_entries: u64,
    /// A snapshot is also taken when the entries since the last one take so many bytes, and no more
    /// than that is kept behind it. At least 65,536.
    #[serde(default = "defaults::snapshot_bytes")]
    pub snapshot_bytes: u64,
}

impl ClusterSettings {
    /// How many nodes vote at most. Who forms a cluster with five voters wants five.
    pub fn voters_max(&self) -> usize {
        self.voters_max.unwrap_or(self.initial_voters.len().max(3))
    }
}

/// One of those that form the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct Voter {
    /// The node's `node.id`.
    #[serde(deserialize_with = "plain_node_id")]
    pub id: NodeId,
    /// Host and port of its fabric listener. `{id}` stands for its ID.
    pub address: Arc<str>,
}

/// Between nodes: QUIC with mutual TLS.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub struct FabricSettings {
    /// Of the node's one UDP socket.
    #[serde(default = "defaults::fabric_listen")]
    pub listen: SocketAddr,
    /// Host and port where the other nodes reach this one. Here and in the names of its files, `{id}`
    /// stands for this node's ID, so that one configuration fits all.
    pub advertise: Arc<str>,
    /// PEM. Who shows a certificate signed by it and naming a node of this cluster is a node. Here and
    /// below, relative to this file.
    pub ca_file: PathBuf,
    /// PEM, for `node-{id}.{cluster name}`, for server and client use.
    pub cert_file: PathBuf,
    /// PEM.
    pub key_file: PathBuf,
    /// Between two signs of life on a connection to a peer that is otherwise silent.
    #[serde(default = "defaults::keep_alive_ms")]
    pub keep_alive_ms: Millis,
    /// Without a sign of life, a connection to a peer is given up after this.
    #[serde(default = "defaults::fabric_idle_timeout_ms")]
    pub idle_timeout_ms: Millis,
}

/// Where clients connect, and what they may do. API definitions may be stricter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct EdgeSettings {
    /// For WebSockets. Beyond loopback, it needs `tls` or `insecure`.
    pub listen: SocketAddr,
    /// Clients come over TLS (`wss`). Where it is missing, in plain text.
    pub tls: Option<TlsSettings>,
    /// Clients may come from other machines although nothing is encrypted here.
    pub insecure: bool,
    /// From the TCP connection to the last byte of the request. What the backend takes to answer
    /// `$connect` does not count.
    pub handshake_timeout_ms: Millis,
    /// The request line and all headers together.
    pub header_bytes_max: u32,
    /// The path and query of the request.
    pub url_bytes_max: u32,
    /// Open connections on this node, handshakes included. Further ones are refused with 503, and so are
    /// those for whom the system would let the process open no more files.
    pub connections_max: Limit<u64>,
    /// Handshakes under way, what backends take to answer `$connect` included. Further ones are refused
    /// with 503.
    pub handshakes_max: Limit<u64>,
    /// New connections a second at this node, in the long run. Further ones are refused with 503 before
    /// anything else is done for them; over TLS, they are closed without an answer.
    pub connects_per_s_max: Limit<u64>,
    /// New connections at once, after a rest: as many as `connects_per_s_max` where it is missing.
    pub connects_burst_max: Option<u32>,
    /// No connection is let in while more than this of the node is in the machine's memory.
    pub memory_bytes_max: Limit<u64>,
    /// Who is refused for there being too many is told to come again after so many seconds at most, by
    /// chance, so that those who came together do not come together again.
    pub retry_after_max_s: Seconds,
    /// Of these, from one IPv4 address, or from IPv6 addresses that begin with the same 64 bits. Further
    /// ones are refused with 429.
    pub connections_per_address_max: Limit<u64>,
    /// Proxies that are believed: what `X-Forwarded-For`, `-Proto` and `-Port` say of a client counts
    /// only where it comes from these. Addresses, or with `/` and how many bits of one count.
    #[serde(deserialize_with = "proxies")]
    pub trusted_proxies: Proxies,
    /// A larger message from a client closes its connection with 1009.
    pub message_bytes_max: Limit<u64>,
    /// A larger frame from a client closes its connection with 1009.
    pub frame_bytes_max: Limit<u64>,
    /// A message that a client cuts into more frames closes its connection with 1008.
    pub fragments_max: Limit<u64>,
    /// From where a client lets us wait for the rest of a message until it must be whole. One that
    /// is not closes the connection with 1008.
    pub message_timeout_ms: Limit<Millis>,
    /// Pings of a client within a second, and Pongs that answer none of ours. More close its
    /// connection with 1008.
    pub control_frames_per_s_max: Limit<u64>,
    /// Without a message in either direction, a connection is closed with 1001 after this.
    pub idle_timeout_s: Limit<Seconds>,
    /// However busy it is, a connection is closed with 1001 after this.
    pub lifetime_s: Limit<Seconds>,
    /// By how much of itself, in per cent and at most 90, a lifetime is shortened by chance, so that clients that
    /// came together do not leave together.
    pub lifetime_jitter_percent: u8,
    /// Between two Pings to a client.
    pub ping_interval_s: Limit<Seconds>,
    /// A client that shows no sign of life this long after a Ping is given up (1006).
    pub pong_timeout_s: Seconds,
    /// How long a client may take to answer a Close frame.
    pub close_timeout_ms: Millis,
    /// Messages of one client that its backend has not answered yet. Further ones are left in the
    /// socket, so that the client feels it.
    pub messages_in_flight_max: u32,
    /// Bytes that wait to be sent to one client. A post that would exceed them is refused.
    pub outbox_bytes_max: u32,
    /// Messages that wait to be sent to one client.
    pub outbox_messages_max: u32,
    /// What becomes of a client for whom more than that would wait.
    pub slow_clients: SlowClients,
    /// Bytes that wait to be sent to all clients of this node, and 64 for each message. A post that
    /// would exceed them is refused, and its caller told to try again, unless less than 4 KiB wait for
    /// its client then.
    pub outboxes_bytes_max: Limit<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
pub enum SlowClients {
    /// Posts to it are refused until it has read some.
    Refuse,
    /// It is closed with 1013, once it has read what was accepted, or after `close_timeout_ms`.
    Close,
}

impl EdgeSettings {
    /// How often a client may connect, if there is a limit.
    pub fn connects_throttle(&self) -> Option<Throttle> {
        let rate = self.connects_per_s_max.0?;
        let burst = self.connects_burst_max.or(u32::try_from(rate).ok()).unwrap_or(u32::MAX);
        Some(Throttle::new(Rate(rate.saturating_mul(1000)), burst))
    }
}

/// Where backends call.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct ApiSettings {
    /// For gRPC, health checks and the `@connections` API. Beyond loopback, it needs `tls` and some
    /// principal, or `insecure`.
    pub listen: SocketAddr,
    /// Calls come over TLS. Where it is missing, in plain text.
    pub tls: Option<TlsSettings>,
    /// Calls may come from other machines although nothing is encrypted here, and where there are no
    /// `principals`, everybody may do everything. Otherwise, where there are none, nobody may
    /// anything.
    pub insecure: bool,
    /// What of a payload that is not UTF-8 and was posted by HTTP.
    pub non_utf8_payload: NonUtf8Payload,
    /// A larger payload of a post is refused, and so is a larger answer to a client's message, which
    /// is told of an error instead.
    pub payload_bytes_max: u32,
    /// How long a post may take when the caller sets no deadline of its own.
    pub post_timeout_ms: Millis,
    /// Posts of one stream that are not answered yet. Further ones are left in the stream.
    pub stream_posts_in_flight_max: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
pub enum NonUtf8Payload {
    /// A text message, with U+FFFD where it is not UTF-8: as API Gateway has it.
    Replace,
    /// A binary message.
    Binary,
}

/// Where operators and Prometheus look.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct AdminSettings {
    /// For `/metrics`, `/livez` and `/readyz`. Beyond loopback, it needs a principal with the permission
    /// `*/*/admin`, or `insecure`.
    pub listen: SocketAddr,
    /// Everybody may read the metrics, also from other machines. Otherwise, beyond loopback, only
    /// principals with the permission `*/*/admin` may, by bearer token.
    pub insecure: bool,
}

/// What the node writes to standard error.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// A filter as `tracing_subscriber::EnvFilter` reads it: `info`, `warn,posthorn=debug`.
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl ClusterSettings {
    /// With IDs in the place of their placeholders.
    pub(super) fn filled(mut self) -> ClusterSettings {
        for Voter { id, address } in &mut self.initial_voters {
            *address = fill(address, *id).into();
        }
        self
    }
}

impl FabricSettings {
    /// With this node's ID in the place of its placeholders.
    pub(super) fn filled(mut self, id: NodeId) -> FabricSettings {
        self.advertise = fill(&self.advertise, id).into();
        for file in self.files() {
            if let Some(written) = file.to_str() {
                *file = fill(written, id).into();
            }
        }
        self
    }

    /// Relative paths are taken from where the configuration lies.
    pub(super) fn found_from(mut self, folder: &Path) -> FabricSettings {
        for file in self.files() {
            *file = folder.join(&*file);
        }
        self
    }

    fn files(&mut self) -> [&mut PathBuf; 3] {
        [&mut self.ca_file, &mut self.cert_file, &mut self.key_file]
    }
}

fn fill(written: &str, id: NodeId) -> String {
    written.replace("{id}", &id.to_string())
}

/// A host and a port.
pub(super) fn is_address(written: &str) -> bool {
    let port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    written.rsplit_once(':').is_some_and(|(host, digits)| !host.is_empty() && port(digits))
}

impl Default for EdgeSettings {
    fn default() -> EdgeSettings {
        EdgeSettings {
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            tls: None,
            insecure: false,
            handshake_timeout_ms: Millis::new(10_000),
            header_bytes_max: 16 * 1024,
            url_bytes_max: 4096,
            connections_max: Limit(None),
            handshakes_max: Limit(Some(16 * 1024)),
            connects_per_s_max: Limit(None),
            connects_burst_max: None,
            memory_bytes_max: Limit(None),
            retry_after_max_s: Seconds::new(10),
            connections_per_address_max: Limit(None),
            trusted_proxies: Proxies::default(),
            message_bytes_max: Limit(Some(128 * 1024)),
            frame_bytes_max: Limit(Some(32 * 1024)),
            fragments_max: Limit(Some(4096)),
            message_timeout_ms: Limit(Some(Millis::new(30_000))),
            control_frames_per_s_max: Limit(Some(100)),
            idle_timeout_s: Limit(Some(Seconds::new(600))),
            lifetime_s: Limit(Some(Seconds::new(7200))),
            lifetime_jitter_percent: 10,
            ping_interval_s: Limit(Some(Seconds::new(60))),
            pong_timeout_s: Seconds::new(20),
            close_timeout_ms: Millis::new(5000),
            messages_in_flight_max: 16,
            outbox_bytes_max: 1024 * 1024,
            outbox_messages_max: 4096,
            slow_clients: SlowClients::Refuse,
            outboxes_bytes_max: Limit(Some(512 * 1024 * 1024)),
        }
    }
}

impl Default for ApiSettings {
    fn default() -> ApiSettings {
        ApiSettings {
            listen: SocketAddr::from(([0, 0, 0, 0], 8081)),
            tls: None,
            insecure: false,
            non_utf8_payload: NonUtf8Payload::Replace,
            payload_bytes_max: 128 * 1024,
            post_timeout_ms: Millis::new(10_000),
            stream_posts_in_flight_max: 4096,
        }
    }
}

impl Default for AdminSettings {
    fn default() -> AdminSettings {
        AdminSettings { listen: SocketAddr::from(([127, 0, 0, 1], 9090)), insecure: false }
    }
}

impl Default for LogSettings {
    fn default() -> LogSettings {
        // What raft says when it is asked to stop is no error of anybody's.
        let filter = "info,openraft=error,openraft::raft::raft_inner=off".to_owned();
        LogSettings { filter, format: LogFormat::Text }
    }
}

mod defaults {
    use super::{Millis, Seconds, SocketAddr};

    pub(super) fn voter_absence_max_s() -> Seconds {
        Seconds::new(300)
    }

    pub(super) fn disk_free_bytes_min() -> u64 {
        128 * 1024 * 1024
    }

    pub(super) fn heartbeat_ms() -> Millis {
        Millis::new(50)
    }

    pub(super) fn election_timeout_ms() -> Millis {
        Millis::new(400)
    }

    pub(super) fn beat_ms() -> Millis {
        Millis::new(400)
    }

    pub(super) fn lease_ms() -> Millis {
        Millis::new(3000)
    }

    pub(super) fn patience_ms() -> Millis {
        Millis::new(5000)
    }

    pub(super) fn disconnect_retry_max_s() -> Seconds {
        Seconds::new(600)
    }

    pub(super) fn snapshot_entries() -> u64 {
        5_000
    }

    pub(super) fn snapshot_bytes() -> u64 {
        64 * 1024 * 1024
    }

    pub(super) fn fabric_listen() -> SocketAddr {
        SocketAddr::from(([0, 0, 0, 0], 7946))
    }

    pub(super) fn keep_alive_ms() -> Millis {
        Millis::new(1000)
    }

    pub(super) fn fabric_idle_timeout_ms() -> Millis {
        Millis::new(5000)
    }
}

fn plain_node_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
    u32::deserialize(deserializer).map(NodeId)
}

fn node_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
    deserializer.deserialize_any(WrittenNodeId)
}

/// A number, which from the environment comes as such, or what says where to take it from.
struct WrittenNodeId;

impl Visitor<'_> for WrittenNodeId {
    type Value = NodeId;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ordinal, or the word hostname")
    }

    fn visit_u64<E: Error>(self, written: u64) -> Result<NodeId, E> {
        let id = u32::try_from(written).map(NodeId);
        id.map_err(|_| E::invalid_value(Unexpected::Unsigned(written), &self))
    }

    fn visit_str<E: Error>(self, written: &str) -> Result<NodeId, E> {
        if written != "hostname" {
            let id = written.parse().map(NodeId);
            return id.map_err(|_| E::invalid_value(Unexpected::Str(written), &self));
        }
        let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
        let host = host.ok_or_else(|| E::custom("the host has no name to take the id from"))?;
        let digits = host.trim_end_matches(|letter: char| letter.is_ascii_digit()).len();
        host[digits..]
            .parse()
            .map(NodeId)
            .map_err(|_| E::custom(format!("the host's name `{host}` does not end in an ordinal")))
    }
}

fn cluster_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ClusterName, D::Error> {
    let written = String::deserialize(deserializer)?;
    ClusterName::try_from(&*written).map_err(D::Error::custom)
}

fn proxies<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Proxies, D::Error> {
    let parse = |text: String| {
        let block = text.parse();
        block.map_err(|error: NotAnIpBlock| D::Error::custom(format!("`{text}`: {error}")))
    };
    let written = Vec::<String>::deserialize(deserializer)?;
    written.into_iter().map(parse).collect::<Result<_, _>>().map(Proxies)
}
