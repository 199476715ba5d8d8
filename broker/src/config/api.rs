//! API definitions, in the vocabulary of API Gateway's `apigatewayv2` in snake case.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::Uri;
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::route::table::RouteKey;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::source::Fault;

/// As API Gateway has it, and its largest.
const TIMEOUT_DEFAULT_MS: u64 = 29_000;
const TIMEOUT_MS_MIN: u64 = 50;
const CONCURRENCY_DEFAULT: usize = 1024;

/// One API, believed.
#[derive(Debug, Clone)]
pub struct Api {
    pub id: Arc<str>,
    pub route_selection_expression: Expression,
    pub routes: BTreeMap<RouteKey, RouteSettings>,
    pub integrations: BTreeMap<Arc<str>, Arc<IntegrationSettings>>,
    pub stages: BTreeMap<Arc<str>, StageSettings>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSettings {
    /// A key of the API's integrations.
    pub integration: Arc<str>,
    /// Whether what the integration answers goes back to the client.
    pub is_two_way: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IntegrationSettings {
    pub kind: IntegrationKind,
    pub timeout: Duration,
    /// Calls under way at once from one node. As many more wait; further ones are refused.
    pub concurrency_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IntegrationKind {
    /// The Lambda-proxy event as JSON in a POST to this address.
    HttpEvent {
        uri: Uri,
    },
    Mock {
        response: MockResponse,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MockResponse {
    /// The same each time; `$context.connectionId` in the body is replaced.
    Static { status: u16, body: Option<Arc<str>> },
    /// What the client sent.
    Echo,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageSettings {
    pub variables: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenApi {
    route_selection_expression: Spanned<String>,
    #[serde(default)]
    routes: BTreeMap<String, WrittenRoute>,
    #[serde(default)]
    integrations: BTreeMap<Arc<str>, WrittenIntegration>,
    stages: BTreeMap<Arc<str>, WrittenStage>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    /// `integrations/{integration_id}`.
    target: Spanned<String>,
    /// `$default` makes the route two-way. There is no other value.
    route_response_selection_expression: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenIntegration {
    integration_type: IntegrationType,
    integration_uri: Option<Spanned<String>>,
    timeout_in_millis: Option<Spanned<u64>>,
    concurrency_max: Option<Spanned<usize>>,
    mock_response: Option<WrittenMock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum IntegrationType {
    HttpEvent,
    Mock,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMock {
    #[serde(default)]
    echo: bool,
    body: Option<Arc<str>>,
    status: Option<Spanned<u16>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    #[serde(default)]
    stage_variables: BTreeMap<String, String>,
}

impl Api {
    pub(super) fn believe(id: Arc<str>, written: WrittenApi) -> Result<Api, Fault> {
        let WrittenApi { route_selection_expression, routes, integrations, stages } = written;
        if !is_name(&id) {
            return Err(Fault::new("", "an API's ID is 1 to 128 of A-Z, a-z, 0-9, - and _"));
        }
        let key = "route_selection_expression";
        let expression = Expression::parse(&route_selection_expression.value, Purpose::Route)
            .map_err(|error| Fault::at(key, &route_selection_expression, error.to_string()))?;
        let integrations = integrations
            .into_iter()
            .map(|(id, written)| {
                let believed = written.believe(&format!("integrations.{id}"))?;
                Ok((id, Arc::new(believed)))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        let routes = routes
            .into_iter()
            .map(|(text, written)| {
                let place = format!("routes.{text}");
                let key: RouteKey = text
                    .parse()
                    .map_err(|error| Fault::at(&place, &written.target, format!("{error}")))?;
                Ok((key, written.believe(&place, &integrations)?))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        if let Some(bad) = stages.keys().find(|name| !is_name(name)) {
            let rule = "a stage's name is 1 to 128 of A-Z, a-z, 0-9, - and _";
            return Err(Fault::new(format!("stages.{bad}"), rule));
        }
        let stages = stages
            .into_iter()
            .map(|(name, written)| (name, StageSettings { variables: written.stage_variables }))
            .collect();
        Ok(Api { id, route_selection_expression: expression, routes, integrations, stages })
    }
}

impl WrittenRoute {
    fn believe(
        self,
        place: &str,
        integrations: &BTreeMap<Arc<str>, Arc<IntegrationSettings>>,
    ) -> Result<RouteSettings, Fault> {
        let WrittenRoute { target, route_response_selection_expression: response } = self;
        let known = target.value.strip_prefix("integrations/");
        let known = known.and_then(|id| integrations.get_key_value(id));
        let Some((integration, _)) = known else {
            let rule = format!("`{}` is not integrations/ and the key of one", target.value);
            return Err(Fault::at(format!("{place}.target"), &target, rule));
        };
        if let Some(response) = response.as_ref().filter(|response| response.value != "$default") {
            let key = format!("{place}.route_response_selection_expression");
            return Err(Fault::at(key, response, "the only value is $default"));
        }
        Ok(RouteSettings { integration: integration.clone(), is_two_way: response.is_some() })
    }
}

impl WrittenIntegration {
    fn believe(self, place: &str) -> Result<IntegrationSettings, Fault> {
        let WrittenIntegration {
            integration_type,
            integration_uri,
            timeout_in_millis,
            concurrency_max,
            mock_response,
        } = self;
        let misplaced = |key: &str| {
            let rule = format!("this is no key of an integration of type {integration_type:?}");
            Fault::new(format!("{place}.{key}"), rule)
        };
        let kind = match integration_type {
            IntegrationType::HttpEvent if mock_response.is_some() => {
                return Err(misplaced("mock_response"));
            }
            IntegrationType::HttpEvent => {
                IntegrationKind::HttpEvent { uri: http_uri(place, integration_uri)? }
            }
            IntegrationType::Mock if integration_uri.is_some() => {
                return Err(misplaced("integration_uri"));
            }
            IntegrationType::Mock => IntegrationKind::Mock {
                response: mock_response.unwrap_or_default().believe(place)?,
            },
        };
        if let Some(timeout) = timeout_in_millis.as_ref()
            && !(TIMEOUT_MS_MIN..=TIMEOUT_DEFAULT_MS).contains(&timeout.value)
        {
            let rule = format!("is from {TIMEOUT_MS_MIN} to {TIMEOUT_DEFAULT_MS}");
            return Err(Fault::at(format!("{place}.timeout_in_millis"), timeout, rule));
        }
        if let Some(max) = concurrency_max.as_ref().filter(|max| max.value == 0) {
            return Err(Fault::at(format!("{place}.concurrency_max"), max, "is at least 1"));
        }
        let timeout = timeout_in_millis.map_or(TIMEOUT_DEFAULT_MS, |timeout| timeout.value);
        Ok(IntegrationSettings {
            kind,
            timeout: Duration::from_millis(timeout),
            concurrency_max: concurrency_max.map_or(CONCURRENCY_DEFAULT, |max| max.value),
        })
    }
}

impl WrittenMock {
    fn believe(self, place: &str) -> Result<MockResponse, Fault> {
        let WrittenMock { echo, body, status } = self;
        match status {
            Some(status) if !(100..=599).contains(&status.value) => {
                let key = format!("{place}.mock_response.status");
                Err(Fault::at(key, &status, "is from 100 to 599"))
            }
            _ if echo && body.is_some() => {
                let rule = "a mock echoes or has a body, not both";
                Err(Fault::new(format!("{place}.mock_response"), rule))
            }
            _ if echo => Ok(MockResponse::Echo),
            status => {
                let status = status.map_or(200, |status| status.value);
                Ok(MockResponse::Static { status, body })
            }
        }
    }
}

fn http_uri(place: &str, written: Option<Spanned<String>>) -> Result<Uri, Fault> {
    let key = format!("{place}.integration_uri");
    let Some(written) = written else {
        return Err(Fault::new(key, "an integration over HTTP needs it"));
    };
    let uri: Uri = written
        .value
        .parse()
        .map_err(|error| Fault::at(&*key, &written, format!("`{}`: {error}", written.value)))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(Fault::at(key, &written, format!("`{}` is no http or https URL", written.value))),
    }
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(is_letter)
}
