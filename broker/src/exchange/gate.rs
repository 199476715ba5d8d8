//! Who may open a connection: decided before anybody else is told of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use posthorn_core::access_log::failure::ResponseType;
use posthorn_core::auth::arn::{ApiArn, INVOKE};
use posthorn_core::auth::authorizer::AuthorizerAnswer;
use posthorn_core::auth::identity_source::{IdentityFields, first_absent};
use posthorn_core::auth::policy::Circumstances;
use posthorn_core::auth::sigv4::VerifyError;
use posthorn_core::auth::throttle::Throttled;
use posthorn_core::auth::usage_plan::Refusal as NoUse;
use posthorn_core::event::connection_info::{ApiKey, Authorized, ConnectionInfo, Signer};
use posthorn_core::event::context::Request;
use posthorn_core::event::fields::Fields;
use posthorn_core::event::handshake::Handshake;
use posthorn_core::event::ids::RequestId;
use posthorn_core::event::proxy::AuthorizerEvent;
use tracing::info;

use crate::config::api::{ApiKeySource, Authorization};
use crate::config::principals::PrincipalSettings;
use crate::exchange::bearer::{JwtAuthorizer, NotBelieved};
use crate::exchange::inbound::{HandshakeParts, request, trace_id};
use crate::exchange::signed::{NotPermitted, Signers};
use crate::exchange::stage::Stage;
use crate::exchange::throttles::Limiter;
use crate::integration::{Authorizer, AuthorizerError, Clients};
use crate::telemetry::Refused;

/// Who says whether a client may connect.
pub enum Door {
    Open,
    /// Whom a function or a server lets in.
    Asking(Box<Authorizer>),
    /// Whose signature is known.
    Signed(Signers),
    /// Whom a token speaks for.
    Tokens(JwtAuthorizer),
}

/// A client that may go on.
#[derive(Default)]
pub struct Entry {
    pub authorized: Option<Authorized>,
    /// How long the authorizer took, if there is one.
    pub authorizer_latency_ms: Option<u64>,
    pub api_key: Option<ApiKey>,
    pub signer: Option<Signer>,
    /// When the connection is to end at the latest, in seconds since 1970.
    pub expires_at_s: Option<u64>,
    /// The API key that the authorizer named.
    usage_identifier_key: Option<Box<str>>,
}

/// A client that is turned away.
#[derive(Debug)]
pub struct TurnedAway {
    pub status: u16,
    pub message: Cow<'static, str>,
    /// The name of AWS's exception, where AWS turns clients away before they are connections.
    pub exception: Option<&'static str>,
    pub retry_after: Option<Duration>,
    pub request: RequestId,
    pub response_type: ResponseType,
    pub label: Refused,
}

/// What a client is told, and how it is counted.
#[derive(Debug)]
struct Refusal {
    status: u16,
    message: Cow<'static, str>,
    exception: Option<&'static str>,
    retry_after: Option<Duration>,
    response_type: ResponseType,
    label: Refused,
}

const UNAUTHORIZED: Refusal = Refusal {
    status: 401,
    message: Cow::Borrowed("Unauthorized"),
    exception: None,
    retry_after: None,
    response_type: ResponseType::Unauthorized,
    label: Refused::Unauthorized,
};
const FORBIDDEN: Refusal = Refusal {
    status: 403,
    message: Cow::Borrowed("Forbidden"),
    response_type: ResponseType::AccessDenied,
    ..UNAUTHORIZED
};
/// Who cannot be asked about is not let in.
const BROKEN: Refusal = Refusal {
    status: 500,
    message: Cow::Borrowed("Internal server error"),
    response_type: ResponseType::AuthorizerFailure,
    ..UNAUTHORIZED
};

const API_KEY: &str = "x-api-key";

impl From<Throttled> for Refusal {
    fn from(Throttled { retry_after }: Throttled) -> Refusal {
        Refusal {
            status: 429,
            message: "Too Many Requests".into(),
            retry_after,
            response_type: ResponseType::Throttled,
            label: Refused::Throttled,
            ..UNAUTHORIZED
        }
    }
}

/// Of the key's plan. The two 429s have the words of API Gateway's responses THROTTLED and
/// QUOTA_EXCEEDED.
impl From<NoUse> for Refusal {
    fn from(refused: NoUse) -> Refusal {
        match refused {
            NoUse::Forbidden => Refusal { response_type: ResponseType::InvalidApiKey, ..FORBIDDEN },
            NoUse::Throttled { retry_after } => Throttled { retry_after }.into(),
            NoUse::QuotaExceeded => Refusal {
                message: "Limit Exceeded".into(),
                response_type: ResponseType::QuotaExceeded,
                ..Throttled { retry_after: None }.into()
            },
        }
    }
}

/// AWS's, whose answer has a `Message`.
pub const ACCESS_DENIED: &str = "AccessDeniedException";

impl From<NotPermitted> for Refusal {
    fn from(refused: NotPermitted) -> Refusal {
        let (exception, message, response_type) = match refused {
            NotPermitted::Signature(error) => {
                (error.exception(), error.to_string(), kind_of(&error))
            }
            NotPermitted::Denied(message) => (ACCESS_DENIED, message, ResponseType::AccessDenied),
        };
        Refusal { message: message.into(), exception: Some(exception), response_type, ..FORBIDDEN }
    }
}

fn kind_of(error: &VerifyError) -> ResponseType {
    match error {
        VerifyError::Missing | VerifyError::Incomplete(_) => {
            ResponseType::MissingAuthenticationToken
        }
        VerifyError::Expired { .. } | VerifyError::LifetimeOver { .. } => {
            ResponseType::ExpiredToken
        }
        VerifyError::UnknownKey => ResponseType::AccessDenied,
        VerifyError::TwoPlaces
        | VerifyError::HostNotSigned
        | VerifyError::NotYetCurrent { .. }
        | VerifyError::WrongDay
        | VerifyError::WrongRegion
        | VerifyError::WrongService { .. }
        | VerifyError::WrongTerminator
        | VerifyError::WrongPayload
        | VerifyError::UnsignedPayload
        | VerifyError::SignedHeaderAbsent
        | VerifyError::Mismatch => ResponseType::InvalidSignature,
    }
}

impl Door {
    pub(super) fn new(
        authorization: &Authorization,
        principals: &Arc<PrincipalSettings>,
        clients: &Clients,
    ) -> Door {
        match authorization {
            Authorization::None => Door::Open,
            Authorization::Custom(settings) => {
                Door::Asking(Box::new(Authorizer::new(settings, clients)))
            }
            Authorization::Iam => Door::Signed(Signers::new(principals.clone())),
            Authorization::Jwt(settings) => Door::Tokens(JwtAuthorizer::new(settings, clients)),
        }
    }
}

/// Asks everybody who has a say, the cheapest first. What a client showed to them alone is taken
/// out of `parts`.
pub(super) async fn judge(
    stage: &Stage,
    info: &ConnectionInfo,
    parts: &mut HandshakeParts,
) -> Result<Entry, TurnedAway> {
    let request = request();
    judge_request(stage, info, parts, request).await.map_err(|refusal| {
        let Refusal { status, message, exception, retry_after, response_type, label } = refusal;
        let request = request.id;
        TurnedAway { status, message, exception, retry_after, request, response_type, label }
    })
}

async fn judge_request(
    stage: &Stage,
    info: &ConnectionInfo,
    parts: &mut HandshakeParts,
    request: Request,
) -> Result<Entry, Refusal> {
    let (account, connect) = (stage.account.as_ref(), stage.connect_limiter.as_ref());
    if account.is_some() || connect.is_some() {
        Limiter::take_both(account, connect, Instant::now())?;
    }
    if let Some(rules) = &stage.allowed_origins {
        let origin = parts.header("origin");
        if origin.is_some_and(|origin| rules.check(origin).is_err()) {
            return Err(Refusal { label: Refused::Origin, ..FORBIDDEN });
        }
    }
    let mut api_key = match &stage.api_keys {
        Some(keys) if keys.source == ApiKeySource::Header => {
            Some(keys.admit(parts.header(API_KEY), request.at_ms)?)
        }
        Some(_) | None => None,
    };
    // Before the token is taken out, which may be one of them.
    let missing = missing_parameters(stage, parts);
    let entry = judge_person(stage, info, parts, request).await?;
    if let Some(names) = missing {
        // As API Gateway's REST APIs say it.
        return Err(Refusal {
            status: 400,
            message: format!("Missing required request parameters: [{names}]").into(),
            response_type: ResponseType::BadRequestParameters,
            label: Refused::Parameters,
            ..UNAUTHORIZED
        });
    }
    if let Some(keys) = stage.api_keys.as_ref().filter(|_| api_key.is_none()) {
        api_key = Some(keys.admit(entry.usage_identifier_key.as_deref(), request.at_ms)?);
    }
    Ok(Entry { api_key, ..entry })
}

fn missing_parameters(stage: &Stage, parts: &HandshakeParts) -> Option<String> {
    let required = stage.routes.connect()?.required_parameters.as_ref()?;
    let headers = parts.headers();
    required.missing(&Fields::of_headers(headers), &Fields::of_query(&parts.query))
}

async fn judge_person(
    stage: &Stage,
    info: &ConnectionInfo,
    parts: &mut HandshakeParts,
    request: Request,
) -> Result<Entry, Refusal> {
    match &stage.door {
        Door::Open => Ok(Entry::default()),
        Door::Asking(authorizer) => by_authorizer(authorizer, stage, info, request, parts).await,
        Door::Signed(signers) => {
            let signer = signers.judge(stage, parts, &circumstances(info, parts, request))?;
            Ok(Entry { signer: Some(signer), ..Entry::default() })
        }
        Door::Tokens(authorizer) => {
            let claims = authorizer.judge(parts, request.at_ms / 1000).await;
            let claims = claims.map_err(|refused| match refused {
                NotBelieved::Unauthorized => UNAUTHORIZED,
                NotBelieved::OutOfScope => FORBIDDEN,
                NotBelieved::NoKeys => BROKEN,
            })?;
            Ok(Entry {
                authorized: Some(claims.authorized()),
                expires_at_s: authorizer.end_of(&claims),
                ..Entry::default()
            })
        }
    }
}

async fn by_authorizer(
    authorizer: &Authorizer,
    stage: &Stage,
    info: &ConnectionInfo,
    request: Request,
    parts: &HandshakeParts,
) -> Result<Entry, Refusal> {
    let headers = parts.headers();
    let trace_id = trace_id();
    let handshake = parts.handshake(&headers, &trace_id);
    let (answer, latency_ms) = ask(authorizer, stage, info, request, handshake).await?;
    let circumstances = circumstances(info, parts, request);
    let decision = answer.policy.evaluate(INVOKE, &method_arn(stage), &circumstances);
    match decision.refusal() {
        None => Ok(Entry {
            authorized: Some(answer.authorized),
            authorizer_latency_ms: Some(latency_ms),
            usage_identifier_key: answer.usage_identifier_key,
            ..Entry::default()
        }),
        Some(message) => Err(Refusal { message: message.into(), ..FORBIDDEN }),
    }
}

fn circumstances<'a>(
    info: &'a ConnectionInfo,
    parts: &'a HandshakeParts,
    request: Request,
) -> Circumstances<'a> {
    Circumstances {
        source_ip: info.source_ip,
        is_secure: parts.is_secure,
        now_ms: request.at_ms,
        user_agent: info.user_agent.as_deref(),
        referer: parts.header("referer"),
    }
}

async fn ask(
    authorizer: &Authorizer,
    stage: &Stage,
    info: &ConnectionInfo,
    request: Request,
    handshake: Handshake<'_>,
) -> Result<(AuthorizerAnswer, u64), Refusal> {
    let method_arn = method_arn(stage);
    let event = AuthorizerEvent {
        info,
        request,
        method_arn: &method_arn,
        handshake,
        stage_variables: &stage.variables,
    };
    let fields = Sent { event: &event, query: handshake.query_fields() };
    if first_absent(&authorizer.identity_sources, &fields).is_some() {
        return Err(UNAUTHORIZED);
    }
    let started = Instant::now();
    match authorizer.ask(&event).await {
        Ok(answer) => Ok((answer, started.elapsed().as_millis() as u64)),
        Err(AuthorizerError::Unauthorized) => Err(UNAUTHORIZED),
        Err(AuthorizerError::Failed(error)) => {
            info!(api = %info.api_id, %error, "an authorizer failed");
            Err(BROKEN)
        }
    }
}

fn method_arn(stage: &Stage) -> String {
    let arn = ApiArn { region: &stage.region, account: &stage.account_id, api: &stage.api_id };
    arn.route(&stage.name, "$connect")
}

/// What a client sent, as identity sources look for it.
struct Sent<'a> {
    event: &'a AuthorizerEvent<'a>,
    query: Fields<'a>,
}

impl IdentityFields for Sent<'_> {
    fn header(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut headers = self.event.handshake.headers.iter().rev();
        let found = headers.find(|(other, _)| other.eq_ignore_ascii_case(name));
        found.map(|(_, value)| Cow::Borrowed(*value))
    }

    fn query(&self, name: &str) -> Option<Cow<'_, str>> {
        let pairs = self.query.pairs().filter(|(other, _)| *other == name);
        pairs.last().map(|(_, value)| Cow::Borrowed(value))
    }

    fn context(&self, name: &str) -> Option<Cow<'_, str>> {
        let AuthorizerEvent { info, request, .. } = self.event;
        let value = match name {
            "apiId" => info.api_id.to_string(),
            "connectedAt" => info.connected_at_ms.to_string(),
            "connectionId" => info.connection.to_string(),
            "domainName" => info.domain_name.to_string(),
            "extendedRequestId" | "requestId" => request.id.to_string(),
            "identity.sourceIp" => info.source_ip.to_string(),
            "identity.userAgent" => info.user_agent.as_deref()?.to_owned(),
            "requestTimeEpoch" => request.at_ms.to_string(),
            "routeKey" => "$connect".to_owned(),
            "stage" => info.stage.to_string(),
            _ => return None,
        };
        Some(value.into())
    }

    fn stage_variable(&self, name: &str) -> Option<Cow<'_, str>> {
        self.event.stage_variables.get(name).map(|value| value.as_str().into())
    }
}
