//! Who says whether a client may connect, as written and as believed.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use posthorn_core::auth::identity_source::IdentitySource;
use posthorn_core::auth::token_source::TokenSource;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::Surroundings;
use crate::config::api::integration::{FunctionName, TIMEOUT_DEFAULT, http_uri, timeout};
use crate::config::api::variables::substitute;
use crate::config::jwt::{JwtSettings, WrittenJwt};
use crate::config::source::Fault;
use crate::config::values::{Limit, Millis};

/// A function or a server of one stage that is asked: with the stage's variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizerSettings {
    pub target: AuthorizerTarget,
    /// None is for ever.
    pub timeout: Option<Duration>,
    /// What a client must send to be asked about at all; without it, the answer is 401.
    pub identity_sources: Vec<IdentitySource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizerTarget {
    Lambda(FunctionName),
    /// The same event in a POST; the same answer in its body.
    Http(Uri),
}

/// Tokens that speak for themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtAuthorizerSettings {
    /// Where a token may be, in the order in which it is looked for.
    pub token_sources: Vec<TokenSource>,
    pub jwt: JwtSettings,
    /// Whether a connection is closed when the token that let it in expires.
    pub closes_on_expiry: bool,
}

/// An authorizer of either type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Believed {
    Request(AuthorizerSettings),
    Jwt(JwtAuthorizerSettings),
}

/// An authorizer by its ID.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAuthorizer {
    /// Who says it.
    authorizer_type: Spanned<AuthorizerType>,
    /// Of a REQUEST authorizer: an `http` or `https` URL, or a function's name or ARN.
    #[setting(secret = Address)]
    authorizer_uri: Option<Spanned<String>>,
    /// What a client must send to a REQUEST authorizer, or where its token is for a JWT authorizer.
    #[serde(default)]
    identity_source: Vec<Spanned<String>>,
    /// Of a REQUEST authorizer: how long it may take, at least 50, or `none`.
    #[setting(default = TIMEOUT_DEFAULT.as_millis())]
    timeout_in_millis: Option<Spanned<Limit<Millis>>>,
    /// Of a JWT authorizer: whose tokens.
    jwt_configuration: Option<WrittenJwt>,
    /// Of a JWT authorizer: whether a connection is closed, with 1008, when the token that let it in
    /// expires. Otherwise it lives as long as any.
    close_when_token_expires: Option<Spanned<bool>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum AuthorizerType {
    /// A Lambda function or an HTTP server is asked.
    Request,
    /// A JSON Web Token speaks for itself. Beyond API Gateway, whose WebSocket APIs have none.
    Jwt,
}

impl WrittenAuthorizer {
    /// `scopes` are those that its route asks for.
    pub(super) fn believe(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
        scopes: &[Spanned<String>],
        surroundings: &Surroundings<'_>,
    ) -> Result<Believed, Fault> {
        let WrittenAuthorizer { authorizer_type, authorizer_uri, .. } = self;
        let fault =
            |key: &str, rule: &str| Err(Fault::at(format!("{place}.{key}"), authorizer_type, rule));
        match (authorizer_type.value, authorizer_uri, &self.jwt_configuration) {
            (AuthorizerType::Request, _, Some(_)) => {
                fault("jwt_configuration", "belongs to the authorizer_type JWT")
            }
            (AuthorizerType::Request, None, None) => {
                fault("authorizer_uri", "is needed by the authorizer_type REQUEST")
            }
            (AuthorizerType::Request, Some(uri), None) => {
                self.request(place, uri, variables).map(Believed::Request)
            }
            (AuthorizerType::Jwt, Some(_), _) => {
                fault("authorizer_uri", "belongs to the authorizer_type REQUEST")
            }
            (AuthorizerType::Jwt, None, None) => {
                fault("jwt_configuration", "is needed by the authorizer_type JWT")
            }
            (AuthorizerType::Jwt, None, Some(jwt)) => {
                self.jwt(place, jwt, scopes, surroundings).map(Believed::Jwt)
            }
        }
    }

    fn request(
        &self,
        place: &str,
        written: &Spanned<String>,
        variables: &BTreeMap<String, String>,
    ) -> Result<AuthorizerSettings, Fault> {
        if let Some(written) = &self.close_when_token_expires {
            let key = format!("{place}.close_when_token_expires");
            return Err(Fault::at(key, written, "belongs to the authorizer_type JWT"));
        }
        let key = format!("{place}.authorizer_uri");
        let fault = |rule: String| Fault::at(&*key, written, rule);
        let uri =
            substitute(&written.value, variables).map_err(|error| fault(error.to_string()))?;
        let target = match FunctionName::parse(&uri) {
            Some(function) => AuthorizerTarget::Lambda(function),
            None => AuthorizerTarget::Http(http_uri(&uri).map_err(fault)?),
        };
        let timeout = timeout(place, self.timeout_in_millis.as_ref())?;
        Ok(AuthorizerSettings { target, timeout, identity_sources: self.sources(place)? })
    }

    fn jwt(
        &self,
        place: &str,
        jwt: &WrittenJwt,
        scopes: &[Spanned<String>],
        surroundings: &Surroundings<'_>,
    ) -> Result<JwtAuthorizerSettings, Fault> {
        if let Some(timeout) = &self.timeout_in_millis {
            let rule = "belongs to the authorizer_type REQUEST";
            return Err(Fault::at(format!("{place}.timeout_in_millis"), timeout, rule));
        }
        let token_sources: Vec<TokenSource> = self.sources(place)?;
        if token_sources.is_empty() {
            let rule = "says where a client puts its token";
            let key = format!("{place}.identity_source");
            return Err(Fault::at(key, &self.authorizer_type, rule));
        }
        let scopes = scopes.iter().map(|scope| scope.value.as_str().into()).collect();
        let place = format!("{place}.jwt_configuration");
        let jwt = jwt.believe(&place, surroundings.folder, scopes)?;
        let closes = self.close_when_token_expires.as_ref();
        let closes_on_expiry = closes.is_some_and(|closes| closes.value);
        Ok(JwtAuthorizerSettings { token_sources, jwt, closes_on_expiry })
    }

    fn sources<S>(&self, place: &str) -> Result<Vec<S>, Fault>
    where
        S: FromStr<Err: std::fmt::Display>,
    {
        let source = |written: &Spanned<String>| {
            let key = format!("{place}.identity_source");
            written
                .value
                .parse()
                .map_err(|error: S::Err| Fault::at(key, written, error.to_string()))
        };
        self.identity_source.iter().map(source).collect()
    }
}
