//! A cluster in one thread: the pure machines, a lossy and repeating network, clocks of different
//! rates, crashes, restarts, cut-off nodes, lost disks, nodes that come, go and are drained, and a leader
//! that changes; seeded chance, virtual time.
//!
//! `SEED=17 cargo test -p posthorn-core --test simulation` replays one story. `SEEDS=10000` tells
//! that many.

mod chance;
mod faults;
mod govern;
mod process;
mod promises;
mod raft;
mod told;
mod world;

use told::Told;
use world::World;

#[test]
fn the_directory_keeps_its_promises_and_ends_up_telling_the_truth() {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(400),
    };
    let mut told = Told::default();
    for seed in seeds.clone() {
        let story = std::panic::AssertUnwindSafe(|| World::new(seed).run());
        match std::panic::catch_unwind(story) {
            Ok(of_this) => told.add(&of_this),
            Err(panic) => {
                eprintln!("replay: SEED={seed} cargo test -p posthorn-core --test simulation");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{told:?}");
    // A simulation in which nothing happens proves nothing.
    if seeds.count() >= 100 {
        assert!(told.is_eventful(), "{told:?}");
    }
}
