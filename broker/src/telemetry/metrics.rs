//! Every metric of the broker, once.

use metrics::{Counter, Gauge, Histogram};

use crate::telemetry::access_log::AccessLogs;
use crate::telemetry::apis;
use crate::telemetry::fabric::FabricMetrics;
use crate::telemetry::registry::{ByLabel, Registry, Values, label};
use crate::telemetry::storage::StorageMetrics;

/// The handles of all series. The text beside each name is what `/metrics` says of it. And the access
/// logs, which are handed around with them.
pub struct Metrics {
    pub edge: EdgeMetrics,
    pub integrations: IntegrationMetrics,
    pub posts: PostMetrics,
    pub directory: DirectoryMetrics,
    pub drain: DrainMetrics,
    pub fabric: FabricMetrics,
    pub storage: StorageMetrics,
    pub access_logs: AccessLogs,
    pub reloads: ReloadMetrics,
}

pub struct EdgeMetrics {
    pub connections: Gauge,
    pub opened: Counter,
    pub closed: ByLabel<Closed, Counter>,
    pub refused: ByLabel<Refused, Counter>,
    pub messages_received: Counter,
    pub messages_sent: Counter,
    pub outbox_bytes: Gauge,
    pub handshakes: Gauge,
    pub handshake_seconds: Histogram,
}

pub struct IntegrationMetrics {
    pub calls: ByLabel<Called, Counter>,
    pub call_seconds: Histogram,
    pub in_flight: Gauge,
    pub waiting: Gauge,
}

pub struct PostMetrics {
    pub told: ByLabel<Posted, Counter>,
    pub forwarded: ByLabel<Posted, Counter>,
    pub forward_seconds: ByLabel<Posted, Histogram>,
}

pub struct DirectoryMetrics {
    pub entries: Gauge,
    pub debts: Gauge,
    pub debts_settled: Counter,
    pub disconnects_given_up: Counter,
    pub evictions: Counter,
    pub membership_steps: ByLabel<MembershipStep, Counter>,
    pub commit_seconds: Histogram,
    pub update_changes: Histogram,
    pub debts_oldest_seconds: Gauge,
    pub lag_entries: Gauge,
    pub applied_index: Gauge,
    pub log_entries: Gauge,
    pub snapshot_index: Gauge,
    pub term: Gauge,
    pub leader_changes: Counter,
    pub is_leader: Gauge,
    pub is_ready: Gauge,
    pub protocol_version: Gauge,
    pub peers_refused: ByLabel<PeerRefused, Counter>,
}

pub struct DrainMetrics {
    pub phase: Gauge,
    pub connections_left: Gauge,
    pub closes: Counter,
}

pub struct ReloadMetrics {
    pub definitions: ByLabel<Reloaded, Counter>,
    pub certificates: ByLabel<Reloaded, Counter>,
}

label! {
    /// How a connection ended.
    Closed {
        ByClient => "by_client",
        ByBackend => "by_backend",
        Idle => "idle",
        Lifetime => "lifetime",
        Unresponsive => "unresponsive",
        TooSlow => "too_slow",
        Lost => "lost",
        ProtocolError => "protocol_error",
        NotUtf8 => "not_utf8",
        MessageTooBig => "message_too_big",
        TooManyFragments => "too_many_fragments",
        Unfinished => "unfinished",
        TooManyControlFrames => "too_many_control_frames",
        BinaryRefused => "binary_refused",
        Throttled => "throttled",
        Expired => "expired",
        Drained => "drained",
        Fenced => "fenced",
    }
}

label! {
    /// Why a handshake was not answered with 101.
    Refused {
        Malformed => "malformed",
        NotWebSocket => "not_websocket",
        UnknownStage => "unknown_stage",
        Origin => "origin",
        Unauthorized => "unauthorized",
        Parameters => "parameters",
        Throttled => "throttled",
        ByBackend => "by_backend",
        BackendFailed => "backend_failed",
        NotReady => "not_ready",
        Draining => "draining",
        TooFast => "too_fast",
        TooMany => "too_many",
        TooManyHandshakes => "too_many_handshakes",
        Memory => "memory",
        TooManyOfAddress => "too_many_of_address",
        TooManyOfStage => "too_many_of_stage",
        TimedOut => "timed_out",
        Tls => "tls",
        ClientLeft => "client_left",
    }
}

label! {
    /// What a call of an integration came to.
    Called {
        Answered => "answered",
        Failed => "failed",
        TimedOut => "timed_out",
        Overloaded => "overloaded",
        QueuedTooLong => "queued_too_long",
    }
}

label! {
    /// What a post came to.
    Posted {
        Ok => "ok",
        Gone => "gone",
        TooSlow => "too_slow",
        KeyReused => "key_reused",
        Busy => "busy",
        Unavailable => "unavailable",
        Unknown => "unknown",
    }
}

label! {
    /// Why a node was not worked with.
    PeerRefused {
        NoCertificate => "no_certificate",
        UntrustedCertificate => "untrusted_certificate",
        ExpiredCertificate => "expired_certificate",
        NoNodeName => "no_node_name",
        AnotherClusterName => "another_cluster_name",
        AnotherNode => "another_node",
        Version => "version",
        AnotherCluster => "another_cluster",
        MalformedHello => "malformed_hello",
        FailedHandshake => "failed_handshake",
        TooMany => "too_many",
    }
}

label! {
    /// How the leader changed who votes and who learns.
    MembershipStep {
        Admit => "admit",
        Move => "move",
        Settle => "settle",
        HandOver => "hand_over",
        Promote => "promote",
        Demote => "demote",
        Replace => "replace",
        Dismiss => "dismiss",
    }
}

label! {
    /// What reading files anew came to.
    Reloaded {
        Applied => "applied",
        Refused => "refused",
    }
}

impl Metrics {
    /// Makes all handles. The recorder must be installed before, or they count into nothing.
    pub fn new(registry: &mut Registry) -> Metrics {
        apis::describe(registry.begin("APIs"));
        Metrics {
            edge: EdgeMetrics::new(registry.begin("Clients")),
            integrations: IntegrationMetrics::new(registry.begin("Integrations")),
            posts: PostMetrics::new(registry.begin("Posts")),
            directory: DirectoryMetrics::new(registry.begin("Directory and Raft")),
            storage: StorageMetrics::new(registry.begin("Disk")),
            fabric: FabricMetrics::new(registry.begin("Between nodes")),
            drain: DrainMetrics::new(registry.begin("Ending a node")),
            access_logs: AccessLogs::new(registry.begin("Access logs")),
            reloads: ReloadMetrics::new(registry.begin("Reloads")),
        }
    }
}

impl EdgeMetrics {
    fn new(registry: &mut Registry) -> EdgeMetrics {
        EdgeMetrics {
            connections: registry
                .gauge("posthorn_connections", "WebSocket connections open at this node."),
            opened: registry.counter(
                "posthorn_connections_opened_total",
                "Handshakes that this node answered with 101.",
            ),
            closed: registry.counters(
                "posthorn_connections_closed_total",
                "cause",
                "Connections of this node that ended, by cause.",
            ),
            refused: registry.counters(
                "posthorn_handshakes_refused_total",
                "cause",
                "Handshakes that this node did not answer with 101, by cause.",
            ),
            messages_received: registry
                .counter("posthorn_messages_received_total", "Messages that clients sent."),
            messages_sent: registry
                .counter("posthorn_messages_sent_total", "Messages given to clients' sockets."),
            outbox_bytes: registry.gauge(
                "posthorn_outbox_bytes",
                "Bytes of messages accepted for clients and not yet given to their sockets, and 64 for \
                 each message.",
            ),
            handshakes: registry
                .gauge("posthorn_handshakes", "Handshakes of clients under way at this node."),
            handshake_seconds: registry.seconds(
                "posthorn_handshake_seconds",
                "From a whole request to its 101, what the backend took included.",
            ),
        }
    }
}

impl IntegrationMetrics {
    fn new(registry: &mut Registry) -> IntegrationMetrics {
        IntegrationMetrics {
            calls: registry.counters(
                "posthorn_integration_calls_total",
                "outcome",
                "Calls of integrations, by what they came to.",
            ),
            call_seconds: registry
                .seconds("posthorn_integration_call_seconds", "How long a call took."),
            in_flight: registry
                .gauge("posthorn_integration_calls_in_flight", "Calls not answered yet."),
            waiting: registry.gauge(
                "posthorn_integration_calls_waiting",
                "Calls that wait for others of the same integration to end.",
            ),
        }
    }
}

impl PostMetrics {
    fn new(registry: &mut Registry) -> PostMetrics {
        PostMetrics {
            told: registry.counters(
                "posthorn_posts_total",
                "outcome",
                "Posts that this node was called with, by what their caller was told.",
            ),
            forwarded: registry.counters(
                "posthorn_posts_forwarded_total",
                "outcome",
                "Those of them that it forwarded to the owner of the connection, by outcome.",
            ),
            forward_seconds: registry.seconds_by(
                "posthorn_posts_forward_seconds",
                "outcome",
                "From forwarding a post to knowing what it came to, by outcome.",
            ),
        }
    }
}

impl DirectoryMetrics {
    fn new(registry: &mut Registry) -> DirectoryMetrics {
        DirectoryMetrics {
            entries: registry.gauge(
                "posthorn_directory_entries",
                "Connections of the whole cluster in this node's replica.",
            ),
            debts: registry.gauge(
                "posthorn_directory_debts",
                "Connections of dead runs whose $disconnect is still owed, cluster-wide.",
            ),
            debts_settled: registry.counter(
                "posthorn_debts_settled_total",
                "Debts that this node settled by calling $disconnect.",
            ),
            disconnects_given_up: registry.counter(
                "posthorn_disconnects_given_up_total",
                "$disconnect calls that were not answered for too long to be tried again.",
            ),
            evictions: registry.counter(
                "posthorn_evictions_total",
                "Runs that this node, as leader, had evicted for their silence.",
            ),
            membership_steps: membership_steps(registry),
            commit_seconds: registry.seconds(
                "posthorn_directory_commit_seconds",
                "From proposing an update to its commit.",
            ),
            update_changes: registry.sizes(
                "posthorn_directory_update_changes",
                "Opens and closes that one update carried.",
            ),
            debts_oldest_seconds: registry.gauge(
                "posthorn_directory_debts_oldest_seconds",
                "How long this node has known of the dead run whose debts are the oldest.",
            ),
            lag_entries: registry.gauge(
                "posthorn_directory_lag_entries",
                "Log entries that are known to be committed and that this node's replica has not \
                 applied.",
            ),
            applied_index: registry.gauge(
                "posthorn_raft_applied_index",
                "The index of the last log entry that this node's replica applied.",
            ),
            log_entries: registry
                .gauge("posthorn_raft_log_entries", "Entries in this node's part of the log."),
            snapshot_index: registry.gauge(
                "posthorn_raft_snapshot_index",
                "The index of the last log entry that this node's newest snapshot holds.",
            ),
            term: registry.gauge("posthorn_raft_term", "The Raft term that this node is in."),
            leader_changes: registry.counter(
                "posthorn_raft_leader_changes_total",
                "Times that this node came to know another leader than before.",
            ),
            is_leader: registry.gauge("posthorn_raft_is_leader", "1 while this node leads."),
            is_ready: registry.gauge(
                "posthorn_ready",
                "1 while this node is part of a quorum and can register connections.",
            ),
            protocol_version: registry.gauge(
                "posthorn_protocol_version",
                "The protocol version that the cluster uses, as far as this node has learnt.",
            ),
            peers_refused: registry.counters(
                "posthorn_peers_refused_total",
                "cause",
                "Nodes, or who took itself for one, that this node turned away, by cause.",
            ),
        }
    }
}

impl DrainMetrics {
    fn new(registry: &mut Registry) -> DrainMetrics {
        DrainMetrics {
            phase: registry.gauge(
                "posthorn_drain_phase",
                "0 while this node serves; being drained, 1 while load balancers are told, 2 while \
                 clients are closed, 3 while the last $disconnect calls end, 4 while it leaves.",
            ),
            connections_left: registry.gauge(
                "posthorn_drain_connections_left",
                "Connections that a drain of this node has not yet seen go.",
            ),
            closes: registry.counter(
                "posthorn_drain_closes_total",
                "Clients that a drain of this node asked to go.",
            ),
        }
    }
}

impl ReloadMetrics {
    /// A section's certificates were read, or read again with that outcome. What is in force is good
    /// until then; None, if it is for ever.
    pub fn on_certificates(
        &self,
        section: &'static str,
        outcome: Option<Reloaded>,
        expires_at_s: Option<u64>,
    ) {
        if let Some(outcome) = outcome {
            self.certificates.at(outcome).increment(1);
        }
        let at_s = expires_at_s.map_or(f64::INFINITY, |at_s| at_s as f64);
        metrics::gauge!(CERTIFICATES_EXPIRE, "section" => section).set(at_s);
    }
}

fn membership_steps(registry: &mut Registry) -> ByLabel<MembershipStep, Counter> {
    registry.counters(
        "posthorn_membership_steps_total",
        "step",
        "Changes of the raft group that this node, as leader, made, by what they were.",
    )
}

const CERTIFICATES_EXPIRE: &str = "posthorn_certificate_expiry_timestamp_seconds";

impl ReloadMetrics {
    fn new(registry: &mut Registry) -> ReloadMetrics {
        registry.describe_gauges(
            CERTIFICATES_EXPIRE,
            vec![("section", Values::Closed(vec!["fabric", "edge.tls", "api.tls"]))],
            "When the first certificate of a section of the configuration expires, in seconds since 1970.",
        );
        ReloadMetrics {
            definitions: registry.counters(
                "posthorn_config_reloads_total",
                "outcome",
                "Times that a changed configuration was read anew, by outcome.",
            ),
            certificates: registry.counters(
                "posthorn_certificate_reloads_total",
                "outcome",
                "Certificate files that changed and were read anew, by outcome.",
            ),
        }
    }
}
