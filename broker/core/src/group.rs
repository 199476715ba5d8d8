//! The raft group as its leader sees it, and what a step makes of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::directory::Directory;
use crate::ids::{DiskId, NodeId};
use crate::membership::Step;

/// The raft group as its leader sees it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub leader: DiskId,
    /// More than one set while a change of voters is under way.
    pub voters: Vec<BTreeSet<DiskId>>,
    /// Voters and learners.
    pub members: BTreeMap<DiskId, Member>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    pub sight: Sight,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// The node's current run holds this disk, and it answers the leader. Its log lacks the last few
    /// entries at most.
    CaughtUp,
    /// As above, with a log that is far behind.
    Behind,
    /// No run holds this disk, or it does not answer.
    Silent,
    /// The node's current run holds another member's disk.
    Replaced,
}

/// What raft says of a member's log to its leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// It has not answered lately.
    No,
    FarBehind,
    /// It lacks the last few entries at most.
    Closely,
}

impl Group {
    /// What raft and the directory say, taken together.
    pub fn seen(
        leader: DiskId,
        voters: Vec<BTreeSet<DiskId>>,
        nodes: &BTreeMap<DiskId, NodeId>,
        directory: &Directory,
        following: impl Fn(DiskId) -> Following,
    ) -> Group {
        let sight = |disk: DiskId, node: NodeId| {
            let run = directory.current(node).and_then(|run| directory.run(run));
            match (run.map(|run| run.disk), following(disk)) {
                (Some(acting), _) if acting != disk && nodes.contains_key(&acting) => {
                    Sight::Replaced
                }
                (Some(acting), Following::Closely) if acting == disk => Sight::CaughtUp,
                (Some(acting), Following::FarBehind) if acting == disk => Sight::Behind,
                (Some(_) | None, _) => Sight::Silent,
            }
        };
        let member = |(disk, node): (&DiskId, &NodeId)| {
            (*disk, Member { node: *node, sight: sight(*disk, *node) })
        };
        Group { leader, voters, members: nodes.iter().map(member).collect() }
    }

    /// What the group is after a step.
    pub fn take(&mut self, step: Step) {
        match step {
            Step::Settle => self.settle(),
            Step::HandOver { to } => self.leader = to,
            Step::Dismiss(disk) => drop(self.members.remove(&disk)),
            Step::Promote(by) => self.move_voters(None, Some(by)),
            Step::Demote(voter) => self.move_voters(Some(voter), None),
            Step::Replace { voter, by } => self.move_voters(Some(voter), Some(by)),
        }
    }

    /// Whether any member is of this node.
    pub fn has(&self, node: NodeId) -> bool {
        self.members.values().any(|member| member.node == node)
    }

    /// Who has no vote any more leads no longer: one of those who have it does.
    fn settle(&mut self) {
        self.voters = self.voters.split_off(self.voters.len() - 1);
        let voters = self.voters.iter().flatten();
        if !voters.clone().any(|voter| *voter == self.leader) {
            let live = voters.copied().filter(|voter| self.is_live(*voter));
            let best = live.min_by_key(|voter| self.sight(*voter) != Some(Sight::CaughtUp));
            self.leader = best.unwrap_or(self.leader);
        }
    }

    fn move_voters(&mut self, going: Option<DiskId>, coming: Option<DiskId>) {
        for voters in &mut self.voters {
            voters.retain(|voter| Some(*voter) != going);
            voters.extend(coming);
        }
    }

    pub(crate) fn node(&self, disk: DiskId) -> Option<NodeId> {
        self.members.get(&disk).map(|member| member.node)
    }

    pub(crate) fn sight(&self, disk: DiskId) -> Option<Sight> {
        self.members.get(&disk).map(|member| member.sight)
    }

    /// Who leads lives, whatever the directory says of its run.
    pub(crate) fn is_live(&self, disk: DiskId) -> bool {
        let sees = matches!(self.sight(disk), Some(Sight::CaughtUp | Sight::Behind));
        sees || disk == self.leader
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Command;
    use crate::ids::NodeRun;

    #[test]
    fn a_member_is_seen_by_what_its_node_acts_from_and_by_how_it_follows() {
        let mut directory = Directory::default();
        for (node, disk) in [(0, 0), (1, 1), (2, 12), (3, 13)] {
            let run = NodeRun { node: NodeId(node), incarnation: 1 };
            let fabric_address = "node".into();
            directory.apply(&Command::Join { run, disk: DiskId(disk), fabric_address });
        }
        // Node 3 acts from a disk that is no member's, and node 4 does not act.
        let nodes = [(0, 0), (1, 1), (2, 2), (12, 2), (3, 3), (4, 4)];
        let nodes = nodes.map(|(disk, node)| (DiskId(disk), NodeId(node))).into();
        let sights = |following: Following| -> Vec<Sight> {
            let group = Group::seen(DiskId(0), Vec::new(), &nodes, &directory, |_| following);
            group.members.values().map(|member| member.sight).collect()
        };
        use Sight::{Behind, CaughtUp, Replaced, Silent};
        let closely = [CaughtUp, CaughtUp, Replaced, Silent, Silent, CaughtUp];
        assert_eq!(sights(Following::Closely), closely);
        let far_behind = [Behind, Behind, Replaced, Silent, Silent, Behind];
        assert_eq!(sights(Following::FarBehind), far_behind);
        let not = [Silent, Silent, Replaced, Silent, Silent, Silent];
        assert_eq!(sights(Following::No), not);
    }
}
