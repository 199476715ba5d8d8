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
use parking_lot::{Mutex, RwLock};
use posthorn_core::auth::jwt;
use posthorn_core::auth::principal::{Principal, Principals, Verb, bearer_token};
use posthorn_core::auth::throttle::{Throttle, Throttled, TokenBucket};
use tracing::{debug, warn};

use crate::clock;
use crate::config::jwt::JwtSettings;
use crate::config::node::ApiSettings;
use crate::config::principals::{JwtRule, PrincipalSettings};
use crate::exchange::scope::Scope;
use crate::integration::key_sets::{IssuerKeys, KeySets, NotVerified};

/// Everyone who may call, as of one reading of the configuration.
pub(crate) struct Callers {
    known: RwLock<Arc<Known>>,
    key_sets: KeySets,
    /// Where there is nobody to be known, everybody may call.
    is_insecure: bool,
    /// Other machines can reach the API.
    is_exposed: bool,
}

/// Everyone who is known, and what each has called of late.
pub(super) struct Known {
    principals: Principals,
    budgets: BTreeMap<Arc<str>, Arc<Budget>>,
    issuers: Vec<Issuer>,
    /// Nobody is asked who he is.
    is_open: bool,
    /// Other machines can reach the API.
    is_exposed: bool,
}

/// Somebody who says in JSON Web Tokens who their bearers are.
struct Issuer {
    jwt: JwtSettings,
    keys: Arc<IssuerKeys>,
    /// Who says all of these claims is that principal. The first that fits counts.
    grants: Vec<(BTreeMap<String, String>, Arc<Principal>)>,
}

/// The names in the certificate that a connection showed.
#[derive(Clone)]
pub(super) struct Certified(pub(super) Arc<[String]>);

/// One caller, for the time of one request or stream.
#[derive(Clone)]
pub(super) struct Caller {
    /// None where nobody is asked.
    principal: Option<Arc<Principal>>,
    budget: Option<Arc<Budget>>,
    /// May come from another machine.
    may_be_remote: bool,
}

/// How often a principal may call. All that it has open take from it.
struct Budget {
    throttle: Throttle,
    bucket: Mutex<TokenBucket>,
}

/// We do not know who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unauthenticated {
    #[error("this call needs a bearer token or a client certificate")]
    Missing,
    #[error("the bearer token is not known")]
    UnknownToken,
    /// Nothing is said of the token: whoever issued it may be one whose keys cannot be had just now.
    #[error("the bearer token cannot be verified: the keys of an issuer cannot be had")]
    NoKeys,
}

/// We know who calls, and he may not do that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the caller has no permission to do that")]
pub(super) struct Denied;

impl Callers {
    pub(crate) fn new(
        settings: &PrincipalSettings,
        api: &ApiSettings,
        key_sets: KeySets,
    ) -> Callers {
        let (is_insecure, is_exposed) = (api.insecure, !api.listen.ip().is_loopback());
        let nobody = Known {
            principals: Principals::default(),
            budgets: BTreeMap::new(),
            issuers: Vec::new(),
            is_open: false,
            is_exposed,
        };
        let known = RwLock::new(Arc::new(nobody.renewed(settings, is_insecure, &key_sets)));
        let callers = Callers { known, key_sets, is_insecure, is_exposed };
        callers.warn_if_open();
        callers
    }

    /// From the next call on, these are known and no others. A stream that is open goes on.
    pub(crate) fn replace(&self, settings: &PrincipalSettings) {
        let mut known = self.known.write();
        *known = Arc::new(known.renewed(settings, self.is_insecure, &self.key_sets));
        drop(known);
        self.warn_if_open();
    }

    fn warn_if_open(&self) {
        if self.is_exposed && self.known().is_open {
            warn!("everybody may call the API: it is insecure, and there are no principals");
        }
    }

    pub(super) fn known(&self) -> Arc<Known> {
        self.known.read().clone()
    }
}

impl Known {
    /// Whose throttle is as it was keeps his budget.
    fn renewed(
        &self,
        settings: &PrincipalSettings,
        is_insecure: bool,
        key_sets: &KeySets,
    ) -> Known {
        let PrincipalSettings { known: principals, throttles, jwt_rules, users: _ } = settings;
        let now = Instant::now();
        let budget = |(name, throttle): (&Arc<str>, &Throttle)| {
            let kept = self.budgets.get(name).filter(|budget| budget.throttle == *throttle);
            let fresh = || {
                let bucket = Mutex::new(TokenBucket::new(now));
                Arc::new(Budget { throttle: *throttle, bucket })
            };
            (name.clone(), kept.cloned().unwrap_or_else(fresh))
        };
        Known {
            principals: principals.clone(),
            budgets: throttles.iter().map(budget).collect(),
            issuers: issuers_of(principals, jwt_rules, key_sets),
            is_open: is_insecure && principals.is_empty(),
            is_exposed: self.is_exposed,
        }
    }

    pub(super) fn principals(&self) -> &Principals {
        &self.principals
    }

    /// The caller if nobody is asked who he is.
    pub(super) fn anyone(&self) -> Option<Caller> {
        let may_be_remote = self.is_exposed;
        self.is_open.then_some(Caller { principal: None, budget: None, may_be_remote })
    }

    /// Who shows a bearer token, or has shown a certificate.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        certified: Option<&Certified>,
    ) -> Result<Caller, Unauthenticated> {
        if let Some(anyone) = self.anyone() {
            return Ok(anyone);
        }
        match (token_of(headers), certified) {
            (Some(token), _) => self.by_token(token).await,
            (None, Some(Certified(names))) if !headers.contains_key(header::AUTHORIZATION) => {
                let mut names = names.iter();
                let found = names.find_map(|name| self.principals.with_certificate_name(name));
                found.map(|one| self.caller(one)).ok_or(Unauthenticated::Missing)
            }
            (None, _) => Err(Unauthenticated::Missing),
        }
    }

    async fn by_token(&self, token: &str) -> Result<Caller, Unauthenticated> {
        if let Some(principal) = self.principals.with_token(token) {
            return Ok(self.caller(principal));
        }
        let mut refusal = Unauthenticated::UnknownToken;
        let named = jwt::unverified_issuer(token).ok_or(refusal)?;
        let is_named = |issuer: &&Issuer| *issuer.jwt.rules.issuer == *named;
        for issuer in self.issuers.iter().filter(is_named) {
            match issuer.identify(token).await {
                Ok(principal) => return Ok(self.caller(principal)),
                Err(Unauthenticated::NoKeys) => refusal = Unauthenticated::NoKeys,
                Err(Unauthenticated::Missing | Unauthenticated::UnknownToken) => (),
            }
        }
        Err(refusal)
    }

    /// A principal that has proved to be it.
    pub(super) fn caller(&self, principal: &Arc<Principal>) -> Caller {
        let budget = self.budgets.get(&principal.name).cloned();
        Caller { principal: Some(principal.clone()), budget, may_be_remote: self.is_exposed }
    }
}

impl Issuer {
    async fn identify(&self, token: &str) -> Result<&Arc<Principal>, Unauthenticated> {
        let claims = self.keys.verify(token).await.map_err(|error| match error {
            NotVerified::Token(error) => {
                debug!(%error, issuer = %self.jwt.rules.issuer, "a token is not believed");
                Unauthenticated::UnknownToken
            }
            NotVerified::NoKeys(_) => Unauthenticated::NoKeys,
        })?;
        claims.check(&self.jwt.rules, clock::epoch_ms() / 1000).map_err(|error| {
            debug!(%error, "a token is not good");
            Unauthenticated::UnknownToken
        })?;
        let says_all = |(wanted, _): &&(BTreeMap<String, String>, _)| {
            wanted.iter().all(|(name, text)| claims.says(name, text))
        };
        let granted = self.grants.iter().find(says_all);
        granted.map(|(_, principal)| principal).ok_or(Unauthenticated::UnknownToken)
    }
}

fn issuers_of(known: &Principals, rules: &[JwtRule], key_sets: &KeySets) -> Vec<Issuer> {
    let mut issuers: Vec<Issuer> = Vec::new();
    for JwtRule { principal, jwt, claims } in rules {
        let Some(principal) = known.iter().find(|one| one.name == *principal) else { continue };
        let grant = (claims.clone(), principal.clone());
        match issuers.iter_mut().find(|issuer| issuer.jwt == *jwt) {
            Some(issuer) => issuer.grants.push(grant),
            None => {
                let keys = key_sets.of(&jwt.keys);
                issuers.push(Issuer { jwt: jwt.clone(), keys, grants: vec![grant] });
            }
        }
    }
    issuers
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

    /// Where nobody is asked, whoever is on this machine may: no stranger.
    pub(super) fn may_administer(&self) -> bool {
        let principal = self.principal.as_ref();
        principal.map_or(!self.may_be_remote, |principal| principal.may_administer())
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
