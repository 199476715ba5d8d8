//! Who calls, and what he may do.
//!
//! Invariants:
//!
//! * Nothing is looked up for whom we do not know, and for whom may not do what he asks for at all.
//! * Who may do it with some stages only learns nothing of the others: see [`Scope`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, header};
use parking_lot::Mutex;
use posthorn_core::auth::principal::{Principal, Principals, Verb, bearer_token};
use posthorn_core::auth::throttle::{Throttle, Throttled, TokenBucket};

use crate::config::principals::PrincipalSettings;
use crate::exchange::scope::Scope;

/// Everyone who is known, and what each has called of late.
pub(crate) struct Callers {
    known: Principals,
    budgets: BTreeMap<Arc<str>, Arc<Budget>>,
    /// Nobody is asked who he is.
    is_open: bool,
}

/// One caller, for the time of one request or stream.
#[derive(Clone)]
pub(super) struct Caller {
    /// None where nobody is asked.
    principal: Option<Arc<Principal>>,
    budget: Option<Arc<Budget>>,
}

/// How often a principal may call. All that it has open take from it.
struct Budget {
    throttle: Throttle,
    bucket: Mutex<TokenBucket>,
}

/// We do not know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unauthenticated {
    #[error("this call needs a bearer token")]
    Missing,
    #[error("the bearer token is not known")]
    UnknownToken,
}

/// We know who calls, and he may not do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller has no permission to do that")]
pub(super) struct Denied;

impl Callers {
    /// `is_insecure`: where there is nobody to be known, everybody may call.
    pub(crate) fn new(settings: &PrincipalSettings, is_insecure: bool) -> Callers {
        let PrincipalSettings { known, throttles, users: _ } = settings;
        let now = Instant::now();
        let budgets = throttles.iter().map(|(name, throttle)| {
            let bucket = Mutex::new(TokenBucket::new(now));
            (name.clone(), Arc::new(Budget { throttle: *throttle, bucket }))
        });
        Callers {
            known: known.clone(),
            budgets: budgets.collect(),
            is_open: is_insecure && known.is_empty(),
        }
    }

    pub(super) fn known(&self) -> &Principals {
        &self.known
    }

    /// The caller if nobody is asked who he is.
    pub(super) fn anyone(&self) -> Option<Caller> {
        self.is_open.then_some(Caller { principal: None, budget: None })
    }

    /// Who shows a bearer token.
    pub(super) fn by_token(&self, headers: &HeaderMap) -> Result<Caller, Unauthenticated> {
        if let Some(anyone) = self.anyone() {
            return Ok(anyone);
        }
        let token = token_of(headers).ok_or(Unauthenticated::Missing)?;
        let principal = self.known.with_token(token).ok_or(Unauthenticated::UnknownToken)?;
        Ok(self.caller(principal))
    }

    /// A principal that has proved to be it.
    pub(super) fn caller(&self, principal: &Arc<Principal>) -> Caller {
        let budget = self.budgets.get(&principal.name).cloned();
        Caller { principal: Some(principal.clone()), budget }
    }
}

impl Caller {
    /// With whose connections he may do something.
    pub(super) fn scope(&self, verb: Verb) -> Result<Scope, Denied> {
        match &self.principal {
            None => Ok(Scope::Everyone),
            Some(principal) if principal.may_everywhere(verb) => Ok(Scope::Everyone),
            Some(principal) if principal.may_somewhere(verb) => {
                Ok(Scope::Permitted(principal.clone(), verb))
            }
            Some(_) => Err(Denied),
        }
    }

    /// Whether he may do something with the connections of a stage.
    pub(super) fn may(&self, verb: Verb, api: &str, stage: &str) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.may(verb, api, stage))
    }

    pub(super) fn may_administer(&self) -> bool {
        self.principal.as_ref().is_none_or(|principal| principal.may_administer())
    }

    pub(super) fn name(&self) -> &str {
        self.principal.as_ref().map_or("anyone", |principal| &principal.name)
    }

    /// Counts a call.
    pub(super) fn take(&self) -> Result<(), Throttled> {
        let Some(budget) = &self.budget else { return Ok(()) };
        budget.bucket.lock().take(Instant::now(), budget.throttle)
    }
}

pub(super) fn token_of(headers: &HeaderMap) -> Option<&str> {
    bearer_token(headers.get(header::AUTHORIZATION)?.to_str().ok()?)
}

/// When to try again, in whole seconds, at least 1.
pub(super) fn seconds_of(retry_after: Option<Duration>) -> u64 {
    retry_after.map_or(1, |after| after.as_millis().div_ceil(1000).max(1) as u64)
}
