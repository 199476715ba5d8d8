//! What the fabric counts, as Prometheus is told of it.

use metrics::{Counter, Gauge};

use crate::telemetry::registry::{ByLabel, Registry, label};

/// The fabric counts by itself, and its counts are copied here whenever somebody looks.
pub struct FabricMetrics {
    pub connections: ByLabel<FabricPurpose, Gauge>,
    pub dialed: ByLabel<FabricPurpose, Counter>,
    pub accepted: ByLabel<FabricPurpose, Counter>,
    pub dials_failed: Counter,
    pub retries_demanded: Counter,
    pub calls: ByLabel<Direction, Counter>,
    pub frames: ByLabel<Direction, Counter>,
    pub answers: ByLabel<Direction, Counter>,
    pub lane_bytes: ByLabel<Direction, Counter>,
    pub lanes_resumed: Counter,
    pub lanes_lost: Counter,
    pub lanes_full: Counter,
    pub lanes_broken: Counter,
}

label! {
    /// What a connection between two nodes is for.
    FabricPurpose {
        Control => "control",
        Posts => "posts",
    }
}

label! {
    /// Seen from this node.
    Direction {
        Sent => "sent",
        Received => "received",
    }
}

impl FabricMetrics {
    pub(super) fn new(registry: &mut Registry) -> FabricMetrics {
        FabricMetrics {
            connections: registry.gauges(
                "posthorn_fabric_connections",
                "purpose",
                "Connections with other nodes that are up, whoever dialed.",
            ),
            dialed: registry.counters(
                "posthorn_fabric_connections_dialed_total",
                "purpose",
                "Connections that this node dialed and that came up.",
            ),
            accepted: registry.counters(
                "posthorn_fabric_connections_accepted_total",
                "purpose",
                "Connections that this node accepted and that came up.",
            ),
            dials_failed: registry.counter(
                "posthorn_fabric_dials_failed_total",
                "Dials of other nodes that came to nothing.",
            ),
            retries_demanded: registry.counter(
                "posthorn_fabric_address_proofs_demanded_total",
                "Strangers that were asked to prove their address first.",
            ),
            calls: registry.counters(
                "posthorn_fabric_calls_total",
                "direction",
                "Control calls and uploads between nodes.",
            ),
            frames: registry.counters(
                "posthorn_fabric_frames_total",
                "direction",
                "Frames of posts between nodes; sent ones count each time that they are sent.",
            ),
            answers: registry.counters(
                "posthorn_fabric_answers_total",
                "direction",
                "Answers to frames; sent ones count each time that they are sent.",
            ),
            lane_bytes: registry.counters(
                "posthorn_fabric_lane_bytes_total",
                "direction",
                "Bytes of posts and their answers between nodes.",
            ),
            lanes_resumed: registry.counter(
                "posthorn_fabric_lanes_resumed_total",
                "Lanes to other nodes that went on after a lost connection.",
            ),
            lanes_lost: registry.counter(
                "posthorn_fabric_lanes_lost_total",
                "Lanes to other nodes whose session was lost with posts in it.",
            ),
            lanes_full: registry.counter(
                "posthorn_fabric_lanes_full_total",
                "Posts turned away since the lane to their owner was full.",
            ),
            lanes_broken: registry.counter(
                "posthorn_fabric_lanes_broken_total",
                "Streams of lanes that ended because the other node broke the protocol.",
            ),
        }
    }
}
