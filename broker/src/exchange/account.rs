//! What becomes of the requests of clients: counted by their routes, and written to their stage's
//! access log.

use std::sync::Arc;
use std::time::Instant;

use posthorn_core::access_log::failure::{Failure, ResponseType};
use posthorn_core::access_log::{Entry, EventType, Format, IntegrationCall};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::Request;
use posthorn_core::event::ids::MessageId;
use posthorn_core::event::proxy::Event;

use crate::exchange::gate::TurnedAway;
use crate::exchange::stage::{Route, Stage};
use crate::integration::{Answer, CallError};
use crate::telemetry::AccessLog;

/// The access log of a stage.
pub struct StageLog {
    pub log: Arc<AccessLog>,
    pub format: Format,
}

/// One request of a client, until it is accounted for.
pub(super) struct Account<'a> {
    stage: &'a Stage,
    info: &'a ConnectionInfo,
    request: Request,
    event_type: EventType,
    route_key: Option<&'a str>,
    misfit: Option<&'a str>,
    message_id: Option<MessageId>,
    authorizer_latency_ms: Option<u64>,
    closed: Option<(u16, &'a str)>,
    called: Option<Called>,
}

struct Called {
    latency_ms: u64,
    status: Option<u16>,
    error: Option<String>,
}

impl<'a> Account<'a> {
    pub(super) fn new(
        stage: &'a Stage,
        info: &'a ConnectionInfo,
        request: Request,
        event_type: EventType,
    ) -> Account<'a> {
        Account {
            stage,
            info,
            request,
            event_type,
            route_key: None,
            misfit: None,
            message_id: None,
            authorizer_latency_ms: None,
            closed: None,
            called: None,
        }
    }

    /// None if no route fits.
    pub(super) fn with_route(self, key: Option<&'a str>) -> Account<'a> {
        Account { route_key: key, ..self }
    }

    /// Why a message does not fit its model, or what a handshake lacks, where that is so.
    pub(super) fn with_misfit(self, misfit: Option<&'a str>) -> Account<'a> {
        Account { misfit, ..self }
    }

    pub(super) fn of(stage: &'a Stage, event: &Event<'a>) -> Account<'a> {
        match event {
            Event::Connect(event) => Account {
                route_key: Some("$connect"),
                authorizer_latency_ms: event.authorizer_latency_ms,
                ..Account::new(stage, event.info, event.request, EventType::Connect)
            },
            Event::Message(event) => Account {
                route_key: Some(event.route_key),
                message_id: Some(event.message_id),
                ..Account::new(stage, event.info, event.request, EventType::Message)
            },
            Event::Disconnect(event) => Account {
                route_key: Some("$disconnect"),
                closed: Some((event.status_code, event.reason)),
                ..Account::new(stage, event.info, event.request, EventType::Disconnect)
            },
        }
    }

    /// Calls the integration of the request's route.
    pub(super) async fn call(
        &mut self,
        route: &Route,
        event: &Event<'_>,
    ) -> Result<Answer, CallError> {
        let started = Instant::now();
        let called = route.integration.call(event).await;
        let latency = started.elapsed();
        if !route.integration.is_mock() {
            route.metrics.integration_latency.record(latency);
        }
        match &called {
            Ok(Answer { status: 400.., .. }) => route.metrics.integration_errors.increment(1),
            Ok(_) => (),
            Err(CallError::NoTemplate) => route.metrics.client_errors.increment(1),
            Err(_) => route.metrics.execution_errors.increment(1),
        }
        if self.stage.access_log.is_some() {
            self.called = Some(Called {
                latency_ms: u64::try_from(latency.as_millis()).unwrap_or(u64::MAX),
                status: called.as_ref().ok().map(|answer| answer.status),
                error: called.as_ref().err().map(ToString::to_string),
            });
        }
        called
    }

    /// The client was told this status, and why if it was told an error.
    pub(super) fn end(&self, status: u16, failure: Option<Failure<'_>>) {
        let Some(StageLog { log, format }) = &self.stage.access_log else { return };
        let integration = self.called.as_ref().map(|called| IntegrationCall {
            latency_ms: called.latency_ms,
            status: called.status,
            error: called.error.as_deref(),
        });
        log.write(format.line(&Entry {
            info: self.info,
            request: self.request,
            event_type: self.event_type,
            route_key: self.route_key,
            message_id: self.message_id,
            status,
            failure,
            misfit: self.misfit,
            authorizer_latency_ms: self.authorizer_latency_ms,
            integration,
            closed: self.closed,
        }));
    }
}

impl Stage {
    /// A call of the `@connections` API was answered. `info` is of the caller.
    pub fn log_call(
        &self,
        info: &ConnectionInfo,
        request: Request,
        route_key: &str,
        (status, error): (u16, Option<&str>),
    ) {
        let account = Account::new(self, info, request, EventType::ConnectionApi);
        let failure = error.map(|message| Failure { message, response_type: None });
        account.with_route(Some(route_key)).end(status, failure);
    }
}

/// A handshake that was refused before any integration was called.
pub(super) fn turned_away(stage: &Stage, info: &ConnectionInfo, turned_away: &TurnedAway) {
    let TurnedAway { status, message, request, response_type, .. } = turned_away;
    if (400..500).contains(status) {
        let connect = stage.routes.connect().map(|connect| &*connect.metrics);
        connect.unwrap_or(&stage.metrics.unrouted).client_errors.increment(1);
    }
    let request = Request { id: *request, at_ms: info.connected_at_ms };
    let account = Account::new(stage, info, request, EventType::Connect);
    let lacks_parameters = *response_type == ResponseType::BadRequestParameters;
    let misfit = lacks_parameters.then_some(&**message);
    let account = account.with_route(Some("$connect")).with_misfit(misfit);
    account.end(*status, Some(Failure { message, response_type: Some(*response_type) }));
}
