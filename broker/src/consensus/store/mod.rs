//! The raft log on disk: entries, the vote, and what a data directory makes a node.
//!
//! ```text
//! data_dir/
//!   owner          whose it is, for people and for those who are not it
//!   lock           held while a process has the directory open
//!   log/           sled's
//!   log-snapshot/  a copy of sled's own notes of where in its log everything is
//!   witness        how far the log is known to have come
//!   snapshots/     the state machine's
//! ```
//!
//! Invariants:
//!
//! * What is acknowledged survives the process and the machine; what was appended can be read at once.
//! * All writes go through one thread, in order.
//! * What the disk answers is checked. Damage, and any error of the disk, end the store: every later
//!   call fails, and [`LogStore::failure`] tells the node, which must end its process.

mod engine;
mod format;
mod open;
#[cfg(test)]
mod tests;
mod view;
mod witness;
mod writer;

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use futures_util::Stream;
use futures_util::stream;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};

use self::format::Assembler;
pub use self::format::{Damage, Identity};
use self::open::Opened;
pub use self::open::StoreError;
use self::view::{Plan, View, weight};
use self::writer::{Answer, MAILBOX_REQUESTS_MAX, Request, Work, Writer};
use super::types::{ClusterId, LogId, RaftEntry, RaftVote, TypeConfig};

/// What one replication request carries, and what applying reads at a time.
const READ_BYTES_MAX: usize = 1024 * 1024;
/// Each try but the last met entries that were being purged or taken back.
const READ_TRIES: u32 = 16;

/// The log of one data directory. Clones are handles to the same.
#[derive(Clone)]
pub struct LogStore {
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
}

/// Reads entries and the vote.
#[derive(Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// The store failed, and with it this process: what is on the disk is no longer known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log store failed while {doing}: {reason}")]
pub struct StoreFailure {
    doing: &'static str,
    reason: String,
}

struct Shared {
    db: sled::Db,
    view: Mutex<View>,
    /// Set once, and never cleared.
    failure: watch::Sender<Option<StoreFailure>>,
    /// After `db`: nobody else may open the directory before sled has let go of it.
    _lock: File,
}

/// Ends the writer with the last handle.
struct Mailbox {
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
}

impl LogStore {
    /// Blocks. A directory that is empty or absent becomes a new store with a raft ID of its own.
    /// `spoken` is the latest protocol version that this process speaks.
    pub fn open(data_dir: &Path, spoken: u32) -> Result<LogStore, StoreError> {
        let opened = open::open(data_dir, spoken)?;
        LogStore::start(opened).map_err(|error| StoreError::Io { dir: data_dir.to_owned(), error })
    }

    fn start(opened: Opened) -> io::Result<LogStore> {
        let Opened { db, file, witness, head, view, lock } = opened;
        let (failure, _) = watch::channel(None);
        let shared = Arc::new(Shared { db, view: Mutex::new(view), failure, _lock: lock });
        let writer = Writer::new(shared.clone(), file, witness, head);
        let (requests, mailbox) = mpsc::channel(MAILBOX_REQUESTS_MAX);
        let writer = std::thread::Builder::new()
            .name("log-writer".to_owned())
            .spawn(move || writer.run(mailbox))?;
        let mailbox = Mailbox { requests: Some(requests), writer: Some(writer) };
        Ok(LogStore { mailbox: Arc::new(mailbox), shared })
    }

    /// What the data directory makes this node.
    pub fn identity(&self) -> Identity {
        self.shared.view.lock().identity
    }

    /// About how many bytes the entries from an index on take.
    pub fn log_bytes(&self, index: u64) -> u64 {
        self.shared.view.lock().bytes_from(index)
    }

    /// The node formed or joined a cluster. Returns when this is on the disk.
    pub async fn save_cluster(&self, cluster_id: ClusterId) -> io::Result<()> {
        self.save(Work::SaveCluster(cluster_id)).await
    }

    /// A run of the node begins. Returns when this is on the disk.
    pub async fn save_incarnation(&self, incarnation: u32) -> io::Result<()> {
        self.save(Work::SaveIncarnation(incarnation)).await
    }

    /// What is kept beside the log can only be read by who speaks this protocol version. Returns when
    /// this is on the disk.
    pub async fn save_version(&self, version: u32) -> io::Result<()> {
        self.save(Work::SaveVersion(version)).await
    }

    /// Resolves when the store fails, if ever. The process must then end, and not try again: what
    /// the disk lost once it may claim to have the next time.
    pub fn failure(&self) -> impl Future<Output = StoreFailure> + Send + 'static {
        let mut failures = self.shared.failure.subscribe();
        async move {
            match failures.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
                Ok(Some(failure)) => failure,
                // The store is closed, and did not fail.
                Ok(None) | Err(_) => std::future::pending().await,
            }
        }
    }

    async fn save(&self, work: Work) -> io::Result<()> {
        let (saved, outcome) = oneshot::channel();
        self.place().await?.send(Request { work, answer: Answer::Saved(saved) });
        outcome.await.unwrap_or_else(|_| Err(StoreFailure::writer_ended()))?;
        Ok(())
    }

    /// A place in the writer's mailbox. Whoever has it changes the view and sends without waiting,
    /// so that what is seen is what will be written.
    async fn place(&self) -> Result<mpsc::Permit<'_, Request>, StoreFailure> {
        self.shared.check()?;
        let Some(requests) = &self.mailbox.requests else {
            return Err(StoreFailure::writer_ended());
        };
        requests.reserve().await.map_err(|_| StoreFailure::writer_ended())
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.shared.check()?;
        let view = self.shared.view.lock();
        Ok(LogState { last_purged_log_id: view.purged, last_log_id: view.last() })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    async fn save_vote(&mut self, vote: &RaftVote) -> io::Result<()> {
        self.save(Work::SaveVote(*vote)).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        let place = self.place().await?;
        self.shared.view.lock().committed = Some(committed);
        place.send(Request { work: Work::SaveCommitted(committed), answer: Answer::Nobody });
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.shared.check()?;
        Ok(self.shared.view.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = RaftEntry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<_> = entries.into_iter().collect();
        let place = self.place().await?;
        let ticket = self
            .shared
            .view
            .lock()
            .append_all(&entries)
            .map_err(|hole| io::Error::new(io::ErrorKind::InvalidInput, hole))?;
        let work = Work::Append { entries, ticket };
        place.send(Request { work, answer: Answer::Flushed(callback) });
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let place = self.place().await?;
        self.shared.view.lock().truncate(last_log_id);
        let work = Work::Truncate { after: last_log_id };
        place.send(Request { work, answer: Answer::Nobody });
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let place = self.place().await?;
        self.shared.view.lock().purge(log_id);
        place.send(Request { work: Work::Purge { upto: log_id }, answer: Answer::Nobody });
        Ok(())
    }
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<R>(&mut self, range: R) -> io::Result<Vec<RaftEntry>>
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + Send,
    {
        self.read(half_open(&range), usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> io::Result<Vec<RaftEntry>> {
        self.read(start..end, READ_BYTES_MAX).await
    }

    /// A part of the range at a time: a node that catches up applies more than fits in memory.
    async fn entries_stream<R>(
        &mut self,
        range: R,
    ) -> impl Stream<Item = io::Result<RaftEntry>> + Send
    where
        R: RangeBounds<u64> + Clone + fmt::Debug + Send,
    {
        let parts = stream::try_unfold((self.clone(), half_open(&range)), next_part);
        futures_util::TryStreamExt::try_flatten(parts)
    }

    async fn read_vote(&mut self) -> io::Result<Option<RaftVote>> {
        self.shared.check()?;
        Ok(self.shared.view.lock().vote)
    }
}

impl LogReader {
    /// Entries of the range, all or as many as weigh `bytes_max`, and at least one if there is one.
    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<RaftEntry>> {
        for _ in 0..READ_TRIES {
            self.shared.check()?;
            let plan = self.shared.view.lock().plan(range.clone(), bytes_max);
            let (indexes, truncations, held) = match plan {
                Plan::Held(entries) => return Ok(entries),
                Plan::Stored { indexes, truncations, held } => (indexes, truncations, held),
            };
            let (db, asked) = (self.shared.db.clone(), indexes.clone());
            let stored =
                tokio::task::spawn_blocking(move || read_stored(&db, asked, bytes_max)).await?;
            let has_moved = self.shared.view.lock().has_moved(&indexes, truncations);
            match stored {
                Ok(_) | Err(ReadError::Damaged(_)) if has_moved => (),
                Ok(mut entries) => {
                    if entries.len() as u64 == indexes.end - indexes.start {
                        entries.extend(held);
                    }
                    return Ok(entries);
                }
                Err(error) => {
                    return Err(self.shared.fail(&StoreFailure::new("reading", error)).into());
                }
            }
        }
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "the log kept changing while it was read"))
    }
}

type Parts = stream::Iter<std::vec::IntoIter<io::Result<RaftEntry>>>;

async fn next_part(
    (reader, range): (LogReader, Range<u64>),
) -> io::Result<Option<(Parts, (LogReader, Range<u64>))>> {
    let entries = reader.read(range.clone(), READ_BYTES_MAX).await?;
    let Some(last) = entries.last() else { return Ok(None) };
    let rest = last.log_id.index + 1..range.end;
    let entries: Vec<_> = entries.into_iter().map(Ok).collect();
    Ok(Some((stream::iter(entries), (reader, rest))))
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Damaged(#[from] Damage),
    #[error("{0}")]
    Engine(#[from] sled::Error),
}

/// The entries of these indexes without a hole, all or as many as weigh `bytes_max`.
fn read_stored(
    db: &sled::Db,
    indexes: Range<u64>,
    bytes_max: usize,
) -> Result<Vec<RaftEntry>, ReadError> {
    let mut assembler = Assembler::from(indexes.start);
    let mut entries = Vec::new();
    let mut bytes = 0;
    for pair in db.range(format::log_keys(&indexes)) {
        let (key, value) = pair?;
        let Some(entry) = assembler.on_value(&key, &value)? else { continue };
        bytes += weight(&entry);
        entries.push(entry);
        if bytes >= bytes_max {
            return Ok(entries);
        }
    }
    assembler.finish()?;
    let end = indexes.start + entries.len() as u64;
    if end < indexes.end { Err(Damage::EntryMissing { index: end }.into()) } else { Ok(entries) }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

impl Shared {
    fn check(&self) -> Result<(), StoreFailure> {
        self.failure.borrow().clone().map_or(Ok(()), Err)
    }

    /// Gives the failure that was the first.
    fn fail(&self, failure: &StoreFailure) -> StoreFailure {
        self.failure.send_if_modified(|first| {
            let is_first = first.is_none();
            if is_first {
                tracing::error!(%failure, "the log store failed");
                // Letting go of sled would have it write and sync once more.
                std::mem::forget(self.db.clone());
                *first = Some(failure.clone());
            }
            is_first
        });
        self.failure.borrow().clone().unwrap_or_else(|| failure.clone())
    }
}

impl StoreFailure {
    fn new(doing: &'static str, reason: impl fmt::Display) -> StoreFailure {
        StoreFailure { doing, reason: reason.to_string() }
    }

    fn writer_ended() -> StoreFailure {
        StoreFailure::new("writing", "the writer has ended")
    }
}

impl From<StoreFailure> for io::Error {
    fn from(failure: StoreFailure) -> io::Error {
        io::Error::other(failure)
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.requests.take();
        // It panics only in a bug, and has said so.
        drop(self.writer.take().map(JoinHandle::join));
    }
}
