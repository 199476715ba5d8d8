//! What the series of a node amount to together.

/// Holds at one node that is at rest: while something happens, its series are read one after the other.
#[derive(Debug, Clone, Copy)]
pub struct Equation {
    /// Sums and differences of series, and `=` or `>=` between them. A name is the sum of all series
    /// that have it, or that have it and a label.
    pub text: &'static str,
    pub meaning: &'static str,
}

pub const ARITHMETIC: &[Equation] = &[
    Equation {
        text: "posthorn_connections_opened_total - posthorn_connections_closed_total \
               = posthorn_connections",
        meaning: "who came, less who went, is who is there",
    },
    Equation {
        text: "posthorn_messages_received_total >= posthorn_api_messages_total{direction=\"received\"}",
        meaning: "the difference are binary messages that their stage refuses",
    },
    Equation {
        text: "posthorn_api_messages_total{direction=\"sent\"} >= posthorn_messages_sent_total",
        meaning: "the difference was accepted for clients that went before it was written",
    },
    Equation {
        text: "posthorn_integration_calls_total = posthorn_integration_call_seconds_count",
        meaning: "each call that has ended is counted with its time",
    },
    Equation {
        text: "posthorn_posts_forwarded_total >= posthorn_posts_forward_seconds_count",
        meaning: "the difference was refused before it was sent: the lane to its owner was full",
    },
    Equation {
        text: "posthorn_integration_calls_total = posthorn_api_integration_latency_seconds_count",
        meaning: "each call is of a route; authorizers are none",
    },
    Equation {
        text: "posthorn_fabric_connections_dialed_total + posthorn_fabric_connections_accepted_total \
               >= posthorn_fabric_connections",
        meaning: "the difference are connections with other nodes that have ended",
    },
    Equation {
        text: "posthorn_raft_log_entries >= posthorn_raft_applied_index - posthorn_raft_snapshot_index",
        meaning: "what no snapshot holds is in the log",
    },
    Equation {
        text: "posthorn_directory_entries - posthorn_directory_debts = posthorn_connections",
        meaning: "the right side of all nodes together: the directory has every connection",
    },
    Equation {
        text: "posthorn_raft_is_leader = 1",
        meaning: "the left side of all nodes together: one of them leads",
    },
];
