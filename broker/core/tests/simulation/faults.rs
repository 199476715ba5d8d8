//! What happens to nodes: crashes, cuts, lost disks; and what their operator does with them.

use posthorn_core::ids::{ConnectionId, DiskId, NodeId};

use crate::process::Process;
use crate::told::Happened;
use crate::world::{Disk, World};

impl World {
    pub(crate) fn disturb(&mut self, index: usize) {
        let is_member = self.is_member(index);
        let machine = &mut self.machines[index];
        if !self.calm && self.chance.one_in(1200) {
            machine.is_wanted = !machine.is_wanted;
        }
        match &machine.process {
            None if (machine.is_wanted || (self.calm && is_member))
                && (self.calm || self.chance.one_in(40)) =>
            {
                self.start(index);
            }
            None => (),
            // It has not been let in, and is not to be.
            Some(process) if !machine.is_wanted && !is_member && !process.is_member() => {
                self.crash(index);
            }
            Some(_) if self.calm => (),
            Some(_) if self.chance.one_in(400 * self.peace) => self.crash(index),
            Some(_) if self.chance.one_in(800 * self.peace) => self.lose_disk(index),
            Some(_) if self.chance.one_in(400) => self.terminate(index),
            Some(_) if machine.cut_at.is_none() && self.chance.one_in(300 * self.peace) => {
                machine.cut_at = Some(self.now);
            }
            Some(_) if machine.cut_at.is_some() && self.chance.one_in(100) => {
                machine.cut_at = None;
            }
            Some(_) => self.move_clients(index),
        }
    }

    /// A leader dies in the middle of a change of voters more often than chance would have it.
    pub(crate) fn disturb_leader(&mut self) {
        let Some(index) = self.leader.as_ref().map(|leader| leader.machine) else { return };
        if !self.calm && self.raft.voters.len() > 1 && self.chance.one_in(12) {
            self.crash(index);
        }
    }

    /// Who is not wanted leaves, whether he is there or not. Who is wanted again stays.
    pub(crate) fn operate(&mut self) {
        let is_now = self.calm || self.chance.one_in(30);
        for index in 0..self.machines.len() {
            let node = NodeId(index as u32);
            if self.machines[index].is_wanted {
                self.keep(node);
            } else if is_now && self.is_member(index) {
                self.remove(node);
            }
        }
    }

    pub(crate) fn crash(&mut self, index: usize) {
        if let Some(process) = self.machines[index].process.take() {
            for id in process.connections.keys() {
                self.backend.entry(*id).or_default().open = false;
            }
        }
    }

    fn start(&mut self, index: usize) {
        self.lives += 1;
        let (life, boot) = (self.lives, self.boot(index));
        let disk = match self.machines[index].disk {
            Some(disk) => disk,
            None => self.new_disk(),
        };
        let machine = &mut self.machines[index];
        machine.disk = Some(disk);
        let identity = (NodeId(index as u32), disk.id);
        machine.process = Some(Process::new(identity, life, disk.incarnation, boot));
    }

    /// A raft ID that nobody has had, and no log.
    pub(crate) fn new_disk(&mut self) -> Disk {
        let id = DiskId(self.chance.below(u64::MAX));
        assert_eq!(self.raft.disks.insert(id, 0), None, "a lost disk is back");
        Disk { id, incarnation: None }
    }

    fn lose_disk(&mut self, index: usize) {
        if let Some(disk) = self.machines[index].disk
            && self.raft.can_lose(disk.id)
        {
            self.crash(index);
            self.machines[index].disk = None;
            self.raft.disks.remove(&disk.id);
            self.told.count(Happened::DiskLost);
        }
    }

    /// SIGTERM.
    fn terminate(&mut self, index: usize) {
        let now = self.start + self.now;
        if let Some(process) = &mut self.machines[index].process
            && !process.is_draining()
        {
            process.drain(now);
            if self.is_leader(index) {
                self.told.count(Happened::LeaderDrained);
            }
        }
    }

    fn move_clients(&mut self, index: usize) {
        let boot = self.boot(index);
        let Some(process) = &mut self.machines[index].process else { return };
        let ids: Vec<_> = process.connections.keys().copied().collect();
        let wishes = if process.lets_in(boot) && self.chance.one_in(6) {
            process.open(ConnectionId::from_random(self.chance.bits()))
        } else if !ids.is_empty() && self.chance.one_in(8) {
            process.on_left(ids[self.chance.below(ids.len() as u64) as usize])
        } else {
            return;
        };
        self.grant(index, wishes);
    }
}
