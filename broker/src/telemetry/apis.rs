//! What API Gateway counts of an API (its CloudWatch metrics `ConnectCount`, `MessageCount`,
//! `IntegrationError`, `ClientError`, `ExecutionError` and `IntegrationLatency`), in Prometheus's way.
//!
//! Labels are names of the configuration, so there are no more of them than it has. What belongs to no
//! route has none: an empty label is none at all to Prometheus.

use metrics::{Counter, Histogram, SharedString};

use crate::telemetry::registry::{Registry, Values};

const CONNECTS: &str = "posthorn_api_connects_total";
const MESSAGES: &str = "posthorn_api_messages_total";
const INTEGRATION_ERRORS: &str = "posthorn_api_integration_errors_total";
const CLIENT_ERRORS: &str = "posthorn_api_client_errors_total";
const EXECUTION_ERRORS: &str = "posthorn_api_execution_errors_total";
const INTEGRATION_LATENCY: &str = "posthorn_api_integration_latency_seconds";

/// The series of one stage that belong to none of its routes.
#[derive(Clone)]
pub struct StageMetrics {
    labels: Labels,
    pub connects: Counter,
    /// Of what took no route, and of what backends post.
    pub unrouted: RouteMetrics,
}

/// The series of one route of one stage.
#[derive(Clone)]
pub struct RouteMetrics {
    pub messages_received: Counter,
    /// Replies, error frames and posts.
    pub messages_sent: Counter,
    pub integration_errors: Counter,
    pub client_errors: Counter,
    pub execution_errors: Counter,
    pub integration_latency: Histogram,
}

type Labels = [(SharedString, SharedString); 2];

/// Says what the series are. Once, before any handle is made.
pub(super) fn describe(registry: &mut Registry) {
    let stage = vec![
        ("api", Values::Configured("IDs of APIs")),
        ("stage", Values::Configured("names of stages")),
    ];
    let mut route = stage.clone();
    route.push(("route", Values::Configured("route keys; empty for what took none")));
    let mut direction = route.clone();
    direction.push(("direction", Values::Closed(vec!["received", "sent"])));
    for (name, labels, help) in [
        (CONNECTS, stage, "Handshakes that reached $connect, by API and stage."),
        (
            MESSAGES,
            direction,
            "Messages of an API's clients by stage, route and direction; posts to clients have no \
             route.",
        ),
        (
            INTEGRATION_ERRORS,
            route.clone(),
            "Answers of integrations with a status of 400 and above, by route.",
        ),
        (
            CLIENT_ERRORS,
            route.clone(),
            "Handshakes and messages that were refused with a 4xx before any integration was called.",
        ),
        (
            EXECUTION_ERRORS,
            route.clone(),
            "Integrations that could not be called, or gave no answer, by route.",
        ),
    ] {
        registry.describe_counters(name, labels, help);
    }
    registry.describe_seconds(
        INTEGRATION_LATENCY,
        route,
        "From calling an integration to its answer, by route; without mocks.",
    );
}

impl StageMetrics {
    pub fn new(api: &str, stage: &str) -> StageMetrics {
        let labels: Labels = [
            ("api".into(), SharedString::from(api.to_owned())),
            ("stage".into(), SharedString::from(stage.to_owned())),
        ];
        StageMetrics {
            connects: metrics::counter!(CONNECTS, &labels[..]),
            unrouted: RouteMetrics::new(&labels, ""),
            labels,
        }
    }

    pub fn route(&self, key: &str) -> RouteMetrics {
        RouteMetrics::new(&self.labels, key)
    }
}

impl RouteMetrics {
    fn new(labels: &Labels, route: &str) -> RouteMetrics {
        let with_route = with(labels, &[("route", route)]);
        let received = with(labels, &[("route", route), ("direction", "received")]);
        let sent = with(labels, &[("route", route), ("direction", "sent")]);
        RouteMetrics {
            messages_received: metrics::counter!(MESSAGES, &received[..]),
            messages_sent: metrics::counter!(MESSAGES, &sent[..]),
            integration_errors: metrics::counter!(INTEGRATION_ERRORS, &with_route[..]),
            client_errors: metrics::counter!(CLIENT_ERRORS, &with_route[..]),
            execution_errors: metrics::counter!(EXECUTION_ERRORS, &with_route[..]),
            integration_latency: metrics::histogram!(INTEGRATION_LATENCY, &with_route[..]),
        }
    }
}

fn with(labels: &Labels, more: &[(&'static str, &str)]) -> Vec<(SharedString, SharedString)> {
    let more = more
        .iter()
        .map(|(name, value)| (SharedString::from(*name), SharedString::from((*value).to_owned())));
    labels.iter().cloned().chain(more).collect()
}
