//! The raft group, as far as anything depends on it: who votes, and whose disk has how much of the log,
//! of which there is one truth.

use std::collections::{BTreeMap, BTreeSet};

use posthorn_core::directory::Command;
use posthorn_core::ids::{DiskId, NodeId};

use crate::chance::Chance;

#[derive(Default)]
pub(crate) struct Raft {
    /// Every command that was committed, in order.
    pub(crate) log: Vec<Command>,
    /// More than one set while a change is under way.
    pub(crate) voters: Vec<BTreeSet<DiskId>>,
    /// Voters and learners.
    pub(crate) members: BTreeMap<DiskId, NodeId>,
    /// How much of the log is on each disk that is not lost.
    pub(crate) disks: BTreeMap<DiskId, usize>,
}

impl Raft {
    pub(crate) fn form(&mut self, members: BTreeMap<DiskId, NodeId>) {
        self.voters = vec![members.keys().copied().collect()];
        self.members = members;
    }

    /// Whether those who are reached can agree on anything.
    pub(crate) fn has_quorum(&self, reached: &BTreeSet<DiskId>) -> bool {
        self.voters.iter().all(|voters| is_majority(voters, reached))
    }

    /// Whether there would be a quorum, were everybody there, without this disk.
    pub(crate) fn can_lose(&self, disk: DiskId) -> bool {
        let kept = self.disks.keys().copied().filter(|kept| *kept != disk).collect();
        self.has_quorum(&kept)
    }

    /// All that is in the log is on the disks of a quorum, and on some more.
    pub(crate) fn acknowledge(&mut self, reached: &BTreeSet<DiskId>, chance: &mut Chance) {
        assert!(self.has_quorum(reached), "something is committed without a quorum");
        let some: BTreeSet<_> = reached.iter().copied().filter(|_| chance.one_in(2)).collect();
        let acknowledging = if self.has_quorum(&some) { &some } else { reached };
        for disk in self.voters.iter().flatten().filter(|voter| acknowledging.contains(voter)) {
            self.disks.insert(*disk, self.log.len());
        }
    }

    /// Somebody for whom a quorum votes: for who has no less of the log than oneself.
    pub(crate) fn elect(
        &self,
        reached: &BTreeSet<DiskId>,
        successor: Option<DiskId>,
        chance: &mut Chance,
    ) -> Option<DiskId> {
        let log = |disk: &DiskId| self.disks.get(disk).expect("who is lost does not vote");
        let wins = |candidate: &&DiskId| {
            let votes = reached.iter().filter(|voter| log(voter) <= log(candidate));
            self.has_quorum(&votes.copied().collect())
        };
        let voters: BTreeSet<_> = self.voters.iter().flatten().collect();
        let winners: Vec<_> =
            reached.iter().filter(|disk| voters.contains(disk)).filter(wins).copied().collect();
        let winner = match successor.filter(|successor| winners.contains(successor)) {
            Some(successor) => successor,
            None => *winners.get(chance.below(winners.len().max(1) as u64) as usize)?,
        };
        assert_eq!(*log(&winner), self.log.len(), "{winner:?} leads and lacks what was committed");
        Some(winner)
    }

    /// No set counts two disks of one node.
    pub(crate) fn assert_one_voter_a_node(&self) {
        for voters in &self.voters {
            let nodes: BTreeSet<_> = voters.iter().map(|voter| self.members.get(voter)).collect();
            assert_eq!(nodes.len(), voters.len(), "two voters of one node: {self:?}");
            assert!(!nodes.contains(&None), "a voter is no member: {self:?}");
        }
    }
}

impl std::fmt::Debug for Raft {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Raft { log: _, voters, members, disks } = self;
        write!(f, "voters {voters:?}, members {members:?}, on disks {disks:?}")
    }
}

pub(crate) fn is_majority(voters: &BTreeSet<DiskId>, reached: &BTreeSet<DiskId>) -> bool {
    voters.intersection(reached).count() * 2 > voters.len()
}
