//! The state that raft replicates: a directory, kept in memory and rebuilt from snapshot and log.
//!
//! Invariants:
//!
//! * A replica that says it has applied an index has applied all before it, and shows it to readers.
//! * Readers never wait for more than [`CHANGES_MAX`] changes and one command, and applying never
//!   waits for a snapshot.
//! * A snapshot replaces the state only after all of it was read and believed, and only when it is on
//!   the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;

use futures_util::{Stream, StreamExt as _};
use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use parking_lot::RwLock;
use posthorn_core::directory::{Applied, Command, Directory};
use tokio::sync::watch;

use super::snapshot::{SnapshotError, SnapshotFile, Snapshots};
use super::types::{LogId, RaftEntry, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

/// Commands that are applied while readers wait.
const COMMANDS_MAX: usize = 256;
/// Connections opened and closed while readers wait: as many as one command may have, and then some
/// milliseconds right after a snapshot was begun, when each shard is copied before it changes.
const CHANGES_MAX: usize = 1024;

/// One node's copy of the directory, for reading. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Replica {
    shared: Arc<Shared>,
}

struct Shared {
    directory: RwLock<Directory>,
    /// The index of the last entry that the directory shows.
    applied: watch::Sender<Option<u64>>,
    epoch: watch::Sender<u64>,
    version: watch::Sender<u32>,
}

/// What openraft applies entries to.
pub struct Machine {
    replica: Replica,
    snapshots: Snapshots,
    applied: Option<LogId>,
    membership: StoredMembership,
}

/// A view of the state as it was, to be written to a file.
pub struct SnapshotBuilder {
    snapshots: Snapshots,
    meta: SnapshotMeta,
    /// None once it was taken to be written, so that it is not freed where someone waits.
    directory: Option<Directory>,
}

impl Replica {
    fn new() -> Replica {
        let directory = Directory::default();
        let epoch = watch::Sender::new(directory.epoch());
        let version = watch::Sender::new(directory.version());
        let (directory, applied) = (RwLock::new(directory), watch::Sender::new(None));
        Replica { shared: Arc::new(Shared { directory, applied, epoch, version }) }
    }

    /// Applying waits for the reader, so it must be brief: who needs long takes a clone, which is
    /// cheap.
    pub fn read<T>(&self, read: impl FnOnce(&Directory) -> T) -> T {
        read(&self.shared.directory.read())
    }

    /// The index of the last entry applied. None before the first.
    pub fn applied_index(&self) -> Option<u64> {
        *self.shared.applied.borrow()
    }

    /// Changes with [`Replica::applied_index`].
    pub fn watch_applied(&self) -> watch::Receiver<Option<u64>> {
        self.shared.applied.subscribe()
    }

    /// Returns once all entries up to the index are applied.
    pub async fn wait_applied(&self, index: u64) {
        let mut applied = self.watch_applied();
        // It ends only with the replica, which we hold.
        drop(applied.wait_for(|applied| *applied >= Some(index)).await);
    }

    /// Changes when runs join or are evicted: [`Directory::epoch`].
    pub fn watch_epoch(&self) -> watch::Receiver<u64> {
        self.shared.epoch.subscribe()
    }

    /// Changes when every member speaks a later protocol version: [`Directory::version`].
    pub fn watch_version(&self) -> watch::Receiver<u32> {
        self.shared.version.subscribe()
    }

    /// Gives what each command came to.
    fn apply<'a>(&self, commands: impl Iterator<Item = &'a Command>) -> Vec<Applied> {
        let mut directory = self.shared.directory.write();
        commands.map(|command| directory.apply(command)).collect()
    }

    /// Gives the state before.
    fn replace(&self, directory: Directory) -> Directory {
        std::mem::replace(&mut *self.shared.directory.write(), directory)
    }

    fn on_applied(&self, applied: Option<LogId>) {
        let (epoch, version) = self.read(|directory| (directory.epoch(), directory.version()));
        self.shared.applied.send_replace(applied.map(|applied| applied.index));
        self.shared.epoch.send_if_modified(|shown| std::mem::replace(shown, epoch) != epoch);
        self.shared.version.send_if_modified(|shown| std::mem::replace(shown, version) != version);
    }
}

impl Machine {
    /// Blocks. The data directory must be open already: its [`LogStore`](super::store::LogStore)
    /// keeps other processes out.
    pub fn open(data_dir: &Path) -> Result<Machine, SnapshotError> {
        Ok(Machine {
            replica: Replica::new(),
            snapshots: Snapshots::open(&data_dir.join("snapshots"))?,
            applied: None,
            membership: StoredMembership::default(),
        })
    }

    pub fn replica(&self) -> Replica {
        self.replica.clone()
    }

    /// For receiving snapshots from the leader.
    pub fn snapshots(&self) -> Snapshots {
        self.snapshots.clone()
    }

    fn apply_part(&mut self, part: Vec<EntryResponder<TypeConfig>>) {
        let commands = part.iter().filter_map(|(entry, _)| command_of(entry));
        let mut outcomes = self.replica.apply(commands).into_iter();
        let mut answers = Vec::new();
        for (entry, responder) in part {
            let RaftEntry { log_id, payload } = entry;
            let outcome = match payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(_) => outcomes.next(),
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(log_id), membership);
                    None
                }
            };
            self.applied = Some(log_id);
            answers.extend(responder.map(|responder| (responder, outcome)));
        }
        self.replica.on_applied(self.applied);
        answer(answers);
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut part = Vec::new();
        let mut changes = 0;
        while let Some(entry) = entries.next().await {
            let entry = entry?;
            changes += command_of(&entry.0).map_or(0, changes_of);
            part.push(entry);
            if part.len() >= COMMANDS_MAX || changes >= CHANGES_MAX {
                self.apply_part(std::mem::take(&mut part));
                changes = 0;
                // A node that catches up applies for seconds.
                tokio::task::yield_now().await;
            }
        }
        self.apply_part(part);
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let last_membership = self.membership.clone();
        SnapshotBuilder {
            snapshots: self.snapshots.clone(),
            meta: SnapshotMeta { last_log_id: self.applied, last_membership },
            directory: Some(self.replica.read(Directory::clone)),
        }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotFile,
    ) -> io::Result<()> {
        let (snapshots, expected) = (self.snapshots.clone(), meta.clone());
        let install = move || snapshots.install(&expected, &snapshot);
        let directory = tokio::task::spawn_blocking(install).await??;
        let before = self.replica.replace(directory);
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.replica.on_applied(self.applied);
        // Freeing millions of entries takes a while, and nobody waits for it.
        tokio::task::spawn_blocking(move || drop(before));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let snapshots = self.snapshots.clone();
        let Some(directory) = self.directory.take() else {
            return Err(io::Error::other("a builder builds one snapshot"));
        };
        let meta = self.meta.clone();
        let build = move || snapshots.build(meta, &directory);
        Ok(tokio::task::spawn_blocking(build).await??)
    }
}

fn command_of(entry: &RaftEntry) -> Option<&Command> {
    match &entry.payload {
        EntryPayload::Normal(proposal) => Some(proposal.command()),
        EntryPayload::Blank | EntryPayload::Membership(_) => None,
    }
}

fn changes_of(command: &Command) -> usize {
    match command {
        Command::Join { .. } | Command::Evict { .. } | Command::Raise { .. } => 1,
        Command::Update { opened, closed, .. } => opened.len() + closed.len(),
    }
}

fn answer(answers: Vec<(ApplyResponder<TypeConfig>, Option<Applied>)>) {
    for (responder, outcome) in answers {
        responder.send(outcome);
    }
}
