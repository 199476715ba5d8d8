//! What the store has been told, whether or not it is on the disk yet, with the newest entries.
//!
//! Invariants:
//!
//! * What was appended can be read at once: an entry is held here at least until sled has it.
//! * The held entries are the last ones of the log, without a hole.
//! * Of every entry of the log, held or not, its weight is known.
//! * What sled may still have beyond either end of the log is not part of it.

use std::collections::VecDeque;
use std::ops::Range;

use super::format::Identity;
use crate::consensus::types::{LogId, RaftEntry, RaftVote};

/// Replication to members that keep up, and applying, never touch sled. What sled does not have yet
/// is held beyond these limits; the writer's mailbox bounds how much that can be.
const HELD_ENTRIES_MAX: usize = 8192;
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

#[derive(Debug)]
pub(super) struct View {
    pub(super) identity: Identity,
    /// The last vote that is on the disk.
    pub(super) vote: Option<RaftVote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    last: Option<LogId>,
    /// The index of the first entry. Meaningless while there is none.
    first: u64,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Of all entries, from the first on.
    weights: VecDeque<u32>,
    /// Grows with each write that concerns entries.
    ticket: u64,
    /// How often entries were taken back: while it stands still, an index means the same entry.
    truncations: u64,
}

#[derive(Debug)]
struct Held {
    entry: RaftEntry,
    bytes: usize,
    ticket: u64,
}

/// How to read a range of entries.
#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Held(Vec<RaftEntry>),
    /// Read these from sled, then append what was held behind them.
    Stored {
        indexes: Range<u64>,
        truncations: u64,
        held: Vec<RaftEntry>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("appending entry {index} would leave a hole: the next one is {next}")]
pub(super) struct Hole {
    index: u64,
    next: u64,
}

impl View {
    pub(super) fn new(
        identity: Identity,
        vote: Option<RaftVote>,
        committed: Option<LogId>,
        purged: Option<LogId>,
    ) -> View {
        View {
            identity,
            vote,
            committed,
            purged,
            last: purged,
            first: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            weights: VecDeque::new(),
            ticket: 0,
            truncations: 0,
        }
    }

    /// The last entry, or the last purged one if there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.last
    }

    /// Gives the ticket to hand in when sled has the entries.
    pub(super) fn append_all(&mut self, entries: &[RaftEntry]) -> Result<u64, Hole> {
        entries.iter().try_fold(self.ticket, |_, entry| self.append(entry.clone()))
    }

    /// Gives the ticket to hand in when sled has the entry.
    pub(super) fn append(&mut self, entry: RaftEntry) -> Result<u64, Hole> {
        let index = entry.log_id.index;
        match self.last {
            Some(last) if index != last.index + 1 => {
                return Err(Hole { index, next: last.index + 1 });
            }
            Some(_) | None => (),
        }
        if self.is_empty() {
            self.first = index;
        }
        self.last = Some(entry.log_id);
        self.ticket += 1;
        let bytes = weight(&entry);
        self.held_bytes += bytes;
        self.weights.push_back(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.held.push_back(Held { entry, bytes, ticket: self.ticket });
        Ok(self.ticket)
    }

    /// Takes back all entries after the given one.
    pub(super) fn truncate(&mut self, after: Option<LogId>) {
        if self.is_empty() || index(self.last) <= index(after) {
            return;
        }
        self.truncations += 1;
        self.last = if index(after) > index(self.purged) { after } else { self.purged };
        while let Some(held) = self.held.back()
            && Some(held.entry.log_id.index) > index(self.last)
        {
            self.held_bytes -= held.bytes;
            self.held.pop_back();
        }
        let left = index(self.last).map_or(0, |last| (last + 1).saturating_sub(self.first));
        self.weights.truncate(left as usize);
    }

    /// Forgets all entries up to the given one, which may be later than the last.
    pub(super) fn purge(&mut self, upto: LogId) {
        if index(self.purged) >= Some(upto.index) {
            return;
        }
        if index(self.last) <= Some(upto.index) {
            self.last = Some(upto);
        }
        self.purged = Some(upto);
        let forgotten = (upto.index + 1).saturating_sub(self.first);
        self.weights.drain(..self.weights.len().min(forgotten as usize));
        self.first = self.first.max(upto.index + 1);
        while let Some(held) = self.held.front()
            && held.entry.log_id.index <= upto.index
        {
            self.let_go_first();
        }
    }

    /// sled has all that was appended up to this ticket.
    pub(super) fn on_stored(&mut self, ticket: u64) {
        while (self.held.len() > HELD_ENTRIES_MAX || self.held_bytes > HELD_BYTES_MAX)
            && self.held.front().is_some_and(|held| held.ticket <= ticket)
        {
            self.let_go_first();
        }
    }

    /// The weight of all entries from an index on.
    pub(super) fn bytes_from(&self, index: u64) -> u64 {
        let skipped = index.saturating_sub(self.first) as usize;
        self.weights.iter().skip(skipped).map(|weight| u64::from(*weight)).sum()
    }

    /// `bytes_max` limits the entries' weight; a range that is not empty gives at least one.
    pub(super) fn plan(&self, range: Range<u64>, bytes_max: usize) -> Plan {
        let end = range.end.min(self.end());
        let start = range.start.max(self.first);
        let held_from = self.held.front().map_or(end, |held| held.entry.log_id.index);
        if start >= end {
            return Plan::Held(Vec::new());
        }
        let held = self.copy_held(start.max(held_from)..end, bytes_max);
        if start >= held_from {
            return Plan::Held(held);
        }
        let truncations = self.truncations;
        Plan::Stored { indexes: start..end.min(held_from), truncations, held }
    }

    /// Whether reading a plan's indexes may have met entries that were coming or going.
    pub(super) fn has_moved(&self, indexes: &Range<u64>, truncations: u64) -> bool {
        truncations != self.truncations || self.first > indexes.start
    }

    fn is_empty(&self) -> bool {
        self.last == self.purged
    }

    /// The index after the last entry's.
    fn end(&self) -> u64 {
        if self.is_empty() { 0 } else { self.last.map_or(0, |last| last.index + 1) }
    }

    fn copy_held(&self, indexes: Range<u64>, bytes_max: usize) -> Vec<RaftEntry> {
        let Some(front) = self.held.front() else { return Vec::new() };
        let skipped = indexes.start.saturating_sub(front.entry.log_id.index);
        let wanted = indexes.end.saturating_sub(indexes.start);
        let mut bytes = 0;
        let within = |held: &&Held| {
            let fits = bytes == 0 || bytes + held.bytes <= bytes_max;
            bytes += held.bytes;
            fits
        };
        let held = self.held.iter().skip(skipped as usize).take(wanted as usize);
        held.take_while(within).map(|held| held.entry.clone()).collect()
    }

    fn let_go_first(&mut self) {
        if let Some(held) = self.held.pop_front() {
            self.held_bytes -= held.bytes;
        }
    }
}

fn index(log_id: Option<LogId>) -> Option<u64> {
    log_id.map(|log_id| log_id.index)
}

/// About how many bytes an entry takes on the way.
pub(super) fn weight(entry: &RaftEntry) -> usize {
    const ENVELOPE: usize = 64;
    const MEMBER: usize = 64;
    match &entry.payload {
        openraft::EntryPayload::Blank => ENVELOPE,
        openraft::EntryPayload::Normal(proposal) => ENVELOPE + proposal.encoded().len(),
        openraft::EntryPayload::Membership(membership) => {
            ENVELOPE + MEMBER * membership.nodes().count()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use openraft::entry::RaftEntry as _;
    use proptest::prelude::*;

    use super::*;
    use crate::consensus::types::{LeaderId, RaftPayload};

    #[derive(Debug, Clone)]
    enum Step {
        Append(u64),
        Truncate(u64),
        Purge(u64),
        /// The writer takes what was asked for so far,
        Take,
        /// and some time later sled has what was taken.
        Store,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (1..HELD_ENTRIES_MAX as u64).prop_map(Step::Append),
            1 => (0..3000u64).prop_map(Step::Truncate),
            1 => (0..12_000u64).prop_map(Step::Purge),
            2 => Just(Step::Take),
            2 => Just(Step::Store),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// What is planned, from sled and from here together, is what a plain map of entries says.
        #[test]
        fn it_never_forgets_what_sled_does_not_have(steps in proptest::collection::vec(step(), 1..20)) {
            let mut view = empty();
            let (mut model, mut stored) = (BTreeMap::new(), BTreeMap::new());
            let mut taken = (BTreeMap::new(), 0);
            let (mut term, mut end) = (0, 0);
            for step in steps {
                match step {
                    Step::Append(count) => {
                        let entries: Vec<_> = (end..end + count).map(|at| entry(term, at)).collect();
                        view.append_all(&entries).unwrap();
                        model.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                        end += count;
                    }
                    Step::Truncate(count) => {
                        let after = end.checked_sub(count + 1);
                        let after = after.and_then(|after| model.get(&after)).map(|entry| entry.log_id);
                        view.truncate(after);
                        let first = after.or(view.purged).map_or(0, |after| after.index + 1);
                        drop(model.split_off(&first));
                        end = first;
                        term += 1;
                    }
                    Step::Purge(upto) => {
                        view.purge(log_id(term, upto));
                        model = model.split_off(&(upto + 1));
                        end = end.max(upto + 1);
                    }
                    Step::Take => taken = (model.clone(), view.ticket),
                    Step::Store => {
                        stored = taken.0.clone();
                        view.on_stored(taken.1);
                    }
                }
                let found = match view.plan(0..u64::MAX, usize::MAX) {
                    Plan::Held(entries) => entries,
                    Plan::Stored { indexes, held, .. } => {
                        let read = indexes.map(|index| stored.get(&index).cloned());
                        let read = read.collect::<Option<Vec<_>>>();
                        [read.expect("it let go of what sled did not have"), held].concat()
                    }
                };
                prop_assert!(found.iter().eq(model.values()));
                let from = model.keys().nth(model.len() / 2).copied().unwrap_or_default();
                let weight: usize = model.range(from..).map(|(_, entry)| weight(entry)).sum();
                prop_assert_eq!(view.bytes_from(from), weight as u64);
                prop_assert_eq!(view.weights.len(), model.len());
                prop_assert!(view.last().map_or(0, |last| last.index + 1) == end || model.is_empty());
            }
        }
    }

    #[test]
    fn a_plan_weighs_no_more_than_asked_but_has_an_entry() {
        let mut view = empty();
        let entries: Vec<_> = (0..10).map(|index| entry(1, index)).collect();
        view.append_all(&entries).unwrap();
        let each = weight(&entries[0]);
        assert_eq!(view.plan(2..9, 3 * each), Plan::Held(entries[2..5].to_vec()));
        assert_eq!(view.plan(2..9, 1), Plan::Held(entries[2..3].to_vec()));
        assert_eq!(view.plan(5..5, each), Plan::Held(vec![]));
        assert_eq!(view.plan(10..20, each), Plan::Held(vec![]));
    }

    #[test]
    fn a_hole_is_refused() {
        let mut view = empty();
        view.append(entry(1, 0)).unwrap();
        assert_eq!(view.append(entry(1, 2)), Err(Hole { index: 2, next: 1 }));
        view.purge(log_id(1, 7));
        assert_eq!(view.append(entry(1, 7)), Err(Hole { index: 7, next: 8 }));
        view.append(entry(1, 8)).unwrap();
    }

    fn empty() -> View {
        let identity = Identity { raft_id: 1, cluster_id: None, incarnation: None };
        View::new(identity, None, None, None)
    }

    fn entry(term: u64, index: u64) -> RaftEntry {
        RaftEntry::new(log_id(term, index), RaftPayload::Blank)
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: 1 }, index)
    }
}
