//! What a snapshot of a large directory costs, measured through the code that takes and restores it.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::stream;
use openraft::EntryPayload;
use openraft::entry::RaftEntry as _;
use openraft::storage::{RaftSnapshotBuilder as _, RaftStateMachine as _};
use posthorn_core::directory::{Command, Context, Directory};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};

use super::machine::Machine;
use super::types::{LeaderId, LogId, Proposal, RaftEntry, Snapshot};

const RUN: NodeRun = NodeRun { node: NodeId(1), incarnation: 1 };
/// What a registrar gathers under load.
const OPENED_AN_UPDATE: u64 = 256;
/// As long as that of a client without an authorizer is.
const CONTEXT_BYTES: usize = 120;

/// What it cost.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotCosts {
    /// From when a snapshot was asked for until it was on the disk.
    pub taken: Duration,
    pub bytes: u64,
    /// The longest that an update of 256 connections took to be applied meanwhile, and how many were.
    pub longest_update: Duration,
    pub updates: u64,
    /// From the first byte that came in until all were checked.
    pub received: Duration,
    /// From then on until another machine showed the same state.
    pub installed: Duration,
}

/// Fills a directory with connections, takes a snapshot of it while updates go on, and installs that
/// in another one. `dir` must be empty.
pub async fn measure_snapshot(dir: &Path, connections: u64) -> io::Result<SnapshotCosts> {
    let mut machine = open(&dir.join("sender"))?;
    let mut writer = Writer { index: 0, updates: 0, connections: 0 };
    let join = Command::Join { run: RUN, disk: DiskId(1), fabric_address: "node:7946".into() };
    writer.apply(&mut machine, join).await?;
    while writer.connections < connections {
        writer.open_some(&mut machine).await?;
    }

    let began = Instant::now();
    let mut builder = machine.get_snapshot_builder().await;
    let building = tokio::spawn(async move {
        let snapshot = builder.build_snapshot().await;
        snapshot.map(|snapshot| (snapshot, Instant::now()))
    });
    let (mut longest_update, before) = (Duration::ZERO, writer.updates);
    while !building.is_finished() {
        let began = Instant::now();
        writer.open_some(&mut machine).await?;
        longest_update = longest_update.max(began.elapsed());
    }
    let updates = writer.updates - before;
    let (snapshot, ended) = building.await.map_err(io::Error::other)??;
    let taken = ended - began;
    drop(machine);

    let Snapshot { meta, snapshot: file } = snapshot;
    let mut receiver = open(&dir.join("receiver"))?;
    let began = Instant::now();
    let mut incoming = receiver.snapshots().receive(file.bytes()).await?;
    let mut sent = 0;
    while sent < file.bytes() {
        let chunk = file.read_at(sent, 64 * 1024).await?;
        sent += chunk.len() as u64;
        incoming.write(&chunk).await?;
    }
    let (received_file, _) = incoming.finish().await?;
    let received = began.elapsed();
    let began = Instant::now();
    receiver.install_snapshot(&meta, received_file).await?;
    let installed = began.elapsed();
    let restored = receiver.replica().read(Directory::len);
    if restored < connections {
        return Err(io::Error::other(format!("{restored} of {connections} were restored")));
    }
    Ok(SnapshotCosts { taken, bytes: file.bytes(), longest_update, updates, received, installed })
}

struct Writer {
    index: u64,
    updates: u64,
    connections: u64,
}

impl Writer {
    async fn open_some(&mut self, machine: &mut Machine) -> io::Result<()> {
        let first = self.connections;
        self.connections += OPENED_AN_UPDATE;
        self.updates += 1;
        let opened = (first..self.connections).map(|number| (id(number), context(number)));
        let (opened, number) = (opened.collect(), self.updates);
        self.apply(machine, Command::Update { run: RUN, number, opened, closed: Vec::new() }).await
    }

    async fn apply(&mut self, machine: &mut Machine, command: Command) -> io::Result<()> {
        let log_id = LogId::new(LeaderId { term: 1, node_id: 1 }, self.index);
        self.index += 1;
        let entry = RaftEntry::new(log_id, EntryPayload::Normal(Proposal::from(command)));
        machine.apply(stream::iter([Ok((entry, None))])).await
    }
}

fn open(dir: &Path) -> io::Result<Machine> {
    std::fs::create_dir_all(dir)?;
    Ok(Machine::open(dir)?)
}

/// Spread like random ones, and never the same twice.
fn id(number: u64) -> ConnectionId {
    let mut bits = [0; 16];
    bits[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ConnectionId::from_random(bits)
}

fn context(number: u64) -> Context {
    let mut context = vec![7; CONTEXT_BYTES];
    context[..8].copy_from_slice(&number.to_le_bytes());
    Context::from(context)
}
