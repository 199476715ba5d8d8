//! API definitions, in the vocabulary of API Gateway's `apigatewayv2` in snake case.

mod access_log;
mod authorization;
mod authorizer;
mod integration;
mod limits;
mod mapping;
mod model;
mod variables;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use posthorn_core::auth::origin::{NotAnOriginRule, OriginRules};
use posthorn_core::auth::throttle::Throttle;
use posthorn_core::mapping::custom::CustomMapping;
use posthorn_core::mapping::declared::RequiredParameters;
use posthorn_core::model::{Model, RequestModels};
use posthorn_core::route::expression::{Expression, Purpose};
use posthorn_core::route::table::RouteKey;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

pub use crate::config::api::access_log::AccessLogSettings;
use crate::config::api::access_log::WrittenAccessLog;
pub use crate::config::api::authorization::Authorization;
use crate::config::api::authorization::AuthorizationType;
use crate::config::api::authorizer::WrittenAuthorizer;
pub use crate::config::api::authorizer::{
    AuthorizerSettings, AuthorizerTarget, JwtAuthorizerSettings,
};
use crate::config::api::integration::WrittenIntegration;
pub(super) use crate::config::api::integration::http_uri;
pub use crate::config::api::integration::{
    FunctionName, HttpAddress, IntegrationKind, IntegrationSettings, MockResponse, PlacesSettings,
};
pub use crate::config::api::limits::ApiKeySource;
use crate::config::api::model::WrittenModel;
use crate::config::source::Fault;
use crate::config::throttling::WrittenThrottle;
use crate::config::values::Limit;

/// One API, believed.
#[derive(Debug, Clone)]
pub struct Api {
    pub id: Arc<str>,
    /// Only domain names lead to it.
    pub disable_execute_api_endpoint: bool,
    pub route_selection_expression: Expression,
    pub routes: BTreeMap<RouteKey, RouteSettings>,
    pub stages: BTreeMap<Arc<str>, StageSettings>,
}

#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// A key of the API's integrations.
    pub integration: Arc<str>,
    /// Whether what the integration answers goes back to the client.
    pub is_two_way: bool,
    /// What a message must fit to be given to the integration.
    pub request_models: Option<RequestModels>,
    /// What a handshake must have, if anything. Of `$connect` alone.
    pub required_parameters: Option<RequiredParameters>,
}

#[derive(Debug, Clone)]
pub struct StageSettings {
    pub variables: BTreeMap<String, String>,
    pub integrations: BTreeMap<Arc<str>, IntegrationSettings>,
    /// Who says whether a client may connect.
    pub authorization: Authorization,
    pub allowed_origins: Option<OriginRules>,
    /// Connections at one node at once. Further ones are refused with 429. None is as many as come.
    pub connections_max: Option<u64>,
    /// From where the API key comes that a client must have, if it must have one.
    pub api_key: Option<ApiKeySource>,
    /// Of each route that has a limit. `$connect` may have one without being a route.
    pub throttles: BTreeMap<RouteKey, Throttle>,
    pub binary_messages: BinaryMessages,
    pub access_log: Option<AccessLogSettings>,
}

/// What becomes of a client's binary messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Setting)]
#[serde(rename_all = "snake_case")]
pub enum BinaryMessages {
    /// They take `$default`, or the route of a static expression; events carry them in base64.
    #[default]
    Accept,
    /// They close the connection with 1003, as at API Gateway.
    Refuse,
}

/// What a definition may point to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Where the file lies: paths are relative to it.
    pub(super) folder: &'a Path,
}

/// An API by its ID: 1 to 128 of A-Z, a-z, 0-9, `-` and `_`.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenApi {
    /// Clients and backends find it by domain names alone: not by its `execute-api` host, and not by
    /// the names of its stages at any other.
    #[serde(default)]
    disable_execute_api_endpoint: bool,
    /// Which route a message takes: `$request.body.action`, or several in a text, as in
    /// `${request.body.a}/${request.body.b}`.
    route_selection_expression: Spanned<String>,
    /// `$request.header.x-api-key`, which is the default, or
    /// `$context.authorizer.usageIdentifierKey`.
    api_key_selection_expression: Option<Spanned<String>>,
    /// By route key: `$connect`, `$disconnect`, `$default`, and what the expression comes to.
    #[serde(default)]
    routes: BTreeMap<String, WrittenRoute>,
    /// What routes lead to, by ID.
    #[serde(default)]
    integrations: BTreeMap<Arc<str>, WrittenIntegration>,
    /// Who is asked whether a client may connect, by ID.
    #[serde(default)]
    authorizers: BTreeMap<Arc<str>, WrittenAuthorizer>,
    /// What messages may have to fit, by name.
    #[serde(default)]
    models: BTreeMap<String, Spanned<WrittenModel>>,
    /// Whether a model whose schema is none is taken all the same. No message fits it.
    #[serde(default)]
    disable_schema_validation: bool,
    /// Under which names it is served, each with variables and limits of its own.
    stages: BTreeMap<Arc<str>, WrittenStage>,
}

/// A route by its key.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    /// `integrations/{integration_id}`.
    target: Spanned<String>,
    /// `$default` makes the route two-way. There is no other value.
    route_response_selection_expression: Option<Spanned<String>>,
    /// One with the key `$default` makes the route two-way. There is no other key.
    #[serde(default)]
    route_responses: BTreeMap<String, Spanned<WrittenRouteResponse>>,
    /// Of `$connect` alone: `route.request.querystring|header.NAME`, and whether a handshake must have
    /// it. What is not declared can be mapped all the same.
    #[serde(default)]
    request_parameters: BTreeMap<String, Spanned<WrittenParameter>>,
    /// Names of models, by what `model_selection_expression` comes to; `$default` otherwise.
    #[serde(default)]
    request_models: BTreeMap<Box<str>, Spanned<String>>,
    /// As `route_selection_expression`: which of the models a message must fit.
    model_selection_expression: Option<Spanned<String>>,
    /// Of `$connect` alone: who says whether a client may connect.
    authorization_type: Option<Spanned<AuthorizationType>>,
    /// One of the API's, with the types CUSTOM and JWT.
    authorizer_id: Option<Spanned<String>>,
    /// With the authorization type JWT: a token must have one of them.
    #[serde(default)]
    authorization_scopes: Vec<Spanned<String>>,
    /// Of `$connect` alone: a client must have an API key that a usage plan lets use the stage.
    api_key_required: Option<Spanned<bool>>,
}

/// It has no keys: the answer of the integration is what the client gets.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenRouteResponse {}

/// One parameter of the handshake.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenParameter {
    /// Whether a handshake without it is answered with 400.
    #[serde(default)]
    required: bool,
}

/// A stage by its name: 1 to 128 of A-Z, a-z, 0-9, `-` and `_`.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenStage {
    /// What `${stageVariables.name}` stands for in addresses, and `$stageVariables` in templates.
    #[serde(default)]
    stage_variables: BTreeMap<String, String>,
    /// From which web pages browsers may connect; from all where it is missing. Clients that send
    /// no `Origin` are no browsers.
    allowed_origins: Option<Vec<Spanned<String>>>,
    /// Connections of this stage at one node, those that are being opened included. Further ones are
    /// refused with 429. API Gateway has no such limit.
    #[serde(default = "no_limit")]
    connections_max: Limit<u64>,
    /// What becomes of binary messages of clients.
    #[serde(default)]
    binary_messages: BinaryMessages,
    /// How often, at each node, every route may be used: the handshakes of `$connect`, the messages
    /// of the others.
    #[serde(default)]
    default_route_settings: WrittenThrottle,
    /// The same of one route, by its key. What is not written is as in `default_route_settings`.
    #[serde(default)]
    route_settings: BTreeMap<String, WrittenThrottle>,
    /// Where a line is written of each handshake, message, end and call, if anywhere.
    access_log_settings: Option<WrittenAccessLog>,
}

/// What all stages share of the integrations.
type Mappings = BTreeMap<Arc<str>, Arc<CustomMapping>>;

impl Api {
    pub(super) fn believe(
        id: Arc<str>,
        written: &WrittenApi,
        surroundings: &Surroundings<'_>,
    ) -> Result<Api, Fault> {
        if !is_name(&id) {
            return Err(Fault::new("", "an API's ID is 1 to 128 of A-Z, a-z, 0-9, - and _"));
        }
        let key = "route_selection_expression";
        let expression = &written.route_selection_expression;
        let expression = Expression::parse(&expression.value, Purpose::Route)
            .map_err(|error| Fault::at(key, expression, error.to_string()))?;
        let models = model::believe(
            &written.models,
            surroundings.folder,
            written.disable_schema_validation,
        )?;
        let mappings = written
            .integrations
            .iter()
            .map(|(id, written)| Ok((id.clone(), written.mapping(&format!("integrations.{id}"))?)))
            .collect::<Result<Mappings, Fault>>()?;
        let routes = written
            .routes
            .iter()
            .map(|(text, route)| {
                let place = format!("routes.{text}");
                let key: RouteKey = text
                    .parse()
                    .map_err(|error| Fault::at(&place, &route.target, format!("{error}")))?;
                let settings = route.believe(&place, key.as_str(), written, &models)?;
                Ok((key, settings))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        let stages = written
            .stages
            .iter()
            .map(|(name, stage)| {
                Ok((name.clone(), stage.believe(name, written, &mappings, surroundings)?))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        Ok(Api {
            id,
            disable_execute_api_endpoint: written.disable_execute_api_endpoint,
            route_selection_expression: expression,
            routes,
            stages,
        })
    }
}

impl WrittenStage {
    fn believe(
        &self,
        name: &str,
        api: &WrittenApi,
        mappings: &Mappings,
        surroundings: &Surroundings<'_>,
    ) -> Result<StageSettings, Fault> {
        let place = format!("stages.{name}");
        if !is_name(name) {
            let rule = "a stage's name is 1 to 128 of A-Z, a-z, 0-9, - and _";
            return Err(Fault::new(place, rule));
        }
        let variables = &self.stage_variables;
        for (name, value) in variables {
            if let Some(rule) = variables::fault_of(name, value) {
                return Err(Fault::new(format!("{place}.stage_variables.{name}"), rule));
            }
        }
        let integrations = api
            .integrations
            .iter()
            .zip(mappings.values())
            .map(|((id, integration), mapping)| {
                let place = format!("integrations.{id}");
                Ok((id.clone(), integration.believe(&place, variables, mapping)?))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        let authorization = api.authorization(variables, surroundings)?;
        Ok(StageSettings {
            variables: variables.clone(),
            integrations,
            api_key: api.api_key_source(&authorization)?,
            throttles: self.throttles(&place, api)?,
            authorization,
            allowed_origins: self.origin_rules(&place)?,
            connections_max: self.connections_max.0,
            binary_messages: self.binary_messages,
            access_log: self
                .access_log_settings
                .as_ref()
                .map(|written| {
                    let place = format!("{place}.access_log_settings");
                    written.believe(&place, surroundings.folder)
                })
                .transpose()?,
        })
    }
}

impl WrittenStage {
    fn origin_rules(&self, place: &str) -> Result<Option<OriginRules>, Fault> {
        let Some(written) = &self.allowed_origins else { return Ok(None) };
        let rule = |written: &Spanned<String>| {
            let key = format!("{place}.allowed_origins");
            let parsed = written.value.parse();
            parsed.map_err(|error: NotAnOriginRule| Fault::at(key, written, error.to_string()))
        };
        Ok(Some(OriginRules(written.iter().map(rule).collect::<Result<_, _>>()?)))
    }
}

impl WrittenRoute {
    fn believe(
        &self,
        place: &str,
        key: &str,
        api: &WrittenApi,
        models: &BTreeMap<String, Model>,
    ) -> Result<RouteSettings, Fault> {
        let target = &self.target;
        let known = target.value.strip_prefix("integrations/");
        let known = known.and_then(|id| api.integrations.get_key_value(id));
        let Some((id, integration)) = known else {
            let rule = format!("`{}` is not integrations/ and the key of one", target.value);
            return Err(Fault::at(format!("{place}.target"), target, rule));
        };
        let is_two_way = self.is_two_way(place)?;
        if integration.is_mute() && (is_two_way || key == RouteKey::CONNECT) {
            let rule =
                format!("integrations.{id} has no integration_responses to answer this with");
            return Err(Fault::at(format!("{place}.target"), target, rule));
        }
        let expression = self.model_selection_expression.as_ref();
        let request_models = model::of_route(place, key, expression, &self.request_models, models)?;
        let required_parameters = self.required_parameters(place, key)?;
        Ok(RouteSettings {
            integration: id.clone(),
            is_two_way,
            request_models,
            required_parameters,
        })
    }

    fn required_parameters(
        &self,
        place: &str,
        route: &str,
    ) -> Result<Option<RequiredParameters>, Fault> {
        let mut required = RequiredParameters::default();
        for (name, written) in &self.request_parameters {
            let key = format!("{place}.request_parameters.{name}");
            if route != RouteKey::CONNECT {
                let rule = "only the handshake of $connect has parameters";
                return Err(Fault::at(key, written, rule));
            }
            let declared = required.declare(name, written.value.required);
            declared.map_err(|error| Fault::at(key, written, error.to_string()))?;
        }
        Ok(Some(required).filter(|required| *required != RequiredParameters::default()))
    }

    fn is_two_way(&self, place: &str) -> Result<bool, Fault> {
        let expression = self.route_response_selection_expression.as_ref();
        if let Some(written) = expression.filter(|written| written.value != RouteKey::DEFAULT) {
            let key = format!("{place}.route_response_selection_expression");
            return Err(Fault::at(key, written, "the only value is $default"));
        }
        let other = self.route_responses.iter().find(|(key, _)| *key != RouteKey::DEFAULT);
        if let Some((key, written)) = other {
            let place = format!("{place}.route_responses.{key}");
            return Err(Fault::at(place, written, "the only key is $default"));
        }
        Ok(expression.is_some() || !self.route_responses.is_empty())
    }
}

fn no_limit() -> Limit<u64> {
    Limit(None)
}

fn is_name(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=128).contains(&text.len()) && text.bytes().all(is_letter)
}
