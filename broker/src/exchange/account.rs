//! What becomes of the calls of integrations, counted by the route that they were called for.

use std::time::Instant;

use posthorn_core::event::proxy::Event;

use crate::exchange::stage::Route;
use crate::integration::{Answer, CallError};

/// Calls a route's integration.
pub(super) async fn call(route: &Route, event: &Event<'_>) -> Result<Answer, CallError> {
    let started = Instant::now();
    let called = route.integration.call(event).await;
    let metrics = &route.metrics;
    if !route.integration.is_mock() {
        metrics.integration_latency.record(started.elapsed());
    }
    match &called {
        Ok(Answer { status: 400.., .. }) => metrics.integration_errors.increment(1),
        Ok(_) => (),
        Err(_) => metrics.execution_errors.increment(1),
    }
    called
}
