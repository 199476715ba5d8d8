//! What Lambda is called by, and the names that policies know this cluster's APIs by.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper::Uri;
use posthorn_core::auth::sigv4;
use posthorn_derive::Setting;
use serde::Deserialize;

use crate::config::source;

/// As the section `aws` has it. A key that is missing is looked for where AWS's own tools look, in
/// the environment: `AWS_REGION`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
#[derive(Debug, Default, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub(super) struct WrittenAws {
    /// Of the functions that are called, and in ARNs and host names of the APIs.
    #[setting(default = "us-east-1")]
    region: Option<String>,
    /// Twelve digits: the owner of the APIs, in the ARNs that authorizers get and policies name.
    #[setting(default = "000000000000")]
    account_id: Option<String>,
    /// Where Lambda's Invoke API is served, if not at AWS: an `http` or `https` URL.
    #[setting(secret = Address)]
    lambda_endpoint: Option<String>,
    /// What calls of functions are signed with, with the secret beside it. Without both, they are not.
    access_key_id: Option<String>,
    /// A file that holds the secret access key and nothing else; relative to the configuration.
    secret_access_key_file: Option<PathBuf>,
}

/// The section, believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AwsSettings {
    pub region: Arc<str>,
    pub account_id: Arc<str>,
    pub lambda_endpoint: Uri,
    /// Without them, calls are not signed.
    pub credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

impl Credentials {
    pub fn as_signer(&self) -> sigv4::Credentials<'_> {
        sigv4::Credentials {
            access_key_id: &self.access_key_id,
            secret_access_key: &self.secret_access_key,
            session_token: self.session_token.as_deref(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl WrittenAws {
    pub(super) fn believe(
        self,
        folder: &Path,
        environment: &[(String, String)],
    ) -> Result<AwsSettings, (&'static str, String)> {
        let variable = |name: &str| {
            let found = environment.iter().find(|(other, _)| other == name);
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        let region = self.region.or_else(|| variable("AWS_REGION"));
        let region = region.unwrap_or_else(|| "us-east-1".to_owned());
        if region.is_empty()
            || !region.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        {
            return Err(("aws.region", format!("`{region}` is no region")));
        }
        let account_id = self.account_id.unwrap_or_else(|| "0".repeat(12));
        if account_id.len() != 12 || !account_id.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(("aws.account_id", "is twelve digits, as a text".to_owned()));
        }
        let endpoint = self.lambda_endpoint;
        let endpoint = endpoint.unwrap_or_else(|| format!("https://lambda.{region}.amazonaws.com"));
        let lambda_endpoint =
            super::api::http_uri(&endpoint).map_err(|rule| ("aws.lambda_endpoint", rule))?;
        let secret = match &self.secret_access_key_file {
            Some(file) => {
                let file = folder.join(file);
                let secret = source::text_of(&file).map_err(|error| {
                    ("aws.secret_access_key_file", format!("{}: {error}", file.display()))
                })?;
                Some(secret.trim().to_owned())
            }
            None => variable("AWS_SECRET_ACCESS_KEY"),
        };
        let access_key_id = self.access_key_id.or_else(|| variable("AWS_ACCESS_KEY_ID"));
        let credentials = match (access_key_id, secret) {
            (Some(access_key_id), Some(secret_access_key)) => Some(Credentials {
                access_key_id,
                secret_access_key,
                session_token: variable("AWS_SESSION_TOKEN"),
            }),
            (None, None) => None,
            (Some(_), None) => {
                let rule = "has no secret access key beside it, in a file or the environment";
                return Err(("aws.access_key_id", rule.to_owned()));
            }
            (None, Some(_)) => {
                return Err((
                    "aws.secret_access_key_file",
                    "has no access key ID beside it".to_owned(),
                ));
            }
        };
        Ok(AwsSettings {
            region: region.into(),
            account_id: account_id.into(),
            lambda_endpoint,
            credentials,
        })
    }
}
