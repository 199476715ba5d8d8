//! An HTTP server that is told of each event: the Lambda-proxy event as JSON in a POST.

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use posthorn_core::event::proxy::Event;

use crate::integration::http::{HttpClient, USER_AGENT};
use crate::integration::{Answer, CallError};

pub(super) struct HttpEvent {
    client: HttpClient,
    uri: Uri,
}

impl HttpEvent {
    pub(super) fn new(client: HttpClient, uri: Uri) -> HttpEvent {
        HttpEvent { client, uri }
    }

    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let request = Request::post(self.uri.clone())
            .header("content-type", "application/json")
            .header("user-agent", USER_AGENT)
            .body(Full::new(Bytes::from(event.to_json())))
            .map_err(|error| CallError::NotCalled(error.to_string()))?;
        self.client.send(request).await.map(|answer| answer.into_answer())
    }
}
