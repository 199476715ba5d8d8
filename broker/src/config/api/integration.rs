//! What routes lead to, as written and as believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::{Method, Uri};
use posthorn_core::mapping::content::ContentHandling;
use posthorn_core::mapping::custom::CustomMapping;
use posthorn_core::mapping::parameters::RequestParameters;
use posthorn_core::mapping::uri::UriTemplate;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::mapping::{
    self, ContentHandlingStrategy, PassthroughBehavior, Texts, WrittenRequest, WrittenResponse,
};
use crate::config::api::variables::substitute;
use crate::config::source::Fault;
use crate::config::values::{Limit, Millis};

/// As API Gateway has it: its largest.
pub(super) const TIMEOUT_DEFAULT: Duration = Duration::from_millis(29_000);
const TIMEOUT_MIN: Duration = Duration::from_millis(50);
const CONCURRENCY_DEFAULT: usize = 1024;
const QUEUE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);
/// How API Gateway names a function: the ARN of an action of its own.
const INVOCATION_BEGIN: &str = ":lambda:path/2015-03-31/functions/";
const INVOCATION_END: &str = "/invocations";

/// What of an answer is compared with the keys of `integration_responses`, as API Gateway has it.
const BY_STATUS: &str = "$integration.response.statuscode";
const BY_ERROR_MESSAGE: &str = "$integration.response.body.errorMessage";
/// What a call of Lambda's Invoke API may be told beside its payload.
const INVOKE_HEADERS: &[&str] =
    &["x-amz-client-context", "x-amz-invocation-type", "x-amz-log-type"];

/// An integration of one stage: with the stage's variables filled in.
#[derive(Debug, Clone)]
pub struct IntegrationSettings {
    pub kind: IntegrationKind,
    /// None is for ever.
    pub timeout: Option<Duration>,
    pub places: PlacesSettings,
}

/// How many calls there may be of one backend, from one node. Further ones are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlacesSettings {
    /// Under way at once.
    pub concurrency_max: usize,
    /// Waiting for others to end.
    pub queue_max: usize,
    /// How long they wait before they are refused.
    pub queue_timeout: Duration,
}

impl Default for PlacesSettings {
    fn default() -> PlacesSettings {
        PlacesSettings {
            concurrency_max: CONCURRENCY_DEFAULT,
            queue_max: CONCURRENCY_DEFAULT,
            queue_timeout: QUEUE_TIMEOUT_DEFAULT,
        }
    }
}

#[derive(Debug, Clone)]
pub enum IntegrationKind {
    /// What the request template made, to a Lambda function.
    Aws {
        function: FunctionName,
        mapping: Arc<CustomMapping>,
    },
    /// The Lambda-proxy event to a Lambda function, which answers as one behind a proxy does.
    AwsProxy {
        function: FunctionName,
        /// Headers only.
        parameters: Arc<RequestParameters>,
    },
    /// The event in a call of `posthorn.v1.IntegrationService`.
    Grpc {
        uri: Uri,
    },
    /// What the request template made, to an HTTP server.
    Http {
        address: HttpAddress,
        mapping: Arc<CustomMapping>,
    },
    /// The Lambda-proxy event as JSON in a POST to this address; what it answers is the reply.
    HttpEvent {
        address: HttpAddress,
        parameters: Arc<RequestParameters>,
    },
    /// The client's message, or its handshake, as a request; what it answers is the reply.
    HttpProxy {
        address: HttpAddress,
        parameters: Arc<RequestParameters>,
        content_handling: Option<ContentHandling>,
    },
    Mock {
        response: MockResponse,
    },
    /// A mock whose request template says which status it answers.
    MockMapped {
        mapping: Arc<CustomMapping>,
    },
}

/// What an HTTP server is called by.
#[derive(Debug, Clone)]
pub struct HttpAddress {
    pub method: Method,
    pub uri: UriTemplate,
}

/// The name, partial ARN or ARN of a Lambda function, with a version or an alias or without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MockResponse {
    /// The same each time; `$context.connectionId` in the body is replaced.
    Static { status: u16, body: Option<Arc<str>> },
    /// What the client sent.
    Echo,
}

/// An integration by its ID. Stage variables may be in its addresses.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenIntegration {
    /// What is called, and how.
    integration_type: IntegrationType,
    /// An `http` or `https` URL, with `{places}` in its path that `request_parameters` fill; of AWS and
    /// AWS_PROXY, a function's name or ARN.
    #[setting(secret = Address)]
    integration_uri: Option<Spanned<String>>,
    /// Of HTTP and HTTP_PROXY, the method of the request.
    #[setting(default = "POST")]
    integration_method: Option<Spanned<String>>,
    /// `1.0`: there is no other for WebSocket APIs.
    payload_format_version: Option<Spanned<String>>,
    /// `INTERNET`: backends are called by what `integration_uri` says.
    connection_type: Option<Spanned<String>>,
    /// API Gateway's, and refused: there are no VPC links.
    connection_id: Option<Spanned<String>>,
    /// API Gateway's, and refused: no role is assumed.
    credentials_arn: Option<Spanned<String>>,
    /// How long it may take to answer: at least 50, or `none`.
    #[setting(default = TIMEOUT_DEFAULT.as_millis())]
    timeout_in_millis: Option<Spanned<Limit<Millis>>>,
    /// Calls under way at once from one node.
    #[setting(default = CONCURRENCY_DEFAULT)]
    concurrency_max: Option<Spanned<usize>>,
    /// Calls that wait for others to end: as many as may be under way, where it is missing. Further ones
    /// are refused.
    queue_max: Option<usize>,
    /// How long a call waits for others to end before it is refused.
    #[setting(default = QUEUE_TIMEOUT_DEFAULT.as_millis())]
    queue_timeout_in_millis: Option<Millis>,
    /// `integration.request.header|querystring|path.NAME`, and where each comes from.
    #[serde(default)]
    #[setting(secret = Literals)]
    request_parameters: Texts,
    /// By what `template_selection_expression` comes to; `$default` otherwise.
    #[serde(default)]
    request_templates: Texts,
    /// As `route_selection_expression`: which of the templates a message takes.
    template_selection_expression: Option<Spanned<String>>,
    /// Of messages that no template fits.
    passthrough_behavior: Option<Spanned<PassthroughBehavior>>,
    /// What a message is turned into on its way to the integration. As it is where it is missing.
    content_handling_strategy: Option<Spanned<ContentHandlingStrategy>>,
    /// What the client is told, by `/regular expression/`, text or `$default`: by the status of the answer, or
    /// a function's `errorMessage`.
    #[serde(default)]
    integration_responses: BTreeMap<String, Spanned<WrittenResponse>>,
    /// Of a MOCK without templates: what it answers.
    mock_response: Option<WrittenMock>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum IntegrationType {
    /// What a template made, to a Lambda function.
    Aws,
    /// Each event, to a Lambda function.
    AwsProxy,
    /// Each event, to a `posthorn.v1.IntegrationService`.
    Grpc,
    /// What a template made, to an HTTP server.
    Http,
    /// Each event, as JSON in a POST to an HTTP server.
    HttpEvent,
    /// What the client sent, as it is, to an HTTP server.
    HttpProxy,
    /// Nobody is called.
    Mock,
}

/// Without keys, 200 and no body.
#[derive(Debug, Clone, Default, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenMock {
    /// What was sent is the answer.
    #[serde(default)]
    echo: bool,
    /// The answer, where it does not echo. `$context.connectionId` in it is replaced.
    body: Option<Arc<str>>,
    /// Of the answer, from 100 to 599.
    #[setting(default = 200)]
    status: Option<Spanned<u16>>,
}

impl IntegrationSettings {
    /// Whether both say the same. Not all that they are made of can be compared, but all of it is
    /// printed.
    pub fn is_same(&self, other: &IntegrationSettings) -> bool {
        format!("{self:?}") == format!("{other:?}")
    }
}

impl FunctionName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Also from the ARN of API Gateway's own action, in which a function's URI is mostly written.
    pub(super) fn parse(text: &str) -> Option<FunctionName> {
        let name = match text.split_once(INVOCATION_BEGIN) {
            Some((_, name)) => name.strip_suffix(INVOCATION_END)?,
            None => text,
        };
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-_:$".contains(&byte);
        // The longest that Lambda takes.
        let is_name = (1..=170).contains(&name.len()) && name.bytes().all(is_letter);
        is_name.then(|| FunctionName(name.into()))
    }
}

impl WrittenIntegration {
    /// What all stages share.
    pub(super) fn mapping(&self, place: &str) -> Result<Arc<CustomMapping>, Fault> {
        self.refuse_absent(place)?;
        self.refuse_misplaced(place)?;
        let request = WrittenRequest {
            templates: &self.request_templates,
            selection: self.template_selection_expression.as_ref(),
            parameters: &self.request_parameters,
            passthrough: self.passthrough_behavior.as_ref().map(|written| written.value),
            content_handling: self.content_handling_strategy.as_ref().map(|written| written.value),
        };
        let is_function = self.integration_type == IntegrationType::Aws;
        let by = if is_function { BY_ERROR_MESSAGE } else { BY_STATUS };
        mapping::believe(place, &request, &self.integration_responses, by).map(Arc::new)
    }

    pub(super) fn believe(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
        mapping: &Arc<CustomMapping>,
    ) -> Result<IntegrationSettings, Fault> {
        let (mapping, parameters) = (mapping.clone(), mapping.request.parameters.clone());
        let address = |method| self.address(place, variables, &parameters, method);
        let kind = match self.integration_type {
            IntegrationType::Aws => {
                IntegrationKind::Aws { function: self.function(place, variables)?, mapping }
            }
            IntegrationType::AwsProxy => {
                IntegrationKind::AwsProxy { function: self.function(place, variables)?, parameters }
            }
            IntegrationType::Grpc => {
                let (written, text) = self.uri(place, variables)?;
                let uri = http_uri(&text).map_err(|rule| fault_of_uri(place, written, rule))?;
                IntegrationKind::Grpc { uri }
            }
            IntegrationType::Http => {
                IntegrationKind::Http { address: address(self.method(place)?)?, mapping }
            }
            IntegrationType::HttpEvent => {
                IntegrationKind::HttpEvent { address: address(Method::POST)?, parameters }
            }
            IntegrationType::HttpProxy => IntegrationKind::HttpProxy {
                address: address(self.method(place)?)?,
                content_handling: mapping.request.content_handling,
                parameters,
            },
            IntegrationType::Mock if self.is_mapped() => IntegrationKind::MockMapped { mapping },
            IntegrationType::Mock => IntegrationKind::Mock {
                response: self.mock_response.clone().unwrap_or_default().believe(place)?,
            },
        };
        Ok(IntegrationSettings {
            kind,
            timeout: timeout(place, self.timeout_in_millis.as_ref())?,
            places: self.places(place)?,
        })
    }

    /// Whether nothing that it answers could be told to a client.
    pub(super) fn is_mute(&self) -> bool {
        let is_custom = match self.integration_type {
            IntegrationType::Aws | IntegrationType::Http => true,
            IntegrationType::Mock => self.is_mapped(),
            IntegrationType::AwsProxy
            | IntegrationType::Grpc
            | IntegrationType::HttpEvent
            | IntegrationType::HttpProxy => false,
        };
        is_custom && self.integration_responses.is_empty()
    }

    /// Of a mock: whether it has templates, and not our short form.
    fn is_mapped(&self) -> bool {
        !self.request_templates.is_empty() || !self.integration_responses.is_empty()
    }

    /// What API Gateway has and we do not: said by name, since ignoring it would change whom a call
    /// reaches, or as whom.
    fn refuse_absent(&self, place: &str) -> Result<(), Fault> {
        let is = |written: &Option<Spanned<String>>, only: &str| {
            written.as_ref().is_none_or(|written| written.value == only)
        };
        let faults = [
            (
                "payload_format_version",
                is(&self.payload_format_version, "1.0"),
                &self.payload_format_version,
                "the only value is 1.0",
            ),
            (
                "connection_type",
                is(&self.connection_type, "INTERNET"),
                &self.connection_type,
                "the only value is INTERNET: there are no VPC links, a node calls integration_uri \
                 from the network that it is in",
            ),
            (
                "connection_id",
                self.connection_id.is_none(),
                &self.connection_id,
                "there are no VPC links: a node calls integration_uri from the network that it is in",
            ),
            (
                "credentials_arn",
                self.credentials_arn.is_none(),
                &self.credentials_arn,
                "no role is assumed: a node signs with the credentials of its environment, \
                 AWS_ACCESS_KEY_ID and the like",
            ),
        ];
        let fault = faults.into_iter().find(|(_, is_good, ..)| !is_good);
        match fault {
            Some((key, _, Some(written), rule)) => {
                Err(Fault::at(format!("{place}.{key}"), written, rule))
            }
            Some((.., None, _)) | None => Ok(()),
        }
    }

    fn refuse_misplaced(&self, place: &str) -> Result<(), Fault> {
        use IntegrationType::{Aws, AwsProxy, Grpc, Http, HttpEvent, HttpProxy, Mock};
        let kind = self.integration_type;
        let places: [(&str, bool, &[IntegrationType]); 8] = [
            ("mock_response", self.mock_response.is_some(), &[Mock]),
            (
                "integration_uri",
                self.integration_uri.is_some(),
                &[Aws, AwsProxy, Grpc, Http, HttpEvent, HttpProxy],
            ),
            (
                "integration_method",
                self.integration_method.is_some(),
                &[Aws, AwsProxy, Http, HttpProxy],
            ),
            (
                "request_parameters",
                !self.request_parameters.is_empty(),
                &[Aws, AwsProxy, Http, HttpEvent, HttpProxy],
            ),
            ("request_templates", !self.request_templates.is_empty(), &[Aws, Http, Mock]),
            ("passthrough_behavior", self.passthrough_behavior.is_some(), &[Aws, Http, Mock]),
            (
                "content_handling_strategy",
                self.content_handling_strategy.is_some(),
                &[Aws, Http, HttpProxy],
            ),
            ("integration_responses", !self.integration_responses.is_empty(), &[Aws, Http, Mock]),
        ];
        let misplaced =
            places.iter().find(|(_, is_there, kinds)| *is_there && !kinds.contains(&kind));
        if let Some((key, ..)) = misplaced {
            let rule = format!("this is no key of an integration of type {kind:?}");
            return Err(Fault::new(format!("{place}.{key}"), rule));
        }
        match kind {
            Aws | AwsProxy => self.check_invoke_headers(place),
            Mock => self.check_mock(place),
            Grpc | Http | HttpEvent | HttpProxy => Ok(()),
        }
    }

    /// A function has no path and no query, and the other headers of a call are the caller's.
    fn check_invoke_headers(&self, place: &str) -> Result<(), Fault> {
        let is_known = |key: &str| {
            let name = key.strip_prefix("integration.request.header.");
            name.is_some_and(|name| INVOKE_HEADERS.contains(&&*name.to_ascii_lowercase()))
        };
        match self.request_parameters.iter().find(|(key, _)| !is_known(key)) {
            Some((key, value)) => {
                let rule = format!(
                    "of a function's call, only these headers can be set: {}",
                    INVOKE_HEADERS.join(", ")
                );
                Err(Fault::at(format!("{place}.request_parameters.{key}"), value, rule))
            }
            None => Ok(()),
        }
    }

    fn check_mock(&self, place: &str) -> Result<(), Fault> {
        if self.is_mapped() && self.mock_response.is_some() {
            let rule = "a mock has a mock_response or templates, not both";
            return Err(Fault::new(format!("{place}.mock_response"), rule));
        }
        if let Some(written) = self.passthrough_behavior.as_ref().filter(|_| !self.is_mapped()) {
            let rule = "a mock without templates passes nothing through";
            return Err(Fault::at(format!("{place}.passthrough_behavior"), written, rule));
        }
        if self.is_mapped() && self.request_templates.is_empty() {
            let rule = "a mock with integration_responses needs a template that makes \
                        {\"statusCode\": 200} or the like";
            return Err(Fault::new(format!("{place}.request_templates"), rule));
        }
        Ok(())
    }

    fn function(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<FunctionName, Fault> {
        let (written, uri) = self.uri(place, variables)?;
        FunctionName::parse(&uri).ok_or_else(|| {
            fault_of_uri(place, written, format!("`{uri}` names no Lambda function"))
        })
    }

    fn address(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
        parameters: &RequestParameters,
        method: Method,
    ) -> Result<HttpAddress, Fault> {
        let (written, text) = self.uri(place, variables)?;
        let fault = |rule| fault_of_uri(place, written, rule);
        http_uri(&text).map_err(fault)?;
        let uri = UriTemplate::parse(&text).map_err(|error| fault(format!("`{text}`: {error}")))?;
        uri.check(parameters).map_err(|error| fault(error.to_string()))?;
        Ok(HttpAddress { method, uri })
    }

    fn uri(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<(&Spanned<String>, String), Fault> {
        let key = format!("{place}.integration_uri");
        let Some(written) = &self.integration_uri else {
            return Err(Fault::new(key, "an integration of this type needs it"));
        };
        let uri = substitute(&written.value, variables)
            .map_err(|error| Fault::at(key, written, error.to_string()))?;
        Ok((written, uri))
    }

    /// POST where none is written, and for `ANY`.
    fn method(&self, place: &str) -> Result<Method, Fault> {
        let Some(written) = &self.integration_method else { return Ok(Method::POST) };
        match &*written.value {
            "ANY" => Ok(Method::POST),
            "GET" | "POST" | "PUT" | "DELETE" | "PATCH" | "HEAD" | "OPTIONS" => {
                Ok(Method::from_bytes(written.value.as_bytes()).unwrap_or(Method::POST))
            }
            _ => {
                let rule = format!("`{}` is no method", written.value);
                Err(Fault::at(format!("{place}.integration_method"), written, rule))
            }
        }
    }

    fn places(&self, place: &str) -> Result<PlacesSettings, Fault> {
        if let Some(max) = self.concurrency_max.as_ref().filter(|max| max.value == 0) {
            return Err(Fault::at(format!("{place}.concurrency_max"), max, "is at least 1"));
        }
        let concurrency_max = self.concurrency_max.as_ref();
        let concurrency_max = concurrency_max.map_or(CONCURRENCY_DEFAULT, |max| max.value);
        let queue_timeout = self.queue_timeout_in_millis;
        Ok(PlacesSettings {
            concurrency_max,
            queue_max: self.queue_max.unwrap_or(concurrency_max),
            queue_timeout: queue_timeout.map_or(QUEUE_TIMEOUT_DEFAULT, |timeout| timeout.0),
        })
    }
}

fn fault_of_uri(place: &str, written: &Spanned<String>, rule: String) -> Fault {
    Fault::at(format!("{place}.integration_uri"), written, rule)
}

/// None is for ever.
pub(super) fn timeout(
    place: &str,
    written: Option<&Spanned<Limit<Millis>>>,
) -> Result<Option<Duration>, Fault> {
    let Some(written) = written else { return Ok(Some(TIMEOUT_DEFAULT)) };
    let timeout = written.value.0.map(|timeout| timeout.0);
    match timeout {
        Some(timeout) if timeout < TIMEOUT_MIN => {
            let rule = format!("is at least {}, or none", TIMEOUT_MIN.as_millis());
            Err(Fault::at(format!("{place}.timeout_in_millis"), written, rule))
        }
        timeout => Ok(timeout),
    }
}

/// An address that can be called, or what is wrong with it.
pub(in crate::config) fn http_uri(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|error| format!("`{text}`: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(uri),
        _ => Err(format!("`{text}` is no http or https URL")),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_function_is_known_by_any_of_its_names() {
        let arn = "arn:aws:lambda:eu-west-1:123456789012:function:chat:prod";
        let action = format!(
            "arn:aws:apigateway:eu-west-1:lambda:path/2015-03-31/functions/{arn}/invocations"
        );
        for (text, name) in
            [("chat", "chat"), ("chat:prod", "chat:prod"), (arn, arn), (&action, arn)]
        {
            assert_eq!(FunctionName::parse(text).as_ref().map(FunctionName::as_str), Some(name));
        }
        for bad in ["", "a/b", "http://a", &action[..action.len() - 1], "a b"] {
            assert_eq!(FunctionName::parse(bad), None, "{bad}");
        }
    }
}
