//! What a node has on its disk, as Prometheus is told of it.

use metrics::{Counter, Gauge, Histogram};

use crate::telemetry::registry::Registry;

pub struct StorageMetrics {
    pub log_bytes: Gauge,
    pub log_first_index: Gauge,
    pub data_dir_bytes: Gauge,
    pub disk_free_bytes: Gauge,
    pub disk_is_low: Gauge,
    pub snapshot_bytes: Gauge,
    pub snapshot_seconds: Histogram,
    pub snapshots_received: Counter,
}

impl StorageMetrics {
    pub(super) fn new(registry: &mut Registry) -> StorageMetrics {
        StorageMetrics {
            log_bytes: registry.gauge(
                "posthorn_raft_log_bytes",
                "About how many bytes the entries take that this node's log has.",
            ),
            log_first_index: registry.gauge(
                "posthorn_raft_log_first_index",
                "The index of the first entry that this node's log still has.",
            ),
            data_dir_bytes: registry.gauge(
                "posthorn_data_dir_bytes",
                "Bytes of all files in this node's data directory.",
            ),
            disk_free_bytes: registry.gauge(
                "posthorn_disk_free_bytes",
                "Bytes that this node may still write to the disk of its data directory.",
            ),
            disk_is_low: registry.gauge(
                "posthorn_disk_is_low",
                "1 while the disk has less room than node.disk_free_bytes_min.",
            ),
            snapshot_bytes: registry.gauge(
                "posthorn_snapshot_bytes",
                "Bytes of the newest snapshot that this node has of the directory.",
            ),
            snapshot_seconds: registry.seconds(
                "posthorn_snapshot_seconds",
                "How long it took to write a snapshot of the directory to the disk.",
            ),
            snapshots_received: registry.counter(
                "posthorn_snapshots_received_total",
                "Snapshots from the leader that took the place of this node's directory.",
            ),
        }
    }
}
