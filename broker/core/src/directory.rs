//! Which run of which node holds which connection.
//!
//! This is the state that Raft replicates. It has no clock, no randomness and no I/O: two replicas
//! that apply the same commands in the same order are equal.
//!
//! Invariants:
//!
//! * A connection never moves: its entry is written once and erased once.
//! * At most one run of a node is current, and its incarnation is the largest ever seen of the node.
//! * A run's updates take effect in order and once each, however often they are proposed.
//! * An entry whose owner is not current is a *debt*: its `$disconnect` is still owed. So an eviction
//!   turns all of a run's connections into debts in one step, whatever their number.
//! * A run that is not current is remembered exactly as long as it has entries.
//! * The protocol version only grows. No command that came with a later one is in the log before it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::ids::{ConnectionId, DiskId, NodeId, NodeRun};

/// Small enough that copying one costs no stall, many enough that few are copied.
pub(crate) const SHARDS: usize = 2048;

/// Cloning is cheap and gives a consistent view: shards are shared until they are next written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// How many joins and evictions there have been.
    epoch: u64,
    /// What every member speaks, and may be spoken to.
    version: u32,
    runs: BTreeMap<NodeRun, Run>,
    latest: BTreeMap<NodeId, u32>,
    shards: Vec<Arc<BTreeMap<ConnectionId, Entry>>>,
}

/// What the directory knows of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The data directory that its process holds.
    pub disk: DiskId,
    /// Where peers reach it: host and port.
    pub fabric_address: Arc<str>,
    /// The number of the last update that was applied; the first is 1.
    pub updates: u64,
    /// The epoch that its joining began.
    pub joined_at: u64,
    /// The epoch that its eviction began. None while it is current.
    pub evicted_at: Option<u64>,
    connections: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub owner: NodeRun,
    pub context: Context,
}

/// What `$disconnect` will need, encoded by the owner. The directory gives it no meaning.
pub type Context = Arc<[u8]>;

/// What the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// A node starts, or starts again.
    ///
    /// Who holds the disk of the node's current run locked knows that run to be over: it is evicted
    /// first. A current run of another disk may still be acting, so that the join is refused until
    /// its silence has got it evicted: two processes that both take themselves for the same node
    /// cannot push each other out.
    Join { run: NodeRun, disk: DiskId, fabric_address: Arc<str> },
    /// A run is over: it left, or the leader holds it for dead.
    Evict { run: NodeRun },
    /// What one run opened and closed since its last update. `closed` names connections of its own
    /// and debts that it has settled.
    ///
    /// A proposal that timed out may still commit, and so may its repetition. The number tells the
    /// second from a new one: without it, a late `opened` would raise a connection from the dead.
    Update {
        run: NodeRun,
        number: u64,
        opened: Vec<(ConnectionId, Context)>,
        closed: Vec<ConnectionId>,
    },
    /// Every member speaks this protocol version: from here on, the log may hold what came with it.
    Raise { version: u32 },
}

/// What a command came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    Joined,
    /// A run from another disk is current and may still be acting. Nothing changed.
    Occupied {
        current: u32,
    },
    /// The node has had a run at least as late. Nothing changed.
    Superseded {
        latest: u32,
    },
    Evicted,
    Updated,
    /// We had applied it before. Nothing changed.
    Repeated,
    /// The run is not the current run of its node. Nothing changed.
    Fenced,
    /// The protocol version is at least the one asked for.
    Raised,
}

/// The parts of a directory beside its entries, for a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub epoch: u64,
    pub version: u32,
    pub runs: Vec<(NodeRun, Run)>,
    pub latest: Vec<(NodeId, u32)>,
}

/// A snapshot that no directory could have written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error("run {0} is named twice")]
    RunTwice(NodeRun),
    #[error("connection {0:?} is named twice")]
    ConnectionTwice(ConnectionId),
    #[error("connection {connection:?} belongs to the unknown run {owner}")]
    OwnerUnknown { connection: ConnectionId, owner: NodeRun },
}

impl Default for Directory {
    fn default() -> Directory {
        Directory {
            epoch: 0,
            version: 1,
            runs: BTreeMap::new(),
            latest: BTreeMap::new(),
            shards: vec![Arc::default(); SHARDS],
        }
    }
}

impl Directory {
    pub fn apply(&mut self, command: &Command) -> Applied {
        match command {
            Command::Join { run, disk, fabric_address } => self.join(*run, *disk, fabric_address),
            Command::Evict { run } if self.is_current(*run) => {
                self.evict(*run);
                Applied::Evicted
            }
            Command::Update { run, number, opened, closed } if self.is_current(*run) => {
                self.update(*run, *number, opened, closed)
            }
            Command::Evict { .. } | Command::Update { .. } => Applied::Fenced,
            Command::Raise { version } => {
                self.version = self.version.max(*version);
                Applied::Raised
            }
        }
    }

    pub fn entry(&self, connection: ConnectionId) -> Option<&Entry> {
        self.shards[shard_of(connection)].get(&connection)
    }

    pub fn run(&self, run: NodeRun) -> Option<&Run> {
        self.runs.get(&run)
    }

    pub fn is_current(&self, run: NodeRun) -> bool {
        self.runs.get(&run).is_some_and(|known| known.evicted_at.is_none())
    }

    /// The node's current run.
    pub fn current(&self, node: NodeId) -> Option<NodeRun> {
        let incarnation = self.latest(node)?;
        Some(NodeRun { node, incarnation }).filter(|run| self.is_current(*run))
    }

    /// The largest incarnation ever seen of a node.
    pub fn latest(&self, node: NodeId) -> Option<u32> {
        self.latest.get(&node).copied()
    }

    pub fn current_runs(&self) -> impl Iterator<Item = (NodeRun, &Run)> {
        self.runs.iter().filter(|(_, run)| run.evicted_at.is_none()).map(|(id, run)| (*id, run))
    }

    /// The runs that are over and still have debts, with the number of them.
    pub fn indebted_runs(&self) -> impl Iterator<Item = (NodeRun, u64)> {
        let evicted = self.runs.iter().filter(|(_, run)| run.evicted_at.is_some());
        evicted.map(|(id, run)| (*id, run.connections))
    }

    /// How many connections a run has in the directory.
    pub fn connections_of(&self, run: NodeRun) -> u64 {
        self.runs.get(&run).map_or(0, |run| run.connections)
    }

    /// How many entries there are, debts included.
    pub fn len(&self) -> u64 {
        self.runs.values().map(|run| run.connections).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many joins and evictions there have been: while it stands still, so do the runs.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The protocol version that every member speaks.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Every entry, in a fixed order.
    pub fn entries(&self) -> impl Iterator<Item = (ConnectionId, &Entry)> {
        self.shards.iter().flat_map(|shard| shard.iter()).map(|(id, entry)| (*id, entry))
    }

    /// The entries of a shard in their order: all, or those behind a connection.
    pub(crate) fn shard(
        &self,
        shard: usize,
        behind: Option<ConnectionId>,
    ) -> impl Iterator<Item = (ConnectionId, &Entry)> {
        let first = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let entries = self.shards.get(shard).into_iter();
        entries
            .flat_map(move |shard| shard.range((first, Bound::Unbounded)))
            .map(|(id, entry)| (*id, entry))
    }

    /// Every debt, in a fixed order. Costs a walk over all entries if there is any.
    pub fn debts(&self) -> impl Iterator<Item = (ConnectionId, &Entry)> {
        let any = self.indebted_runs().next().is_some();
        any.then(|| self.entries().filter(|(_, entry)| !self.is_current(entry.owner)))
            .into_iter()
            .flatten()
    }

    pub fn header(&self) -> Header {
        Header {
            epoch: self.epoch,
            version: self.version,
            runs: self.runs.iter().map(|(id, run)| (*id, run.clone())).collect(),
            latest: self.latest.iter().map(|(node, latest)| (*node, *latest)).collect(),
        }
    }

    /// A directory without entries yet; [`Directory::restore_entry`] adds them.
    pub fn restore(header: Header) -> Result<Directory, RestoreError> {
        let Header { epoch, version, runs, latest } = header;
        let latest = latest.into_iter().collect();
        let mut directory = Directory { epoch, version, latest, ..Directory::default() };
        for (id, run) in runs {
            if directory.runs.insert(id, Run { connections: 0, ..run }).is_some() {
                return Err(RestoreError::RunTwice(id));
            }
        }
        Ok(directory)
    }

    pub fn restore_entry(&mut self, id: ConnectionId, entry: Entry) -> Result<(), RestoreError> {
        let owner = entry.owner;
        let Some(run) = self.runs.get_mut(&owner) else {
            return Err(RestoreError::OwnerUnknown { connection: id, owner });
        };
        run.connections += 1;
        match Arc::make_mut(&mut self.shards[shard_of(id)]).insert(id, entry) {
            Some(_) => Err(RestoreError::ConnectionTwice(id)),
            None => Ok(()),
        }
    }

    fn join(&mut self, run: NodeRun, disk: DiskId, fabric_address: &Arc<str>) -> Applied {
        let current = self.current(run.node);
        if let Some(current) = current
            && self.runs.get(&current).is_some_and(|known| known.disk != disk)
        {
            return Applied::Occupied { current: current.incarnation };
        }
        if current == Some(run) {
            return Applied::Joined;
        }
        if let Some(latest) = self.latest(run.node)
            && run.incarnation <= latest
        {
            return Applied::Superseded { latest };
        }
        if let Some(current) = current {
            self.evict(current);
        }
        self.epoch += 1;
        self.latest.insert(run.node, run.incarnation);
        self.runs.insert(run, Run::new(disk, fabric_address.clone(), self.epoch));
        Applied::Joined
    }

    fn evict(&mut self, run: NodeRun) {
        self.epoch += 1;
        if let Some(evicted) = self.runs.get_mut(&run) {
            evicted.evicted_at = Some(self.epoch);
        }
        self.forget_if_settled(run);
    }

    fn update(
        &mut self,
        run: NodeRun,
        number: u64,
        opened: &[(ConnectionId, Context)],
        closed: &[ConnectionId],
    ) -> Applied {
        let Some(known) = self.runs.get_mut(&run) else { return Applied::Fenced };
        if number <= known.updates {
            return Applied::Repeated;
        }
        known.updates = number;
        for (connection, context) in opened {
            let shard = Arc::make_mut(&mut self.shards[shard_of(*connection)]);
            shard.entry(*connection).or_insert_with(|| {
                known.connections += 1;
                Entry { owner: run, context: context.clone() }
            });
        }
        for connection in closed {
            self.close(run, *connection);
        }
        Applied::Updated
    }

    /// Erases an entry of the run's own, or a debt. Another current run's is not its to close.
    fn close(&mut self, run: NodeRun, connection: ConnectionId) {
        let Some(owner) = self.entry(connection).map(|entry| entry.owner) else { return };
        if owner != run && self.is_current(owner) {
            return;
        }
        Arc::make_mut(&mut self.shards[shard_of(connection)]).remove(&connection);
        if let Some(owner) = self.runs.get_mut(&owner) {
            owner.connections -= 1;
        }
        self.forget_if_settled(owner);
    }

    fn forget_if_settled(&mut self, run: NodeRun) {
        let is_settled = |run: &Run| run.evicted_at.is_some() && run.connections == 0;
        if self.runs.get(&run).is_some_and(is_settled) {
            self.runs.remove(&run);
        }
    }
}

impl Run {
    pub fn new(disk: DiskId, fabric_address: Arc<str>, joined_at: u64) -> Run {
        Run { disk, fabric_address, updates: 0, joined_at, evicted_at: None, connections: 0 }
    }
}

pub(crate) fn shard_of(connection: ConnectionId) -> usize {
    connection.spread() as usize % SHARDS
}
