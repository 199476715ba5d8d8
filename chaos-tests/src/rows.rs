//! Faults, one after the other, and what must hold through each.
//!
//! A row begins and ends in peace. Times are bounds that only a broken broker misses, since the machine
//! may be busy with anything; what they came to is reported.

use std::time::{Duration, Instant};

use crate::history::{Event, Outcome};
use crate::hosts::{Cut, Host, Traffic};
use crate::load::Sitting;
use crate::oracle::End;
use crate::world::{Fault, Figure, LEASE, PATIENCE, World};

/// What a machine that is busy with other things may add to any bound.
const SLACK: Duration = Duration::from_secs(10);

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
    MtuBlackHole,
    Debts,
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
        Row::MtuBlackHole,
        Row::Debts,
    ];

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
            Row::Debts => "debts",
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
            Row::LeaderAlone => leader_alone(world).await,
            Row::DeafLeader => deaf_leader(world).await,
            Row::MuteFollower => mute_follower(world).await,
            Row::PartialPartition => partial_partition(world).await,
            Row::LeaderPartlyCut => leader_partly_cut(world).await,
            Row::AllApart => all_apart(world).await,
            Row::FabricCut => fabric_cut(world).await,
            Row::DoorsCut => doors_cut(world).await,
            Row::Loss => loss(world).await,
            Row::MtuBlackHole => mtu_black_hole(world).await,
            Row::Debts => debts(world).await,
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
    let fault = Fault::Pause(leader);
    world.begin(&fault).await;
    let connects = world.connects_at(&others).await;
    at_most(connects, Duration::from_secs(2) + SLACK, "connects");
    tokio::time::sleep(Duration::from_secs(4)).await;
    world.end(&fault).await;
    vec![("connects", connects)]
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

/// F14.
async fn leader_alone(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let majority = others(world, leader);
    let cuts = isolation(world, leader, Traffic::All);
    cut_off(world, leader, &majority, cuts).await
}

/// F16.
async fn deaf_leader(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let majority = others(world, leader);
    let cut = |from: &usize| Cut {
        from: Host::Node(*from),
        to: Host::Node(leader),
        traffic: Traffic::All,
    };
    let fault = Fault::Cut(majority.iter().map(cut).collect());
    world.begin(&fault).await;
    let connects = world.connects_at(&majority).await;
    at_most(connects, Duration::from_secs(5) + SLACK, "connects");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// F17.
async fn mute_follower(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let mute = others(world, leader)[0];
    let majority = others(world, mute);
    let term = term(world, leader).await;
    let known = world.connections_of(mute);
    let since = world.history.now();
    let cut =
        |to: &usize| Cut { from: Host::Node(mute), to: Host::Node(*to), traffic: Traffic::All };
    let fault = Fault::Cut(majority.iter().map(cut).collect());
    world.begin(&fault).await;
    let told = world.told(&known, since).await;
    let connects = world.connects_at(&majority).await;
    world.end(&fault).await;
    world.peace().await;
    let later = self::term(world, leader).await;
    assert!(later <= term + 2.0, "the term ran away from {term} to {later}");
    vec![("told", told), ("connects", connects)]
}

/// F18.
async fn partial_partition(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let followers = others(world, leader);
    let (one, other) = (followers[0], followers[1]);
    let known = world.connections_of(other);
    let between = Cut::between(Host::Node(one), Host::Node(other), Traffic::All);
    let fault = Fault::Cut(between.to_vec());
    let since = world.history.now();
    let evicted = evictions(world).await;
    world.begin(&fault).await;
    // As long as a post may take.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = posts_between(world, since, one, &known);
    let told: Vec<_> = late.iter().map(|(_, outcome)| *outcome).collect();
    assert!(!told.contains(&Outcome::Gone), "nobody who lives is gone: {told:?}");
    assert!(!told.contains(&Outcome::Silence), "each post is answered: {told:?}");
    let slowest = late.iter().map(|(took, _)| *took).max().unwrap_or_default();
    at_most(slowest, Duration::from_secs(3) + SLACK / 5, "posts");
    // Both see the leader, so both live.
    assert_eq!(world.leader().await, leader, "the leader stays");
    assert_eq!(evictions(world).await, evicted, "nobody is given up");
    let connects = world.connects_at(&[one]).await.max(world.connects_at(&[other]).await);
    world.end(&fault).await;
    vec![("slowest post", slowest), ("connects", connects)]
}

/// F18, where the leader is one of the two: whoever cannot reach it is let go.
async fn leader_partly_cut(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let cut = others(world, leader)[0];
    let between = Cut::between(Host::Node(leader), Host::Node(cut), Traffic::All);
    let fault = Fault::Cut(between.to_vec());
    let term = term(world, leader).await;
    world.begin(&fault).await;
    tokio::time::sleep(PATIENCE * 2).await;
    let connects = world.connects_at(&others(world, cut)).await;
    let later = self::term(world, leader).await;
    assert!(later <= term + 2.0, "the term ran away from {term} to {later}");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// No node reaches another, for longer than any lease.
async fn all_apart(world: &mut World) -> Vec<Figure> {
    let nodes = others(world, usize::MAX);
    let known: Vec<_> = nodes.iter().flat_map(|node| world.connections_of(*node)).collect();
    let since = world.history.now();
    let fault = fault_of_all(world);
    world.begin(&fault).await;
    let fenced = all_closed(world, &known, since, 1012).await;
    at_most(fenced, LEASE + SLACK, "fence");
    for node in &nodes {
        assert_eq!(world.load.visit(*node).await.err(), Some(Some(503)), "nobody is let in");
    }
    world.end(&fault).await;
    let connects = world.connects_at(&nodes).await;
    vec![("fenced", fenced), ("connects", connects)]
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
    let apart = fault_of_all(world);
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

/// F20.
async fn fabric_cut(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let alone = others(world, leader)[0];
    let majority = others(world, alone);
    let cuts = isolation(world, alone, Traffic::Fabric);
    cut_off(world, alone, &majority, cuts).await
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

/// F24.
async fn loss(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let term = term(world, leader).await;
    let since = world.history.now();
    let fault = Fault::Loss(30);
    world.begin(&fault).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    world.end(&fault).await;
    world.peace().await;
    let later = self::term(world, leader).await;
    assert!(later <= term + 3.0, "the term ran away from {term} to {later}");
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    Vec::new()
}

/// F30.
async fn mtu_black_hole(world: &mut World) -> Vec<Figure> {
    let since = world.history.now();
    let fault = Fault::Mtu(1250);
    world.begin(&fault).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let connects = world.connects_at(&others(world, usize::MAX)).await;
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// A node that no other reaches, while clients and backends do: it lets its clients go before the
/// others give it up, and lets nobody in; the others serve.
async fn cut_off(
    world: &mut World,
    alone: usize,
    majority: &[usize],
    cuts: Vec<Cut>,
) -> Vec<Figure> {
    let known = world.connections_of(alone);
    let since = world.history.now();
    let fault = Fault::Cut(cuts);
    world.begin(&fault).await;
    let connects = world.connects_at(majority).await;
    at_most(connects, Duration::from_secs(3) + SLACK, "connects");
    let fenced = all_closed(world, &known, since, 1012).await;
    at_most(fenced, LEASE + SLACK, "fence");
    assert_eq!(world.load.visit(alone).await.err(), Some(Some(503)), "nobody is let in");
    let told = world.told(&known, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    world.end(&fault).await;
    vec![("connects", connects), ("fenced", fenced), ("told", told)]
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

fn outcomes(world: &World, since: u64, asked: &[Outcome]) -> usize {
    let posts = posts(&world.history.since(since), |_, _| true);
    posts.iter().filter(|(_, outcome)| asked.contains(outcome)).count()
}

/// Every node by itself.
fn fault_of_all(world: &World) -> Fault {
    let nodes = world.cluster.len();
    let pairs = (0..nodes).flat_map(|one| (0..one).map(move |other| (one, other)));
    let cut = |(one, other)| Cut::between(Host::Node(one), Host::Node(other), Traffic::All);
    Fault::Cut(pairs.flat_map(cut).collect())
}

fn isolation(world: &World, alone: usize, traffic: Traffic) -> Vec<Cut> {
    let others = others(world, alone).into_iter();
    others.flat_map(|node| Cut::between(Host::Node(alone), Host::Node(node), traffic)).collect()
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
