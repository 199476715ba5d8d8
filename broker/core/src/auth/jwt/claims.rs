//! What a token says, and whether that is enough.

use serde_json::{Map, Value};

use crate::auth::jwt::TokenError;
use crate::event::connection_info::Authorized;

/// The claims of a token whose signature is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    issuer: Option<String>,
    subject: Option<String>,
    /// `aud`, or if there is none, `client_id`.
    audiences: Vec<String>,
    /// `scope` or `scp`.
    scopes: Vec<String>,
    expires_at_s: Option<u64>,
    not_before_s: Option<u64>,
    issued_at_s: Option<u64>,
    members: Map<String, Value>,
}

/// What is asked of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    pub issuer: Box<str>,
    /// The token must be for one of them. If there are none, no token is good.
    pub audiences: Vec<Box<str>>,
    /// The token must have one of them, unless there are none.
    pub scopes: Vec<Box<str>>,
    /// How far the clocks of issuer and verifier may be apart.
    pub leeway_s: u64,
}

/// All of them are a 401, but `Scope`, which is a 403.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    #[error("the token is of another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token does not say when it expires")]
    NoExpiry,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token was issued in the future")]
    IssuedInTheFuture,
    #[error("the token has none of the scopes that are needed")]
    Scope,
}

impl Claims {
    pub(super) fn parse(members: Map<String, Value>) -> Result<Claims, TokenError> {
        let audiences = match members.get("aud") {
            Some(audience) => texts(audience).ok_or(TokenError::Claim("aud"))?,
            None => text(&members, "client_id")?.into_iter().collect(),
        };
        Ok(Claims {
            issuer: text(&members, "iss")?,
            subject: text(&members, "sub")?,
            audiences,
            scopes: scopes(&members)?,
            expires_at_s: seconds(&members, "exp")?,
            not_before_s: seconds(&members, "nbf")?,
            issued_at_s: seconds(&members, "iat")?,
            members,
        })
    }

    /// `now_s` is in seconds since 1970.
    pub fn check(&self, rules: &Rules, now_s: u64) -> Result<(), ClaimsError> {
        let Rules { issuer, audiences, scopes, leeway_s } = rules;
        let latest = now_s.saturating_add(*leeway_s);
        if self.issuer.as_deref() != Some(&**issuer) {
            return Err(ClaimsError::Issuer);
        }
        if !share_one(&self.audiences, audiences) {
            return Err(ClaimsError::Audience);
        }
        let expires_at_s = self.expires_at_s.ok_or(ClaimsError::NoExpiry)?;
        if now_s >= expires_at_s.saturating_add(*leeway_s) {
            return Err(ClaimsError::Expired);
        }
        if self.not_before_s.is_some_and(|not_before_s| latest < not_before_s) {
            return Err(ClaimsError::NotYetValid);
        }
        if self.issued_at_s.is_some_and(|issued_at_s| latest < issued_at_s) {
            return Err(ClaimsError::IssuedInTheFuture);
        }
        let is_in_scope = scopes.is_empty() || share_one(&self.scopes, scopes);
        if is_in_scope { Ok(()) } else { Err(ClaimsError::Scope) }
    }

    /// Whether a claim is that text, or a list with it.
    pub fn says(&self, name: &str, wanted: &str) -> bool {
        match self.members.get(name) {
            Some(Value::String(text)) => text == wanted,
            Some(Value::Array(values)) => values.iter().any(|value| value == wanted),
            _ => false,
        }
    }

    /// `exp`: no connection need outlive it.
    pub fn expires_at_s(&self) -> Option<u64> {
        self.expires_at_s
    }

    /// As if an authorizer had said it: the subject, and all claims that are texts, numbers or truth
    /// values.
    pub fn authorized(&self) -> Authorized {
        let context = self.members.iter().filter_map(|(name, value)| {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(number) => number.to_string(),
                Value::Bool(is) => is.to_string(),
                Value::Null | Value::Array(_) | Value::Object(_) => return None,
            };
            Some((name.as_str().into(), text.into()))
        });
        Authorized {
            principal_id: self.subject.as_deref().unwrap_or_default().into(),
            context: context.collect(),
        }
    }
}

fn share_one(own: &[String], wanted: &[Box<str>]) -> bool {
    own.iter().any(|one| wanted.iter().any(|other| **other == **one))
}

fn text(members: &Map<String, Value>, name: &'static str) -> Result<Option<String>, TokenError> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(TokenError::Claim(name)),
    }
}

/// One text, or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(values) => {
            values.iter().map(|value| value.as_str().map(str::to_owned)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => None,
    }
}

/// Words of one text (RFC 8693 section 4.2), or a list.
fn scopes(members: &Map<String, Value>) -> Result<Vec<String>, TokenError> {
    let mut scopes = Vec::new();
    for name in ["scope", "scp"] {
        let Some(value) = members.get(name) else { continue };
        let texts = texts(value).ok_or(TokenError::Claim(name))?;
        let words = texts.iter().flat_map(|text| text.split(' ')).filter(|word| !word.is_empty());
        scopes.extend(words.map(str::to_owned));
    }
    Ok(scopes)
}

/// A number of seconds since 1970, of which fractions are left out.
fn seconds(members: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    // The largest up to which all integers are floating-point numbers.
    const SECONDS_MAX: f64 = 9_007_199_254_740_992.0;
    let Some(value) = members.get(name) else { return Ok(None) };
    let seconds = value.as_u64().or_else(|| {
        let seconds = value.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
        seconds.map(|seconds| seconds as u64)
    });
    seconds.map(Some).ok_or(TokenError::Claim(name))
}
