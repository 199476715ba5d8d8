//! A directory of a million connections: taking a snapshot of it while updates go on, receiving and
//! installing that; the median of several rounds, with the memory that it took.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use posthorn::consensus::measure::{SnapshotCosts, measure_snapshot};
use tempfile::TempDir;

const CONNECTIONS: u64 = 1_000_000;
const ROUNDS: usize = 5;

#[tokio::main]
async fn main() -> ExitCode {
    // `cargo test` runs benches to see that they do; cargo bench says that it means it.
    let is_meant = std::env::args().any(|argument| argument == "--bench");
    let (connections, rounds) = if is_meant { (CONNECTIONS, ROUNDS) } else { (10_000, 1) };
    match measure(connections, rounds).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("snapshot: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(connections: u64, rounds: usize) -> io::Result<()> {
    let mut costs = Vec::new();
    for _ in 0..rounds {
        let dir = TempDir::with_prefix("posthorn-snapshot-")?;
        costs.push(measure_snapshot(dir.path(), connections).await?);
    }
    let time = |of: fn(&SnapshotCosts) -> Duration| {
        let mut times: Vec<_> = costs.iter().map(of).collect();
        times.sort();
        format!("{:.0} ms", times[times.len() / 2].as_secs_f64() * 1000.0)
    };
    let mut updates: Vec<_> = costs.iter().map(|cost| cost.updates).collect();
    updates.sort_unstable();
    println!("a directory of {connections} connections, median of {rounds}");
    println!("snapshot taken, on the disk      {}", time(|cost| cost.taken));
    println!("  its bytes                      {} MiB", costs[0].bytes >> 20);
    println!("  updates of 256 meanwhile       {}", updates[updates.len() / 2]);
    println!("  the longest of them            {}", time(|cost| cost.longest_update));
    println!("received and checked             {}", time(|cost| cost.received));
    println!("read and installed               {}", time(|cost| cost.installed));
    println!("memory of the process at most    {} MiB", peak_bytes() >> 20);
    Ok(())
}

/// The most memory that this process has had.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}
