//! Who may call the management API, as written and as believed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use posthorn_core::auth::principal::{AccessKey, Permission, Principal, Principals, Proofs};
use posthorn_core::auth::throttle::Throttle;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::config::jwt::{JwtSettings, WrittenJwt};
use crate::config::secret::Secrets;
use crate::config::source::Fault;
use crate::config::throttling::{KEYS, throttle};
use crate::config::user::{self, UserSettings};

/// The section `principals`, believed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrincipalSettings {
    pub known: Principals,
    /// How often a principal may call, by its name. Who is not in it may as often as it likes.
    pub throttles: BTreeMap<Arc<str>, Throttle>,
    /// As whom those who have access keys sign handshakes.
    pub users: BTreeMap<Arc<str>, UserSettings>,
    pub jwt_rules: Vec<JwtRule>,
}

/// A principal that is known by what an issuer says in a JSON Web Token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRule {
    pub principal: Arc<str>,
    pub jwt: JwtSettings,
    /// What the token must say, all of it.
    pub claims: BTreeMap<String, String>,
}

/// Somebody who may call, by name.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPrincipal {
    /// `{api}/{stage}/{verb}`, where `*` and `?` are wildcards. The verbs are post, get, delete, list,
    /// connect (by a signed handshake, where `$connect` has the authorization type `AWS_IAM`), `*` for
    /// these five, and admin, for which API and stage do not matter.
    permissions: Vec<Spanned<String>>,
    /// SHA-256 of bearer tokens, in hexadecimal: `printf %s TOKEN | sha256sum`.
    #[serde(default)]
    #[setting(secret = Hash)]
    token_sha256: Vec<Spanned<String>>,
    /// What requests are signed with by Signature Version 4.
    #[serde(default)]
    access_keys: Vec<WrittenAccessKey>,
    /// JSON Web Tokens that are its bearer tokens.
    #[serde(default)]
    json_web_tokens: Vec<WrittenToken>,
    /// DNS names in certificates that it shows, where `api.tls` asks for them.
    #[serde(default)]
    certificate_names: Vec<Spanned<String>>,
    /// As whom events name a client that signed its handshake:
    /// `arn:aws:iam::{aws.account_id}:user/{name}` where it is missing.
    user_arn: Option<Spanned<String>>,
    /// An IAM policy. Where there is one, it and not the permissions says what handshakes it may
    /// sign: whether it may `execute-api:Invoke` the ARN of `$connect`.
    policy: Option<Spanned<Value>>,
    /// Calls per second, in the long run. Each post of a stream is a call.
    throttling_rate_limit: Option<Spanned<f64>>,
    /// Calls at once, after a rest.
    throttling_burst_limit: Option<Spanned<u32>>,
}

/// A key, and one of the two places where its secret is.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenAccessKey {
    /// What the signature names it by.
    access_key_id: Spanned<String>,
    /// A file that holds the secret and nothing else; relative to the configuration.
    secret_access_key_file: Option<Spanned<PathBuf>>,
    /// A variable of the environment that holds it.
    secret_access_key_env: Option<Spanned<String>>,
}

/// Tokens of one issuer.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenToken {
    /// Whose tokens.
    jwt_configuration: WrittenJwt,
    /// What the token must say, all of it: `{ sub: backend }`. A claim that is a list must have it.
    claims: Spanned<BTreeMap<String, String>>,
}

/// The keys of a fault begin with the name of its principal.
pub(super) fn believe(
    written: &BTreeMap<Arc<str>, WrittenPrincipal>,
    secrets: &Secrets<'_>,
) -> Result<PrincipalSettings, Fault> {
    let (mut principals, mut throttles) = (Vec::new(), BTreeMap::new());
    let mut users = BTreeMap::new();
    let mut jwt_rules = Vec::new();
    for (name, written) in written {
        let access_keys = written.access_keys.iter().map(|key| key.believe(name, secrets));
        let proofs = Proofs {
            tokens: parse_all(name, "token_sha256", &written.token_sha256)?,
            access_keys: access_keys.collect::<Result<_, _>>()?,
            certificate_names: parse_all(name, "certificate_names", &written.certificate_names)?
                .into_iter()
                .map(|DnsName(name)| name)
                .collect(),
        };
        for token in &written.json_web_tokens {
            jwt_rules.push(token.believe(name, secrets.folder)?);
        }
        let permissions: Vec<Permission> = parse_all(name, "permissions", &written.permissions)?;
        let (rate, burst) = (&written.throttling_rate_limit, &written.throttling_burst_limit);
        if let Some(throttle) = throttle(name, KEYS, rate.as_ref(), burst.as_ref())? {
            throttles.insert(name.clone(), throttle);
        }
        let user = user::believe(name, written.user_arn.as_ref(), written.policy.as_ref())?;
        users.insert(name.clone(), user);
        principals.push((Principal { name: name.clone(), permissions }, proofs));
    }
    let known = Principals::new(principals).map_err(|error| Fault::new("", error.to_string()))?;
    Ok(PrincipalSettings { known, throttles, users, jwt_rules })
}

impl WrittenToken {
    fn believe(&self, name: &Arc<str>, folder: &Path) -> Result<JwtRule, Fault> {
        let place = format!("{name}.json_web_tokens");
        let WrittenToken { jwt_configuration, claims } = self;
        if claims.value.is_empty() {
            let rule = "names one claim at least: without one, every token of the issuer would do";
            return Err(Fault::at(format!("{place}.claims"), claims, rule));
        }
        let place = format!("{place}.jwt_configuration");
        let jwt = jwt_configuration.believe(&place, folder, Vec::new())?;
        Ok(JwtRule { principal: name.clone(), jwt, claims: claims.value.clone() })
    }
}

impl WrittenAccessKey {
    fn believe(&self, name: &str, secrets: &Secrets<'_>) -> Result<AccessKey, Fault> {
        let (key, id) = (format!("{name}.access_keys"), &self.access_key_id);
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if !(1..=128).contains(&id.value.len()) || !id.value.bytes().all(is_letter) {
            let rule = "an access key ID is 1 to 128 of A-Z, a-z, 0-9, - and _";
            return Err(Fault::at(format!("{key}.access_key_id"), id, rule));
        }
        let secret = match (&self.secret_access_key_file, &self.secret_access_key_env) {
            (Some(file), None) => {
                secrets.in_file(&format!("{key}.secret_access_key_file"), file)?
            }
            (None, Some(variable)) => {
                secrets.in_environment(&format!("{key}.secret_access_key_env"), variable)?
            }
            (Some(_), Some(_)) | (None, None) => {
                let rule = "has either a secret_access_key_file or a secret_access_key_env";
                return Err(Fault::at(key, id, rule));
            }
        };
        Ok(AccessKey { id: id.value.as_str().into(), secret: secret.into() })
    }
}

/// As certificates have it, in lower case.
struct DnsName(Box<str>);

impl FromStr for DnsName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<DnsName, &'static str> {
        let is_letter = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.' | b'_')
        };
        let is_name = (1..=253).contains(&text.len()) && text.bytes().all(is_letter);
        is_name
            .then(|| DnsName(text.into()))
            .ok_or("a DNS name is in lower case, without wildcards")
    }
}

fn parse_all<T: FromStr<Err: Display>>(
    name: &str,
    key: &str,
    written: &[Spanned<String>],
) -> Result<Vec<T>, Fault> {
    let parse = |text: &Spanned<String>| {
        let parsed = text.value.parse();
        parsed.map_err(|error: T::Err| Fault::at(format!("{name}.{key}"), text, error.to_string()))
    };
    written.iter().map(parse).collect()
}
