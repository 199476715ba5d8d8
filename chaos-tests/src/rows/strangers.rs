//! Strangers at the nodes' fabrics.

use super::{Before, POSTS_MET, others, posted};
use crate::world::{Fault, Figure, World};

/// As many datagrams as are to come of strangers.
const DATAGRAMS: u64 = 5_000;

/// F60: noise, and handshakes that lead nowhere, also as if from the nodes themselves. Nobody notices,
/// who comes back is let in, and who speaks gets no more than thrice as much back.
pub(super) async fn strangers(world: &mut World) -> Vec<Figure> {
    let before = Before::of(world).await;
    let asked = proofs_demanded(world).await;
    world.begin(&Fault::Flood).await;
    posted(world, before.since, POSTS_MET).await;
    let flooded = world
        .until("strangers", async || {
            world.hosts.flooded().filter(|flooded| flooded.datagrams >= DATAGRAMS)
        })
        .await;
    let figures = before.goes_on(world).await;
    let (spoken, answered) = (flooded.own_bytes, flooded.answered_bytes);
    assert!(answered > 0 && answered <= 3 * spoken, "{answered} bytes for {spoken}");
    assert!(proofs_demanded(world).await > asked, "handshakes came as far as that");
    let killed = Fault::Kill(vec![others(world, before.leader)[0]]);
    world.begin(&killed).await;
    world.end(&killed).await;
    world.ready().await;
    world.end(&Fault::Flood).await;
    figures
}

async fn proofs_demanded(world: &World) -> f64 {
    const SERIES: &str = "posthorn_fabric_address_proofs_demanded_total";
    let mut sum = 0.0;
    for node in 0..world.cluster.len() {
        sum += world.metric(node, SERIES).await.unwrap_or_default();
    }
    sum
}
