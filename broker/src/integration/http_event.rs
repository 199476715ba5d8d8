//! An HTTP server that is told of each event: the Lambda-proxy event as JSON in a POST.

use std::sync::Arc;

use posthorn_core::event::proxy::Event;
use posthorn_core::mapping::parameters::RequestParameters;

use crate::integration::http::USER_AGENT;
use crate::integration::http_target::{HttpTarget, map};
use crate::integration::{Answer, CallError};

pub(super) struct HttpEvent {
    target: HttpTarget,
    parameters: Arc<RequestParameters>,
}

impl HttpEvent {
    pub(super) fn new(target: HttpTarget, parameters: Arc<RequestParameters>) -> HttpEvent {
        HttpEvent { target, parameters }
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let headers = [("content-type", "application/json"), ("user-agent", USER_AGENT)];
        let mapped = map(&self.parameters, event)?;
        let answer = self.target.send(&headers, "", event.to_json().into(), &mapped).await?;
        answer.into_answer(event)
    }
}
