//! The files that a process may have open, sockets included: who may have how many of them, and what
//! accepting connections does where there are none left.

use std::io;
use std::time::Duration;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use tracing::{info, warn};

/// What is kept from clients, for peers, callers, backends and the disk. Of fewer than twice as many, a
/// half.
const RESERVED: u64 = 1024;
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How many open files clients, and callers of the API, may have. None is as many as come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    pub clients: Option<u64>,
    pub callers: Option<u64>,
}

/// How long no connection is accepted after one could not be.
#[derive(Debug, Default)]
pub struct AcceptPause(Option<Duration>);

impl Shares {
    /// Has the process open as many files as it is allowed to.
    pub fn claim() -> Shares {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Shares::of(None) };
        let raised = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
        let limit = if raised.is_ok() { hard } else { soft };
        Shares::of(Some(limit).filter(|limit| *limit != RLIM_INFINITY))
    }

    fn of(limit: Option<u64>) -> Shares {
        let reserved = |limit: u64| (limit / 2).min(RESERVED);
        Shares {
            clients: limit.map(|limit| limit - reserved(limit)),
            // They leave some to those who have no share.
            callers: limit.map(|limit| reserved(limit) / 4),
        }
    }
}

impl AcceptPause {
    /// Waits, the longer the more often in a row it had to, and says so once.
    pub async fn wait(&mut self, error: &io::Error) {
        tokio::time::sleep(self.next(error)).await;
    }

    fn next(&mut self, error: &io::Error) -> Duration {
        let pause = match self.0 {
            None => {
                warn!(%error, "cannot accept connections");
                PAUSE_MIN
            }
            Some(before) => (before * 2).min(PAUSE_MAX),
        };
        self.0 = Some(pause);
        pause
    }

    pub fn on_accepted(&mut self) {
        if self.0.take().is_some() {
            info!("connections can be accepted again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_some_to_others() {
        for (limit, clients, callers) in
            [(256, 128, 32), (2048, 1024, 256), (1_000_000, 998_976, 256)]
        {
            let shares = Shares { clients: Some(clients), callers: Some(callers) };
            assert_eq!(Shares::of(Some(limit)), shares);
        }
        assert_eq!(Shares::of(None), Shares { clients: None, callers: None });
    }

    #[test]
    fn a_pause_grows_to_a_bound_and_ends_with_the_first_connection() {
        let (mut pause, error) = (AcceptPause::default(), io::Error::other("none left"));
        let pauses: Vec<_> = (0..9).map(|_| pause.next(&error).as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        pause.on_accepted();
        assert_eq!(pause.next(&error), PAUSE_MIN);
    }
}
