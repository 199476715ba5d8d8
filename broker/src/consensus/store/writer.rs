//! The one thread that writes: votes, entries, and what else the store remembers.
//!
//! ```text
//! mailbox -> gather what waits -> sled batch -> flush -> fdatasync -> witness -> answers
//! ```
//!
//! Invariants:
//!
//! * Writes reach sled in the order in which they were asked for, and sled recovers a prefix of them:
//!   nothing is ever on the disk without all that was asked for before it.
//! * No vote, entry or identity is acknowledged before an `fdatasync` that covers it has returned.
//!   sled's own flush is a write without one.
//! * After any error nothing is written any more, and every request is answered with that error: a
//!   second `fdatasync` may say yes to what the first one lost.

use std::any::Any;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use openraft::EntryPayload;
use openraft::storage::IOFlushed;
use posthorn_core::directory::Command;
use tokio::sync::{mpsc, oneshot};

use super::format::{self, Head};
use super::witness::Witness;
use super::{Shared, StoreFailure};
use crate::consensus::types::{ClusterId, LogId, RaftEntry, RaftVote, TypeConfig};

/// Requests that wait for the disk. At the limit openraft waits with the next one.
pub(super) const MAILBOX_REQUESTS_MAX: usize = 64;
/// Requests that share one sync.
const GROUP_REQUESTS_MAX: usize = 64;
/// Half of a sled segment. Between two syncs sled may reuse a segment whose values it has moved but
/// not synced: the less is written there, the less a power cut can put in danger.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// Keys whose values fill about a batch. 10,000 would hold up the votes behind them by 50 ms.
const PURGED_KEYS_MAX: usize = 64;

pub(super) struct Request {
    pub(super) work: Work,
    pub(super) answer: Answer,
}

/// Everything that can be asked of the writer.
pub(super) enum Work {
    /// The ticket is the last entry's.
    Append {
        entries: Vec<RaftEntry>,
        ticket: u64,
    },
    SaveVote(RaftVote),
    SaveCluster(ClusterId),
    SaveIncarnation(u32),
    SaveVersion(u32),
    /// Not synced.
    SaveCommitted(LogId),
    /// Not synced: what is appended later cannot overtake it.
    Truncate {
        after: Option<LogId>,
    },
    /// Done bit by bit: what a crash leaves is purged when the store is opened again.
    Purge {
        upto: LogId,
    },
}

/// Who waits for the work to be done.
pub(super) enum Answer {
    Nobody,
    Flushed(IOFlushed<TypeConfig>),
    Saved(oneshot::Sender<Result<(), StoreFailure>>),
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    /// Of sled's file, for syncing it.
    file: File,
    witness: Witness,
    head: Head,
    batch: Batch,
    /// Nothing was written since the last sync.
    is_synced: bool,
    /// The ticket of the last entry that is in the batch or in sled.
    ticket: u64,
    /// The index up to which entries are yet to be deleted.
    purging: Option<u64>,
}

/// What goes to sled next, beside the head.
struct Batch {
    changes: sled::Batch,
    bytes: usize,
    is_empty: bool,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, file: File, witness: Witness, head: Head) -> Writer {
        // A crash may have left some of what was purged.
        let purging = head.purged.map(|purged| purged.index);
        let batch = Batch::new();
        Writer { shared, file, witness, head, batch, is_synced: false, ticket: 0, purging }
    }

    /// Returns when all who could ask are gone.
    pub(super) fn run(mut self, mut mailbox: mpsc::Receiver<Request>) {
        while let Some(mut requests) = self.first_requests(&mut mailbox) {
            while requests.len() < GROUP_REQUESTS_MAX
                && let Ok(request) = mailbox.try_recv()
            {
                requests.push(request);
            }
            self.serve(requests);
        }
    }

    /// Waits, unless there is something to purge meanwhile. None when there will be no more.
    fn first_requests(&self, mailbox: &mut mpsc::Receiver<Request>) -> Option<Vec<Request>> {
        if self.purging.is_none() || self.shared.check().is_err() {
            return mailbox.blocking_recv().map(|request| vec![request]);
        }
        match mailbox.try_recv() {
            Ok(request) => Some(vec![request]),
            Err(mpsc::error::TryRecvError::Empty) => Some(Vec::new()),
            Err(mpsc::error::TryRecvError::Disconnected) => None,
        }
    }

    fn serve(&mut self, requests: Vec<Request>) {
        // Apart before anything can go wrong, so that nobody stays without an answer.
        let (work, answers): (Vec<_>, Vec<_>) =
            requests.into_iter().map(|request| (request.work, request.answer)).unzip();
        let outcome = self.shared.check().and_then(|()| {
            catch_unwind(AssertUnwindSafe(|| self.perform(work)))
                .unwrap_or_else(|panic| Err(StoreFailure::new("writing", panic_message(&*panic))))
        });
        match &outcome {
            Ok(()) => self.publish(),
            Err(failure) => drop(self.shared.fail(failure)),
        }
        for answer in answers {
            answer.send(&outcome);
        }
    }

    fn perform(&mut self, work: Vec<Work>) -> Result<(), StoreFailure> {
        let must_sync = work.iter().any(Work::must_sync) || self.purging.is_some();
        for work in work {
            self.stage(work)?;
        }
        self.stage_purge()?;
        self.write()?;
        if must_sync { self.sync() } else { Ok(()) }
    }

    fn stage(&mut self, work: Work) -> Result<(), StoreFailure> {
        match work {
            Work::Append { entries, ticket } => {
                self.ticket = ticket;
                entries.iter().try_for_each(|entry| self.stage_entry(entry))?;
            }
            Work::SaveVote(vote) => {
                self.head.vote = Some(vote);
                self.batch.is_empty = false;
            }
            Work::SaveCluster(cluster_id) => {
                self.head.identity.cluster_id = Some(cluster_id);
                self.batch.is_empty = false;
            }
            Work::SaveIncarnation(incarnation) => {
                self.head.identity.incarnation = Some(incarnation);
                self.batch.is_empty = false;
            }
            Work::SaveVersion(version) => self.stage_version(version),
            Work::SaveCommitted(committed) => {
                self.batch.insert(format::COMMITTED_KEY, format::seal_committed(committed));
            }
            Work::Truncate { after } => self.stage_truncation(after)?,
            Work::Purge { upto } => {
                let is_last = self.head.last.is_none_or(|last| last.index <= upto.index);
                if is_last {
                    self.head.last = Some(upto);
                }
                self.head.purged = Some(upto);
                self.purging = Some(upto.index);
                self.batch.is_empty = false;
            }
        }
        Ok(())
    }

    fn stage_version(&mut self, version: u32) {
        if version > self.head.version {
            self.head.version = version;
            self.batch.is_empty = false;
        }
    }

    fn stage_entry(&mut self, entry: &RaftEntry) -> Result<(), StoreFailure> {
        if let EntryPayload::Normal(proposal) = &entry.payload
            && let Command::Raise { version } = proposal.command()
        {
            self.stage_version(*version);
        }
        let put = |key, value| self.batch.insert(key, value);
        format::seal_entry(entry, self.head.last, put)
            .map_err(|error| StoreFailure::new("encoding", error))?;
        self.head.last = Some(entry.log_id);
        if self.batch.bytes >= BATCH_BYTES_MAX {
            self.write()?;
            self.sync()?;
        }
        Ok(())
    }

    fn stage_truncation(&mut self, after: Option<LogId>) -> Result<(), StoreFailure> {
        // What is to be deleted must be in sled to be found.
        self.write()?;
        let first = after.map_or(0, |after| after.index + 1);
        for key in self.shared.db.range(format::log_keys_from(first)).keys() {
            self.batch.remove(key.map_err(|error| StoreFailure::new("reading", error))?);
        }
        if self.head.last.is_some_and(|last| last.index >= first) {
            let is_purged =
                |after: &LogId| self.head.purged.is_some_and(|purged| after.index <= purged.index);
            self.head.last = after.filter(|after| !is_purged(after)).or(self.head.purged);
            self.batch.is_empty = false;
        }
        Ok(())
    }

    /// Deletes some of what was purged, the oldest first, in a batch of its own.
    fn stage_purge(&mut self) -> Result<(), StoreFailure> {
        let Some(upto) = self.purging else { return Ok(()) };
        self.write()?;
        self.sync()?;
        let keys = self.shared.db.range(format::log_keys_upto(upto)).keys();
        let mut purged = 0;
        for key in keys.take(PURGED_KEYS_MAX) {
            self.batch.remove(key.map_err(|error| StoreFailure::new("reading", error))?);
            purged += 1;
        }
        if purged < PURGED_KEYS_MAX {
            self.purging = None;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreFailure> {
        if self.batch.is_empty {
            return Ok(());
        }
        self.is_synced = false;
        self.head.sequence += 1;
        self.batch.insert(format::HEAD_KEY, self.head.seal());
        let Batch { changes, .. } = std::mem::replace(&mut self.batch, Batch::new());
        self.shared.db.apply_batch(changes).map_err(|error| StoreFailure::new("writing", error))
    }

    fn sync(&mut self) -> Result<(), StoreFailure> {
        if self.is_synced {
            return Ok(());
        }
        self.shared.db.flush().map_err(|error| StoreFailure::new("writing", error))?;
        self.file.sync_data().map_err(|error| StoreFailure::new("syncing", error))?;
        self.witness
            .on_synced(self.head.sequence)
            .map_err(|error| StoreFailure::new("witnessing", error))?;
        self.is_synced = true;
        Ok(())
    }

    fn publish(&self) {
        let mut view = self.shared.view.lock();
        view.vote = self.head.vote;
        view.identity = self.head.identity;
        view.on_stored(self.ticket);
    }
}

impl Batch {
    fn new() -> Batch {
        Batch { changes: sled::Batch::default(), bytes: 0, is_empty: true }
    }

    fn insert(&mut self, key: impl AsRef<[u8]>, value: Vec<u8>) {
        self.bytes += value.len();
        self.is_empty = false;
        self.changes.insert(key.as_ref(), value);
    }

    fn remove(&mut self, key: sled::IVec) {
        self.is_empty = false;
        self.changes.remove(key);
    }
}

impl Work {
    fn must_sync(&self) -> bool {
        match self {
            Work::Append { .. }
            | Work::SaveVote(_)
            | Work::SaveCluster(_)
            | Work::SaveIncarnation(_)
            | Work::SaveVersion(_) => true,
            Work::SaveCommitted(_) | Work::Truncate { .. } | Work::Purge { .. } => false,
        }
    }
}

impl Answer {
    fn send(self, outcome: &Result<(), StoreFailure>) {
        match self {
            Answer::Nobody => (),
            Answer::Flushed(flushed) => {
                flushed.io_completed(outcome.clone().map_err(std::io::Error::from));
            }
            // Who no longer waits does not need to know.
            Answer::Saved(saved) => drop(saved.send(outcome.clone())),
        }
    }
}

/// What a panic said.
pub(super) fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "panic".to_owned())
}
