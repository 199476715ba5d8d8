//! One request to one HTTP server, with the pool of connections that all calls of a node share.
//!
//! Redirects are never followed: the address comes from the configuration alone.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{HeaderMap, Request, Uri};
use hyper_rustls::builderstates::WantsProtocols1;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use posthorn_core::event::proxy::Event;
use posthorn_core::message::{Message, MessageKind};

use crate::integration::reach::{Connector, Reach};
use crate::integration::{Answer, CallError};

/// As large as the largest answer of Lambda; what is larger could not be sent on anyway.
const BODY_BYTES_MAX: usize = 6 * 1024 * 1024;
const IDLE_CONNECTIONS_MAX: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const USER_AGENT: &str = concat!("posthorn/", env!("CARGO_PKG_VERSION"));

#[derive(Clone)]
pub struct HttpClient {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
}

/// Status, headers and body.
type Parts = (u16, Vec<(String, String)>, Message);

/// What a server answered, read to its end.
pub(super) struct HttpAnswer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl HttpClient {
    pub fn new(reach: &Reach) -> HttpClient {
        let https = https_connector().enable_http1().wrap_connector(reach.connector());
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            // Of a request that was not begun, since its server had closed the pooled connection.
            .retry_canceled_requests(true)
            .build(https);
        HttpClient { client }
    }

    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
    ) -> Result<HttpAnswer, CallError> {
        self.send_for(request, BODY_BYTES_MAX).await
    }

    /// For an answer of at most so many bytes.
    pub(super) async fn send_for(
        &self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> Result<HttpAnswer, CallError> {
        let uri = request.uri().clone();
        let response = self.client.request(request).await.map_err(|error| {
            let text = format!("{}: {}", plain(&uri), root_cause(&error));
            if error.is_connect() { CallError::NotCalled(text) } else { CallError::Failed(text) }
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, body_bytes_max).collect().await;
        let body = body
            .map_err(|error| CallError::Failed(format!("{}: {error}", plain(&uri))))?
            .to_bytes();
        Ok(HttpAnswer { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// What connects to http and https addresses, and believes whom the web believes.
pub(super) fn https_connector() -> HttpsConnectorBuilder<WantsProtocols1> {
    let https = HttpsConnectorBuilder::new()
        .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider());
    match https {
        Ok(https) => https.https_or_http(),
        // ring offers every protocol version that is asked for here.
        Err(error) => unreachable!("{error}"),
    }
}

impl HttpAnswer {
    /// The status is the verdict on `$connect`; the body, if it is not empty, is the reply to the
    /// client.
    pub(super) fn into_answer(self, event: &Event<'_>) -> Result<Answer, CallError> {
        if let Event::Connect(_) = event {
            // The client is told of the body's encoding, and may have asked for it.
            let (status, headers, body) = self.parts();
            return Ok(Answer::new(status, headers, Some(body)));
        }
        let (status, headers, body) = self.into_parts()?;
        let body = Some(body).filter(|body| !body.payload.is_empty());
        Ok(Answer::new(status, headers, body))
    }

    /// Refuses a body that is encoded: nobody asked for it, and a message has no header to say so.
    pub(super) fn into_parts(self) -> Result<Parts, CallError> {
        match self.headers.get("content-encoding") {
            Some(encoding) if encoding != "identity" => {
                Err(CallError::BadAnswer(format!("its body is encoded: {encoding:?}")))
            }
            _ => Ok(self.parts()),
        }
    }

    /// The body is a binary message where the content type is `application/octet-stream` or the
    /// body is not UTF-8, a text message otherwise.
    fn parts(self) -> Parts {
        let HttpAnswer { status, headers, body } = self;
        let content_type = headers.get("content-type").and_then(|value| value.to_str().ok());
        let is_binary =
            content_type.is_some_and(|kind| kind.starts_with("application/octet-stream"));
        let kind = match is_binary || str::from_utf8(&body).is_err() {
            true => MessageKind::Binary,
            false => MessageKind::Text,
        };
        (status, owned(&headers), Message { kind, payload: body })
    }
}

fn owned(headers: &HeaderMap) -> Vec<(String, String)> {
    let own = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(own).collect()
}

/// For logs: without a query, in which secrets are passed.
fn plain(uri: &Uri) -> String {
    uri.to_string().split('?').next().unwrap_or_default().to_owned()
}

/// The client's own texts say little; what they stem from says all.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
