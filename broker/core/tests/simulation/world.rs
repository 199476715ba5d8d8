//! Machines, the network between them, and the backend.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use posthorn_core::admission::{Admission, Candidate};
use posthorn_core::connection::Verdict;
use posthorn_core::directory::{Applied, Command, Directory};
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_core::liveness::BootTime;

use crate::chance::Chance;
use crate::govern::Leader;
use crate::process::{Process, Wish};
use crate::raft::Raft;
use crate::told::{Happened, Told};

/// A cut-off leader takes itself for one no longer than this; nobody else is elected sooner.
const ELECTION: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(20);
pub(crate) const DELAY_MAX: Duration = Duration::from_millis(150);
const STEPS: u64 = 1200;
/// Longer than patience, the longest delay and a few calls together, several times: one change of the
/// members may have to wait for another.
const SETTLING_STEPS: u64 = 1000;
/// Entries that a disk may catch up in a step.
const CAUGHT_UP_MAX: usize = 40;

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) start: Instant,
    pub(crate) now: Duration,
    pub(crate) machines: Vec<Machine>,
    pub(crate) lives: u64,
    pub(crate) voters_max: usize,
    pub(crate) raft: Raft,
    pub(crate) leader: Option<Leader>,
    terms: u64,
    /// Who is to be elected next, if that can be.
    pub(crate) successor: Option<DiskId>,
    /// The directory after all that is in the log.
    pub(crate) truth: Directory,
    /// What is on its way, by the time of its arrival.
    network: BTreeMap<(Duration, u64), Packet>,
    packets: u64,
    pub(crate) backend: BTreeMap<ConnectionId, Called>,
    /// How many times fewer faults there are than in the worst of worlds.
    pub(crate) peace: u64,
    pub(crate) calm: bool,
    pub(crate) told: Told,
}

pub(crate) struct Machine {
    /// Speed of its clock in parts of a thousand, and what it showed at the start.
    rate: u64,
    offset: Duration,
    /// None once it was lost.
    pub(crate) disk: Option<Disk>,
    pub(crate) process: Option<Process>,
    pub(crate) cut_at: Option<Duration>,
    /// Whether its operator wants it to be a node.
    pub(crate) is_wanted: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct Disk {
    pub(crate) id: DiskId,
    pub(crate) incarnation: Option<u32>,
}

#[derive(Default)]
pub(crate) struct Called {
    pub(crate) verdict: Option<Verdict>,
    pub(crate) disconnects: u32,
    /// The client has seen its 101 and not yet the end.
    pub(crate) open: bool,
    /// The run that asked for the verdict.
    pub(crate) by: Option<NodeRun>,
}

pub(crate) enum Packet {
    Proposal {
        from: usize,
        life: u64,
        command: Command,
    },
    Answer {
        to: usize,
        life: u64,
        command: Command,
        applied: Applied,
    },
    Beat {
        from: usize,
        life: u64,
        run: NodeRun,
        sent_at: BootTime,
    },
    BeatAnswer {
        to: usize,
        life: u64,
        run: NodeRun,
        sent_at: BootTime,
        current: bool,
    },
    Verdict {
        to: usize,
        life: u64,
        id: ConnectionId,
    },
    Disconnected {
        to: usize,
        life: u64,
        id: ConnectionId,
    },
    /// The client answers a Close frame.
    Left {
        to: usize,
        life: u64,
        id: ConnectionId,
    },
    Ask {
        from: usize,
        life: u64,
        candidate: Candidate,
    },
    Told {
        to: usize,
        life: u64,
        admission: Admission,
    },
    /// By the leader of that term.
    Eviction {
        term: u64,
        run: NodeRun,
    },
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let size = [1, 3, 3, 5][chance.below(4) as usize];
        let machines = (0..size + 2).map(|index| Machine {
            // Slowest to fastest is 1.4, just inside patience / lease.
            rate: 850 + chance.below(341),
            offset: Duration::from_secs(chance.below(1000)),
            disk: None,
            process: None,
            cut_at: None,
            is_wanted: index < size,
        });
        let mut world = World {
            machines: machines.collect(),
            voters_max: [1, 3, 5][chance.below(3) as usize],
            peace: 1 + chance.below(6),
            chance,
            start: Instant::now(),
            now: Duration::ZERO,
            lives: 0,
            raft: Raft::default(),
            leader: None,
            terms: 0,
            successor: None,
            truth: Directory::default(),
            network: BTreeMap::new(),
            packets: 0,
            backend: BTreeMap::new(),
            calm: false,
            told: Told::default(),
        };
        let initial = (0..size).map(|index| {
            let disk = world.new_disk();
            world.machines[index].disk = Some(disk);
            (disk.id, NodeId(index as u32))
        });
        let initial = initial.collect();
        world.raft.form(initial);
        world
    }

    pub(crate) fn run(mut self) -> Told {
        for _ in 0..STEPS {
            self.step();
        }
        self.calm = true;
        for machine in &mut self.machines {
            machine.cut_at = None;
        }
        if !self.machines.iter().any(|machine| machine.is_wanted) {
            self.machines[0].is_wanted = true;
        }
        for _ in 0..SETTLING_STEPS {
            self.step();
        }
        self.assert_settled();
        self.told
    }

    fn step(&mut self) {
        self.now += STEP;
        for index in 0..self.machines.len() {
            self.disturb(index);
        }
        self.disturb_leader();
        self.elect();
        self.deliver();
        self.govern();
        self.operate();
        for index in 0..self.machines.len() {
            self.replicate(index);
            self.turn(index);
        }
        self.assert_promises();
    }

    /// Somebody for whom a quorum votes leads; a leader that does not reach one, or is drained, stops.
    fn elect(&mut self) {
        let reached = self.reached();
        let has_quorum = self.raft.has_quorum(&reached);
        if let Some(leader) = &self.leader {
            let machine = &self.machines[leader.machine];
            let process = machine.process.as_ref().filter(|process| process.life == leader.life);
            let cut_for = machine.cut_at.map(|at| self.now - at);
            let is_followed = cut_for.is_none_or(|cut_for| cut_for < ELECTION) && has_quorum;
            let others = self.raft.voters.iter().flatten().filter(|voter| **voter != leader.disk);
            let heir = others.copied().find(|voter| reached.contains(voter));
            match process {
                Some(process) if is_followed && process.is_closing() && heir.is_some() => {
                    self.hand_over(heir);
                }
                Some(_) if is_followed => return,
                Some(_) | None => self.leader = None,
            }
        }
        let is_time = self.calm || self.successor.is_some() || self.chance.one_in(15);
        if !has_quorum || !is_time {
            return;
        }
        let successor = self.successor.take();
        let Some(disk) = self.raft.elect(&reached, successor, &mut self.chance) else { return };
        let holds = |machine: &Machine| machine.disk.is_some_and(|held| held.id == disk);
        let Some(machine) = self.machines.iter().position(holds) else { return };
        let life = self.machines[machine].process.as_ref().map_or(0, |process| process.life);
        self.terms += 1;
        self.leader = Some(self.new_leader(self.terms, (machine, life, disk)));
        self.told.count(Happened::Elected);
    }

    /// The disks of those who hear each other.
    pub(crate) fn reached(&self) -> BTreeSet<DiskId> {
        let is_reached = |machine: &&Machine| machine.process.is_some() && machine.cut_at.is_none();
        let machines = self.machines.iter().filter(is_reached);
        machines.filter_map(|machine| machine.disk.map(|disk| disk.id)).collect()
    }

    /// Whether any disk of the node is a member's.
    pub(crate) fn is_member(&self, index: usize) -> bool {
        self.raft.members.values().any(|node| *node == NodeId(index as u32))
    }

    pub(crate) fn commit(&mut self, command: Command) -> Applied {
        let fenced = match &command {
            Command::Update { run, .. } | Command::Evict { run } => !self.truth.is_current(*run),
            Command::Join { .. } | Command::Raise { .. } => false,
        };
        let before = fenced.then(|| self.truth.clone());
        let applied = self.truth.apply(&command);
        if let Some(before) = before {
            assert_eq!(applied, Applied::Fenced, "{command:?}");
            assert_eq!(self.truth, before, "a run that is over changed something: {command:?}");
        }
        self.raft.log.push(command);
        self.raft.acknowledge(&self.reached(), &mut self.chance);
        match applied {
            Applied::Repeated => self.told.count(Happened::Repeated),
            Applied::Fenced => self.told.count(Happened::Fenced),
            _ => (),
        }
        applied
    }

    fn replicate(&mut self, index: usize) {
        let behind = if self.calm { 0 } else { self.chance.below(6) as usize };
        let machine = &mut self.machines[index];
        let (Some(process), None) = (&mut machine.process, machine.cut_at) else { return };
        if !self.raft.members.contains_key(&process.disk) {
            return;
        }
        let log = self.raft.disks.entry(process.disk).or_default();
        let committed = self.raft.log.len();
        *log = (*log).max(committed.saturating_sub(behind).min(*log + CAUGHT_UP_MAX));
        let known = committed.saturating_sub(behind).min(*log);
        while process.applied < known {
            process.replica.apply(&self.raft.log[process.applied]);
            process.applied += 1;
        }
    }

    fn turn(&mut self, index: usize) {
        let (boot, now) = (self.boot(index), self.start + self.now);
        let chance = self.chance.below(u64::MAX);
        if let Some(process) = &mut self.machines[index].process {
            let wishes = process.turn(boot, now, chance);
            self.grant(index, wishes);
        }
    }

    pub(crate) fn grant(&mut self, index: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            let Some(life) = self.machines[index].process.as_ref().map(|process| process.life)
            else {
                return;
            };
            match wish {
                Wish::Persist { incarnation } => {
                    if let Some(disk) = &mut self.machines[index].disk {
                        disk.incarnation = Some(incarnation);
                    }
                    let boot = self.boot(index);
                    if let Some(process) = &mut self.machines[index].process {
                        process.tenure.on_persisted(boot);
                    }
                }
                Wish::Propose(command) => {
                    self.send(index, Packet::Proposal { from: index, life, command });
                }
                Wish::Beat { run, sent_at } => {
                    self.send(index, Packet::Beat { from: index, life, run, sent_at });
                }
                Wish::Ask(candidate) => {
                    self.send(index, Packet::Ask { from: index, life, candidate });
                }
                Wish::CallConnect(id) => {
                    let boot = self.boot(index);
                    let by = self.process(index, life).and_then(|process| process.may_act(boot));
                    self.backend.entry(id).or_default().by = by;
                    self.later(Packet::Verdict { to: index, life, id });
                }
                Wish::CallDisconnect(id) => self.call_disconnect(index, life, id),
                Wish::Settle(id) => {
                    let open = self.backend.entry(id).or_default().open;
                    assert!(!open, "{id}: an heir ends a connection that still lives");
                    self.told.count(Happened::HeirCalled);
                    self.call_disconnect(index, life, id);
                }
                Wish::Opened(id) => {
                    self.told.count(Happened::Opened);
                    self.backend.entry(id).or_default().open = true;
                }
                Wish::Closed(id) => self.backend.entry(id).or_default().open = false,
                Wish::Farewell(_) if self.chance.one_in(8) => (),
                Wish::Farewell(id) => self.later(Packet::Left { to: index, life, id }),
                Wish::Drained { run, left } => {
                    self.assert_drained(run, left);
                    self.crash(index);
                }
                Wish::End => {
                    self.told.count(Happened::Outside);
                    self.crash(index);
                }
            }
        }
    }

    fn call_disconnect(&mut self, index: usize, life: u64, id: ConnectionId) {
        self.backend.entry(id).or_default().disconnects += 1;
        self.later(Packet::Disconnected { to: index, life, id });
    }

    /// From or to a node over the fabric: may be lost, late, or come twice.
    fn send(&mut self, node: usize, packet: Packet) {
        let is_lost = !self.calm && self.chance.one_in(8);
        if self.machines[node].cut_at.is_some() && !self.is_leader(node) || is_lost {
            return;
        }
        let comes_twice = !self.calm && self.chance.one_in(8);
        if let (true, Packet::Proposal { from, life, command }) = (comes_twice, &packet) {
            let command = command.clone();
            let twin = Packet::Proposal { from: *from, life: *life, command };
            let much_later = self.chance.up_to(Duration::from_secs(6));
            self.deliver_at(self.now + much_later, twin);
        }
        self.later(packet);
    }

    pub(crate) fn later(&mut self, packet: Packet) {
        let delay = self.chance.up_to(DELAY_MAX);
        self.deliver_at(self.now + delay, packet);
    }

    fn deliver_at(&mut self, at: Duration, packet: Packet) {
        self.packets += 1;
        self.network.insert((at, self.packets), packet);
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry()
            && entry.key().0 <= self.now
        {
            let packet = entry.remove();
            self.arrive(packet);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Proposal { from, life, command } => {
                if self.leads(from) && self.may_commit(&command) {
                    let applied = self.commit(command.clone());
                    self.send(from, Packet::Answer { to: from, life, command, applied });
                }
            }
            Packet::Beat { from, life, run, sent_at } => self.acknowledge(from, life, run, sent_at),
            Packet::Answer { to, life, command, applied } => {
                let boot = self.boot(to);
                let Some(process) = self.process(to, life) else { return };
                let wishes = match (command, applied) {
                    (Command::Join { run, .. }, applied) => {
                        process.tenure.on_join(boot, run, applied);
                        Vec::new()
                    }
                    (Command::Update { run, .. }, Applied::Fenced) => {
                        process.tenure.on_fenced(run);
                        Vec::new()
                    }
                    (Command::Update { run, number, .. }, _)
                        if process.may_act(boot) == Some(run) =>
                    {
                        process.on_committed(number)
                    }
                    (Command::Evict { run }, _) => process.on_evicted(run).into_iter().collect(),
                    (Command::Update { .. } | Command::Raise { .. }, _) => Vec::new(),
                };
                self.grant(to, wishes);
            }
            Packet::BeatAnswer { to, life, run, sent_at, current } => {
                match (self.process(to, life), current) {
                    (Some(process), true) => process.tenure.on_acknowledged(run, sent_at),
                    (Some(process), false) => process.tenure.on_fenced(run),
                    (None, _) => (),
                }
            }
            Packet::Verdict { to, life, id } => self.judge(to, life, id),
            Packet::Left { to, life, id } => {
                let wishes = self.process(to, life).map(|process| process.on_left(id));
                self.grant(to, wishes.unwrap_or_default());
            }
            Packet::Ask { from, life, candidate } => {
                if self.leads(from)
                    && let Some(admission) = self.admit(candidate)
                {
                    self.send(from, Packet::Told { to: from, life, admission });
                }
            }
            Packet::Told { to, life, admission } => {
                let boot = self.boot(to);
                let wish = self
                    .process(to, life)
                    .and_then(|process| process.on_admission(boot, admission));
                self.grant(to, wish.into_iter().collect());
            }
            Packet::Eviction { term, run } => self.on_eviction(term, run),
            Packet::Disconnected { to, life, id } => {
                if let Some(process) = self.process(to, life) {
                    process.on_disconnected(id);
                }
            }
        }
    }

    /// Only members join.
    fn may_commit(&self, command: &Command) -> bool {
        match command {
            Command::Join { disk, .. } => self.raft.members.contains_key(disk),
            Command::Update { .. } | Command::Evict { .. } | Command::Raise { .. } => true,
        }
    }

    /// Whether a word from this node reaches a leader that can commit.
    fn leads(&self, from: usize) -> bool {
        let is_up = |leader: &Leader| self.machines[leader.machine].cut_at.is_none();
        let reaches = self.machines[from].cut_at.is_none();
        let has_quorum = self.raft.has_quorum(&self.reached());
        has_quorum && self.leader.as_ref().is_some_and(|leader| is_up(leader) && reaches)
    }

    pub(crate) fn is_leader(&self, node: usize) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.machine == node)
    }

    /// A leader that was just cut off does not know it yet and acknowledges its own beats.
    fn acknowledge(&mut self, from: usize, life: u64, run: NodeRun, sent_at: BootTime) {
        if !self.leads(from) && !self.is_leader(from) {
            return;
        }
        if let Some(current) = self.hear_beat(run) {
            self.send(from, Packet::BeatAnswer { to: from, life, run, sent_at, current });
        }
    }

    fn judge(&mut self, to: usize, life: u64, id: ConnectionId) {
        let verdict = match self.chance.below(8) {
            0 => Verdict::Refused { status: 403 },
            1 => Verdict::Unknown { status: 504 },
            _ => Verdict::Accepted,
        };
        self.backend.entry(id).or_default().verdict = Some(verdict);
        let now = self.start + self.now;
        if let Some(process) = self.process(to, life) {
            let wishes = process.on_verdict(id, now, verdict);
            self.grant(to, wishes);
        }
    }

    fn process(&mut self, index: usize, life: u64) -> Option<&mut Process> {
        self.machines[index].process.as_mut().filter(|process| process.life == life)
    }

    /// What the node's own clock shows.
    pub(crate) fn boot(&self, index: usize) -> BootTime {
        let machine = &self.machines[index];
        BootTime(machine.offset + self.now * machine.rate as u32 / 1000)
    }
}
