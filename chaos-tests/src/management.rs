//! The `@connections` API, called as AWS's SDKs do and as they never would.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use posthorn_core::auth::sigv4::{self, Credentials, Scope};

use crate::within;

/// Calls one node.
#[derive(Clone)]
pub struct Management {
    address: SocketAddr,
    /// What is asked for there.
    host: String,
    client: HttpClient<HttpConnector, Full<Bytes>>,
    /// What is added to each request that has none of its own.
    authorization: Option<String>,
    key: Option<(String, String)>,
}

/// An answer as it came.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Management {
    pub fn new(address: SocketAddr) -> Management {
        let client = HttpClient::builder(TokioExecutor::new()).build_http();
        Management { address, host: address.to_string(), client, authorization: None, key: None }
    }

    /// The same by another name.
    #[must_use]
    pub fn as_host(mut self, host: &str) -> Management {
        host.clone_into(&mut self.host);
        self
    }

    /// The same by HTTP/2.
    #[must_use]
    pub fn by_http_2(mut self) -> Management {
        self.client = HttpClient::builder(TokioExecutor::new()).http2_only(true).build_http();
        self
    }

    #[must_use]
    pub fn with_token(mut self, token: &str) -> Management {
        self.authorization = Some(format!("Bearer {token}"));
        self
    }

    /// Signs each request.
    #[must_use]
    pub fn with_key(mut self, id: &str, secret: &str) -> Management {
        self.key = Some((id.to_owned(), secret.to_owned()));
        self
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, &[], b"").await
    }

    pub async fn post(&self, path: &str, body: &[u8]) -> Reply {
        self.call("POST", path, &[], body).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        self.call("DELETE", path, &[], b"").await
    }

    /// # Panics
    ///
    /// If there is no answer.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("host", &self.host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        for (name, value) in self.signature(method, path, headers, body, now_ms()) {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::copy_from_slice(body));
        let request = request.body(body).expect("a request");
        let response = within("an answer", self.client.request(request)).await;
        let (head, body) = response.expect("the node answers").into_parts();
        let body = within("a body", body.collect()).await.expect("a whole body").to_bytes();
        Reply {
            status: head.status.as_u16(),
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        }
    }

    /// The headers that sign a request, if there is a key to sign with.
    pub fn signature(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        now_ms: u64,
    ) -> Vec<(&'static str, String)> {
        let Some((id, secret)) = &self.key else { return Vec::new() };
        let mut signed = vec![("host", self.host.as_bytes())];
        signed.extend(headers.iter().map(|(name, value)| (*name, value.as_bytes())));
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let request = sigv4::Request { method, path, query, headers: &signed, body };
        let credentials =
            Credentials { access_key_id: id, secret_access_key: secret, session_token: None };
        let scope = Scope { region: "eu-west-1", service: "execute-api" };
        sigv4::sign(&request, &credentials, &scope, now_ms)
    }
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Status, exception and body.
    pub fn parts(&self) -> (u16, &str, &str) {
        (self.status, self.header("x-amzn-errortype").unwrap_or_default(), &self.body)
    }
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
    u64::try_from(since.as_millis()).expect("it is before the year 584,942,417")
}
