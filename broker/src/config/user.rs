//! Principals as IAM users: as whom events name those who sign their handshake, and what a policy
//! lets them open.

use posthorn_core::auth::policy::Policy;
use posthorn_core::route::json;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::config::source::Fault;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserSettings {
    /// None: that of a user with the principal's name, in `aws.account_id`.
    pub arn: Option<Box<str>>,
    /// Whether it may connect, where it is there: it stands above the permissions.
    pub policy: Option<Policy>,
}

/// `name` is the principal's.
pub(super) fn believe(
    name: &str,
    arn: Option<&Spanned<String>>,
    policy: Option<&Spanned<Value>>,
) -> Result<UserSettings, Fault> {
    let arn = arn.map(|written| match account_of(&written.value) {
        Some(_) => Ok(written.value.as_str().into()),
        None => {
            let rule = "an ARN of a user is arn:aws:iam::{twelve digits}:user/{name}";
            Err(Fault::at(format!("{name}.user_arn"), written, rule))
        }
    });
    let policy = policy.map(|written| {
        let fault = |rule: String| Fault::at(format!("{name}.policy"), written, rule);
        let text = written.value.to_string();
        let document = json::parse(&text).map_err(|error| fault(error.to_string()))?;
        Policy::parse(document).map_err(|error| fault(error.to_string()))
    });
    Ok(UserSettings { arn: arn.transpose()?, policy: policy.transpose()? })
}

/// The account in an ARN of `iam` or `sts`.
pub fn account_of(arn: &str) -> Option<&str> {
    let parts: Vec<_> = arn.splitn(6, ':').collect();
    let ["arn", _, "iam" | "sts", "", account, resource] = parts[..] else { return None };
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    (is_account && !resource.is_empty()).then_some(account)
}
