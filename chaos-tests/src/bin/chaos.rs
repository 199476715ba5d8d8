//! Faults on real processes, row by row, or by chance for as long as one likes.
//!
//! ```console
//! $ cargo run -p posthorn-chaos --bin chaos                 # all rows
//! $ cargo run -p posthorn-chaos --bin chaos -- kill-leader loss
//! $ cargo run -p posthorn-chaos --bin chaos -- soak 1800    # so many seconds
//! $ cargo run -p posthorn-chaos --bin chaos -- soak 1800 42 # the schedule of a seed
//! ```

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_chaos::hosts::Hosts;
use posthorn_chaos::load::Plan;
use posthorn_chaos::oracle::{self, End};
use posthorn_chaos::rows::Row;
use posthorn_chaos::schedule::Schedule;
use posthorn_chaos::world::{Layout, World};

const PLAN: Plan = Plan {
    clients_per_node: 20,
    post_interval: Duration::from_millis(5),
    stay: Some(Duration::from_secs(20)),
    token: None,
};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match &*arguments {
        ["soak", seconds] => soak(seconds, &std::process::id().to_string()),
        ["soak", seconds, seed] => soak(seconds, seed),
        [] => rows(Row::ALL),
        names => {
            let named = |name: &&str| Row::ALL.iter().find(|row| row.name() == *name).copied();
            let Some(asked) = names.iter().map(named).collect::<Option<Vec<_>>>() else {
                let names: Vec<_> = Row::ALL.iter().map(|row| row.name()).collect();
                eprintln!("chaos: the rows are {}", names.join(", "));
                return ExitCode::from(2);
            };
            rows(&asked)
        }
    }
}

/// Those of one layout together, so that they share a cluster.
fn rows(rows: &[Row]) -> ExitCode {
    for layout in Layout::ALL {
        let rows: Vec<_> = rows.iter().copied().filter(|row| row.layout() == layout).collect();
        if !rows.is_empty() && !rows_of(layout, rows) {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// False where there can be no hosts.
fn rows_of(layout: Layout, rows: Vec<Row>) -> bool {
    let Some(hosts) = Hosts::build(layout.nodes() as usize) else { return false };
    let hosts = Arc::new(hosts);
    hosts.run_outside(async || {
        let mut world = World::start(hosts.clone(), layout, &PLAN).await;
        for row in rows {
            let figures = row.run(&mut world).await;
            let figures: Vec<_> = figures
                .iter()
                .map(|(what, took)| format!("{what} {} ms", took.as_millis()))
                .collect();
            println!("{:18} {}", row.name(), figures.join(", "));
        }
        world.finish("rows").await;
    });
    true
}

/// A soak that lasts so many seconds has met all that it can meet.
const LONG_S: u64 = 1_800;

/// Faults that overlap, then peace, again and again. At the end, how often what happened.
fn soak(seconds: &str, seed: &str) -> ExitCode {
    let (Ok(seconds), Ok(seed)) = (seconds.parse(), seed.parse()) else {
        eprintln!("chaos: soak SECONDS [SEED]");
        return ExitCode::from(2);
    };
    let Some(hosts) = Hosts::build(3) else { return ExitCode::FAILURE };
    let hosts = Arc::new(hosts);
    println!("seed {seed}");
    let ledger = hosts.run_outside(async || {
        let mut world = World::start(hosts.clone(), Layout::Three, &PLAN).await;
        let history = world.history.clone();
        let mut schedule = Schedule::new(seed, 3);
        let (began, time) = (Instant::now(), Duration::from_secs(seconds));
        while began.elapsed() < time {
            let storm = schedule.next_storm();
            println!("{:6} s {storm:?}", began.elapsed().as_secs());
            world.weather(&storm).await;
            world.peace().await;
            world.judge(&format!("seed-{seed}"), End::Midway);
        }
        world.finish(&format!("seed-{seed}")).await;
        oracle::ledger(&history.records())
    });
    for (what, times) in &ledger {
        println!("{times:9} {what}");
    }
    match seconds >= LONG_S && ledger.iter().any(|(_, times)| *times == 0) {
        true => {
            eprintln!("chaos: of all that, something never happened");
            ExitCode::FAILURE
        }
        false => ExitCode::SUCCESS,
    }
}
