//! What the leader does: it has the silent evicted, admits nodes, and takes the steps that the
//! membership asks for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use posthorn_core::admission::{Admission, Asked, Candidate};
use posthorn_core::directory::Command;
use posthorn_core::group::{Following, Group};
use posthorn_core::ids::{DiskId, NodeId, NodeRun};
use posthorn_core::liveness::{BootTime, FailureDetector};
use posthorn_core::membership::{Membership, Rules, Step};

use crate::process::Process;
use crate::raft::{Raft, is_majority};
use crate::told::Happened;
use crate::world::{DELAY_MAX, Packet, World};

const PATIENCE: Duration = Duration::from_millis(3000);
const ABSENCE_MAX: Duration = Duration::from_millis(4000);
/// A member that has answered nothing for so long does not count as live.
const SILENCE_MAX: Duration = Duration::from_millis(300);
/// Entries that a log may lack and still be taken for caught up.
const LAG_MAX: usize = 8;
/// Steps of the world between two looks at the group.
const LOOK_STEPS: u32 = 5;

pub(crate) struct Leader {
    term: u64,
    pub(crate) machine: usize,
    pub(crate) life: u64,
    pub(crate) disk: DiskId,
    /// How much of the log its replica must have before it speaks.
    begins_at: usize,
    pub(crate) detector: FailureDetector,
    membership: Membership,
    heard: BTreeMap<DiskId, Duration>,
    /// Evictions that are being committed.
    evicting: BTreeSet<NodeRun>,
    /// When the change of voters under way is to be finished.
    settles_at: Option<Duration>,
    looks_in: u32,
}

impl World {
    pub(crate) fn new_leader(
        &self,
        term: u64,
        (machine, life, disk): (usize, u64, DiskId),
    ) -> Leader {
        let rules = Rules { voters_max: self.voters_max, absence_max: ABSENCE_MAX };
        Leader {
            term,
            machine,
            life,
            disk,
            begins_at: self.raft.log.len(),
            detector: FailureDetector::new(PATIENCE),
            membership: Membership::new(rules),
            heard: BTreeMap::new(),
            evicting: BTreeSet::new(),
            settles_at: None,
            looks_in: 0,
        }
    }

    /// Whether somebody leads who has a quorum and knows all that was committed before him.
    pub(crate) fn is_governed(&self) -> bool {
        let Some(leader) = &self.leader else { return false };
        let machine = &self.machines[leader.machine];
        let has_begun = |process: &Process| process.applied >= leader.begins_at;
        machine.cut_at.is_none()
            && machine.process.as_ref().is_some_and(has_begun)
            && self.raft.has_quorum(&self.reached())
    }

    pub(crate) fn govern(&mut self) {
        if !self.is_governed() {
            return;
        }
        self.evict();
        let reached = self.reached();
        let now = self.now;
        let Some(leader) = &mut self.leader else { return };
        leader.heard.extend(reached.iter().map(|disk| (*disk, now)));
        match leader.settles_at {
            Some(at) if at <= now => self.settle_voters(),
            Some(_) => (),
            None if leader.looks_in > 0 => leader.looks_in -= 1,
            None => self.take_step(),
        }
    }

    /// A run says that it lives. None if that is not the leader's to say.
    pub(crate) fn hear_beat(&mut self, run: NodeRun) -> Option<bool> {
        let leader = self.leader.as_ref()?;
        let process = self.machines[leader.machine].process.as_ref()?;
        if process.applied < leader.begins_at {
            return None;
        }
        let known = process.replica.run(run).filter(|known| known.evicted_at.is_none());
        let is_member = known.is_some_and(|known| self.raft.members.contains_key(&known.disk));
        let boot = self.boot(leader.machine);
        Some(is_member && self.leader.as_mut()?.detector.on_beat(boot, run))
    }

    pub(crate) fn on_eviction(&mut self, term: u64, run: NodeRun) {
        let Some(leader) = self.leader.as_mut().filter(|leader| leader.term == term) else {
            return;
        };
        leader.evicting.remove(&run);
        if self.is_governed() {
            self.told.count(Happened::Evicted);
            self.commit(Command::Evict { run });
        }
    }

    pub(crate) fn admit(&mut self, candidate: Candidate) -> Option<Admission> {
        if !self.is_governed() {
            return None;
        }
        let (group, boot) = self.look()?;
        let leader = self.leader.as_mut()?;
        leader.membership.on_seen(boot, &group);
        let replica = &self.machines[leader.machine].process.as_ref()?.replica;
        match leader.membership.admit(candidate, &group, replica).expect("it may be a member") {
            Asked::Told(admission) => Some(admission),
            Asked::Admit { stale } => {
                for disk in stale {
                    assert!(!self.raft.voters.iter().flatten().any(|voter| *voter == disk));
                    self.raft.members.remove(&disk);
                }
                self.raft.members.insert(candidate.disk, candidate.node);
                self.raft.acknowledge(&self.reached(), &mut self.chance);
                self.told.count(Happened::Admitted);
                Some(Admission::Member)
            }
        }
    }

    /// An operator wants to be rid of a node.
    pub(crate) fn remove(&mut self, node: NodeId) {
        if !self.is_governed() {
            return;
        }
        let Some((group, boot)) = self.look() else { return };
        let Some(leader) = &mut self.leader else { return };
        // Where it cannot be now, it is asked for again.
        let _ = leader.membership.remove(boot, node, &group);
    }

    /// He no longer does.
    pub(crate) fn keep(&mut self, node: NodeId) {
        if let Some(leader) = &mut self.leader {
            leader.membership.forget(node);
        }
    }

    /// Another is to lead, one of whom this one knows or anybody.
    pub(crate) fn hand_over(&mut self, successor: Option<DiskId>) {
        self.leader = None;
        self.successor = successor;
        self.told.count(Happened::HandedOver);
    }

    fn evict(&mut self) {
        let Some(machine) = self.leader.as_ref().map(|leader| leader.machine) else { return };
        let boot = self.boot(machine);
        let (Some(leader), Some(process)) = (&mut self.leader, &self.machines[machine].process)
        else {
            return;
        };
        leader.detector.watch(boot, process.replica.current_runs().map(|(run, _)| run));
        let silent: Vec<_> = leader.detector.silent(boot).collect();
        let term = leader.term;
        for run in silent {
            if self.leader.as_mut().is_some_and(|leader| leader.evicting.insert(run)) {
                self.later(Packet::Eviction { term, run });
            }
        }
    }

    fn look(&self) -> Option<(Group, BootTime)> {
        let leader = self.leader.as_ref()?;
        let process = self.machines[leader.machine].process.as_ref()?;
        let following = |disk: DiskId| {
            let heard_at = leader.heard.get(&disk).copied();
            let log = self.raft.disks.get(&disk).copied().unwrap_or_default();
            match heard_at {
                _ if disk == leader.disk => Following::Closely,
                Some(at) if at + SILENCE_MAX < self.now => Following::No,
                Some(_) if log + LAG_MAX < self.raft.log.len() => Following::FarBehind,
                Some(_) => Following::Closely,
                None => Following::No,
            }
        };
        let Raft { voters, members, .. } = &self.raft;
        let group = Group::seen(leader.disk, voters.clone(), members, &process.replica, following);
        Some((group, self.boot(leader.machine)))
    }

    fn take_step(&mut self) {
        let Some((group, boot)) = self.look() else { return };
        let Some(leader) = &mut self.leader else { return };
        leader.looks_in = LOOK_STEPS;
        leader.membership.on_seen(boot, &group);
        let Some(step) = leader.membership.next_step(boot, &group) else { return };
        let mut after = group.clone();
        after.take(step);
        self.assert_keeps_quorum(step, &group, &after);
        self.told.count(match step {
            Step::Settle => Happened::Settled,
            Step::Promote(_) => Happened::Promoted,
            Step::Demote(_) => Happened::Demoted,
            Step::Replace { .. } => Happened::Replaced,
            Step::Dismiss(_) => Happened::Dismissed,
            Step::HandOver { to } => return self.hand_over(Some(to)),
        });
        let reached = self.reached();
        if let Step::Dismiss(learner) = step {
            assert!(!self.raft.voters.iter().flatten().any(|voter| *voter == learner));
            let node = self.raft.members.remove(&learner);
            let is_gone = !self.raft.members.values().any(|other| Some(*other) == node);
            if let (Some(node), true, Some(leader)) = (node, is_gone, &mut self.leader) {
                leader.membership.forget(node);
                self.told.count(Happened::Removed);
            }
            return self.raft.acknowledge(&reached, &mut self.chance);
        }
        let Some(new) = after.voters.pop() else { return };
        let mut changing = self.raft.voters.clone();
        changing.push(new);
        if changing.iter().all(|voters| is_majority(voters, &reached)) {
            self.raft.voters = changing;
            self.raft.acknowledge(&reached, &mut self.chance);
            let settles_at = self.now + self.chance.up_to(DELAY_MAX);
            if let Some(leader) = &mut self.leader {
                leader.settles_at = Some(settles_at);
            }
        }
    }

    /// What two sets had to agree on is the new one's alone.
    fn settle_voters(&mut self) {
        let reached = self.reached();
        let Some(new) = self.raft.voters.last().cloned() else { return };
        let Some(leader) = &mut self.leader else { return };
        leader.settles_at = None;
        if !is_majority(&new, &reached) {
            return;
        }
        let leads_on = new.contains(&leader.disk);
        self.raft.voters = vec![new];
        self.raft.acknowledge(&reached, &mut self.chance);
        if !leads_on {
            self.leader = None;
        }
    }

    /// Who is heard can vote.
    fn assert_keeps_quorum(&self, step: Step, before: &Group, after: &Group) {
        let Some(leader) = &self.leader else { return };
        let heard = leader.heard.iter().filter(|(_, at)| **at + SILENCE_MAX >= self.now);
        let mut live: BTreeSet<_> = heard.map(|(disk, _)| *disk).collect();
        live.insert(leader.disk);
        if before.voters.iter().all(|voters| is_majority(voters, &live)) {
            let has_quorum = after.voters.iter().all(|voters| is_majority(voters, &live));
            assert!(has_quorum, "{step:?} of {before:?} costs the quorum");
        }
    }
}
