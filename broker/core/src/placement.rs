//! Where a connection is, and who inherits it.

use crate::directory::Directory;
use crate::ids::{ConnectionId, NodeRun};

/// The answer of one replica to "where do I send this?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Located {
    At(NodeRun),
    /// Its owner was evicted: the connection is over.
    Over,
    /// This replica knows of no such connection. A replica may be behind.
    Unknown,
}

pub fn locate(directory: &Directory, connection: ConnectionId) -> Located {
    match directory.entry(connection).map(|entry| entry.owner) {
        Some(owner) if directory.is_current(owner) => Located::At(owner),
        Some(_) => Located::Over,
        None => Located::Unknown,
    }
}

/// The run that owes a dead run's connection its `$disconnect`.
///
/// Rendezvous hashing over the current runs that were there when the owner was evicted, so that a
/// node that joins later takes nothing over that another has begun; over all current runs once none
/// of those is left. Every replica computes the same heir, so no node has to ask another. None
/// while the owner is current, or when nobody is.
pub fn heir(directory: &Directory, connection: ConnectionId, owner: NodeRun) -> Option<NodeRun> {
    let evicted_at = directory.run(owner)?.evicted_at?;
    let witnesses = directory.current_runs().filter(|(_, run)| run.joined_at < evicted_at);
    let best = |runs: &mut dyn Iterator<Item = NodeRun>| {
        runs.max_by_key(|run| (weight(connection, *run), *run))
    };
    best(&mut witnesses.map(|(run, _)| run))
        .or_else(|| best(&mut directory.current_runs().map(|(run, _)| run)))
}

/// By node and not by run, so that a heir that restarts inherits what it had inherited. The hash is
/// our own because it must not change with the compiler, which the standard library's may.
fn weight(connection: ConnectionId, run: NodeRun) -> u64 {
    mix(mix(u64::from(run.node.0)) ^ connection.spread())
}

/// SplitMix64's finalizer (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
