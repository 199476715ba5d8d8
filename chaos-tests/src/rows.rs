//! Faults, one after the other, and what must hold through each.
//!
//! A row begins and ends in peace. Times are bounds that only a broken broker misses, since the machine
//! may be busy with anything; what they came to is reported.

mod datagrams;
mod machines;
mod moves;
mod partitions;
mod strangers;

use std::time::{Duration, Instant};

use crate::history::{Event, Outcome};
use crate::hosts::{Cut, Host, Traffic};
use crate::load::Sitting;
use crate::oracle::End;
use crate::world::{Fault, Figure, LEASE, Layout, PATIENCE, World};

/// What a machine that is busy with other things may add to any bound.
const SLACK: Duration = Duration::from_secs(10);

/// As many posts as a fault is to meet, where it has no end of its own.
const POSTS_MET: usize = 1_000;

/// A fault, and what must hold through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Row {
    KillLeader,
    KillOwner,
    KillMajority,
    KillAll,
    PauseLeader,
    PauseOwner,
    PauseBriefly,
    FlappingPauses,
    LeaderAlone,
    DeafLeader,
    MuteFollower,
    PartialPartition,
    LeaderPartlyCut,
    AllApart,
    FabricCut,
    DoorsCut,
    Loss,
    Narrow,
    MtuBlackHole,
    Refused,
    Rebound,
    Late,
    Doubled,
    Spoilt,
    Replayed,
    Moved,
    Nameless,
    Strangers,
    Debts,
    TwoAlone,
    Ring,
    Swizzle,
    PowerCuts,
    ClockRates,
    FreezeOwner,
    Starved,
    KillLearner,
    Far,
}

impl Row {
    /// Those that the ordinary test run has time for.
    pub const SMOKE: &[Row] = &[
        Row::KillLeader,
        Row::KillOwner,
        Row::PauseOwner,
        Row::PauseBriefly,
        Row::LeaderAlone,
        Row::DeafLeader,
        Row::MuteFollower,
        Row::PartialPartition,
        Row::FabricCut,
        Row::DoorsCut,
        Row::Loss,
        Row::Rebound,
        Row::Debts,
    ];

    pub const ALL: &[Row] = &[
        Row::KillLeader,
        Row::KillOwner,
        Row::KillMajority,
        Row::KillAll,
        Row::PauseLeader,
        Row::PauseOwner,
        Row::PauseBriefly,
        Row::FlappingPauses,
        Row::LeaderAlone,
        Row::DeafLeader,
        Row::MuteFollower,
        Row::PartialPartition,
        Row::LeaderPartlyCut,
        Row::AllApart,
        Row::FabricCut,
        Row::DoorsCut,
        Row::Loss,
        Row::Narrow,
        Row::MtuBlackHole,
        Row::Refused,
        Row::Rebound,
        Row::Late,
        Row::Doubled,
        Row::Spoilt,
        Row::Replayed,
        Row::Moved,
        Row::Nameless,
        Row::Strangers,
        Row::Debts,
        Row::TwoAlone,
        Row::Ring,
        Row::Swizzle,
        Row::PowerCuts,
        Row::ClockRates,
        Row::FreezeOwner,
        Row::Starved,
        Row::KillLearner,
        Row::Far,
    ];

    /// The cluster that it takes.
    pub fn layout(self) -> Layout {
        match self {
            Row::KillLearner => Layout::Four,
            Row::TwoAlone | Row::Ring | Row::Swizzle => Layout::Five,
            Row::Far => Layout::Far,
            _ => Layout::Three,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Row::KillLeader => "kill-leader",
            Row::KillOwner => "kill-owner",
            Row::KillMajority => "kill-majority",
            Row::KillAll => "kill-all",
            Row::PauseLeader => "pause-leader",
            Row::PauseOwner => "pause-owner",
            Row::PauseBriefly => "pause-briefly",
            Row::FlappingPauses => "flapping-pauses",
            Row::LeaderAlone => "leader-alone",
            Row::DeafLeader => "deaf-leader",
            Row::MuteFollower => "mute-follower",
            Row::PartialPartition => "partial-partition",
            Row::LeaderPartlyCut => "leader-partly-cut",
            Row::AllApart => "all-apart",
            Row::FabricCut => "fabric-cut",
            Row::DoorsCut => "doors-cut",
            Row::Loss => "loss",
            Row::MtuBlackHole => "mtu-black-hole",
            Row::Refused => "refused",
            Row::Rebound => "rebound",
            Row::Late => "late",
            Row::Doubled => "doubled",
            Row::Spoilt => "spoilt",
            Row::Replayed => "replayed",
            Row::Moved => "moved",
            Row::Nameless => "nameless",
            Row::Strangers => "strangers",
            Row::Debts => "debts",
            Row::Narrow => "narrow",
            Row::TwoAlone => "two-alone",
            Row::Ring => "ring",
            Row::Swizzle => "swizzle",
            Row::PowerCuts => "power-cuts",
            Row::ClockRates => "clock-rates",
            Row::FreezeOwner => "freeze-owner",
            Row::Starved => "starved",
            Row::KillLearner => "kill-learner",
            Row::Far => "far",
        }
    }

    /// Does it, waits for peace, and has the oracle judge all that has happened so far.
    ///
    /// # Panics
    ///
    /// If anything is not as promised.
    pub async fn run(self, world: &mut World) -> Vec<Figure> {
        let began_at = world.history.now();
        let mut figures = match self {
            Row::KillLeader => kill_leader(world).await,
            Row::KillOwner => kill_owner(world).await,
            Row::KillMajority => kill_majority(world).await,
            Row::KillAll => kill_all(world).await,
            Row::PauseLeader => pause_leader(world).await,
            Row::PauseOwner => pause_owner(world).await,
            Row::PauseBriefly => pause_briefly(world).await,
            Row::FlappingPauses => flapping_pauses(world).await,
            Row::LeaderAlone => partitions::leader_alone(world).await,
            Row::DeafLeader => partitions::deaf_leader(world).await,
            Row::MuteFollower => partitions::mute_follower(world).await,
            Row::PartialPartition => partitions::partial_partition(world).await,
            Row::LeaderPartlyCut => partitions::leader_partly_cut(world).await,
            Row::AllApart => partitions::all_apart(world).await,
            Row::FabricCut => partitions::fabric_cut(world).await,
            Row::DoorsCut => doors_cut(world).await,
            Row::Loss => datagrams::loss(world).await,
            Row::MtuBlackHole => datagrams::mtu_black_hole(world).await,
            Row::Refused => datagrams::refused(world).await,
            Row::Rebound => datagrams::rebound(world).await,
            Row::Late => datagrams::late(world).await,
            Row::Doubled => datagrams::doubled(world).await,
            Row::Spoilt => datagrams::spoilt(world).await,
            Row::Replayed => datagrams::replayed(world).await,
            Row::Moved => moves::moved(world).await,
            Row::Nameless => moves::nameless(world).await,
            Row::Strangers => strangers::strangers(world).await,
            Row::Debts => debts(world).await,
            Row::Narrow => partitions::narrow(world).await,
            Row::TwoAlone => partitions::two_alone(world).await,
            Row::Ring => partitions::ring(world).await,
            Row::Swizzle => partitions::swizzle(world).await,
            Row::PowerCuts => machines::power_cuts(world).await,
            Row::ClockRates => machines::clock_rates(world).await,
            Row::FreezeOwner => machines::freeze_owner(world).await,
            Row::Starved => machines::starved(world).await,
            Row::KillLearner => machines::kill_learner(world).await,
            Row::Far => datagrams::far(world).await,
        };
        let peace = world.peace().await;
        figures.extend([("serving again", peace.serving), ("settled", peace.settled)]);
        world.judge(self.name(), End::Midway);
        let posts = outcomes(world, began_at, &[Outcome::Ok]);
        assert!(posts > 0, "{self:?}: no post went through");
        figures
    }
}

/// F1.
async fn kill_leader(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let others = others(world, leader);
    let lost = world.connections_of(leader);
    let since = world.history.now();
    let fault = Fault::Kill(vec![leader]);
    world.begin(&fault).await;
    let connects = world.connects_at(&others).await;
    at_most(connects, Duration::from_secs(2) + SLACK, "connects");
    let told = world.told(&lost, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    refused_nothing(world, since, leader);
    world.end(&fault).await;
    vec![("connects", connects), ("told", told)]
}

/// F2, F3.
async fn kill_owner(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let owner = others(world, leader)[0];
    let lost = world.connections_of(owner);
    let since = world.history.now();
    let fault = Fault::Kill(vec![owner]);
    world.begin(&fault).await;
    let told = world.told(&lost, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    refused_nothing(world, since, owner);
    world.end(&fault).await;
    vec![("told", told)]
}

/// F5.
async fn kill_majority(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let survivor = others(world, leader)[0];
    let dead = others(world, survivor);
    let known = world.connections_of(survivor);
    let since = world.history.now();
    let fault = Fault::Kill(dead);
    world.begin(&fault).await;
    // As long as its lease lasts, it serves whom it has; then it lets them go.
    let fenced = all_closed(world, &known, since, 1012).await;
    at_most(fenced, LEASE + SLACK, "fence");
    assert_eq!(world.load.visit(survivor).await.err(), Some(Some(503)), "nobody is let in");
    world.end(&fault).await;
    vec![("fenced", fenced)]
}

/// F6.
async fn kill_all(world: &mut World) -> Vec<Figure> {
    let nodes: Vec<_> = (0..world.cluster.len()).collect();
    let lost: Vec<_> = nodes.iter().flat_map(|node| world.connections_of(*node)).collect();
    let since = world.history.now();
    let fault = Fault::Kill(nodes.clone());
    world.begin(&fault).await;
    world.end(&fault).await;
    let connects = world.connects_at(&nodes).await;
    at_most(connects, Duration::from_secs(10) + SLACK, "connects");
    let told = world.told(&lost, since).await;
    vec![("connects", connects), ("told", told)]
}

/// F9.
async fn pause_leader(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let others = others(world, leader);
    let (known, since) = (world.connections_of(leader), world.history.now());
    let fault = Fault::Pause(leader);
    world.begin(&fault).await;
    let connects = world.connects_at(&others).await;
    at_most(connects, Duration::from_secs(2) + SLACK, "connects");
    // It wakes when others have long done what was its own to do.
    let told = world.told(&known, since).await;
    world.end(&fault).await;
    vec![("connects", connects), ("told", told)]
}

/// F10.
async fn pause_owner(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let owner = others(world, leader)[0];
    let known = world.connections_of(owner);
    let since = world.history.now();
    let fault = Fault::Pause(owner);
    world.begin(&fault).await;
    let told = world.told(&known, since).await;
    world.end(&fault).await;
    let woken = world.history.now();
    // Its first act is to let them go, and it does nothing else for them: the oracle sees to that.
    all_closed(world, &known, since, 1012).await;
    let fenced = Duration::from_micros(world.history.now() - woken);
    vec![("told", told), ("fenced after waking", fenced)]
}

/// F11.
async fn pause_briefly(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let owner = others(world, leader)[0];
    let before = evictions(world).await;
    let known = world.connections_of(owner);
    let since = world.history.now();
    let fault = Fault::Pause(owner);
    world.begin(&fault).await;
    tokio::time::sleep(LEASE / 2).await;
    world.end(&fault).await;
    world.peace().await;
    assert_eq!(evictions(world).await, before, "nobody is given up");
    assert_eq!(world.let_go(&known, since).codes, [], "nobody is let go");
    Vec::new()
}

/// F12.
async fn flapping_pauses(world: &mut World) -> Vec<Figure> {
    let before = evictions(world).await;
    for round in 0..12 {
        let fault = Fault::Pause(round % world.cluster.len());
        world.begin(&fault).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.end(&fault).await;
        tokio::time::sleep(Duration::from_millis(800)).await;
    }
    world.peace().await;
    assert_eq!(evictions(world).await, before, "nobody is given up");
    Vec::new()
}

/// A debt outlives the death of its heir, the loss of a leader and the end of every run, and is settled
/// once its backend answers.
async fn debts(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let followers = others(world, leader);
    let (owner, heir) = (followers[0], followers[1]);
    let lost = world.connections_of(owner);
    world.witness.answer_disconnects_with(500);
    let since = world.history.now();
    for dies in [owner, heir, leader] {
        let (orphans, died_at) = (world.connections_of(dies), world.history.now());
        let fault = Fault::Kill(vec![dies]);
        world.begin(&fault).await;
        world.told(&orphans, died_at).await;
        world.end(&fault).await;
        world.ready().await;
    }
    let apart = partitions::fault_of_all(world);
    world.begin(&apart).await;
    let known: Vec<_> =
        world.load.sitting().into_iter().map(|sitting| sitting.connection).collect();
    all_closed(world, &known, since, 1012).await;
    world.end(&apart).await;
    world.ready().await;
    let owed = world.metric(leader, "posthorn_directory_debts").await.unwrap_or_default();
    assert!(owed >= lost.len() as f64, "only {owed} debts are left of {}", lost.len());
    world.witness.answer_disconnects_with(200);
    let answered_at = world.history.now();
    let told = world.told(&lost, answered_at).await;
    at_most(told, Duration::from_secs(30) + SLACK, "$disconnects");
    vec![("told once it is answered", told)]
}

/// F21, F22: clients and senders hear nothing more of a node, whose clients say nothing more.
async fn doors_cut(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let silent = others(world, leader)[0];
    let known = world.connections_of(silent);
    let evicted = evictions(world).await;
    let since = world.history.now();
    let cuts = Cut::between(Host::Outside, Host::Node(silent), Traffic::Doors);
    let fault = Fault::Cut(cuts.to_vec());
    world.begin(&fault).await;
    let told = world.told(&known, since).await;
    // A Ping and its Pong, four seconds each, and a timer that is due in between.
    at_most(told, Duration::from_secs(12) + SLACK, "$disconnects");
    world.end(&fault).await;
    assert_eq!(evictions(world).await, evicted, "it is alive in the cluster");
    vec![("told", told)]
}

/// How things stood before a fault that nobody is to notice.
struct Before {
    since: u64,
    leader: usize,
    term: f64,
    evictions: f64,
}

impl Before {
    async fn of(world: &World) -> Before {
        let leader = world.leader().await;
        let (term, evictions) = (term(world, leader).await, evictions(world).await);
        Before { since: world.history.now(), leader, term, evictions }
    }

    /// Nobody was given up since, leaders changed no more than on any busy machine, all nodes let clients
    /// in, and each post was answered in time.
    async fn goes_on(&self, world: &World) -> Vec<Figure> {
        let nodes = others(world, usize::MAX);
        let mut connects = Duration::ZERO;
        for node in nodes {
            connects = connects.max(world.connects_at(&[node]).await);
        }
        assert_eq!(evictions(world).await, self.evictions, "nobody is given up");
        let (term, later) = (self.term, term(world, self.leader).await);
        assert!(later <= term + 3.0, "the term ran away from {term} to {later}");
        let posts = posts(&world.history.since(self.since), |_, _| true);
        let slowest = posts.iter().map(|(took, _)| *took).max().unwrap_or_default();
        at_most(slowest, Duration::from_secs(3) + SLACK / 5, "posts");
        let answered = posts.iter().all(|(_, outcome)| *outcome != Outcome::Silence);
        assert!(answered, "each post is answered");
        vec![("slowest post", slowest), ("connects", connects)]
    }
}

/// Waits until the clients of all these connections saw the end. Gives when the last did.
async fn all_closed(world: &World, connections: &[String], since: u64, code: u16) -> Duration {
    let began = Instant::now();
    let ended = async || {
        let ends = world.let_go(connections, since);
        (ends.open == 0).then_some(ends.codes)
    };
    let codes = world.until("clients that are let go", ended).await;
    assert!(codes.iter().all(|seen| *seen == Some(code)), "closed with {codes:?}, not {code}");
    began.elapsed()
}

/// Posts to connections of nodes that were not touched, through nodes that were not: none was refused.
fn refused_nothing(world: &World, since: u64, touched: usize) {
    let records = world.history.since(since);
    let sitting = world.load.sitting();
    let untouched: Vec<Sitting> =
        sitting.into_iter().filter(|sitting| sitting.node != touched).collect();
    let posts = posts(&records, |node, connection| {
        let is_untouched = |sitting: &Sitting| sitting.connection == connection;
        node != touched && untouched.iter().any(is_untouched)
    });
    let failed: Vec<_> = posts.iter().filter(|(_, outcome)| *outcome != Outcome::Ok).collect();
    assert!(failed.is_empty(), "posts to connections of other nodes failed: {failed:?}");
}

fn posts_between(
    world: &World,
    since: u64,
    through: usize,
    connections: &[String],
) -> Vec<(Duration, Outcome)> {
    let records = world.history.since(since);
    posts(&records, |node, connection| {
        node == through && connections.iter().any(|known| known == connection)
    })
}

/// How long posts took, and what they came to.
fn posts(
    records: &[crate::history::Record],
    is_asked_for: impl Fn(usize, &str) -> bool,
) -> Vec<(Duration, Outcome)> {
    let mut begun = std::collections::BTreeMap::new();
    let mut ended = Vec::new();
    for record in records {
        match &record.event {
            Event::PostBegin { sender, sequence, connection, node }
                if is_asked_for(*node, connection) =>
            {
                begun.insert((*sender, *sequence), record.at);
            }
            Event::PostEnd { sender, sequence, outcome } => {
                if let Some(at) = begun.remove(&(*sender, *sequence)) {
                    ended.push((Duration::from_micros(record.at - at), *outcome));
                }
            }
            _ => (),
        }
    }
    ended
}

/// Waits until so many posts that began since then have ended.
async fn posted(world: &World, since: u64, count: usize) {
    world
        .until("posts that end", async || {
            let ended = posts(&world.history.since(since), |_, _| true).len();
            (ended >= count).then_some(())
        })
        .await;
}

fn outcomes(world: &World, since: u64, asked: &[Outcome]) -> usize {
    let posts = posts(&world.history.since(since), |_, _| true);
    posts.iter().filter(|(_, outcome)| asked.contains(outcome)).count()
}

fn others(world: &World, one: usize) -> Vec<usize> {
    (0..world.cluster.len()).filter(|node| *node != one).collect()
}

async fn evictions(world: &World) -> f64 {
    let mut sum = 0.0;
    for node in world.cluster.running() {
        sum += world.metric(node, "posthorn_evictions_total").await.unwrap_or_default();
    }
    sum
}

async fn term(world: &World, node: usize) -> f64 {
    world.until("a term", async || world.metric(node, "posthorn_raft_term").await).await
}

fn at_most(took: Duration, bound: Duration, what: &str) {
    assert!(took <= bound, "{what} took {took:?}, more than {bound:?}");
}
