//! Pages of the connections that the directory holds.
//!
//! * The order of connections is fixed, and the same on every node: who is there from the first page to
//!   the last is on exactly one of them, whoever else comes and goes.
//! * A page costs a bounded number of looks at entries, however few of them fit.
//! * Where a page ends for its cost, it ends between two shards: where the next begins tells nothing of
//!   connections that its caller is not to see.

pub mod token;

use std::net::IpAddr;
use std::sync::Arc;

use crate::directory::{Directory, Entry, SHARDS, shard_of};
use crate::event::connection_info::ConnectionInfo;
use crate::ids::{ConnectionId, NodeId, NodeRun};

/// Which connections are asked for. What is missing does not matter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub api_id: Option<Box<str>>,
    pub stage: Option<Box<str>>,
    pub owner: Option<NodeId>,
    pub source_ip: Option<IpAddr>,
    /// At this time or later.
    pub connected_after_ms: Option<u64>,
    /// Before this time.
    pub connected_before_ms: Option<u64>,
}

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// With the first connection of a shard.
    Shard(u16),
    /// With the one behind this.
    Behind(ConnectionId),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    pub connections: Vec<Listed>,
    /// None where there are no more.
    pub next: Option<Position>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub info: Arc<ConnectionInfo>,
    pub owner: NodeRun,
}

/// How much one page may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub connections_max: usize,
    /// Of what the directory knows of them. The last may exceed it.
    pub bytes_max: usize,
    /// Looked at between two looks at this limit: as many as a shard has, and so a few more in all.
    pub looks_max: usize,
}

impl Position {
    pub const FIRST: Position = Position::Shard(0);
}

/// `is_visible` is told API and stage of each connection that may be on the page. What is owed for dead
/// runs is no connection any more.
pub fn page(
    directory: &Directory,
    filter: &Filter,
    from: Position,
    limits: Limits,
    is_visible: impl Fn(&str, &str) -> bool,
) -> Page {
    let (first, mut behind) = match from {
        Position::Shard(shard) => (usize::from(shard), None),
        Position::Behind(connection) => (shard_of(connection), Some(connection)),
    };
    let (mut connections, mut bytes, mut looks) = (Vec::new(), 0, 0);
    for shard in first..SHARDS {
        if looks >= limits.looks_max {
            // There are 2048.
            return Page { connections, next: Some(Position::Shard(shard as u16)) };
        }
        for (id, entry) in directory.shard(shard, behind.take()) {
            looks += 1;
            let fitting = filter.fitting(id, entry, &is_visible);
            let Some(info) = fitting.filter(|_| directory.is_current(entry.owner)) else {
                continue;
            };
            connections.push(Listed { info: Arc::new(info), owner: entry.owner });
            bytes += entry.context.len();
            if connections.len() >= limits.connections_max || bytes >= limits.bytes_max {
                return Page { connections, next: Some(Position::Behind(id)) };
            }
        }
    }
    Page { connections, next: None }
}

impl Filter {
    /// None as well where a later version wrote what is known of the connection.
    fn fitting(
        &self,
        id: ConnectionId,
        entry: &Entry,
        is_visible: impl Fn(&str, &str) -> bool,
    ) -> Option<ConnectionInfo> {
        let Filter { api_id, stage, owner, source_ip, connected_after_ms, connected_before_ms } =
            self;
        if owner.is_some_and(|owner| owner != entry.owner.node) {
            return None;
        }
        // Most that do not fit show that here, without being read whole.
        let (own_api, own_stage) = ConnectionInfo::peek_stage(&entry.context)?;
        let is =
            |asked: &Option<Box<str>>, own: &str| asked.as_deref().is_none_or(|asked| asked == own);
        if !is(api_id, own_api) || !is(stage, own_stage) || !is_visible(own_api, own_stage) {
            return None;
        }
        let info = ConnectionInfo::decode(id, &entry.context).ok()?;
        let fits = source_ip.is_none_or(|ip| ip == info.source_ip)
            && connected_after_ms.is_none_or(|after| info.connected_at_ms >= after)
            && connected_before_ms.is_none_or(|before| info.connected_at_ms < before);
        fits.then_some(info)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::directory::Command;
    use crate::ids::DiskId;

    const LIMITS: Limits = Limits { connections_max: 3, bytes_max: 9999, looks_max: 7 };

    proptest! {
        /// Between two pages, connections come and go.
        #[test]
        fn who_stays_is_listed_once_and_nobody_twice(
            before in prop::collection::btree_set(any::<u8>(), 0..40),
            churn in prop::collection::vec((any::<u8>(), any::<bool>()), 0..60),
        ) {
            let mut open = before.clone();
            let mut always = before.clone();
            let mut ever = before.clone();
            let mut directory = Directory::default();
            join(&mut directory, RUN);
            let all: Vec<_> = before.iter().map(|number| (*number, "chat", "dev")).collect();
            update(&mut directory, RUN, 1, &all, &[]);
            let (mut listed, mut next) = (BTreeMap::new(), Some(Position::FIRST));
            let mut churn = churn.into_iter();
            let mut number = 1;
            while let Some(from) = next {
                let page = page(&directory, &Filter::default(), from, LIMITS, |_, _| true);
                prop_assert!(page.connections.len() <= LIMITS.connections_max);
                for listed_now in page.connections {
                    *listed.entry(listed_now.info.connection).or_insert(0) += 1;
                }
                next = page.next;
                if let Some((who, opens)) = churn.next() {
                    number += 1;
                    match opens {
                        // An ID is never used again.
                        true if !ever.contains(&who) => {
                            update(&mut directory, RUN, number, &[(who, "chat", "dev")], &[]);
                            open.insert(who);
                            ever.insert(who);
                        }
                        true => (),
                        false => {
                            update(&mut directory, RUN, number, &[], &[who]);
                            open.remove(&who);
                            always.remove(&who);
                        }
                    }
                }
            }
            prop_assert!(listed.values().all(|times| *times == 1));
            let listed: BTreeSet<_> = listed.into_keys().collect();
            prop_assert!(always.iter().all(|number| listed.contains(&id(*number))));
            prop_assert!(listed.iter().all(|id| ever.contains(&id.as_bytes()[15])));
        }
    }

    #[test]
    fn filters_are_and_what_is_not_visible_or_owed_is_not_listed() {
        let mut directory = Directory::default();
        let other = NodeRun { node: NodeId(2), incarnation: 1 };
        let dead = NodeRun { node: NodeId(3), incarnation: 1 };
        for run in [RUN, other, dead] {
            join(&mut directory, run);
        }
        update(&mut directory, RUN, 1, &[(1, "chat", "dev"), (2, "chat", "prod")], &[]);
        update(&mut directory, other, 1, &[(3, "game", "dev"), (4, "chat", "dev")], &[]);
        update(&mut directory, dead, 1, &[(5, "chat", "dev")], &[]);
        directory.apply(&Command::Evict { run: dead });
        let list = |filter: Filter, is_visible: fn(&str, &str) -> bool| {
            let limits = Limits { connections_max: 9, bytes_max: 9999, looks_max: 999 };
            let page = page(&directory, &filter, Position::FIRST, limits, is_visible);
            assert_eq!(page.next, None);
            let numbers = page.connections.iter().map(|one| one.info.connection.as_bytes()[15]);
            numbers.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
        };
        let all = Filter::default;
        for (filter, expected) in [
            (all(), &[1, 2, 3, 4][..]),
            (Filter { api_id: Some("chat".into()), ..all() }, &[1, 2, 4]),
            (Filter { stage: Some("dev".into()), ..all() }, &[1, 3, 4]),
            (Filter { owner: Some(NodeId(2)), stage: Some("dev".into()), ..all() }, &[3, 4]),
            (Filter { owner: Some(NodeId(3)), ..all() }, &[]),
            (Filter { source_ip: Some("192.0.2.3".parse().unwrap()), ..all() }, &[3]),
            (Filter { connected_after_ms: Some(1002), ..all() }, &[2, 3, 4]),
            (Filter { connected_before_ms: Some(1002), ..all() }, &[1]),
        ] {
            assert_eq!(list(filter.clone(), |_, _| true), expected, "{filter:?}");
        }
        assert_eq!(list(all(), |api, stage| (api, stage) == ("chat", "dev")), [1, 4]);
    }

    #[test]
    fn a_page_ends_for_its_cost_between_shards_and_the_next_goes_on() {
        let mut directory = Directory::default();
        join(&mut directory, RUN);
        let all: Vec<_> = (0..100).map(|number| (number, "chat", "dev")).collect();
        update(&mut directory, RUN, 1, &all, &[]);
        let limits = Limits { connections_max: 9, bytes_max: 9999, looks_max: 10 };
        let (mut pages, mut next) = (0, Some(Position::FIRST));
        while let Some(from) = next {
            let page = page(&directory, &Filter::default(), from, limits, |_, _| false);
            assert_eq!(page.connections, []);
            assert!(matches!(page.next, None | Some(Position::Shard(_))), "{page:?}");
            (pages, next) = (pages + 1, page.next);
        }
        assert_eq!(pages, 11, "each connection is in a shard of its own, and the rest are empty");
    }

    #[test]
    fn a_page_ends_where_it_has_grown_too_large() {
        let mut directory = Directory::default();
        join(&mut directory, RUN);
        let all: Vec<_> = (0..9).map(|number| (number, "chat", "dev")).collect();
        update(&mut directory, RUN, 1, &all, &[]);
        let entry_bytes = directory.entry(id(0)).unwrap().context.len();
        let limits = Limits { connections_max: 9, bytes_max: entry_bytes * 2, looks_max: 999 };
        let page = page(&directory, &Filter::default(), Position::FIRST, limits, |_, _| true);
        let last = page.connections[1].info.connection;
        assert_eq!((page.connections.len(), page.next), (2, Some(Position::Behind(last))));
    }

    const RUN: NodeRun = NodeRun { node: NodeId(1), incarnation: 1 };

    /// Spread over shards, as random ones are.
    fn id(number: u8) -> ConnectionId {
        let mut bits = [0; 16];
        bits[6..8].copy_from_slice(&(u16::from(number) * 7).to_be_bytes());
        bits[15] = number;
        ConnectionId::from_random(bits)
    }

    fn join(directory: &mut Directory, run: NodeRun) {
        let (disk, fabric_address) = (DiskId(run.node.0.into()), "host:1".into());
        directory.apply(&Command::Join { run, disk, fabric_address });
    }

    fn update(
        directory: &mut Directory,
        run: NodeRun,
        number: u64,
        opened: &[(u8, &str, &str)],
        closed: &[u8],
    ) {
        let info = |(number, api, stage): &(u8, &str, &str)| {
            let info = ConnectionInfo {
                connection: id(*number),
                api_id: (*api).into(),
                stage: (*stage).into(),
                domain_name: "localhost".into(),
                host: "localhost".into(),
                source_ip: IpAddr::from([192, 0, 2, *number]),
                user_agent: None,
                connected_at_ms: 1000 + u64::from(*number),
                api_key: None,
                authorized: None,
                signer: None,
            };
            (id(*number), info.encode().into())
        };
        let (opened, closed) = (opened.iter().map(info).collect(), closed.iter().map(|n| id(*n)));
        directory.apply(&Command::Update { run, number, opened, closed: closed.collect() });
    }
}
