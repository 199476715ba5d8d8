//! One process of one node: what the shells do around the pure machines.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_core::admission::{Admission, Candidate};
use posthorn_core::connection::{Action, CloseCause, CloseFrame, Connection, Limits, Verdict};
use posthorn_core::directory::{Command, Context, Directory};
use posthorn_core::drain::{self, Drain, Left, Pace, Phase};
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
const ASK_INTERVAL: Duration = Duration::from_millis(200);
/// A member asks whether it still is one when it could not act for so long.
const DOUBT_AFTER: Duration = Duration::from_millis(2000);
const LEAVE_TIMEOUT: Duration = Duration::from_millis(1500);
const PACE: Pace = Pace {
    grace: Duration::from_millis(100),
    window: Duration::from_millis(1000),
    straggling_max: Duration::from_millis(1500),
    settling_max: Duration::from_millis(1200),
};

pub(crate) struct Process {
    pub(crate) node: NodeId,
    pub(crate) disk: DiskId,
    /// Tells two lives of one node apart, so that a late answer reaches nobody.
    pub(crate) life: u64,
    pub(crate) tenure: Tenure,
    /// As which run it may act, and until when.
    standing: Option<(NodeRun, BootTime)>,
    pub(crate) replica: Directory,
    pub(crate) applied: usize,
    pub(crate) connections: BTreeMap<ConnectionId, Client>,
    /// Debts whose `$disconnect` is being called, or was, until the directory has forgotten them.
    settling: BTreeSet<ConnectionId>,
    /// Connections of its own whose `$disconnect` is being called.
    ending: BTreeSet<ConnectionId>,
    roster: Roster,
    proposed_at: Option<BootTime>,
    is_member: bool,
    asked_at: Option<BootTime>,
    acted_at: BootTime,
    leave: Option<Leave>,
}

pub(crate) struct Client {
    pub(crate) machine: Connection,
    pub(crate) upgraded: bool,
}

/// How it takes its leave.
struct Leave {
    machine: Drain,
    ends_by: Instant,
    /// Since when only its `$disconnect` calls are waited for.
    settling_since: Option<Instant>,
    unasked: VecDeque<ConnectionId>,
    /// Once it leaves the directory.
    run: Option<Leaving>,
}

struct Leaving {
    run: NodeRun,
    left: Left,
    until: BootTime,
    proposed_at: Option<BootTime>,
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
    Ask(Candidate),
    CallConnect(ConnectionId),
    /// For a connection of its own.
    CallDisconnect(ConnectionId),
    /// For one that it inherited.
    Settle(ConnectionId),
    /// The 101 was seen.
    Opened(ConnectionId),
    /// A Close frame, which the client is to answer.
    Farewell(ConnectionId),
    /// The handshake was refused, or the socket closed.
    Closed(ConnectionId),
    /// It has taken its leave, as that run if any, and so much was left to others.
    Drained {
        run: Option<NodeRun>,
        left: Left,
    },
    /// It is no longer a member, and ends.
    End,
}

impl Process {
    pub(crate) fn new(
        (node, disk): (NodeId, DiskId),
        life: u64,
        on_disk: Option<u32>,
        boot: BootTime,
    ) -> Process {
        Process {
            node,
            disk,
            life,
            tenure: Tenure::new(node, on_disk, TIMING),
            standing: None,
            replica: Directory::default(),
            applied: 0,
            connections: BTreeMap::new(),
            settling: BTreeSet::new(),
            ending: BTreeSet::new(),
            roster: Roster::default(),
            proposed_at: None,
            is_member: false,
            asked_at: None,
            acted_at: boot,
            leave: None,
        }
    }

    /// Whether it may accept a post or start an integration call.
    pub(crate) fn may_act(&self, now: BootTime) -> Option<NodeRun> {
        self.standing.filter(|(_, lease_ends_at)| now < *lease_ends_at).map(|(run, _)| run)
    }

    pub(crate) fn lets_in(&self, now: BootTime) -> bool {
        let is_open =
            self.leave.as_ref().is_none_or(|leave| leave.machine.phase() == Phase::Announced);
        is_open && self.may_act(now).is_some()
    }

    /// Whether it is to lead no longer.
    pub(crate) fn is_closing(&self) -> bool {
        self.leave.as_ref().is_some_and(|leave| leave.machine.phase() >= Phase::Closing)
    }

    /// As far as it knows.
    pub(crate) fn is_member(&self) -> bool {
        self.is_member
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.leave.is_some()
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
        if self.settling.contains(&id) || self.ending.remove(&id) {
            self.roster.on_close(id);
        }
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

    pub(crate) fn on_admission(&mut self, now: BootTime, admission: Admission) -> Option<Wish> {
        match admission {
            Admission::Member => {
                self.is_member = true;
                self.acted_at = now;
                None
            }
            Admission::Outside => Some(Wish::End),
            Admission::Occupied | Admission::Leaving => None,
        }
    }

    /// Its own eviction was committed, or somebody else's word came first.
    pub(crate) fn on_evicted(&mut self, run: NodeRun) -> Option<Wish> {
        let leaving = self.leave.as_ref()?.run.as_ref()?;
        (leaving.run == run).then_some(Wish::Drained { run: Some(run), left: leaving.left })
    }

    /// SIGTERM.
    pub(crate) fn drain(&mut self, now: Instant) {
        let machine = Drain::begin(now, PACE);
        let ends_by = machine.ends_by();
        self.leave.get_or_insert(Leave {
            machine,
            ends_by,
            settling_since: None,
            unasked: VecDeque::new(),
            run: None,
        });
    }

    /// One turn of every loop that this process runs.
    pub(crate) fn turn(&mut self, boot: BootTime, now: Instant, chance: u64) -> Vec<Wish> {
        let mut wishes = Vec::new();
        self.tenure.handle_timeout(boot);
        while let Some(action) = self.tenure.poll_action() {
            self.perform(action, boot, now, &mut wishes);
        }
        self.take_leave(boot, now, chance, &mut wishes);
        let late: Vec<_> =
            self.connections.iter().filter(|(_, client)| client.is_late(now)).collect();
        for id in late.into_iter().map(|(id, _)| *id).collect::<Vec<_>>() {
            wishes.extend(self.with(id, |machine| machine.handle_timeout(now)));
        }
        if let Some(run) = self.may_act(boot) {
            self.acted_at = boot;
            self.propose(run, boot, &mut wishes);
            self.settle(run, &mut wishes);
        }
        self.ask(boot, &mut wishes);
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
                out.push(Wish::Propose(Command::Join { run, disk: self.disk, fabric_address }));
            }
            tenure::Action::Beat { run } => out.push(Wish::Beat { run, sent_at: boot }),
            tenure::Action::Serve { .. } => (),
            tenure::Action::Extend { ends_at } => {
                self.standing = self.tenure.serving().map(|run| (run, ends_at));
            }
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
        self.standing = None;
        self.settling.clear();
        self.ending.clear();
        self.roster = Roster::default();
        self.proposed_at = None;
    }

    fn take_leave(&mut self, boot: BootTime, now: Instant, chance: u64, out: &mut Vec<Wish>) {
        let left = self.left();
        let Some(leave) = &mut self.leave else { return };
        leave.machine.handle_timeout(now, left, chance);
        assert!(
            now <= leave.ends_by || leave.machine.phase() == Phase::Leaving,
            "a drain takes longer than it said"
        );
        if leave.machine.phase() >= Phase::Settling {
            leave.settling_since.get_or_insert(now);
        }
        let mut to_close = Vec::new();
        while let Some(action) = leave.machine.poll_action() {
            match action {
                drain::Action::Refuse => leave.unasked.extend(self.connections.keys()),
                drain::Action::Close { count } => {
                    let count = leave.unasked.len().min(count as usize);
                    to_close.extend(leave.unasked.drain(..count));
                }
                drain::Action::CloseRest => to_close.extend(self.connections.keys().copied()),
                drain::Action::Leave => {
                    let since = leave.settling_since.unwrap_or(now);
                    let is_late = since + PACE.settling_max <= now;
                    assert!(left.unsettled == 0 || is_late, "a drain leaves what it could settle");
                    self.tenure.leave();
                    // Before the directory gives it up.
                    let Some((run, _)) = self.standing.take() else {
                        return out.push(Wish::Drained { run: None, left });
                    };
                    let until = boot + LEAVE_TIMEOUT;
                    leave.run = Some(Leaving { run, left, until, proposed_at: None });
                }
            }
        }
        if let Some(leaving) = &mut leave.run {
            if leaving.until <= boot {
                return out.push(Wish::Drained { run: None, left: leaving.left });
            }
            if leaving.proposed_at.is_none_or(|at| at + PROPOSAL_INTERVAL <= boot) {
                leaving.proposed_at = Some(boot);
                out.push(Wish::Propose(Command::Evict { run: leaving.run }));
            }
        }
        let farewell = CloseFrame { code: 1012, reason: "drained".into() };
        for id in to_close {
            let cause = CloseCause::Drained(farewell.clone());
            out.extend(self.with(id, |machine| machine.close(now, cause)));
        }
    }

    fn left(&self) -> Left {
        let in_flight = self.roster.in_flight();
        let in_flight = in_flight.map_or(0, |update| update.opened.len() + update.closed.len());
        let unsettled = self.ending.len() + self.roster.waiting() + in_flight;
        Left { connections: self.connections.len(), unsettled }
    }

    /// Whether it is a member, as long as it is not, and when it may no longer be.
    fn ask(&mut self, boot: BootTime, out: &mut Vec<Wish>) {
        let is_in_doubt = !self.is_member || self.acted_at + DOUBT_AFTER <= boot;
        if is_in_doubt && self.asked_at.is_none_or(|at| at + ASK_INTERVAL <= boot) {
            self.asked_at = Some(boot);
            let (node, disk, was_member) = (self.node, self.disk, self.is_member);
            out.push(Wish::Ask(Candidate { node, disk, was_member }));
        }
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
        let replica = &self.replica;
        self.settling.retain(|id| replica.entry(*id).is_some());
        for (id, entry) in replica.debts() {
            if placement::heir(replica, id, entry.owner) == Some(run) && self.settling.insert(id) {
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
                Action::Retire { disconnect: Some(_) } => {
                    self.ending.insert(id);
                    wishes.push(Wish::CallDisconnect(id));
                }
                Action::Retire { disconnect: None } => self.roster.on_close(id),
                Action::SendClose(_) => wishes.push(Wish::Farewell(id)),
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

impl Client {
    fn is_late(&self, now: Instant) -> bool {
        self.machine.poll_timeout().is_some_and(|due| due <= now)
    }
}
