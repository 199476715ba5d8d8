//! Clients that sign their handshake as AWS's SDKs sign calls: in headers, or in the query of a
//! presigned URL.

use std::sync::Arc;

use posthorn_core::auth::arn::{ApiArn, INVOKE};
use posthorn_core::auth::policy::{Circumstances, Decision};
use posthorn_core::auth::principal::{Principal, Verb};
use posthorn_core::auth::sigv4::{self, Expectation, UnsignedPayload, VerifyError};
use posthorn_core::event::connection_info::Signer;
use posthorn_core::route::table::RouteKey;

use crate::config::principals::PrincipalSettings;
use crate::config::user::{UserSettings, account_of};
use crate::exchange::inbound::HandshakeParts;
use crate::exchange::stage::Stage;

/// Those whose signatures are known.
pub struct Signers {
    principals: Arc<PrincipalSettings>,
}

/// Why a signature does not let in.
pub(super) enum NotPermitted {
    Signature(VerifyError),
    /// It is right, and its signer may not connect. What the client is told.
    Denied(String),
}

impl Signers {
    pub(super) fn new(principals: Arc<PrincipalSettings>) -> Signers {
        Signers { principals }
    }

    pub(super) fn judge(
        &self,
        stage: &Stage,
        parts: &HandshakeParts,
        circumstances: &Circumstances<'_>,
    ) -> Result<Signer, NotPermitted> {
        let known = &self.principals.known;
        let headers: Vec<_> =
            parts.headers.iter().map(|(name, value)| (&**name, value.as_bytes())).collect();
        let request = sigv4::Request {
            method: "GET",
            path: &parts.path,
            query: &parts.query,
            headers: &headers,
            body: &[],
        };
        let expectation = Expectation {
            service: "execute-api",
            region: Some(&stage.region),
            // A handshake has no body that anybody could change.
            unsigned_payload: UnsignedPayload::Accepted,
        };
        let verified =
            sigv4::verify(&request, &expectation, circumstances.now_ms, |id| known.credentials(id));
        let access_key = verified.map_err(NotPermitted::Signature)?.access_key_id;
        let unknown = NotPermitted::Signature(VerifyError::UnknownKey);
        let principal = known.with_access_key(&access_key).ok_or(unknown)?;
        let user = self.principals.users.get(&principal.name);
        let signer = signer_of(principal, user, stage, &access_key);
        match self.decide(principal, user, stage, circumstances) {
            Decision::Allowed => Ok(signer),
            denied => Err(NotPermitted::Denied(denial(&signer, stage, denied))),
        }
    }

    fn decide(
        &self,
        principal: &Principal,
        user: Option<&UserSettings>,
        stage: &Stage,
        circumstances: &Circumstances<'_>,
    ) -> Decision {
        match user.and_then(|user| user.policy.as_ref()) {
            Some(policy) => {
                let arn = arn_of(stage, &stage.account_id);
                policy.evaluate(INVOKE, &arn, circumstances)
            }
            None if principal.may(Verb::Connect, &stage.api_id, &stage.name) => Decision::Allowed,
            None => Decision::ImplicitlyDenied,
        }
    }
}

fn signer_of(
    principal: &Principal,
    user: Option<&UserSettings>,
    stage: &Stage,
    access_key: &str,
) -> Signer {
    let name = &principal.name;
    let arn = user.and_then(|user| user.arn.clone());
    let arn =
        arn.unwrap_or_else(|| format!("arn:aws:iam::{}:user/{name}", stage.account_id).into());
    Signer {
        account_id: account_of(&arn).unwrap_or(&stage.account_id).into(),
        access_key: access_key.into(),
        user: (&**name).into(),
        user_arn: arn,
    }
}

fn arn_of(stage: &Stage, account: &str) -> String {
    let arn = ApiArn { region: &stage.region, account, api: &stage.api_id };
    arn.route(&stage.name, RouteKey::CONNECT)
}

/// In the words that were recorded from `@connections`, with the account masked as there.
fn denial(signer: &Signer, stage: &Stage, decision: Decision) -> String {
    let account = &stage.account_id[stage.account_id.len().saturating_sub(4)..];
    let arn = arn_of(stage, &format!("********{account}"));
    let why = match decision {
        Decision::ExplicitlyDenied => "with an explicit deny in an identity-based policy",
        Decision::ImplicitlyDenied | Decision::Allowed => {
            "because no identity-based policy allows the execute-api:Invoke action"
        }
    };
    let user = &signer.user_arn;
    format!("User: {user} is not authorized to perform: {INVOKE} on resource: {arn} {why}")
}
