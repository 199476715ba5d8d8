//! A small file that remembers how far the log had come.
//!
//! sled cannot tell a bit that flipped at rest from a write that a crash cut short: it drops what it
//! cannot read, and with it perhaps a vote, without a word. The witness is another file that says
//! how many batches had reached the disk, so that a log which comes up with fewer is not believed.
//!
//! Invariants:
//!
//! * It never says more than what is on the disk: it is written after each sync of the log. It may
//!   say less, as it is itself never synced; what it lost in a power cut it cannot miss.
//! * Of its two slots one is being written while the other stays whole.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::format::Damage;
use crate::consensus::types::RaftId;

/// Each slot in a disk sector of its own, so that writing one cannot tear the other.
const SLOT_BYTES: u64 = 4096;
const SLOTS: u64 = 2;
const RECORD_BYTES: usize = 20;

#[derive(Debug)]
pub(super) struct Witness {
    file: File,
    raft_id: RaftId,
}

impl Witness {
    /// The file, and what it knows if it knows anything.
    pub(super) fn open(path: &Path) -> io::Result<(File, Result<Option<Record>, Damage>)> {
        let file =
            File::options().read(true).write(true).create(true).truncate(false).open(path)?;
        let slots = [read_slot(&file, 0)?, read_slot(&file, 1)?];
        let known = slots.iter().filter_map(|slot| match slot {
            Slot::Record(record) => Some(*record),
            Slot::Empty | Slot::Torn => None,
        });
        let known = known.max_by_key(|record| record.sequence);
        let verdict = match (known, slots.contains(&Slot::Torn)) {
            (None, true) => Err(Damage::WrongWitness),
            (known, _) => Ok(known),
        };
        Ok((file, verdict))
    }

    pub(super) fn new(file: File, raft_id: RaftId) -> Witness {
        Witness { file, raft_id }
    }

    /// The log is on the disk up to its batch `sequence`.
    pub(super) fn on_synced(&self, sequence: u64) -> io::Result<()> {
        let record = Record { sequence, raft_id: self.raft_id };
        self.file.write_all_at(&record.seal(), sequence % SLOTS * SLOT_BYTES)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) sequence: u64,
    pub(super) raft_id: RaftId,
}

#[derive(Debug, PartialEq, Eq)]
enum Slot {
    Empty,
    Torn,
    Record(Record),
}

impl Record {
    fn seal(self) -> [u8; RECORD_BYTES] {
        let mut sealed = [0; RECORD_BYTES];
        sealed[..8].copy_from_slice(&self.sequence.to_le_bytes());
        sealed[8..16].copy_from_slice(&self.raft_id.to_le_bytes());
        let checksum = crc32fast::hash(&sealed[..16]);
        sealed[16..].copy_from_slice(&checksum.to_le_bytes());
        sealed
    }
}

fn read_slot(file: &File, slot: u64) -> io::Result<Slot> {
    let mut sealed = [0; RECORD_BYTES];
    match file.read_exact_at(&mut sealed, slot * SLOT_BYTES) {
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Slot::Empty),
        Err(error) => return Err(error),
    }
    if sealed == [0; RECORD_BYTES] {
        return Ok(Slot::Empty);
    }
    let [a, b, c, d, e, f, g, h, rest @ ..] = sealed;
    let [i, j, k, l, m, n, o, p, ..] = rest;
    let record = Record {
        sequence: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        raft_id: u64::from_le_bytes([i, j, k, l, m, n, o, p]),
    };
    Ok(if record.seal() == sealed { Slot::Record(record) } else { Slot::Torn })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_latest_batch_also_when_writing_the_next_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("witness");
        let (file, known) = Witness::open(&path).unwrap();
        assert_eq!(known, Ok(None));

        let witness = Witness::new(file, 7);
        for sequence in 1..=3 {
            witness.on_synced(sequence).unwrap();
        }
        assert_eq!(known_by(&path), Ok(Some(Record { sequence: 3, raft_id: 7 })));

        witness.file.write_all_at(&[0xff; 8], SLOT_BYTES).unwrap();
        assert_eq!(known_by(&path), Ok(Some(Record { sequence: 2, raft_id: 7 })));
        witness.file.write_all_at(&[0xff; 8], 0).unwrap();
        assert_eq!(known_by(&path), Err(Damage::WrongWitness));
    }

    fn known_by(path: &Path) -> Result<Option<Record>, Damage> {
        Witness::open(path).unwrap().1
    }
}
