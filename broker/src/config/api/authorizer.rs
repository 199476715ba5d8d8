//! Who says whether a client may connect, as written and as believed.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Uri;
use posthorn_core::auth::identity_source::{IdentitySource, IdentitySourceError};
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::integration::{FunctionName, http_uri, timeout};
use crate::config::api::variables::substitute;
use crate::config::source::Fault;

/// An authorizer of one stage: with the stage's variables filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizerSettings {
    pub target: AuthorizerTarget,
    pub timeout: Duration,
    /// What a client must send to be asked about at all; without it, the answer is 401.
    pub identity_sources: Vec<IdentitySource>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthorizerTarget {
    Lambda(FunctionName),
    /// The same event in a POST; the same answer in its body.
    Http(Uri),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenAuthorizer {
    authorizer_type: AuthorizerType,
    authorizer_uri: Spanned<String>,
    #[serde(default)]
    identity_source: Vec<Spanned<String>>,
    timeout_in_millis: Option<Spanned<u64>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum AuthorizerType {
    Request,
}

impl WrittenAuthorizer {
    pub(super) fn believe(
        &self,
        place: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<AuthorizerSettings, Fault> {
        let AuthorizerType::Request = self.authorizer_type;
        let (key, written) = (format!("{place}.authorizer_uri"), &self.authorizer_uri);
        let fault = |rule: String| Fault::at(&*key, written, rule);
        let uri =
            substitute(&written.value, variables).map_err(|error| fault(error.to_string()))?;
        let target = match FunctionName::parse(&uri) {
            Some(function) => AuthorizerTarget::Lambda(function),
            None => AuthorizerTarget::Http(http_uri(&uri).map_err(fault)?),
        };
        let timeout = timeout(place, self.timeout_in_millis.as_ref())?;
        let source = |written: &Spanned<String>| {
            let key = format!("{place}.identity_source");
            let parsed = written.value.parse();
            parsed.map_err(|error: IdentitySourceError| Fault::at(key, written, error.to_string()))
        };
        let identity_sources = self.identity_source.iter().map(source).collect::<Result<_, _>>()?;
        Ok(AuthorizerSettings { target, timeout, identity_sources })
    }
}
