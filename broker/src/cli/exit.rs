//! How a command ends.

use std::process::ExitCode;

/// The exit codes of every subcommand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Success = 0,
    Failed = 1,
    /// Wrong arguments, as clap has it, or a configuration that is not believed.
    Usage = 2,
    /// Nobody could be reached, or an address could not be listened at.
    Unavailable = 3,
    /// The connection is over.
    Gone = 4,
    /// Perhaps done.
    Unknown = 5,
    /// The data directory cannot be used, or failed.
    Store = 6,
    /// The cluster has no leader that a quorum follows.
    NoLeader = 7,
    /// This release does not speak what the cluster speaks.
    Incompatible = 8,
    /// The node is no longer a member of its cluster.
    Removed = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
