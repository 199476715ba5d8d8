//! Nodes that are known by names, which lead elsewhere than before, or nowhere.

use std::time::Duration;

use super::{POSTS_MET, SLACK, at_most, evictions, others, posted, posts_between, refused_nothing};
use crate::history::Outcome;
use crate::world::{Fault, Figure, PATIENCE, World};

/// F58: every node comes back at another address, one after the other; then a majority at once, one of
/// which is where the other was.
pub(super) async fn moved(world: &mut World) -> Vec<Figure> {
    for node in others(world, usize::MAX) {
        let fault = Fault::Move(vec![node]);
        world.begin(&fault).await;
        world.end(&fault).await;
        world.peace().await;
        reach_each_other(world, node).await;
    }
    let leader = world.leader().await;
    let fault = Fault::Move(vec![leader, others(world, leader)[0]]);
    world.begin(&fault).await;
    world.end(&fault).await;
    let connects = world.connects_at(&others(world, usize::MAX)).await;
    world.peace().await;
    reach_each_other(world, leader).await;
    vec![("connects", connects)]
}

/// F58: while no name leads anywhere, who knows the others serves; who comes back finds nobody, until
/// names lead somewhere again.
pub(super) async fn nameless(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let node = others(world, leader)[0];
    let (evicted, since) = (evictions(world).await, world.history.now());
    world.begin(&Fault::Nameless).await;
    posted(world, since, POSTS_MET).await;
    assert_eq!(evictions(world).await, evicted, "nobody is given up");
    refused_nothing(world, since, usize::MAX);
    let (known, since) = (world.connections_of(node), world.history.now());
    let killed = Fault::Kill(vec![node]);
    world.begin(&killed).await;
    world.end(&killed).await;
    let told = world.told(&known, since).await;
    at_most(told, PATIENCE + Duration::from_secs(5) + SLACK, "$disconnects");
    let connects = world.connects_at(&others(world, node)).await;
    world.end(&Fault::Nameless).await;
    world.ready().await;
    reach_each_other(world, node).await;
    vec![("told", told), ("connects", connects)]
}

/// Waits for posts that go through, from one to the connections of the others and back.
async fn reach_each_other(world: &World, one: usize) {
    let since = world.history.now();
    for other in others(world, one) {
        for (through, owner) in [(one, other), (other, one)] {
            world
                .until("posts that go through", async || {
                    let known = world.connections_of(owner);
                    let posts = posts_between(world, since, through, &known);
                    posts.iter().any(|(_, outcome)| *outcome == Outcome::Ok).then_some(())
                })
                .await;
        }
    }
}
