//! Lambda functions, called by the Invoke API, at AWS or wherever else that is served.
//!
//! Calls are signed where there are credentials; local runtimes ask for none.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Uri};
use posthorn_core::auth::sigv4::{self, Scope};
use posthorn_core::event::answer::Answer as ProxyAnswer;
use posthorn_core::event::proxy::Event;
use posthorn_core::mapping::parameters::RequestParameters;

use crate::clock::epoch_ms;
use crate::config::api::FunctionName;
use crate::config::aws::AwsSettings;
use crate::integration::http::{HttpClient, USER_AGENT};
use crate::integration::http_target::map;
use crate::integration::{Answer, CallError};

const SERVICE: &str = "lambda";
/// Of an answer that a failed function gave, in a log.
const ERROR_CHARS_MAX: usize = 300;

/// The Invoke API of one region.
#[derive(Clone)]
pub struct LambdaClient {
    client: HttpClient,
    aws: Arc<AwsSettings>,
}

/// What a function answered.
pub(super) enum Invoked {
    /// Of a function that was called as an event, and runs later: nothing.
    Returned(Bytes),
    /// It was run and failed: with an object that has `errorMessage`, mostly.
    Threw(Bytes),
}

/// A function behind a proxy: it gets the whole event and answers with a status, headers and a body.
pub(super) struct AwsProxy {
    lambda: LambdaClient,
    function: FunctionName,
    /// Headers of the call.
    parameters: Arc<RequestParameters>,
}

impl LambdaClient {
    pub fn new(client: HttpClient, aws: Arc<AwsSettings>) -> LambdaClient {
        LambdaClient { client, aws }
    }

    pub(super) fn aws(&self) -> &AwsSettings {
        &self.aws
    }

    /// `headers` are those of the Invoke API, and go before what we say ourselves.
    pub(super) async fn invoke(
        &self,
        function: &FunctionName,
        payload: Bytes,
        headers: &[(String, String)],
    ) -> Result<Invoked, CallError> {
        let request = self.request(function, payload, headers)?;
        let answer = self.client.send(request).await?;
        match answer.status {
            200 if answer.headers.contains_key("x-amz-function-error") => {
                Ok(Invoked::Threw(answer.body))
            }
            200 | 202 | 204 => Ok(Invoked::Returned(answer.body)),
            status => {
                let text = format!("{}: {status}: {}", function.as_str(), excerpt(&answer.body));
                // It was turned away before the function was run.
                let is_refusal = matches!(status, 400..=499);
                Err(if is_refusal { CallError::NotCalled(text) } else { CallError::Failed(text) })
            }
        }
    }

    fn request(
        &self,
        function: &FunctionName,
        payload: Bytes,
        mapped: &[(String, String)],
    ) -> Result<Request<Full<Bytes>>, CallError> {
        let refused = |error: &dyn fmt::Display| CallError::NotCalled(error.to_string());
        let endpoint = &self.aws.lambda_endpoint;
        let authority = endpoint.authority().map_or("", |authority| authority.as_str());
        let path = format!(
            "{}/2015-03-31/functions/{}/invocations",
            endpoint.path().trim_end_matches('/'),
            function.as_str().replace(':', "%3A").replace('$', "%24")
        );
        let uri = Uri::builder()
            .scheme(endpoint.scheme_str().unwrap_or("https"))
            .authority(authority)
            .path_and_query(&*path)
            .build()
            .map_err(|error| refused(&error))?;
        let ours = [
            ("host", authority),
            ("content-type", "application/json"),
            ("x-amz-invocation-type", "RequestResponse"),
        ];
        let is_mapped =
            |name: &str| mapped.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let ours = ours.into_iter().filter(|(name, _)| !is_mapped(name));
        let headers = ours.chain(mapped.iter().map(|(name, value)| (&**name, &**value)));
        let headers: Vec<(&str, &str)> = headers.collect();
        let mut request = Request::post(uri).header("user-agent", USER_AGENT);
        for (name, value) in &headers {
            request = request.header(*name, *value);
        }
        if let Some(credentials) = &self.aws.credentials {
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let signed = sigv4::Request {
                method: "POST",
                path: &path,
                query: "",
                headers: &headers,
                body: &payload,
            };
            let scope = Scope { region: &self.aws.region, service: SERVICE };
            for (name, value) in sigv4::sign(&signed, &credentials.as_signer(), &scope, epoch_ms())
            {
                request = request.header(name, value);
            }
        }
        request.body(Full::new(payload)).map_err(|error| refused(&error))
    }
}

impl AwsProxy {
    pub(super) fn new(
        lambda: LambdaClient,
        function: FunctionName,
        parameters: Arc<RequestParameters>,
    ) -> AwsProxy {
        AwsProxy { lambda, function, parameters }
    }

    /// What the function returns for `$disconnect` is nobody's: it is not even read.
    pub(super) async fn call(&self, event: &Event<'_>) -> Result<Answer, CallError> {
        let function = self.function.as_str();
        let mapped = map(&self.parameters, event)?;
        let invoked = self.lambda.invoke(&self.function, event.to_json().into(), &mapped.headers);
        match invoked.await? {
            Invoked::Returned(body) if matches!(event, Event::Disconnect(_)) || body.is_empty() => {
                Ok(Answer::new(200, Vec::new(), None))
            }
            Invoked::Returned(body) => {
                let answer = ProxyAnswer::parse(&body)
                    .map_err(|error| CallError::BadAnswer(format!("{function}: {error}")))?;
                let ProxyAnswer { status, headers, body } = answer;
                // On a message, the status means nothing: what the function returned was an answer.
                let status = if event.message().is_some() { 200 } else { status };
                Ok(Answer::new(status, headers, body))
            }
            Invoked::Threw(error) => {
                Err(CallError::Failed(format!("{function} failed: {}", excerpt(&error))))
            }
        }
    }
}

pub(super) fn excerpt(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(ERROR_CHARS_MAX).collect()
}
