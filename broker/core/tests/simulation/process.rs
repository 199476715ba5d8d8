//! One process of one node: what the shells do around the pure machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_core::connection::{Action, CloseCause, Connection, Limits, Verdict};
use posthorn_core::directory::{Command, Context, Directory};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_core::liveness::BootTime;
use posthorn_core::placement;
use posthorn_core::roster::Roster;
use posthorn_core::tenure::{self, Tenure, Timing};

pub(crate) const TIMING: Timing = Timing {
    lease_max: Duration::from_millis(2000),
    beat_interval: Duration::from_millis(500),
    join_interval: Duration::from_millis(700),
};
const PROPOSAL_INTERVAL: Duration = Duration::from_millis(400);

pub(crate) struct Process {
    pub(crate) node: NodeId,
    /// Tells two lives of one node apart, so that a late answer reaches nobody.
    pub(crate) life: u64,
    pub(crate) tenure: Tenure,
    pub(crate) lease_ends_at: Option<BootTime>,
    pub(crate) replica: Directory,
    pub(crate) applied: usize,
    pub(crate) connections: BTreeMap<ConnectionId, Client>,
    /// Debts whose `$disconnect` is being called.
    settling: BTreeSet<ConnectionId>,
    roster: Roster,
    proposed_at: Option<BootTime>,
}

pub(crate) struct Client {
    pub(crate) machine: Connection,
    pub(crate) upgraded: bool,
}

/// What a process asks of the world.
pub(crate) enum Wish {
    Persist {
        incarnation: u32,
    },
    Propose(Command),
    Beat {
        run: NodeRun,
        sent_at: BootTime,
    },
    CallConnect(ConnectionId),
    /// For a connection of its own.
    CallDisconnect(ConnectionId),
    /// For one that it inherited.
    Settle(ConnectionId),
    /// The 101 was seen.
    Opened(ConnectionId),
    /// The handshake was refused, or the socket closed.
    Closed(ConnectionId),
}

impl Process {
    pub(crate) fn new(
        node: NodeId,
        life: u64,
        on_disk: Option<u32>,
        replica: Directory,
    ) -> Process {
        Process {
            node,
            life,
            tenure: Tenure::new(node, on_disk, TIMING),
            lease_ends_at: None,
            replica,
            applied: 0,
            connections: BTreeMap::new(),
            settling: BTreeSet::new(),
            roster: Roster::default(),
            proposed_at: None,
        }
    }

    pub(crate) fn disk(&self) -> DiskId {
        DiskId(u64::from(self.node.0) + 1000)
    }

    /// Whether it may accept a post or start an integration call.
    pub(crate) fn may_act(&self, now: BootTime) -> Option<NodeRun> {
        self.tenure.serving().filter(|_| self.lease_ends_at.is_some_and(|end| now < end))
    }

    pub(crate) fn open(&mut self, id: ConnectionId) -> Vec<Wish> {
        let limits = Limits {
            idle_max: None,
            ping_interval: None,
            pong_max: Duration::from_secs(1),
            closing_max: Duration::from_secs(1),
            in_flight_max: 1,
        };
        let machine = Connection::new(Arc::new(limits), None);
        self.connections.insert(id, Client { machine, upgraded: false });
        self.drain_connection(id)
    }

    pub(crate) fn on_verdict(
        &mut self,
        id: ConnectionId,
        now: Instant,
        verdict: Verdict,
    ) -> Vec<Wish> {
        self.with(id, |machine| machine.on_verdict(now, verdict))
    }

    pub(crate) fn on_left(&mut self, id: ConnectionId) -> Vec<Wish> {
        self.with(id, |machine| machine.on_ended(CloseCause::Lost))
    }

    /// `$disconnect` was answered: the entry may go.
    pub(crate) fn on_disconnected(&mut self, id: ConnectionId) {
        self.settling.remove(&id);
        self.roster.on_close(id);
    }

    pub(crate) fn on_committed(&mut self, number: u64) -> Vec<Wish> {
        if self.roster.in_flight().map(|update| update.number) != Some(number) {
            return Vec::new();
        }
        self.proposed_at = None;
        let update = self.roster.on_committed().expect("one is in flight");
        let ids = update.opened.into_iter().map(|(id, _)| id);
        ids.flat_map(|id| self.with(id, |machine| machine.on_registered())).collect()
    }

    /// One turn of every loop that this process runs.
    pub(crate) fn turn(&mut self, boot: BootTime, now: Instant) -> Vec<Wish> {
        let mut wishes = Vec::new();
        self.tenure.handle_timeout(boot);
        while let Some(action) = self.tenure.poll_action() {
            self.perform(action, boot, now, &mut wishes);
        }
        if let Some(run) = self.may_act(boot) {
            self.propose(run, boot, &mut wishes);
            self.settle(run, &mut wishes);
        }
        wishes
    }

    fn perform(
        &mut self,
        action: tenure::Action,
        boot: BootTime,
        now: Instant,
        out: &mut Vec<Wish>,
    ) {
        match action {
            tenure::Action::Persist { incarnation } => out.push(Wish::Persist { incarnation }),
            tenure::Action::Join { run } => {
                let fabric_address = "node".into();
                out.push(Wish::Propose(Command::Join { run, disk: self.disk(), fabric_address }));
            }
            tenure::Action::Beat { run } => out.push(Wish::Beat { run, sent_at: boot }),
            tenure::Action::Serve { .. } => (),
            tenure::Action::Extend { ends_at } => self.lease_ends_at = Some(ends_at),
            tenure::Action::Fence { .. } => {
                self.end_all(now, out);
                self.tenure.on_ended();
            }
        }
    }

    fn end_all(&mut self, now: Instant, out: &mut Vec<Wish>) {
        for (id, mut client) in std::mem::take(&mut self.connections) {
            client.machine.on_fenced(now);
            out.push(Wish::Closed(id));
        }
        self.lease_ends_at = None;
        self.settling.clear();
        self.roster = Roster::default();
        self.proposed_at = None;
    }

    /// Proposes the next update, or the one in flight again when its answer is overdue.
    fn propose(&mut self, run: NodeRun, boot: BootTime, out: &mut Vec<Wish>) {
        let is_overdue = self.proposed_at.is_some_and(|at| at + PROPOSAL_INTERVAL <= boot);
        let update = match self.roster.in_flight() {
            Some(update) if is_overdue => Some(update),
            Some(_) => None,
            None => self.roster.poll_update(),
        };
        if let Some(update) = update.cloned() {
            self.proposed_at = Some(boot);
            let (number, opened, closed) = (update.number, update.opened, update.closed);
            out.push(Wish::Propose(Command::Update { run, number, opened, closed }));
        }
    }

    fn settle(&mut self, run: NodeRun, out: &mut Vec<Wish>) {
        let mine = self
            .replica
            .debts()
            .filter(|(id, entry)| placement::heir(&self.replica, *id, entry.owner) == Some(run));
        for id in mine.map(|(id, _)| id).collect::<Vec<_>>() {
            if self.settling.insert(id) {
                out.push(Wish::Settle(id));
            }
        }
    }

    fn with(&mut self, id: ConnectionId, change: impl FnOnce(&mut Connection)) -> Vec<Wish> {
        let Some(client) = self.connections.get_mut(&id) else { return Vec::new() };
        change(&mut client.machine);
        self.drain_connection(id)
    }

    fn drain_connection(&mut self, id: ConnectionId) -> Vec<Wish> {
        let mut wishes = Vec::new();
        while let Some(client) = self.connections.get_mut(&id)
            && let Some(action) = client.machine.poll_action()
        {
            match action {
                Action::Register => self.roster.on_open(id, Context::from(*b"context")),
                Action::CallConnect => wishes.push(Wish::CallConnect(id)),
                Action::Upgrade => {
                    client.upgraded = true;
                    wishes.push(Wish::Opened(id));
                }
                Action::Retire { disconnect: Some(_) } => wishes.push(Wish::CallDisconnect(id)),
                Action::Retire { disconnect: None } => self.roster.on_close(id),
                Action::SendClose(_) => client.machine.on_ended(CloseCause::Lost),
                Action::Drop => {
                    self.connections.remove(&id);
                    wishes.push(Wish::Closed(id));
                }
                Action::Refuse { .. } | Action::Dispatch | Action::Ping => (),
            }
        }
        wishes
    }
}
