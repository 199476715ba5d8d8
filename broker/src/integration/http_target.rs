//! What an HTTP server is called by: an address with its parameters filled in.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request};
use posthorn_core::event::proxy::Event;
use posthorn_core::mapping::facts::Facts;
use posthorn_core::mapping::parameters::{Mapped, RequestParameters};
use posthorn_core::mapping::uri::UriTemplate;
use posthorn_core::message::{Message, MessageKind};

use crate::config::api::HttpAddress;
use crate::integration::CallError;
use crate::integration::http::{HttpAnswer, HttpClient, USER_AGENT};

pub(super) struct HttpTarget {
    client: HttpClient,
    method: Method,
    uri: UriTemplate,
}

impl HttpTarget {
    pub(super) fn new(client: HttpClient, address: HttpAddress) -> HttpTarget {
        let HttpAddress { method, uri } = address;
        HttpTarget { client, method, uri }
    }

    /// What is mapped goes before `headers` and `query` of the same names.
    pub(super) async fn send(
        &self,
        headers: &[(&str, &str)],
        query: &str,
        body: Bytes,
        mapped: &Mapped,
    ) -> Result<HttpAnswer, CallError> {
        let uri = self.uri.fill(&mapped.path, query, &mapped.query);
        let uri = uri.map_err(|error| CallError::NotMapped(error.to_string()))?;
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        let is_mapped =
            |name: &str| mapped.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let passed_on = headers.iter().copied().filter(|(name, _)| !is_mapped(name));
        let set = mapped.headers.iter().map(|(name, value)| (&**name, &**value));
        for (name, value) in passed_on.chain(set) {
            let name = HeaderName::from_bytes(name.as_bytes());
            let value = HeaderValue::from_bytes(value.as_bytes());
            if let (Ok(name), Ok(value)) = (name, value) {
                request = request.header(name, value);
            }
        }
        let request = request.body(Full::new(body));
        let request = request.map_err(|error| CallError::NotMapped(error.to_string()))?;
        self.client.send(request).await
    }

    /// The same for a body of our own making.
    pub(super) async fn send_message(
        &self,
        message: Message,
        mapped: &Mapped,
    ) -> Result<HttpAnswer, CallError> {
        let content_type = match message.kind {
            MessageKind::Text => "application/json",
            MessageKind::Binary => "application/octet-stream",
        };
        let headers = [("content-type", content_type), ("user-agent", USER_AGENT)];
        self.send(&headers, "", message.payload, mapped).await
    }
}

/// What parameters come to for an event.
pub(super) fn map(parameters: &RequestParameters, event: &Event<'_>) -> Result<Mapped, CallError> {
    if parameters.is_empty() {
        return Ok(Mapped::default());
    }
    let mapped = parameters.map(&Facts::of(event).source());
    mapped.map_err(|error| CallError::NotMapped(error.to_string()))
}
