//! How the log lies in sled's one tree.
//!
//! | key | value |
//! |---|---|
//! | `c` | the last log ID known to be committed |
//! | `h` | the [`Head`] |
//! | `l` index chunk | a part of an entry; index in 8 bytes and chunk in 2, most significant first |
//!
//! Invariants:
//!
//! * A value is a version byte, a checksum over its key, its version and what follows, and what
//!   follows, in every version. So neither a damaged value is believed nor one that ended up under
//!   another's key, and a later version can be told from damage.
//! * A part says how many parts of its entry follow, so that a missing one is noticed.
//! * An entry names the entry before it, so that a lost one is noticed even if sled answers with one
//!   that was overwritten.
//! * No value is longer than [`VALUE_BYTES_MAX`].

use posthorn_proto::cluster::v1 as proto;
use prost::Message as _;

use crate::consensus::types::{ClusterId, LogId, RaftEntry, RaftId, RaftVote};
use crate::consensus::wire::{Wire, WireError};

/// Of everything in the store. A store of a later version is refused.
pub(super) const VERSION: u8 = 1;

/// sled keeps up to 19 values in a page, and a page of more than 128 KiB in a file of its own that it
/// never syncs.
pub(super) const VALUE_BYTES_MAX: usize = 6 * 1024;

pub(super) const HEAD_KEY: &[u8] = b"h";
pub(super) const COMMITTED_KEY: &[u8] = b"c";
const LOG_PREFIX: u8 = b'l';

const VERSION_BYTES: usize = 1;
const CHECKSUM_BYTES: usize = 4;
const FOLLOWING_BYTES: usize = 2;
const PART_BYTES_MAX: usize = VALUE_BYTES_MAX - VERSION_BYTES - CHECKSUM_BYTES - FOLLOWING_BYTES;

pub(super) type LogKey = [u8; 11];

/// What the store knows beside its entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// How many batches were written. It tells a store that forgot some.
    pub(super) sequence: u64,
    pub(super) identity: Identity,
    pub(super) vote: Option<RaftVote>,
    pub(super) purged: Option<LogId>,
    /// The last entry, or the last purged one if there is none.
    pub(super) last: Option<LogId>,
    /// The protocol version that who reads the log must speak. Says too much after an entry that
    /// raised it was taken back, which costs only a way back.
    pub(super) version: u32,
}

/// What a data directory makes a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Drawn when the directory was first opened.
    pub raft_id: RaftId,
    /// None until the node formed or joined a cluster.
    pub cluster_id: Option<ClusterId>,
    /// Of the latest run that held this directory. None before the first.
    pub incarnation: Option<u32>,
}

/// What is wrong with what the disk says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("the value of {key} has a wrong checksum")]
    Checksum { key: String },
    #[error("the value of {key} is of version {version}")]
    Version { key: String, version: u8 },
    #[error("the value of {key} is {bytes} bytes long")]
    TooShort { key: String, bytes: usize },
    #[error("the key {key} is none of ours")]
    UnknownKey { key: String },
    #[error("the value of {key} cannot be believed: {error}")]
    Undecodable { key: String, error: WireError },
    #[error("a part of entry {index} is missing")]
    PartMissing { index: u64 },
    #[error("entry {index} is missing")]
    EntryMissing { index: u64 },
    #[error("entry {index} is not the one that the next one follows")]
    EntryReplaced { index: u64 },
    #[error("the head is missing")]
    HeadMissing,
    #[error("there are snapshots and no log")]
    LogMissing,
    #[error("the log ends with {found:?} instead of {expected:?}")]
    WrongEnd { found: Option<LogId>, expected: Option<LogId> },
    #[error("{known} batches are known to have been written, but only {found} are there")]
    Forgotten { known: u64, found: u64 },
    #[error("the witness is of another store, or unreadable")]
    WrongWitness,
    #[error("{0}")]
    Engine(String),
}

pub(super) fn log_key(index: u64, chunk: u16) -> LogKey {
    let mut key = [LOG_PREFIX; 11];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

/// All keys of the entries of these indexes.
pub(super) fn log_keys(indexes: &std::ops::Range<u64>) -> std::ops::Range<Vec<u8>> {
    log_key(indexes.start, 0).to_vec()..log_key(indexes.end, 0).to_vec()
}

/// All keys of the entries from `first` on.
pub(super) fn log_keys_from(first: u64) -> std::ops::Range<Vec<u8>> {
    log_key(first, 0).to_vec()..vec![LOG_PREFIX + 1]
}

/// All keys of the entries up to `last`.
pub(super) fn log_keys_upto(last: u64) -> std::ops::RangeInclusive<Vec<u8>> {
    log_key(0, 0).to_vec()..=log_key(last, u16::MAX).to_vec()
}

/// Hands out the keys and values that an entry is to be stored as.
pub(super) fn seal_entry(
    entry: &RaftEntry,
    previous: Option<LogId>,
    mut put: impl FnMut(LogKey, Vec<u8>),
) -> Result<(), EntryTooLong> {
    let stored = proto::RaftStoredEntry {
        entry: Some(entry.to_message()),
        previous: previous.map(|previous| previous.to_message()),
    };
    let encoded = stored.encode_to_vec();
    let following = (encoded.len() - 1) / PART_BYTES_MAX;
    let following = u16::try_from(following).map_err(|_| EntryTooLong { bytes: encoded.len() })?;
    for (part, chunk) in encoded.chunks(PART_BYTES_MAX).zip(0..=following) {
        let key = log_key(entry.log_id.index, chunk);
        let following = (following - chunk).to_be_bytes();
        put(key, seal(&key, &[&following, part]));
    }
    Ok(())
}

/// 400 MB: many times what a command may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an entry of {bytes} bytes cannot be stored")]
pub(super) struct EntryTooLong {
    bytes: usize,
}

/// Puts entries together again, from the keys and values of consecutive ones in their order.
#[derive(Debug)]
pub(super) struct Assembler {
    /// The index of the entry under way, the next chunk of it, and what there is of it.
    partial: Option<(u64, u16, Vec<u8>)>,
    before: Before,
}

/// What comes before the next entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// We do not know, but this is the next entry's index.
    Some(u64),
    Nothing,
    Entry(LogId),
}

impl Assembler {
    /// For a whole log.
    pub(super) fn after(purged: Option<LogId>) -> Assembler {
        Assembler { partial: None, before: purged.map_or(Before::Nothing, Before::Entry) }
    }

    /// For entries out of the middle.
    pub(super) fn from(index: u64) -> Assembler {
        Assembler { partial: None, before: Before::Some(index) }
    }

    /// The last entry that is complete, or what the log begins after.
    pub(super) fn last(&self) -> Option<LogId> {
        match self.before {
            Before::Some(_) | Before::Nothing => None,
            Before::Entry(last) => Some(last),
        }
    }

    /// Gives the entry that the value completes, if it does.
    pub(super) fn on_value(
        &mut self,
        key: &[u8],
        value: &[u8],
    ) -> Result<Option<RaftEntry>, Damage> {
        let (index, chunk) = parse_log_key(key)?;
        let payload = unseal(key, value)?;
        let Some((following, part)) = payload.split_first_chunk::<FOLLOWING_BYTES>() else {
            return Err(Damage::TooShort { key: name(key), bytes: value.len() });
        };
        let (expected, mut encoded) = match self.partial.take() {
            Some((partial, _, _)) if partial != index => {
                return Err(Damage::PartMissing { index: partial });
            }
            Some((_, expected, encoded)) => (expected, encoded),
            None => (0, Vec::new()),
        };
        if chunk != expected {
            return Err(Damage::PartMissing { index });
        }
        encoded.extend_from_slice(part);
        if u16::from_be_bytes(*following) > 0 {
            self.partial = Some((index, chunk.saturating_add(1), encoded));
            return Ok(None);
        }
        self.complete(key, index, encoded).map(Some)
    }

    /// All values are there.
    pub(super) fn finish(&self) -> Result<(), Damage> {
        match &self.partial {
            Some((index, _, _)) => Err(Damage::PartMissing { index: *index }),
            None => Ok(()),
        }
    }

    fn complete(&mut self, key: &[u8], index: u64, encoded: Vec<u8>) -> Result<RaftEntry, Damage> {
        let (entry, previous) =
            decode_entry(encoded).map_err(|error| Damage::Undecodable { key: name(key), error })?;
        if entry.log_id.index != index {
            let error = WireError::wrong("RaftStoredEntry", "index", entry.log_id.index);
            return Err(Damage::Undecodable { key: name(key), error });
        }
        match self.before {
            Before::Some(expected) if index != expected => {
                return Err(Damage::EntryMissing { index: expected });
            }
            Before::Entry(last) if index != last.index + 1 => {
                return Err(Damage::EntryMissing { index: last.index + 1 });
            }
            Before::Entry(last) if previous != Some(last) => {
                return Err(Damage::EntryReplaced { index: last.index });
            }
            Before::Nothing if previous.is_some() => {
                return Err(Damage::EntryMissing { index: index.saturating_sub(1) });
            }
            Before::Some(_) | Before::Entry(_) | Before::Nothing => (),
        }
        self.before = Before::Entry(entry.log_id);
        Ok(entry)
    }
}

impl Head {
    pub(super) fn seal(&self) -> Vec<u8> {
        let Head { sequence, identity, vote, purged, last, version } = self;
        let Identity { raft_id, cluster_id, incarnation } = identity;
        let cluster_id = cluster_id.map(|ClusterId(id)| id.to_vec()).unwrap_or_default();
        let head = proto::RaftStoreHead {
            sequence: *sequence,
            raft_id: *raft_id,
            cluster_id: cluster_id.into(),
            incarnation: incarnation.unwrap_or(0),
            vote: vote.map(|vote| vote.to_message()),
            purged: purged.map(|purged| purged.to_message()),
            last: last.map(|last| last.to_message()),
            version: *version,
        };
        seal(HEAD_KEY, &[&head.encode_to_vec()])
    }

    pub(super) fn unseal(value: &[u8]) -> Result<Head, Damage> {
        let payload = unseal(HEAD_KEY, value)?;
        let undecodable = |error| Damage::Undecodable { key: name(HEAD_KEY), error };
        Head::decode(payload).map_err(undecodable)
    }

    fn decode(payload: &[u8]) -> Result<Head, WireError> {
        const NAME: &str = "RaftStoreHead";
        let message = proto::RaftStoreHead::decode(payload)
            .map_err(|error| WireError::NotProtobuf { message: NAME, error })?;
        let proto::RaftStoreHead { sequence, raft_id, cluster_id, .. } = &message;
        let cluster_id = match cluster_id.len() {
            0 => None,
            _ => Some(ClusterId(cluster_id[..].try_into().map_err(|_| {
                WireError::wrong(NAME, "cluster_id", format_args!("{} bytes", cluster_id.len()))
            })?)),
        };
        let incarnation = Some(message.incarnation).filter(|incarnation| *incarnation != 0);
        Ok(Head {
            sequence: *sequence,
            identity: Identity { raft_id: *raft_id, cluster_id, incarnation },
            vote: message.vote.map(RaftVote::from_message).transpose()?,
            purged: message.purged.map(LogId::from_message).transpose()?,
            last: message.last.map(LogId::from_message).transpose()?,
            version: message.version.max(1),
        })
    }
}

pub(super) fn seal_committed(committed: LogId) -> Vec<u8> {
    seal(COMMITTED_KEY, &[&committed.to_bytes()])
}

pub(super) fn unseal_committed(value: &[u8]) -> Result<LogId, Damage> {
    let payload = unseal(COMMITTED_KEY, value)?.to_vec();
    LogId::from_bytes(payload.into())
        .map_err(|error| Damage::Undecodable { key: name(COMMITTED_KEY), error })
}

/// A key, for people.
pub(super) fn name(key: &[u8]) -> String {
    match parse_log_key(key) {
        Ok((index, chunk)) => format!("entry {index}, part {chunk}"),
        Err(_) => key.escape_ascii().to_string(),
    }
}

fn decode_entry(encoded: Vec<u8>) -> Result<(RaftEntry, Option<LogId>), WireError> {
    const NAME: &str = "RaftStoredEntry";
    let proto::RaftStoredEntry { entry, previous } =
        proto::RaftStoredEntry::decode(bytes::Bytes::from(encoded))
            .map_err(|error| WireError::NotProtobuf { message: NAME, error })?;
    let entry = entry.ok_or(WireError::Missing { message: NAME, field: "entry" })?;
    Ok((RaftEntry::from_message(entry)?, previous.map(LogId::from_message).transpose()?))
}

fn parse_log_key(key: &[u8]) -> Result<(u64, u16), Damage> {
    match key {
        [LOG_PREFIX, a, b, c, d, e, f, g, h, i, j] => {
            let index = u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            Ok((index, u16::from_be_bytes([*i, *j])))
        }
        _ => Err(Damage::UnknownKey { key: key.escape_ascii().to_string() }),
    }
}

fn seal(key: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    seal_as(VERSION, key, payload)
}

pub(super) fn seal_as(version: u8, key: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    let mut value = vec![version];
    value.extend_from_slice(&checksum(key, version, payload).to_le_bytes());
    for part in payload {
        value.extend_from_slice(part);
    }
    value
}

fn unseal<'value>(key: &[u8], value: &'value [u8]) -> Result<&'value [u8], Damage> {
    let too_short = || Damage::TooShort { key: name(key), bytes: value.len() };
    let (version, rest) = value.split_first().ok_or_else(too_short)?;
    let (written, payload) = rest.split_first_chunk::<CHECKSUM_BYTES>().ok_or_else(too_short)?;
    if u32::from_le_bytes(*written) != checksum(key, *version, &[payload]) {
        return Err(Damage::Checksum { key: name(key) });
    }
    if *version != VERSION {
        return Err(Damage::Version { key: name(key), version: *version });
    }
    Ok(payload)
}

fn checksum(key: &[u8], version: u8, payload: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(&[version]);
    for part in payload {
        hasher.update(part);
    }
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use openraft::entry::RaftEntry as _;
    use posthorn_core::directory::{Command, Context};
    use posthorn_core::ids::{ConnectionId, NodeId, NodeRun};

    use super::*;
    use crate::consensus::types::{LeaderId, Proposal, RaftPayload};

    type Pairs = Vec<(LogKey, Vec<u8>)>;

    #[test]
    fn an_entry_of_any_size_is_put_together_again() {
        let max = PART_BYTES_MAX;
        for (bytes, parts) in [(0, 1), (max - 100, 1), (max, 2), (2 * max - 10, 3), (10 * max, 11)]
        {
            let (entry, pairs) = sealed(7, bytes, None);
            assert_eq!(pairs.len(), parts);
            assert!(pairs.iter().all(|(_, value)| value.len() <= VALUE_BYTES_MAX));
            assert_eq!(assemble(Assembler::after(None), &pairs), Ok(vec![entry]));
        }
    }

    #[test]
    fn what_is_missing_or_replaced_is_named() {
        let [(_, zero), (_, one), (_, two)] =
            [(0, None), (1, Some(0)), (2, Some(1))].map(|(index, previous)| {
                sealed(index, 2 * PART_BYTES_MAX, previous.map(|index| log_id(1, index)))
            });
        let whole = [zero.clone(), one.clone(), two.clone()].concat();
        assert_eq!(assemble(Assembler::after(None), &whole).map(|entries| entries.len()), Ok(3));

        let assemble = |assembler, pairs: &[&[_]]| assemble(assembler, &pairs.concat());
        let after = Assembler::after;
        let missing = |index| Err(Damage::EntryMissing { index });
        let part_missing = |index| Err(Damage::PartMissing { index });
        assert_eq!(assemble(after(None), &[&zero, &two]), missing(1));
        assert_eq!(assemble(after(None), &[&one, &two]), missing(0));
        assert_eq!(assemble(after(Some(log_id(1, 0))), &[&two]), missing(1));
        assert_eq!(assemble(Assembler::from(1), &[&two]), missing(1));
        assert_eq!(assemble(after(None), &[&zero[1..]]), part_missing(0));
        assert_eq!(assemble(after(None), &[&zero[..2]]), part_missing(0));
        assert_eq!(assemble(after(None), &[&zero[..1], &zero[2..]]), part_missing(0));
        assert_eq!(assemble(after(None), &[&zero[..1], &one]), part_missing(0));
        let replaced = Err(Damage::EntryReplaced { index: 0 });
        assert_eq!(assemble(after(Some(log_id(2, 0))), &[&one]), replaced);
    }

    #[test]
    fn a_value_is_believed_only_as_it_was_and_under_its_own_key() {
        let (_, pairs) = sealed(7, 10, None);
        let [(key, value)] = &pairs[..] else { panic!("it fits in one") };
        for (at, bit) in (0..value.len()).zip((0..8).cycle()) {
            let mut bad = value.clone();
            bad[at] ^= 1 << bit;
            let refused = Assembler::after(None).on_value(key, &bad);
            assert_eq!(refused, Err(Damage::Checksum { key: "entry 7, part 0".to_owned() }));
        }
        let refused = Assembler::after(None).on_value(&log_key(8, 0), value);
        assert_eq!(refused, Err(Damage::Checksum { key: "entry 8, part 0".to_owned() }));
        let refused = Assembler::after(None).on_value(key, &value[..3]);
        assert_eq!(refused, Err(Damage::TooShort { key: "entry 7, part 0".to_owned(), bytes: 3 }));
        let refused = Assembler::after(None).on_value(b"other", value);
        assert_eq!(refused, Err(Damage::UnknownKey { key: "other".to_owned() }));
        let later = seal_as(VERSION + 1, key, &[b"?"]);
        let refused = Assembler::after(None).on_value(key, &later);
        let version = VERSION + 1;
        assert_eq!(refused, Err(Damage::Version { key: "entry 7, part 0".to_owned(), version }));
    }

    fn assemble(mut assembler: Assembler, pairs: &Pairs) -> Result<Vec<RaftEntry>, Damage> {
        let mut entries = Vec::new();
        for (key, value) in pairs {
            entries.extend(assembler.on_value(key, value)?);
        }
        assembler.finish()?;
        Ok(entries)
    }

    fn sealed(index: u64, bytes: usize, previous: Option<LogId>) -> (RaftEntry, Pairs) {
        let run = NodeRun { node: NodeId(1), incarnation: 1 };
        let opened = vec![(ConnectionId::from_random([7; 16]), Context::from(vec![7; bytes]))];
        let command = Command::Update { run, number: 1, opened, closed: vec![] };
        let payload = RaftPayload::Normal(Proposal::from(command));
        let entry = RaftEntry::new(log_id(1, index), payload);
        let mut pairs = Pairs::new();
        seal_entry(&entry, previous, |key, value| pairs.push((key, value))).unwrap();
        (entry, pairs)
    }

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(LeaderId { term, node_id: 1 }, index)
    }
}
