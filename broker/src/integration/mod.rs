//! The backends that routes call: what goes out, what comes back, and how long that may take.
//!
//! * Every call has a deadline and a place in its integration's concurrency limit.
//! * No call is repeated here: who owes one repeats it.

mod authorizer;
mod custom;
mod grpc;
mod http;
mod http_event;
mod http_proxy;
mod http_target;
pub mod key_sets;
mod lambda;
mod mock;
mod places;
pub mod reach;

use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::proxy::Event;
use posthorn_core::message::Message;

use crate::config::api::{IntegrationKind, IntegrationSettings};
use crate::config::aws::AwsSettings;
pub use crate::integration::authorizer::{Authorizer, AuthorizerError};
use crate::integration::custom::{Backend, Custom};
use crate::integration::grpc::Grpc;
use crate::integration::http::HttpClient;
use crate::integration::http_event::HttpEvent;
use crate::integration::http_proxy::HttpProxy;
use crate::integration::http_target::HttpTarget;
use crate::integration::key_sets::KeySets;
use crate::integration::lambda::{AwsProxy, LambdaClient};
use crate::integration::mock::Mock;
use crate::integration::places::Places;
use crate::integration::reach::Reach;
use crate::telemetry::{Called, Metrics};

/// How all integrations of a node reach their backends.
#[derive(Clone)]
pub struct Clients {
    reach: Reach,
    http: HttpClient,
    lambda: LambdaClient,
    key_sets: KeySets,
}

/// One integration of one API.
pub struct Integration {
    kind: Kind,
    timeout: Option<Duration>,
    places: Places,
    metrics: Arc<Metrics>,
}

enum Kind {
    AwsProxy(Box<AwsProxy>),
    Custom(Box<Custom>),
    Grpc(Box<Grpc>),
    HttpEvent(Box<HttpEvent>),
    HttpProxy(Box<HttpProxy>),
    Mock(Mock),
}

/// What an integration answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    /// None where there is no body at all: nothing is said to the client then.
    pub body: Option<Message>,
    /// Whether a response of the integration has made of the answer what a client is to be told of
    /// it, whatever its status.
    pub is_mapped: bool,
}

impl Answer {
    fn new(status: u16, headers: Vec<(String, String)>, body: Option<Message>) -> Answer {
        Answer { status, headers, body, is_mapped: false }
    }
}

/// Why an integration did not answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Certainly not called.
    #[error("too many calls are under way")]
    Overloaded,
    /// Certainly not called.
    #[error("no turn within {} ms: too many calls are under way", .0.as_millis())]
    QueuedTooLong(Duration),
    /// Certainly not called.
    #[error("{0}")]
    NotCalled(String),
    /// Not called: no request could be made of the event.
    #[error("{0}")]
    NotMapped(String),
    /// Not called: there is no template for the message, and without one it may not pass.
    #[error("there is no template for this message")]
    NoTemplate,
    /// Perhaps called.
    #[error("no answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// Perhaps called.
    #[error("{0}")]
    Failed(String),
    /// Called, and its answer makes no sense.
    #[error("{0}")]
    BadAnswer(String),
}

impl Clients {
    pub fn new(aws: Arc<AwsSettings>, reach: Reach) -> Clients {
        let http = HttpClient::new(&reach);
        let (lambda, key_sets) = (LambdaClient::new(http.clone(), aws), KeySets::new(http.clone()));
        Clients { reach, http, lambda, key_sets }
    }

    /// The same connections and keys, for other settings.
    pub fn with_aws(&self, aws: Arc<AwsSettings>) -> Clients {
        let Clients { reach, http, key_sets, .. } = self.clone();
        Clients { lambda: LambdaClient::new(http.clone(), aws), reach, http, key_sets }
    }

    /// The keys of those who issue tokens.
    pub fn key_sets(&self) -> &KeySets {
        &self.key_sets
    }

    pub fn aws(&self) -> &AwsSettings {
        self.lambda.aws()
    }
}

impl CallError {
    /// What it is called over HTTP.
    pub fn status(&self) -> u16 {
        match self {
            CallError::Overloaded | CallError::QueuedTooLong(_) => 503,
            CallError::NotCalled(_) | CallError::Failed(_) => 502,
            CallError::NotMapped(_) | CallError::BadAnswer(_) => 500,
            CallError::NoTemplate => 415,
            CallError::TimedOut(_) => 504,
        }
    }

    fn label(&self) -> Called {
        match self {
            CallError::Overloaded => Called::Overloaded,
            CallError::QueuedTooLong(_) => Called::QueuedTooLong,
            CallError::TimedOut(_) => Called::TimedOut,
            CallError::NotCalled(_)
            | CallError::NotMapped(_)
            | CallError::NoTemplate
            | CallError::Failed(_)
            | CallError::BadAnswer(_) => Called::Failed,
        }
    }
}

impl Integration {
    pub fn new(
        settings: &IntegrationSettings,
        clients: &Clients,
        metrics: Arc<Metrics>,
    ) -> Integration {
        let Clients { reach, http, lambda, .. } = clients;
        let target = |address| HttpTarget::new(http.clone(), address);
        let custom = |backend, mapping| Kind::Custom(Box::new(Custom::new(backend, mapping)));
        let kind = match settings.kind.clone() {
            IntegrationKind::Aws { function, mapping } => {
                custom(Backend::Lambda { lambda: lambda.clone(), function }, mapping)
            }
            IntegrationKind::AwsProxy { function, parameters } => {
                Kind::AwsProxy(Box::new(AwsProxy::new(lambda.clone(), function, parameters)))
            }
            IntegrationKind::Grpc { uri } => Kind::Grpc(Box::new(Grpc::new(&uri, reach))),
            IntegrationKind::Http { address, mapping } => {
                custom(Backend::Http(target(address)), mapping)
            }
            IntegrationKind::HttpEvent { address, parameters } => {
                Kind::HttpEvent(Box::new(HttpEvent::new(target(address), parameters)))
            }
            IntegrationKind::HttpProxy { address, parameters, content_handling } => {
                let proxy = HttpProxy::new(target(address), parameters, content_handling);
                Kind::HttpProxy(Box::new(proxy))
            }
            IntegrationKind::Mock { response } => Kind::Mock(Mock::new(response)),
            IntegrationKind::MockMapped { mapping } => custom(Backend::Mock, mapping),
        };
        Integration {
            kind,
            timeout: settings.timeout,
            places: Places::new(settings.places, metrics.integrations.waiting.clone()),
            metrics,
        }
    }

    /// Whether it answers by itself.
    pub fn is_mock(&self) -> bool {
        match &self.kind {
            Kind::Mock(_) => true,
            Kind::Custom(custom) => custom.is_mock(),
            Kind::AwsProxy(_) | Kind::Grpc(_) | Kind::HttpEvent(_) | Kind::HttpProxy(_) => false,
        }
    }

    /// The answer, where it needs nobody else.
    pub fn answer_now(&self, info: &ConnectionInfo, message: Option<&Message>) -> Option<Answer> {
        match &self.kind {
            Kind::Mock(mock) => Some(mock.answer(info, message)),
            Kind::AwsProxy(_)
            | Kind::Custom(_)
            | Kind::Grpc(_)
            | Kind::HttpEvent(_)
            | Kind::HttpProxy(_) => None,
        }
    }

    pub async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        if let Some(answer) = self.answer_now(event.info(), event.message()) {
            return Ok(answer);
        }
        let started = Instant::now();
        self.metrics.integrations.in_flight.increment(1);
        let result = match within(self.timeout, self.call_in_turn(event)).await {
            Ok(result) => result,
            Err(timeout) => Err(CallError::TimedOut(timeout)),
        };
        self.metrics.integrations.in_flight.decrement(1);
        self.metrics.integrations.call_seconds.record(started.elapsed());
        let label = result.as_ref().map_or_else(CallError::label, |_| Called::Answered);
        self.metrics.integrations.calls.at(label).increment(1);
        result
    }

    async fn call_in_turn(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let _place = self.places.take().await?;
        match &self.kind {
            Kind::AwsProxy(lambda) => lambda.call(event).await,
            Kind::Custom(custom) => custom.call(event).await,
            Kind::Grpc(grpc) => grpc.call(event).await,
            Kind::HttpEvent(http) => http.call(event).await,
            Kind::HttpProxy(http) => http.call(event).await,
            Kind::Mock(mock) => Ok(mock.answer(event.info(), event.message())),
        }
    }
}

/// Waits no longer than that, or for ever. An error is how long it was waited in vain.
async fn within<T>(
    timeout: Option<Duration>,
    asked: impl Future<Output = T>,
) -> Result<T, Duration> {
    match timeout {
        Some(timeout) => tokio::time::timeout(timeout, asked).await.map_err(|_| timeout),
        None => Ok(asked.await),
    }
}
