//! The two clocks of a node.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};
use posthorn_core::liveness::BootTime;

/// The clock that leases go by: it never steps, and goes on while the machine sleeps, so that a run
/// that slept through its lease knows.
pub fn boot_now() -> BootTime {
    let elapsed = match clock_gettime(ClockId::CLOCK_BOOTTIME) {
        Ok(time) => Duration::from(time),
        // Every Linux since 2.6.39 has it. Without it, no lease can be kept: all have ended.
        Err(_) => Duration::MAX / 2,
    };
    BootTime(elapsed)
}

/// Milliseconds since 1970-01-01 UTC, for people and backends. Nothing is decided by it.
pub fn epoch_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
