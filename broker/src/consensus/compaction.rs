//! Keeps the log short, and says how large everything on the disk is.
//!
//! raft itself takes a snapshot after so many entries. Entries differ a thousandfold in size, so that
//! bytes are counted here: a snapshot is asked for when those behind the last one are too many, and what
//! is kept for followers that are a little behind goes when even that is too much.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver as _;
use tracing::warn;

use crate::config::node::ClusterSettings;
use crate::consensus::Consensus;
use crate::consensus::data_dir::free_bytes;
use crate::consensus::store::LogStore;
use crate::consensus::types::Raft;
use crate::telemetry::Metrics;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// The files are looked at so much less often than the log.
const LOOKS_A_MEASURING: u32 = 10;

pub(super) struct Compaction {
    raft: Raft,
    store: LogStore,
    data_dir: PathBuf,
    snapshot_bytes: u64,
    metrics: Arc<Metrics>,
}

impl Compaction {
    pub(super) fn new(
        consensus: &Consensus,
        store: &LogStore,
        data_dir: PathBuf,
        settings: &ClusterSettings,
        metrics: Arc<Metrics>,
    ) -> Compaction {
        let (raft, store) = (consensus.raft.clone(), store.clone());
        let snapshot_bytes = settings.snapshot_bytes;
        Compaction { raft, store, data_dir, snapshot_bytes, metrics }
    }

    pub(super) async fn keep(self) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looks = 0;
        loop {
            interval.tick().await;
            if looks % LOOKS_A_MEASURING == 0 {
                self.measure().await;
            }
            looks += 1;
            self.compact().await;
        }
    }

    async fn compact(&self) {
        let (snapshot, purged) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow_watched();
            (metrics.snapshot, metrics.purged)
        };
        let behind = snapshot.map_or(0, |last| last.index + 1);
        let (all, uncovered) = (self.store.log_bytes(0), self.store.log_bytes(behind));
        self.metrics.storage.log_bytes.set(all as f64);
        let purged_entries = purged.map_or(0, |last| last.index + 1);
        self.metrics.storage.log_first_index.set(purged_entries as f64);
        let asked = match snapshot {
            _ if uncovered > self.snapshot_bytes => self.raft.trigger().snapshot().await,
            Some(last) if all > self.snapshot_bytes && purged < snapshot => {
                self.raft.trigger().purge_log(last.index).await
            }
            _ => Ok(()),
        };
        if let Err(error) = asked {
            warn!(%error, "cannot shorten the log");
        }
    }

    async fn measure(&self) {
        let dir = self.data_dir.clone();
        let sizes = move || Ok::<_, io::Error>((bytes_below(&dir)?, free_bytes(&dir)?));
        match tokio::task::spawn_blocking(sizes).await {
            Ok(Ok((used, free))) => {
                self.metrics.storage.data_dir_bytes.set(used as f64);
                self.metrics.storage.disk_free_bytes.set(free as f64);
            }
            Ok(Err(error)) => warn!(%error, "cannot measure the data directory"),
            // The runtime is ending.
            Err(_) => (),
        }
    }
}

/// Files come and go meanwhile.
fn bytes_below(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes += bytes_below(&entry.path())?,
            Ok(metadata) => bytes += metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
