//! The backends that routes call: what goes out, what comes back, and how long that may take.
//!
//! * Every call has a deadline and a place in its integration's concurrency limit.
//! * No call is repeated here: who owes one repeats it.

mod http_event;
mod mock;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::message::Message;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::config::api::{IntegrationKind, IntegrationSettings};
use crate::telemetry::{Called, Metrics};
pub use http_event::HttpClient;
use http_event::HttpEvent;
use mock::Mock;

/// One integration of one API.
pub struct Integration {
    kind: Kind,
    timeout: Duration,
    /// For calls under way.
    places: Semaphore,
    /// For calls that wait for such a place.
    waiting: Semaphore,
    metrics: Arc<Metrics>,
}

enum Kind {
    HttpEvent(Box<HttpEvent>),
    Mock(Mock),
}

/// What is called for: an event, and the message that caused it, if one did.
pub struct Call<'a> {
    info: &'a ConnectionInfo,
    /// Makes the event as JSON, which not every integration needs.
    event: &'a (dyn Fn() -> Vec<u8> + Sync),
    message: Option<&'a Message>,
}

/// What an integration answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// None where there is no body at all: nothing is said to the client then.
    pub body: Option<Message>,
}

/// Why an integration did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Certainly not called.
    #[error("too many calls are under way")]
    Overloaded,
    /// Certainly not called.
    #[error("{0}")]
    NotCalled(String),
    /// Perhaps called.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Perhaps called.
    #[error("{0}")]
    Failed(String),
}

impl<'a> Call<'a> {
    pub fn of_event(info: &'a ConnectionInfo, event: &'a (dyn Fn() -> Vec<u8> + Sync)) -> Call<'a> {
        Call { info, event, message: None }
    }

    pub fn of_message(
        info: &'a ConnectionInfo,
        event: &'a (dyn Fn() -> Vec<u8> + Sync),
        message: &'a Message,
    ) -> Call<'a> {
        Call { info, event, message: Some(message) }
    }
}

impl CallError {
    fn label(&self) -> Called {
        match self {
            CallError::Overloaded => Called::Overloaded,
            CallError::TimedOut(_) => Called::TimedOut,
            CallError::NotCalled(_) | CallError::Failed(_) => Called::Failed,
        }
    }
}

impl Integration {
    pub fn new(
        settings: &IntegrationSettings,
        client: &HttpClient,
        metrics: Arc<Metrics>,
    ) -> Integration {
        let kind = match &settings.kind {
            IntegrationKind::HttpEvent { uri } => {
                Kind::HttpEvent(Box::new(HttpEvent::new(client.clone(), uri.clone())))
            }
            IntegrationKind::Mock { response } => Kind::Mock(Mock::new(response.clone())),
        };
        Integration {
            kind,
            timeout: settings.timeout,
            places: Semaphore::new(settings.concurrency_max),
            waiting: Semaphore::new(settings.concurrency_max),
            metrics,
        }
    }

    /// The answer, where it needs nobody else.
    pub fn answer_now(&self, info: &ConnectionInfo, message: Option<&Message>) -> Option<Answer> {
        match &self.kind {
            Kind::Mock(mock) => Some(mock.answer(info, message)),
            Kind::HttpEvent(_) => None,
        }
    }

    pub async fn call(&self, call: Call<'_>) -> Result<Answer, CallError> {
        if let Some(answer) = self.answer_now(call.info, call.message) {
            return Ok(answer);
        }
        let started = Instant::now();
        self.metrics.integrations.in_flight.increment(1);
        let result = match tokio::time::timeout(self.timeout, self.call_in_turn(&call)).await {
            Ok(result) => result,
            Err(_) => Err(CallError::TimedOut(self.timeout)),
        };
        self.metrics.integrations.in_flight.decrement(1);
        self.metrics.integrations.call_seconds.record(started.elapsed());
        let label = result.as_ref().map_or_else(CallError::label, |_| Called::Answered);
        self.metrics.integrations.calls.at(label).increment(1);
        result
    }

    async fn call_in_turn(&self, call: &Call<'_>) -> Result<Answer, CallError> {
        let _place = self.take_place().await?;
        match &self.kind {
            Kind::HttpEvent(http) => http.call(Bytes::from((call.event)())).await,
            Kind::Mock(mock) => Ok(mock.answer(call.info, call.message)),
        }
    }

    /// Waits for a place among the calls under way, unless too many wait already.
    async fn take_place(&self) -> Result<SemaphorePermit<'_>, CallError> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        let _waiting = self.waiting.try_acquire().map_err(|_| CallError::Overloaded)?;
        // It is never closed.
        self.places.acquire().await.map_err(|_| CallError::Overloaded)
    }
}
