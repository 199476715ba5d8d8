//! Nodes whose own machine fails them: its power, its clock, its processor, its memory.

use std::time::Duration;

use super::partitions::isolation;
use super::{
    POSTS_MET, SLACK, all_closed, at_most, evictions, others, posted, refused_nothing, term,
};
use crate::cgroup::ControlGroup;
use crate::clock::Clock;
use crate::history::Event;
use crate::hosts::Traffic;
use crate::power::{Loss, Power};
use crate::world::{Fault, Figure, PATIENCE, World};

/// F4: a node that has no vote.
pub(super) async fn kill_learner(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let learner = world.cluster.len() - 1;
    assert_ne!(leader, learner, "who leads has a vote");
    let term = term(world, leader).await;
    let lost = world.connections_of(learner);
    let since = world.history.now();
    let fault = Fault::Kill(vec![learner]);
    world.begin(&fault).await;
    let connects = world.connects_at(&[leader]).await;
    at_most(connects, Duration::from_secs(2) + SLACK, "connects");
    let told = world.told(&lost, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    refused_nothing(world, since, learner);
    world.end(&fault).await;
    let later = super::term(world, leader).await;
    assert!(later <= term + 2.0, "the term ran away from {term} to {later}");
    vec![("connects", connects), ("told", told)]
}

/// F7, F8: of what was written, only what was synced is left, or that and some of the rest.
pub(super) async fn power_cuts(world: &mut World) -> Vec<Figure> {
    let mut power = Power::build(world.cluster.folder(), 7);
    let all = others(world, usize::MAX);
    for node in &all {
        let environment = power.environment(&world.cluster.data_dir(*node));
        world.cluster.equip(*node, environment);
    }
    restart(world, &all).await;
    let mut slowest = Duration::ZERO;
    for loss in [Loss::All, Loss::Some] {
        let leader = world.leader().await;
        let follower = others(world, leader)[0];
        for nodes in [vec![follower], vec![leader], all.clone()] {
            slowest = slowest.max(cut_power(world, &mut power, &nodes, loss).await);
            world.peace().await;
        }
    }
    for node in &all {
        world.cluster.equip(*node, Vec::new());
    }
    restart(world, &all).await;
    vec![("told", slowest)]
}

/// Nobody forgets a vote, and whoever was let in is known, and told as ended.
async fn cut_power(world: &mut World, power: &mut Power, nodes: &[usize], loss: Loss) -> Duration {
    let lost: Vec<_> = nodes.iter().flat_map(|node| world.connections_of(*node)).collect();
    let mut terms = Vec::new();
    for node in nodes {
        terms.push(term(world, *node).await);
    }
    let since = world.history.now();
    world.begin(&Fault::Kill(nodes.to_vec())).await;
    for node in nodes {
        let lost = power.cut(&world.cluster.data_dir(*node), loss);
        assert!(lost > 0 || loss == Loss::Some, "the log's witness is never synced");
    }
    for (place, node) in nodes.iter().enumerate() {
        // Where all were cut off, the first knows only what is on its disk.
        world.end(&Fault::Kill(vec![*node])).await;
        world
            .until("the term that it knew", async || {
                (world.metric(*node, "posthorn_raft_term").await? >= terms[place]).then_some(())
            })
            .await;
    }
    let told = world.told(&lost, since).await;
    at_most(told, PATIENCE + Duration::from_secs(10) + SLACK, "$disconnects");
    told
}

/// F32: one clock is slower than all others, as much as the patience allows. Whoever has it lets its
/// clients go before the others give it up; the oracle sees to that.
pub(super) async fn clock_rates(world: &mut World) -> Vec<Figure> {
    let all = others(world, usize::MAX);
    let slow = all.len() - 1;
    for (rate, slow_rate) in [(1000, 700), (1400, 1000)] {
        for node in &all {
            let folder = world.cluster.folder().join(format!("clock-{node}-{rate}"));
            let rate = if *node == slow { slow_rate } else { rate };
            world.cluster.equip(*node, Clock::build_at(&folder, rate).environment());
        }
        restart(world, &all).await;
        while world.leader().await == slow {
            restart(world, &[slow]).await;
        }
        let (before, since) = (evictions(world).await, world.history.now());
        posted(world, since, POSTS_MET).await;
        assert_eq!(evictions(world).await, before, "nobody is given up for his clock");
        for fault in [Fault::Cut(isolation(world, slow, Traffic::Fabric)), Fault::Pause(slow)] {
            let known = world.connections_of(slow);
            let since = world.history.now();
            world.begin(&fault).await;
            world.told(&known, since).await;
            world.end(&fault).await;
            all_closed(world, &known, since, 1012).await;
            world.peace().await;
        }
    }
    for node in &all {
        world.cluster.equip(*node, Vec::new());
    }
    restart(world, &all).await;
    Vec::new()
}

/// F13: as [`super::pause_owner`], but not even SIGKILL would reach it.
pub(super) async fn freeze_owner(world: &mut World) -> Vec<Figure> {
    let Some(freezer) = ControlGroup::make("freezer") else { return Vec::new() };
    let leader = world.leader().await;
    let owner = others(world, leader)[0];
    let known = world.connections_of(owner);
    freezer.take(world.cluster.node(owner).pid());
    let since = world.history.record(Event::FaultBegin { fault: format!("Freeze({owner})") });
    freezer.set("freezer.state", "FROZEN");
    world
        .until("a process that is frozen", async || {
            (freezer.get("freezer.state") == "FROZEN").then_some(())
        })
        .await;
    let told = world.told(&known, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    freezer.set("freezer.state", "THAWED");
    let thawed = world.history.record(Event::FaultEnd { fault: format!("Freeze({owner})") });
    all_closed(world, &known, since, 1012).await;
    let fenced = Duration::from_micros(world.history.now() - thawed);
    vec![("told", told), ("fenced after thawing", fenced)]
}

/// As many tenths of a second without a processor as a starved node is to have.
const PERIODS_MET: u64 = 100;

/// F57: a tenth of a processor, for the leader and then for another.
pub(super) async fn starved(world: &mut World) -> Vec<Figure> {
    let Some(processor) = ControlGroup::make("cpu") else { return Vec::new() };
    let mut figures = Vec::new();
    for is_leader in [true, false] {
        let leader = world.leader().await;
        let node = if is_leader { leader } else { others(world, leader)[0] };
        let rest = others(world, node);
        let (term, evicted) = (term(world, rest[0]).await, evictions(world).await);
        processor.set("cpu.cfs_quota_us", "10000");
        processor.take(world.cluster.node(node).pid());
        world.history.record(Event::FaultBegin { fault: format!("Starve({node})") });
        let withheld = withheld(&processor) + PERIODS_MET;
        world
            .until("a processor that is withheld", async || {
                (self::withheld(&processor) >= withheld).then_some(())
            })
            .await;
        let connects = world.connects_at(&rest).await;
        processor.set("cpu.cfs_quota_us", "-1");
        world.history.record(Event::FaultEnd { fault: format!("Starve({node})") });
        world.peace().await;
        let later = super::term(world, rest[0]).await;
        // Twice a second, if there were no end to it.
        assert!(later <= term + 10.0, "the term ran away from {term} to {later}");
        let given_up = self::evictions(world).await - evicted;
        assert!(given_up <= 2.0, "{given_up} evictions of one that lives");
        figures.push(("connects", connects));
    }
    figures
}

/// In how many tenths of a second the group wanted more of a processor than it may have.
fn withheld(processor: &ControlGroup) -> u64 {
    let stat = processor.get("cpu.stat");
    let periods = stat.lines().find_map(|line| line.strip_prefix("nr_throttled "));
    periods.and_then(|periods| periods.parse().ok()).expect("the kernel counts them")
}

async fn restart(world: &mut World, nodes: &[usize]) {
    let fault = Fault::Kill(nodes.to_vec());
    world.begin(&fault).await;
    world.end(&fault).await;
    world.peace().await;
}
