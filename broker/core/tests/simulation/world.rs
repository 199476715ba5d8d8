//! The network, the log, the backend, the faults, and what must hold.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use posthorn_core::connection::Verdict;
use posthorn_core::directory::{Applied, Command, Directory};
use posthorn_core::ids::{ConnectionId, NodeId, NodeRun};
use posthorn_core::liveness::{BootTime, FailureDetector};
use posthorn_core::placement::{self, Located};

use crate::chance::Chance;
use crate::process::{Process, Wish};

const PATIENCE: Duration = Duration::from_millis(3000);
/// A cut-off leader takes itself for one no longer than this; nobody else is elected sooner.
const ELECTION: Duration = Duration::from_millis(500);
const STEP: Duration = Duration::from_millis(20);
const DELAY_MAX: Duration = Duration::from_millis(150);
const STEPS: u64 = 1200;
/// Longer than patience, the longest delay and a few calls together.
const SETTLING_STEPS: u64 = 800;

pub(crate) struct World {
    chance: Chance,
    start: Instant,
    now: Duration,
    machines: Vec<Machine>,
    lives: u64,
    leader: Option<Leader>,
    /// Every command in the order of the log, and the directory after the last.
    log: Vec<Command>,
    truth: Directory,
    /// What is on its way, by the time of its arrival.
    network: BTreeMap<(Duration, u64), Packet>,
    packets: u64,
    backend: BTreeMap<ConnectionId, Called>,
    calm: bool,
    told: Told,
}

struct Machine {
    /// Speed of its clock in parts of a thousand, and what it showed at the start.
    rate: u64,
    offset: Duration,
    disk: Option<u32>,
    process: Option<Process>,
    cut_at: Option<Duration>,
}

struct Leader {
    machine: usize,
    life: u64,
    detector: FailureDetector,
    since: Duration,
}

#[derive(Default)]
struct Called {
    verdict: Option<Verdict>,
    disconnects: u32,
    /// The client has seen its 101 and not yet the end.
    open: bool,
}

enum Packet {
    Proposal { from: usize, life: u64, command: Command },
    Answer { to: usize, life: u64, command: Command, applied: Applied },
    Beat { from: usize, life: u64, run: NodeRun, sent_at: BootTime },
    BeatAnswer { to: usize, life: u64, run: NodeRun, sent_at: BootTime, current: bool },
    Verdict { to: usize, life: u64, id: ConnectionId },
    Disconnected { to: usize, life: u64, id: ConnectionId },
}

/// How much happened: what the test demands to see.
#[derive(Debug, Default)]
pub(crate) struct Told {
    opened: u64,
    evicted: u64,
    repeated: u64,
    fenced: u64,
    heirs_called: u64,
    elections: u64,
}

impl Told {
    pub(crate) fn add(&mut self, other: &Told) {
        let Told { opened, evicted, repeated, fenced, heirs_called, elections } = other;
        self.opened += opened;
        self.evicted += evicted;
        self.repeated += repeated;
        self.fenced += fenced;
        self.heirs_called += heirs_called;
        self.elections += elections;
    }

    pub(crate) fn is_eventful(&self) -> bool {
        let Told { opened, evicted, repeated, fenced, heirs_called, elections } = self;
        [opened, evicted, repeated, fenced, heirs_called, elections]
            .iter()
            .all(|count| **count > 50)
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let mut chance = Chance::new(seed);
        let size = 3 + chance.below(2) * 2;
        let machines = (0..size).map(|_| Machine {
            // Slowest to fastest is 1.4, just inside patience / lease.
            rate: 850 + chance.below(341),
            offset: Duration::from_secs(chance.below(1000)),
            disk: None,
            process: None,
            cut_at: None,
        });
        World {
            machines: machines.collect(),
            chance,
            start: Instant::now(),
            now: Duration::ZERO,
            lives: 0,
            leader: None,
            log: Vec::new(),
            truth: Directory::default(),
            network: BTreeMap::new(),
            packets: 0,
            backend: BTreeMap::new(),
            calm: false,
            told: Told::default(),
        }
    }

    pub(crate) fn run(mut self) -> Told {
        for _ in 0..STEPS {
            self.step();
        }
        self.calm = true;
        for machine in &mut self.machines {
            machine.cut_at = None;
        }
        for _ in 0..SETTLING_STEPS {
            self.step();
        }
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            assert_eq!(process.replica, self.truth, "replicas tell the same story differently");
        }
        self.assert_settled();
        self.told
    }

    fn step(&mut self) {
        self.now += STEP;
        for index in 0..self.machines.len() {
            self.disturb(index);
        }
        self.elect();
        self.deliver();
        self.evict();
        for index in 0..self.machines.len() {
            self.replicate(index);
            self.turn(index);
        }
        self.assert_promises();
    }

    fn disturb(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        match &machine.process {
            None if self.calm || self.chance.one_in(40) => {
                self.lives += 1;
                let node = NodeId(index as u32);
                let replica = Directory::default();
                machine.process = Some(Process::new(node, self.lives, machine.disk, replica));
            }
            None => (),
            Some(_) if self.calm => (),
            Some(_) if self.chance.one_in(400) => self.crash(index),
            Some(_) if machine.cut_at.is_none() && self.chance.one_in(300) => {
                machine.cut_at = Some(self.now);
            }
            Some(_) if machine.cut_at.is_some() && self.chance.one_in(120) => {
                machine.cut_at = None;
            }
            Some(_) => self.move_clients(index),
        }
    }

    fn crash(&mut self, index: usize) {
        if let Some(process) = self.machines[index].process.take() {
            for id in process.connections.keys() {
                self.backend.entry(*id).or_default().open = false;
            }
        }
    }

    fn move_clients(&mut self, index: usize) {
        let boot = self.boot(index);
        let Some(process) = &mut self.machines[index].process else { return };
        let ids: Vec<_> = process.connections.keys().copied().collect();
        let wishes = if process.may_act(boot).is_some() && self.chance.one_in(6) {
            process.open(ConnectionId::from_random(self.chance.bits()))
        } else if !ids.is_empty() && self.chance.one_in(8) {
            process.on_left(ids[self.chance.below(ids.len() as u64) as usize])
        } else {
            return;
        };
        self.grant(index, wishes);
    }

    /// Somebody who reaches a majority leads; a leader that does not, stops.
    fn elect(&mut self) {
        let reachable = |machine: &Machine| machine.process.is_some() && machine.cut_at.is_none();
        let up: Vec<_> =
            (0..self.machines.len()).filter(|i| reachable(&self.machines[*i])).collect();
        let has_majority = up.len() * 2 > self.machines.len();
        if let Some(leader) = &self.leader {
            let machine = &self.machines[leader.machine];
            let alive = machine.process.as_ref().is_some_and(|process| process.life == leader.life);
            let cut_for = machine.cut_at.map(|at| self.now - at);
            if alive && cut_for.is_none_or(|cut_for| cut_for < ELECTION) && has_majority {
                return;
            }
            self.leader = None;
        }
        let may_elect = has_majority && (self.calm || self.chance.one_in(20));
        if may_elect && let Some(machine) = up.get(self.chance.below(up.len() as u64) as usize) {
            let detector = FailureDetector::new(PATIENCE);
            let life = self.machines[*machine].process.as_ref().map_or(0, |process| process.life);
            self.leader = Some(Leader { machine: *machine, life, detector, since: self.now });
            self.told.elections += 1;
        }
    }

    fn evict(&mut self) {
        let Some(leader) = &self.leader else { return };
        if self.machines[leader.machine].cut_at.is_some() || leader.since == self.now {
            return;
        }
        let boot = self.boot(leader.machine);
        let Some(leader) = &mut self.leader else { return };
        leader.detector.watch(boot, self.truth.current_runs().map(|(run, _)| run));
        for run in leader.detector.silent(boot).collect::<Vec<_>>() {
            self.commit(Command::Evict { run });
            self.told.evicted += 1;
        }
    }

    fn commit(&mut self, command: Command) -> Applied {
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
        self.log.push(command);
        self.told.repeated += u64::from(applied == Applied::Repeated);
        self.told.fenced += u64::from(applied == Applied::Fenced);
        applied
    }

    fn replicate(&mut self, index: usize) {
        let behind = if self.calm { 0 } else { self.chance.below(6) as usize };
        let machine = &mut self.machines[index];
        let Some(process) = &mut machine.process else { return };
        if machine.cut_at.is_some() {
            return;
        }
        while process.applied + behind < self.log.len() {
            process.replica.apply(&self.log[process.applied]);
            process.applied += 1;
        }
    }

    fn turn(&mut self, index: usize) {
        let (boot, now) = (self.boot(index), self.start + self.now);
        if let Some(process) = &mut self.machines[index].process {
            let wishes = process.turn(boot, now);
            self.grant(index, wishes);
        }
    }

    fn grant(&mut self, index: usize, wishes: Vec<Wish>) {
        for wish in wishes {
            let Some(life) = self.machines[index].process.as_ref().map(|process| process.life)
            else {
                return;
            };
            match wish {
                Wish::Persist { incarnation } => {
                    self.machines[index].disk = Some(incarnation);
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
                Wish::CallConnect(id) => self.later(Packet::Verdict { to: index, life, id }),
                Wish::CallDisconnect(id) => self.call_disconnect(index, life, id),
                Wish::Settle(id) => {
                    let open = self.backend.entry(id).or_default().open;
                    assert!(!open, "{id}: an heir ends a connection that still lives");
                    self.told.heirs_called += 1;
                    self.call_disconnect(index, life, id);
                }
                Wish::Opened(id) => {
                    self.told.opened += 1;
                    self.backend.entry(id).or_default().open = true;
                }
                Wish::Closed(id) => self.backend.entry(id).or_default().open = false,
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

    fn later(&mut self, packet: Packet) {
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
                if self.leads(from) {
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
                    (Command::Update { .. } | Command::Evict { .. } | Command::Raise { .. }, _) => {
                        Vec::new()
                    }
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
            Packet::Disconnected { to, life, id } => {
                if let Some(process) = self.process(to, life) {
                    process.on_disconnected(id);
                }
            }
        }
    }

    /// Whether a word from this node reaches a leader that can commit.
    fn leads(&self, from: usize) -> bool {
        let is_up = |leader: &Leader| self.machines[leader.machine].cut_at.is_none();
        let reaches = self.machines[from].cut_at.is_none();
        self.leader.as_ref().is_some_and(|leader| is_up(leader) && reaches)
    }

    fn is_leader(&self, node: usize) -> bool {
        self.leader.as_ref().is_some_and(|leader| leader.machine == node)
    }

    /// A leader that was just cut off does not know it yet and acknowledges its own beats.
    fn acknowledge(&mut self, from: usize, life: u64, run: NodeRun, sent_at: BootTime) {
        if !self.leads(from) && !self.is_leader(from) {
            return;
        }
        let current = self.truth.is_current(run);
        let Some(machine) = self.leader.as_ref().map(|leader| leader.machine) else { return };
        let boot = self.boot(machine);
        if let Some(leader) = &mut self.leader
            && current
        {
            leader.detector.on_beat(boot, run);
        }
        self.send(from, Packet::BeatAnswer { to: from, life, run, sent_at, current });
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
    fn boot(&self, index: usize) -> BootTime {
        let machine = &self.machines[index];
        BootTime(machine.offset + self.now * machine.rate as u32 / 1000)
    }

    fn assert_promises(&self) {
        for (index, machine) in self.machines.iter().enumerate() {
            let Some(process) = &machine.process else { continue };
            let Some(run) = process.may_act(self.boot(index)) else { continue };
            assert!(self.truth.is_current(run), "{run} acts although the directory gave it up");
            for (id, client) in &process.connections {
                if client.upgraded {
                    let located = placement::locate(&self.truth, *id);
                    assert_eq!(located, Located::At(run), "{id} is open and cannot be found");
                }
            }
        }
    }

    /// All is healed and quiet: the directory holds exactly what is open, nothing is owed.
    fn assert_settled(&self) {
        let open = |(id, called): (&ConnectionId, &Called)| called.open.then_some(*id);
        let opened: BTreeSet<_> = self.backend.iter().filter_map(open).collect();
        let held: BTreeSet<_> = self.truth.entries().map(|(id, _)| id).collect();
        assert_eq!(held, opened, "the directory and the sockets disagree");
        for (id, called) in &self.backend {
            let owed = matches!(called.verdict, Some(Verdict::Accepted | Verdict::Unknown { .. }));
            assert!(!owed || called.open || called.disconnects > 0, "{id}: no $disconnect");
            assert!(!called.open || called.disconnects == 0, "{id}: open, yet $disconnect");
        }
    }
}
