//! What access logs say of calls of the `@connections` API.

use std::sync::Arc;

use axum::http::header;
use axum::http::request::Parts;
use axum::response::Response;
use posthorn_core::address::without_port;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::event::context::Request;
use posthorn_core::ids::ConnectionId;

use crate::api::listener::Remote;
use crate::api::management::answer::ERROR_TYPE;
use crate::api::management::host_of;
use crate::exchange::stage::Stage;

/// A call that is written to the access log of the stage whose path it names, when it is answered.
pub(super) struct Call {
    stage: Arc<Stage>,
    /// Of the caller, but for the connection.
    info: ConnectionInfo,
    /// As API Gateway has it.
    route_key: String,
}

impl Call {
    /// None where the stage has no log.
    pub(super) fn of(stage: &Arc<Stage>, connection: ConnectionId, head: &Parts) -> Option<Call> {
        stage.access_log.as_ref()?;
        let Remote(source_ip) = head.extensions.get().copied()?;
        let user_agent = head.headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
        let info = ConnectionInfo {
            connection,
            api_id: stage.api_id.clone(),
            stage: stage.name.clone(),
            domain_name: without_port(host_of(head)).into(),
            host: host_of(head).into(),
            source_ip,
            user_agent: user_agent.map(Into::into),
            connected_at_ms: 0,
            api_key: None,
            authorized: None,
            signer: None,
        };
        let route_key = format!("{} /@connections/{{connectionId}}", head.method);
        Some(Call { stage: stage.clone(), info, route_key })
    }

    pub(super) fn log(&self, request: Request, response: &Response) {
        let exception = response.headers().get(ERROR_TYPE).and_then(|value| value.to_str().ok());
        let status = response.status().as_u16();
        self.stage.log_call(&self.info, request, &self.route_key, (status, exception));
    }
}
