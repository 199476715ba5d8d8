//! Brings up to date what is measured only when somebody looks.

use crate::fabric::{FabricStats, Purpose};
use crate::operator::Operator;
use crate::telemetry::{Direction, FabricMetrics, FabricPurpose};

impl Operator {
    pub(crate) fn measure(&self) {
        self.gateway.measure_outboxes();
        copy(self.fabric.stats(), &self.gateway.metrics().fabric);
    }
}

fn copy(stats: &FabricStats, metrics: &FabricMetrics) {
    for purpose in Purpose::ALL {
        let label = match purpose {
            Purpose::Control => FabricPurpose::Control,
            Purpose::Posts => FabricPurpose::Posts,
        };
        let open = stats.connections_open.of(purpose).get();
        metrics.connections.at(label).set(open as f64);
        metrics.dialed.at(label).absolute(stats.connections_dialed.of(purpose).get());
        metrics.accepted.at(label).absolute(stats.connections_accepted.of(purpose).get());
    }
    for (metric, sent, received) in [
        (&metrics.calls, &stats.calls_sent, &stats.calls_received),
        (&metrics.frames, &stats.frames_sent, &stats.frames_received),
        (&metrics.answers, &stats.answers_sent, &stats.answers_received),
        (&metrics.lane_bytes, &stats.lane_bytes_sent, &stats.lane_bytes_received),
    ] {
        metric.at(Direction::Sent).absolute(sent.get());
        metric.at(Direction::Received).absolute(received.get());
    }
    for (metric, count) in [
        (&metrics.dials_failed, &stats.dials_failed),
        (&metrics.retries_demanded, &stats.retries_demanded),
        (&metrics.lanes_resumed, &stats.lanes_resumed),
        (&metrics.lanes_lost, &stats.lanes_lost),
        (&metrics.lanes_full, &stats.lanes_full),
        (&metrics.lanes_broken, &stats.lanes_broken),
    ] {
        metric.absolute(count.get());
    }
}
