//! An HTTP server that is told of each event: the Lambda-proxy event as JSON in a POST.
//!
//! Its status is the verdict on `$connect`; its body, if it is not empty, is the reply to the
//! client: a binary message where the content type is `application/octet-stream` or the body is not
//! UTF-8, a text message otherwise. Redirects are never followed: the address comes from the
//! configuration alone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, Uri};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use posthorn_core::message::{Message, MessageKind};

use crate::integration::{Answer, CallError};

/// As large as the largest message; what is larger could not be sent anyway.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const IDLE_CONNECTIONS_MAX: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The pool of connections that all HTTP integrations of a node share.
#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

pub(super) struct HttpEvent {
    client: HttpClient,
    uri: Uri,
}

impl HttpClient {
    pub fn new() -> HttpClient {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider());
        let https = match https {
            Ok(https) => https.https_or_http().enable_http1().wrap_connector(http),
            // ring offers every protocol version that is asked for here.
            Err(error) => unreachable!("{error}"),
        };
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .retry_canceled_requests(false)
            .build(https);
        HttpClient { client }
    }
}

impl Default for HttpClient {
    fn default() -> HttpClient {
        HttpClient::new()
    }
}

impl HttpEvent {
    pub(super) fn new(client: HttpClient, uri: Uri) -> HttpEvent {
        HttpEvent { client, uri }
    }

    pub(super) async fn call(&self, event: Bytes) -> Result<Answer, CallError> {
        let request = Request::post(self.uri.clone())
            .header("content-type", "application/json")
            .header("user-agent", concat!("posthorn/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(event))
            .map_err(|error| CallError::NotCalled(error.to_string()))?;
        let response = self.client.client.request(request).await.map_err(|error| {
            let text = format!("{}: {}", self.uri, root_cause(&error));
            if error.is_connect() { CallError::NotCalled(text) } else { CallError::Failed(text) }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let body =
            body.map_err(|error| CallError::Failed(format!("{}: {error}", self.uri)))?.to_bytes();
        let body = (!body.is_empty()).then(|| message_of(&head.headers, body));
        Ok(Answer { status: head.status.as_u16(), headers: owned(&head.headers), body })
    }
}

fn message_of(headers: &HeaderMap, body: Bytes) -> Message {
    let content_type = headers.get("content-type").and_then(|value| value.to_str().ok());
    let is_binary = content_type.is_some_and(|kind| kind.starts_with("application/octet-stream"));
    match is_binary || str::from_utf8(&body).is_err() {
        true => Message { kind: MessageKind::Binary, payload: body },
        false => Message { kind: MessageKind::Text, payload: body },
    }
}

fn owned(headers: &HeaderMap) -> Vec<(String, String)> {
    let own = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(own).collect()
}

/// The client's own texts say little; what they stem from says all.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
