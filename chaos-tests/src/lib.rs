//! A harness for real nodes: it starts the binary, speaks to it as clients, backends and operators
//! do, and ends every process that it started.
//!
//! It panics where it cannot go on: it serves tests, and a panic is how a test says so.

pub mod backend;
pub mod cgroup;
pub mod chance;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod detour;
pub mod disk;
pub mod flood;
pub mod grpc;
pub mod history;
pub mod hosts;
pub mod issuer;
pub mod lambda;
pub mod load;
pub mod management;
pub mod mutants;
pub mod oracle;
mod packet;
pub mod papers;
pub mod power;
pub mod process;
pub mod raw;
pub mod rows;
pub mod schedule;
pub mod server;
mod shim;
pub mod stateful_set;
pub mod tools;
pub mod witness;
pub mod world;

use std::future::Future;
use std::time::Duration;

/// Longer than anything here takes on a busy machine, so that a test that hangs ends.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `check` finds what it looks for.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub async fn eventually<T, F>(what: &str, mut check: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let found = async {
        loop {
            if let Some(found) = check().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    match tokio::time::timeout(PATIENCE, found).await {
        Ok(found) => found,
        Err(_) => panic!("not within {} s: {what}", PATIENCE.as_secs()),
    }
}

/// Waits for something that is bound to come.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {} s: {what}", PATIENCE.as_secs()),
    }
}
