//! Nodes on hosts of their own are killed, paused and cut off under load, and every promise holds.
//!
//! Here is what the ordinary test run has time for; `cargo run -p posthorn-chaos --bin chaos` has the
//! rest.

use std::sync::Arc;
use std::time::Duration;

use posthorn_chaos::hosts::Hosts;
use posthorn_chaos::load::Plan;
use posthorn_chaos::rows::Row;
use posthorn_chaos::world::{Layout, World};

#[test]
fn what_is_promised_holds_through_crashes_pauses_and_partitions() {
    let Some(hosts) = Hosts::build(3) else { return };
    let hosts = Arc::new(hosts);
    let story = async || {
        let plan = Plan {
            clients_per_node: 6,
            post_interval: Duration::from_millis(15),
            stay: Some(Duration::from_secs(20)),
            token: None,
        };
        let mut world = World::start(hosts.clone(), Layout::Three, &plan).await;
        for row in Row::SMOKE {
            let figures = row.run(&mut world).await;
            println!("{:20} {figures:?}", row.name());
        }
        world.finish("smoke").await;
    };
    hosts.run_outside(story);
}
