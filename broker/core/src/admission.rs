//! Whom the leader lets into the raft group.
//!
//! * A node is admitted from one disk at a time: while a run of it is current, no other disk is.
//! * A disk that was a member's and is no longer does not come back by itself.

use crate::directory::Directory;
use crate::group::Group;
use crate::ids::{DiskId, NodeId};
use crate::membership::Membership;

/// A node that asks to be a member from this disk, or whether it still is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    pub disk: DiskId,
    pub was_member: bool,
}

/// What a candidate is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Member,
    /// It was one, and is no longer.
    Outside,
    /// Another process, from another disk, acts as this node.
    Occupied,
    /// The node is just being removed.
    Leaving,
}

/// What a candidate's question comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    Told(Admission),
    /// It is to be a learner. Disks of its node that were admitted before and came to nothing leave.
    Admit {
        stale: Vec<DiskId>,
    },
}

/// Why there can be no such member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    #[error("the log on this disk is that of node {0}")]
    OfAnother(NodeId),
    #[error("there are {MEMBERS_MAX} members")]
    Full,
}

/// Voters and learners. Further nodes are not admitted.
const MEMBERS_MAX: usize = 1024;

impl Membership {
    /// A node asks.
    pub fn admit(
        &self,
        candidate: Candidate,
        group: &Group,
        directory: &Directory,
    ) -> Result<Asked, AdmitError> {
        let Candidate { node, disk, was_member } = candidate;
        match group.members.get(&disk) {
            Some(member) if member.node != node => Err(AdmitError::OfAnother(member.node)),
            Some(_) => Ok(Asked::Told(Admission::Member)),
            None if was_member => Ok(Asked::Told(Admission::Outside)),
            None if self.is_leaving(node) => Ok(Asked::Told(Admission::Leaving)),
            None if directory.current(node).is_some() => Ok(Asked::Told(Admission::Occupied)),
            None if group.members.len() >= MEMBERS_MAX => Err(AdmitError::Full),
            None => {
                let is_stale = |disk: &DiskId| {
                    group.node(*disk) == Some(node)
                        && !group.voters.iter().any(|voters| voters.contains(disk))
                };
                let stale = group.members.keys().copied().filter(is_stale).collect();
                Ok(Asked::Admit { stale })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Command;
    use crate::group::{Member, Sight};
    use crate::ids::NodeRun;
    use crate::liveness::BootTime;
    use crate::membership::Rules;
    use std::time::Duration;

    #[test]
    fn a_node_is_admitted_from_one_disk_at_a_time() {
        let member = |node| Member { node: NodeId(node), sight: Sight::Silent };
        let mut group = Group {
            leader: disk(0),
            voters: vec![[disk(0)].into()],
            members: [(disk(0), member(0)), (disk(1), member(1))].into(),
        };
        let mut membership =
            Membership::new(Rules { voters_max: 3, absence_max: Duration::from_secs(300) });
        let mut directory = Directory::default();
        let candidate =
            |node, number| Candidate { node: NodeId(node), disk: disk(number), was_member: false };
        let told = |admission| Ok(Asked::Told(admission));
        let known = membership.admit(candidate(1, 1), &group, &directory);
        assert_eq!(known, told(Admission::Member));
        let other = membership.admit(candidate(2, 1), &group, &directory);
        assert_eq!(other, Err(AdmitError::OfAnother(NodeId(1))));

        let new = candidate(1, 11);
        let stale = Ok(Asked::Admit { stale: vec![disk(1)] });
        assert_eq!(membership.admit(new, &group, &directory), stale);
        let was_member = Candidate { was_member: true, ..new };
        assert_eq!(membership.admit(was_member, &group, &directory), told(Admission::Outside));
        assert_eq!(membership.remove(at(0), NodeId(1), &group), Ok(()));
        assert_eq!(membership.admit(new, &group, &directory), told(Admission::Leaving));
        membership.forget(NodeId(1));
        let run = NodeRun { node: NodeId(1), incarnation: 1 };
        directory.apply(&Command::Join { run, disk: disk(1), fabric_address: "node".into() });
        assert_eq!(membership.admit(new, &group, &directory), told(Admission::Occupied));
        directory.apply(&Command::Evict { run });

        group.voters[0].insert(disk(1));
        let beside = Ok(Asked::Admit { stale: vec![] });
        assert_eq!(membership.admit(new, &group, &directory), beside, "a voter stays");
        group
            .members
            .extend((100..100 + MEMBERS_MAX as u32).map(|number| (disk(number), member(number))));
        assert_eq!(membership.admit(new, &group, &directory), Err(AdmitError::Full));
    }

    fn disk(number: u32) -> DiskId {
        DiskId(number.into())
    }

    fn at(second: u64) -> BootTime {
        BootTime(Duration::from_secs(second))
    }
}
