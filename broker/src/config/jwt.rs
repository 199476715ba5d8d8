//! Who issues tokens, and what is asked of them, as written and as believed.

use std::fmt;
use std::path::{Path, PathBuf};

use hyper::Uri;
use posthorn_core::auth::jwt::{KeySet, Rules};
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::http_uri;
use crate::config::source::{Fault, text_of};

/// What is accepted as a JSON Web Token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtSettings {
    pub keys: KeySource,
    pub rules: Rules,
}

/// Where the public keys of an issuer are (a JWK Set, RFC 7517).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    Uri(Uri),
    File(PathBuf),
}

/// Who issues tokens, and what must be in them.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenJwt {
    /// The claim `iss`, to the letter.
    issuer: Spanned<String>,
    /// A token must be for one of them: its claim `aud`, or if it has none, `client_id`.
    audience: Spanned<Vec<String>>,
    /// Where the issuer publishes its keys. They are fetched when the first token comes, and again
    /// when they grow old or a token names a key that is not among them.
    #[setting(secret = Address)]
    jwks_uri: Option<Spanned<String>>,
    /// The same in a file, relative to the configuration. It is read again when it changes.
    jwks_file: Option<Spanned<PathBuf>>,
    /// How far the issuer's clock and ours may be apart, in seconds: at most 600.
    #[setting(default = LEEWAY_DEFAULT_S)]
    leeway_s: Option<Spanned<u64>>,
}

const LEEWAY_DEFAULT_S: u64 = 30;
const LEEWAY_MAX_S: u64 = 600;

impl WrittenJwt {
    /// `scopes` are those of which a token must have one.
    pub(super) fn believe(
        &self,
        place: &str,
        folder: &Path,
        scopes: Vec<Box<str>>,
    ) -> Result<JwtSettings, Fault> {
        let WrittenJwt { issuer, audience, jwks_uri, jwks_file, leeway_s } = self;
        if issuer.value.is_empty() {
            return Err(Fault::at(format!("{place}.issuer"), issuer, "is a text"));
        }
        if audience.value.is_empty() || audience.value.iter().any(String::is_empty) {
            let rule = "names one audience at least: without one, no token is good";
            return Err(Fault::at(format!("{place}.audience"), audience, rule));
        }
        if let Some(leeway_s) = leeway_s.as_ref().filter(|leeway_s| leeway_s.value > LEEWAY_MAX_S) {
            let rule = format!("is at most {LEEWAY_MAX_S}");
            return Err(Fault::at(format!("{place}.leeway_s"), leeway_s, rule));
        }
        let keys = match (jwks_uri, jwks_file) {
            (Some(uri), None) => {
                let key = format!("{place}.jwks_uri");
                let parsed = http_uri(&uri.value).map_err(|rule| Fault::at(key, uri, rule))?;
                KeySource::Uri(parsed)
            }
            (None, Some(file)) => {
                let path = folder.join(&file.value);
                check_keys(&path)
                    .map_err(|rule| Fault::at(format!("{place}.jwks_file"), file, rule))?;
                KeySource::File(path)
            }
            (None, None) | (Some(_), Some(_)) => {
                let rule = "has either a jwks_uri or a jwks_file";
                return Err(Fault::at(format!("{place}.issuer"), issuer, rule));
            }
        };
        let rules = Rules {
            issuer: issuer.value.as_str().into(),
            audiences: audience.value.iter().map(|text| text.as_str().into()).collect(),
            scopes,
            leeway_s: leeway_s.as_ref().map_or(LEEWAY_DEFAULT_S, |leeway_s| leeway_s.value),
        };
        Ok(JwtSettings { keys, rules })
    }
}

fn check_keys(file: &Path) -> Result<(), String> {
    let name = file.display();
    let text = text_of(file).map_err(|error| format!("{name}: {error}"))?;
    let keys = KeySet::parse(text.as_bytes()).map_err(|error| format!("{name}: {error}"))?;
    match keys.counts() {
        (0, _) => Err(format!("{name}: no key in it can be used")),
        (_, _) => Ok(()),
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::Uri(uri) => uri.fmt(f),
            KeySource::File(file) => file.display().fmt(f),
        }
    }
}
