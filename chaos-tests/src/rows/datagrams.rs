//! Nodes whose datagrams are lost, late, spoilt or not what they seem, while clients and backends reach
//! them all.

use std::time::Duration;

use super::{Before, POSTS_MET, others, outcomes, posted, posts, term};
use crate::detour::Trick;
use crate::history::Outcome;
use crate::world::{Fault, Figure, World};

/// F24.
pub(super) async fn loss(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let term = term(world, leader).await;
    let since = world.history.now();
    let fault = Fault::Loss(30);
    world.begin(&fault).await;
    posted(world, since, POSTS_MET).await;
    world.end(&fault).await;
    world.peace().await;
    let later = self::term(world, leader).await;
    assert!(later <= term + 3.0, "the term ran away from {term} to {later}");
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    Vec::new()
}

/// F30.
pub(super) async fn mtu_black_hole(world: &mut World) -> Vec<Figure> {
    let since = world.history.now();
    let fault = Fault::Mtu(1250);
    world.begin(&fault).await;
    posted(world, since, POSTS_MET).await;
    let connects = world.connects_at(&others(world, usize::MAX)).await;
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    world.end(&fault).await;
    vec![("connects", connects)]
}

/// F23: some are lost, and their senders told that nobody listens there.
pub(super) async fn refused(world: &mut World) -> Vec<Figure> {
    play(world, Trick::Refuse(10), 100).await
}

/// F23: routers on the way forget who speaks through them, ten times.
pub(super) async fn rebound(world: &mut World) -> Vec<Figure> {
    play(world, Trick::Rebind(300), 3_000).await
}

const BRIEF_DELAY: Trick =
    Trick::Delay { mean: Duration::from_millis(8), spread: Duration::from_millis(8) };

const LONG_DELAY: Trick =
    Trick::Delay { mean: Duration::from_millis(200), spread: Duration::from_millis(100) };

/// F25: late, and one before the other; then so late that no leader may be found, which costs
/// connections, and no promise.
pub(super) async fn late(world: &mut World) -> Vec<Figure> {
    let figures = play(world, BRIEF_DELAY, 1_000).await;
    let since = world.history.now();
    let fault = Fault::Play(LONG_DELAY);
    world.begin(&fault).await;
    world
        .until("posts that end, or clients that are let go", async || {
            let ended = posts(&world.history.since(since), |_, _| true).len();
            let is_met = world.hosts.played() >= 1_000;
            (is_met && (ended >= POSTS_MET || world.load.sitting().is_empty())).then_some(())
        })
        .await;
    world.end(&fault).await;
    world.peace().await;
    assert_eq!(outcomes(world, since, &[Outcome::Silence]), 0, "each post is answered");
    figures
}

/// F25, where nodes are told to be patient: as late, and nobody is to notice.
pub(super) async fn far(world: &mut World) -> Vec<Figure> {
    let fault = Fault::Play(LONG_DELAY);
    world.begin(&fault).await;
    // Each sender waits for its answer, a third of a second or more.
    let figures = go_on(world, 1_000, POSTS_MET / 5).await;
    world.end(&fault).await;
    figures
}

/// F26.
pub(super) async fn doubled(world: &mut World) -> Vec<Figure> {
    play(world, Trick::Double, 1_000).await
}

/// F27.
pub(super) async fn spoilt(world: &mut World) -> Vec<Figure> {
    play(world, Trick::Spoil(1), 20).await
}

/// F28: a node begins anew meanwhile, so that handshakes are among what comes again.
pub(super) async fn replayed(world: &mut World) -> Vec<Figure> {
    let leader = world.leader().await;
    let fault = Fault::Play(Trick::Replay);
    world.begin(&fault).await;
    let killed = Fault::Kill(vec![others(world, leader)[0]]);
    world.begin(&killed).await;
    world.end(&killed).await;
    world.ready().await;
    let figures = go_on(world, 1_000, POSTS_MET).await;
    world.end(&fault).await;
    figures
}

/// Until so many datagrams were met by a trick, and posts were. Nobody is to notice.
async fn play(world: &mut World, trick: Trick, datagrams: u64) -> Vec<Figure> {
    let fault = Fault::Play(trick);
    world.begin(&fault).await;
    let figures = go_on(world, datagrams, POSTS_MET).await;
    world.end(&fault).await;
    figures
}

async fn go_on(world: &World, datagrams: u64, posts_met: usize) -> Vec<Figure> {
    let before = Before::of(world).await;
    let played = world.hosts.played();
    posted(world, before.since, posts_met).await;
    world
        .until("datagrams that are met", async || {
            (world.hosts.played() >= played + datagrams).then_some(())
        })
        .await;
    before.goes_on(world).await
}
