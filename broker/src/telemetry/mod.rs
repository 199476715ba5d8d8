//! What operators see: metrics, each named once, and the log.

mod access_log;
mod apis;
mod arithmetic;
mod fabric;
mod log;
mod metrics;
mod registry;
mod storage;

pub use access_log::{AccessLog, AccessLogs, Destination};
pub use apis::{RouteMetrics, StageMetrics};
pub use arithmetic::{ARITHMETIC, Equation};
pub use fabric::{Direction, FabricMetrics, FabricPurpose};
pub use log::{LogError, start_log};
pub use metrics::*;
pub use registry::{ByLabel, Exporter, Label, Registry, Series, Values};
pub use storage::StorageMetrics;
