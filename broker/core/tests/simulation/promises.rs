//! What must hold: at each step, at the end of a drain, and when all is calm.

use std::collections::BTreeSet;

use posthorn_core::connection::Verdict;
use posthorn_core::drain::Left;
use posthorn_core::ids::{ConnectionId, DiskId, NodeId, NodeRun};
use posthorn_core::placement::{self, Located};

use crate::told::Happened;
use crate::world::{Called, World};

impl World {
    pub(crate) fn assert_promises(&self) {
        self.raft.assert_one_voter_a_node();
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

    /// Where nothing was left to others, each backend was told, and the directory has forgotten them.
    pub(crate) fn assert_drained(&mut self, run: Option<NodeRun>, left: Left) {
        if run.is_none() || left != (Left { connections: 0, unsettled: 0 }) {
            return self.told.count(Happened::DrainedInPart);
        }
        self.told.count(Happened::Drained);
        for (id, called) in self.backend.iter().filter(|(_, called)| called.by == run) {
            assert!(!called.is_owed() || called.disconnects > 0, "{id} was drained untold");
            let held = self.truth.entry(*id);
            assert!(held.is_none(), "{id} was drained and is held: {held:?}");
        }
    }

    /// All is healed and quiet: the directory holds exactly what is open, nothing is owed, and those are
    /// members and vote who should.
    pub(crate) fn assert_settled(&self) {
        for process in self.machines.iter().filter_map(|machine| machine.process.as_ref()) {
            assert!(!process.is_draining(), "{} does not come to an end", process.node);
            let node = process.node;
            assert!(process.replica == self.truth, "{node}'s replica tells another story");
        }
        let open = |(id, called): (&ConnectionId, &Called)| called.open.then_some(*id);
        let opened: BTreeSet<_> = self.backend.iter().filter_map(open).collect();
        let held: BTreeSet<_> = self.truth.entries().map(|(id, _)| id).collect();
        assert_eq!(held, opened, "the directory and the sockets disagree");
        for (id, called) in &self.backend {
            assert!(
                !called.is_owed() || called.open || called.disconnects > 0,
                "{id}: no $disconnect"
            );
            assert!(!called.open || called.disconnects == 0, "{id}: open, yet $disconnect");
        }
        self.assert_group();
    }

    fn assert_group(&self) {
        let wanted = self.machines.iter().enumerate().filter(|(_, machine)| machine.is_wanted);
        let wanted: Vec<(NodeId, Option<DiskId>)> = wanted
            .map(|(index, machine)| (NodeId(index as u32), machine.disk.map(|disk| disk.id)))
            .collect();
        let members: BTreeSet<_> =
            self.raft.members.iter().map(|(disk, node)| (*node, Some(*disk))).collect();
        assert_eq!(members, wanted.iter().copied().collect(), "who is wanted is a member");
        let seats = wanted.len().min(self.voters_max);
        let seats = if seats.is_multiple_of(2) { seats - 1 } else { seats };
        let lowest = wanted.iter().take(seats).filter_map(|(_, disk)| *disk).collect();
        assert_eq!(self.raft.voters, [lowest], "the lowest ordinals vote: {:?}", self.raft);
    }
}

impl Called {
    fn is_owed(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Accepted | Verdict::Unknown { .. }))
    }
}
