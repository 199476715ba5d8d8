//! Nodes that do not reach each other, or not well, while clients and backends reach them all.

use std::time::{Duration, Instant};

use super::{
    POSTS_MET, SLACK, all_closed, at_most, evictions, others, outcomes, posted, posts_between, term,
};
use crate::history::Outcome;
use crate::hosts::{Cut, Host, Traffic};
use crate::world::{Fault, Figure, LEASE, PATIENCE, World};

/// F14.
pub(super) async fn leader_alone(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let majority = others(world, leader);
    let cuts = isolation(world, leader, Traffic::All);
    cut_off(world, &[leader], &majority, cuts).await
}

/// F16.
pub(super) async fn deaf_leader(world: &mut World) -> Vec<Figure> {
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
pub(super) async fn mute_follower(world: &mut World) -> Vec<Figure> {
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
pub(super) async fn partial_partition(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let followers = others(world, leader);
    let (one, other) = (followers[0], followers[1]);
    let known = world.connections_of(other);
    let between = Cut::between(Host::Node(one), Host::Node(other), Traffic::All);
    let fault = Fault::Cut(between.to_vec());
    let since = world.history.now();
    let evicted = evictions(world).await;
    world.begin(&fault).await;
    // Each is refused at its deadline: until one between the two was, and others beside it.
    let late = world
        .until("posts between the two", async || {
            let late = posts_between(world, since, one, &known);
            late.iter().any(|(_, outcome)| *outcome != Outcome::Ok).then_some(late)
        })
        .await;
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
pub(super) async fn leader_partly_cut(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let cut = others(world, leader)[0];
    let between = Cut::between(Host::Node(leader), Host::Node(cut), Traffic::All);
    let fault = Fault::Cut(between.to_vec());
    let term = term(world, leader).await;
    let (known, since) = (world.connections_of(cut), world.history.now());
    world.begin(&fault).await;
    world.told(&known, since).await;
    let connects = world.connects_at(&others(world, cut)).await;
    let later = self::term(world, leader).await;
    assert!(later <= term + 2.0, "the term ran away from {term} to {later}");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// No node reaches another, for longer than any lease.
pub(super) async fn all_apart(world: &mut World) -> Vec<Figure> {
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

/// F20.
pub(super) async fn fabric_cut(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let alone = others(world, leader)[0];
    let majority = others(world, alone);
    let cuts = isolation(world, alone, Traffic::Fabric);
    cut_off(world, &[alone], &majority, cuts).await
}

/// F15.
pub(super) async fn two_alone(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let followers = others(world, leader);
    let (minority, majority) = ([leader, followers[0]], &followers[1..]);
    let pairs = minority.iter().flat_map(|one| majority.iter().map(move |other| (*one, *other)));
    let cuts = pairs.flat_map(both_ways).collect();
    cut_off(world, &minority, majority, cuts).await
}

/// F19: each node reaches its two neighbours alone. Whoever leads has a quorum with them; the others
/// are let go.
pub(super) async fn ring(world: &mut World) -> Vec<Figure> {
    let nodes = world.cluster.len();
    let far = |(one, other): &(usize, usize)| !matches!(one - other, 1 | 4);
    let pairs = (0..nodes).flat_map(|one| (0..one).map(move |other| (one, other))).filter(far);
    let fault = Fault::Cut(pairs.flat_map(both_ways).collect());
    let term = highest_term(world).await;
    let before = evictions(world).await;
    world.begin(&fault).await;
    world
        .until("two that are given up", async || {
            (evictions(world).await >= before + 2.0).then_some(())
        })
        .await;
    let began = Instant::now();
    world
        .until("three nodes of five that let clients in", async || {
            let mut open = 0;
            for node in 0..nodes {
                open += usize::from(world.load.visit(node).await.is_ok());
            }
            (open >= 3).then_some(())
        })
        .await;
    let connects = began.elapsed();
    let later = highest_term(world).await;
    assert!(later <= term + 3.0, "the term ran away from {term} to {later}");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// F61: cables are pulled one after the other until none is left, and put back in another order.
pub(super) async fn swizzle(world: &mut World) -> Vec<Figure> {
    let pause = Duration::from_millis(400);
    let order = [0, 1, 2, 3, 4];
    for node in order {
        world.begin(&Fault::Unplug(node)).await;
        tokio::time::sleep(pause).await;
    }
    for node in [2, 0, 4, 1, 3] {
        world.end(&Fault::Unplug(node)).await;
        tokio::time::sleep(pause).await;
    }
    let connects = world.connects_at(&order).await;
    at_most(connects, Duration::from_secs(5) + SLACK, "connects");
    vec![("connects", connects)]
}

/// F29: between two nodes that do not lead, a link that is too narrow for what is posted.
pub(super) async fn narrow(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let followers = others(world, leader);
    let (one, other) = (followers[0], followers[1]);
    let term = term(world, leader).await;
    let before = world.cluster.node(one).resident_kib();
    let since = world.history.now();
    let fault = Fault::Narrow { one, other, kbytes_per_s: 4 };
    world.begin(&fault).await;
    posted(world, since, POSTS_MET).await;
    let grown = world.cluster.node(one).resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "a peer that is slow to reach costs {grown} KiB");
    assert_eq!(self::term(world, leader).await, term, "the leader stays");
    world.end(&fault).await;
    world.peace().await;
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    Vec::new()
}

/// A minority that no other node reaches, while clients and backends do: it lets its clients go before
/// the others give it up, and lets nobody in; the others serve.
async fn cut_off(
    world: &mut World,
    minority: &[usize],
    majority: &[usize],
    cuts: Vec<Cut>,
) -> Vec<Figure> {
    let known: Vec<_> = minority.iter().flat_map(|node| world.connections_of(*node)).collect();
    let since = world.history.now();
    let fault = Fault::Cut(cuts);
    world.begin(&fault).await;
    let connects = world.connects_at(majority).await;
    at_most(connects, Duration::from_secs(3) + SLACK, "connects");
    let fenced = all_closed(world, &known, since, 1012).await;
    at_most(fenced, LEASE + SLACK, "fence");
    for node in minority {
        assert_eq!(world.load.visit(*node).await.err(), Some(Some(503)), "nobody is let in");
    }
    let told = world.told(&known, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    world.end(&fault).await;
    vec![("connects", connects), ("fenced", fenced), ("told", told)]
}

/// Every node by itself.
pub(super) fn fault_of_all(world: &World) -> Fault {
    let nodes = world.cluster.len();
    let pairs = (0..nodes).flat_map(|one| (0..one).map(move |other| (one, other)));
    let cut = |(one, other)| Cut::between(Host::Node(one), Host::Node(other), Traffic::All);
    Fault::Cut(pairs.flat_map(cut).collect())
}

pub(super) fn isolation(world: &World, alone: usize, traffic: Traffic) -> Vec<Cut> {
    let others = others(world, alone).into_iter();
    others.flat_map(|node| Cut::between(Host::Node(alone), Host::Node(node), traffic)).collect()
}

fn both_ways((one, other): (usize, usize)) -> [Cut; 2] {
    Cut::between(Host::Node(one), Host::Node(other), Traffic::All)
}

async fn highest_term(world: &World) -> f64 {
    let mut highest = 0.0_f64;
    for node in 0..world.cluster.len() {
        highest = highest.max(term(world, node).await);
    }
    highest
}
