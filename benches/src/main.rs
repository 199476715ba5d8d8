//! What a cluster of three real nodes carries, with clients and backends on the same machine.
//!
//! Figures are printed with what limited them, never asserted: they are the machine's as much as
//! ours. Everything is bounded in count and time, and a cluster ends with its scenario.

mod build;
mod client;
mod connects;
mod frames;
mod idle;
mod latency;
mod messages;
mod posts;
mod recovery;
mod report;
mod usage;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use posthorn_chaos::cluster::{Cluster, Options};

use crate::report::{Figure, Report};

/// Longer than any scenario takes on a slow machine.
const SCENARIO_TIME_MAX: Duration = Duration::from_secs(180);

/// Measures a cluster of three nodes that it starts on this machine.
#[derive(Parser)]
struct Arguments {
    #[arg(value_enum, default_value_t = Scenario::All)]
    scenario: Scenario,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Handshakes a second, each committed to the directory before it is answered.
    Connects,
    /// Posts a second over streams at one node to clients of the two others.
    Posts,
    /// How long one post takes from one node to a client of another.
    Latency,
    /// Messages of clients a second, through a route to a mock and back.
    Messages,
    /// What an open connection that says nothing costs in memory.
    Idle,
    /// How long it takes until all is well again after a node was killed.
    Recovery,
    /// One after the other.
    All,
}

/// Why there is no figure.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error("a client: {0}")]
    Client(#[from] std::io::Error),
    #[error("a backend: {0}")]
    Backend(#[from] tonic::Status),
    #[error("not done within {} s", SCENARIO_TIME_MAX.as_secs())]
    TimedOut,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { scenario } = Arguments::parse();
    if let Err(error) = build::node() {
        eprintln!("posthorn-load: {error}");
        return ExitCode::FAILURE;
    }
    let scenarios = match scenario {
        Scenario::All => {
            vec![
                Scenario::Connects,
                Scenario::Posts,
                Scenario::Latency,
                Scenario::Messages,
                Scenario::Idle,
                Scenario::Recovery,
            ]
        }
        one => vec![one],
    };
    tokio::select! {
        code = run_all(scenarios) => code,
        // The clusters are dropped with the scenarios, and end.
        _ = tokio::signal::ctrl_c() => ExitCode::FAILURE,
    }
}

async fn run_all(scenarios: Vec<Scenario>) -> ExitCode {
    let mut report = Report::default();
    let mut code = ExitCode::SUCCESS;
    for scenario in scenarios {
        let name = scenario.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
        eprintln!("{name} ...");
        let run = tokio::time::timeout(SCENARIO_TIME_MAX, Box::pin(run(scenario))).await;
        match run.unwrap_or(Err(LoadError::TimedOut)) {
            Ok(figures) => report.add(figures),
            Err(error) => {
                eprintln!("posthorn-load: {name}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    print!("{report}");
    code
}

/// Each scenario has a new cluster, so that none finds what another left behind.
async fn run(scenario: Scenario) -> Result<Vec<Figure>, LoadError> {
    let mut cluster = Cluster::start(Options::default()).await;
    match scenario {
        Scenario::Connects => connects::run(&cluster).await,
        Scenario::Posts => posts::run(&cluster).await,
        Scenario::Latency => latency::run(&cluster).await,
        Scenario::Messages => messages::run(&cluster).await,
        Scenario::Idle => idle::run(&cluster).await,
        Scenario::Recovery => recovery::run(&mut cluster).await,
        Scenario::All => Ok(Vec::new()),
    }
}
