//! Who calls the management API or signs a handshake, and what they may do.
//!
//! A principal is known by bearer tokens, of which only the hash is kept, by access keys that sign, or
//! by the name in the certificate that it shows. Permissions are written `{api}/{stage}/{verb}`:
//! `chat/prod/post`, `chat/*/*`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::auth::hash::Sha256;
use crate::auth::pattern::Pattern;
use crate::auth::sigv4::Credentials;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub name: Arc<str>,
    pub permissions: Vec<Permission>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permission {
    api: Pattern,
    stage: Pattern,
    verbs: Verbs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Post,
    Get,
    Delete,
    List,
    /// Opens a connection at a stage that asks for a signature (`AWS_IAM`).
    Connect,
    /// What concerns the node or the cluster rather than connections.
    Admin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verbs {
    One(Verb),
    /// `*`. Who administers is named: no wildcard stands for that.
    AllButAdmin,
}

/// A secret that is shared with the principal, so that requests can be signed with it.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    pub id: Box<str>,
    pub secret: Box<str>,
}

/// By what a principal is known.
#[derive(Debug, Clone, Default)]
pub struct Proofs {
    pub tokens: Vec<Sha256>,
    pub access_keys: Vec<AccessKey>,
    /// DNS names in certificates of clients.
    pub certificate_names: Vec<Box<str>>,
}

/// Everyone who is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Principals {
    principals: Vec<Arc<Principal>>,
    tokens: Vec<(Sha256, usize)>,
    access_keys: BTreeMap<Box<str>, (AccessKey, usize)>,
    certificate_names: BTreeMap<Box<str>, usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no permission; one is {{api}}/{{stage}}/{{verb}}, where `*` and `?` are wildcards and \
     the verb is post, get, delete, list, connect, admin or `*`, which is all but admin"
)]
pub struct NotAPermission(pub Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrincipalsError {
    #[error("two principals have the name `{0}`")]
    NameTwice(Arc<str>),
    #[error("a token of `{0}` is another's, too")]
    TokenTwice(Arc<str>),
    #[error("the access key ID `{0}` is there twice")]
    AccessKeyTwice(Box<str>),
    #[error("the certificate name `{0}` is there twice")]
    CertificateNameTwice(Box<str>),
}

impl Principal {
    pub fn may(&self, verb: Verb, api: &str, stage: &str) -> bool {
        self.permissions.iter().any(|permission| permission.allows(verb, api, stage))
    }

    /// Whether it may do so with every API and stage, those of tomorrow included.
    pub fn may_everywhere(&self, verb: Verb) -> bool {
        let is_everywhere = |permission: &Permission| {
            permission.api.is_any() && permission.stage.is_any() && permission.is_for(verb)
        };
        self.permissions.iter().any(is_everywhere)
    }

    /// Whether there is an API and a stage that it may do so with.
    pub fn may_somewhere(&self, verb: Verb) -> bool {
        self.permissions.iter().any(|permission| permission.is_for(verb))
    }

    /// Whether it may administer at all: that is not a matter of APIs and stages.
    pub fn may_administer(&self) -> bool {
        self.permissions.iter().any(|permission| permission.verbs == Verbs::One(Verb::Admin))
    }
}

impl Permission {
    fn is_for(&self, verb: Verb) -> bool {
        match self.verbs {
            Verbs::One(own) => own == verb,
            Verbs::AllButAdmin => verb != Verb::Admin,
        }
    }

    fn allows(&self, verb: Verb, api: &str, stage: &str) -> bool {
        self.is_for(verb) && self.api.matches(api) && self.stage.matches(stage)
    }
}

impl Principals {
    pub fn new(principals: Vec<(Principal, Proofs)>) -> Result<Principals, PrincipalsError> {
        let mut names = BTreeSet::new();
        let mut known = Principals::default();
        for (place, (principal, proofs)) in principals.into_iter().enumerate() {
            let Proofs { tokens, access_keys, certificate_names } = proofs;
            if !names.insert(principal.name.clone()) {
                return Err(PrincipalsError::NameTwice(principal.name));
            }
            for token in tokens {
                if known.tokens.iter().any(|(other, _)| *other == token) {
                    return Err(PrincipalsError::TokenTwice(principal.name));
                }
                known.tokens.push((token, place));
            }
            for key in access_keys {
                let id = key.id.clone();
                if known.access_keys.insert(id.clone(), (key, place)).is_some() {
                    return Err(PrincipalsError::AccessKeyTwice(id));
                }
            }
            for name in certificate_names {
                if known.certificate_names.insert(name.clone(), place).is_some() {
                    return Err(PrincipalsError::CertificateNameTwice(name));
                }
            }
            known.principals.push(Arc::new(principal));
        }
        Ok(known)
    }

    pub fn is_empty(&self) -> bool {
        self.principals.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Principal>> {
        self.principals.iter()
    }

    /// Compares with every token there is, so that the time it takes tells nothing.
    pub fn with_token(&self, token: &str) -> Option<&Arc<Principal>> {
        let hash = Sha256::of(token.as_bytes());
        let mut found = None;
        for (known, place) in &self.tokens {
            if *known == hash {
                found = Some(*place);
            }
        }
        found.map(|place| &self.principals[place])
    }

    /// For [`verify`](crate::auth::sigv4::verify).
    pub fn credentials(&self, access_key_id: &str) -> Option<Credentials<'_>> {
        let (AccessKey { id, secret }, _) = self.access_keys.get(access_key_id)?;
        let session_token = None;
        Some(Credentials { access_key_id: id, secret_access_key: secret, session_token })
    }

    pub fn with_access_key(&self, access_key_id: &str) -> Option<&Arc<Principal>> {
        let (_, place) = self.access_keys.get(access_key_id)?;
        Some(&self.principals[*place])
    }

    /// Of a certificate that was found to be good.
    pub fn with_certificate_name(&self, name: &str) -> Option<&Arc<Principal>> {
        let place = self.certificate_names.get(name)?;
        Some(&self.principals[*place])
    }
}

/// The token of an `Authorization` header: `Bearer …` (RFC 6750).
pub fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    let token = token.trim_matches(' ');
    let is_token = scheme.eq_ignore_ascii_case("bearer") && !token.is_empty();
    is_token.then_some(token)
}

impl FromStr for Permission {
    type Err = NotAPermission;

    fn from_str(text: &str) -> Result<Permission, NotAPermission> {
        let error = || NotAPermission(text.into());
        let parts: Vec<_> = text.split('/').collect();
        let [api, stage, verb] = *parts else { return Err(error()) };
        let verbs = match verb {
            "post" => Verbs::One(Verb::Post),
            "get" => Verbs::One(Verb::Get),
            "delete" => Verbs::One(Verb::Delete),
            "list" => Verbs::One(Verb::List),
            "connect" => Verbs::One(Verb::Connect),
            "admin" => Verbs::One(Verb::Admin),
            "*" => Verbs::AllButAdmin,
            _ => return Err(error()),
        };
        if api.is_empty() || stage.is_empty() {
            return Err(error());
        }
        Ok(Permission { api: Pattern::new(api), stage: Pattern::new(stage), verbs })
    }
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_principal_may_what_its_permissions_say() {
        let chat = principal("chat", &["chat/prod/post", "chat/*/get", "game-?/*/*"]);
        for (verb, api, stage, may) in [
            (Verb::Post, "chat", "prod", true),
            (Verb::Post, "chat", "dev", false),
            (Verb::Get, "chat", "dev", true),
            (Verb::Delete, "chat", "prod", false),
            (Verb::Delete, "game-1", "dev", true),
            (Verb::List, "game-1", "dev", true),
            (Verb::List, "game-10", "dev", false),
            (Verb::Admin, "game-1", "dev", false),
        ] {
            assert_eq!(chat.may(verb, api, stage), may, "{verb:?} {api} {stage}");
        }
        assert!(!chat.may_everywhere(Verb::Get) && chat.may_somewhere(Verb::Get));
        let reader = principal("reader", &["chat/*/get", "*/*/get"]);
        assert!(reader.may_everywhere(Verb::Get) && !reader.may_somewhere(Verb::Post));
        assert!(!chat.may_administer());
        assert!(!principal("all", &["*/*/*"]).may_administer());
        assert!(principal("root", &["*/*/admin"]).may_administer());
    }

    #[test]
    fn other_permissions_are_refused() {
        for text in ["", "post", "chat/post", "chat/prod/put", "chat/prod/post/x", "/prod/post"] {
            let refused = text.parse::<Permission>();
            assert_eq!(refused, Err(NotAPermission(text.into())), "{text}");
        }
    }

    #[test]
    fn a_principal_is_found_by_its_tokens_and_its_keys_alone() {
        let key = AccessKey { id: "AK1".into(), secret: "secret".into() };
        let hashes =
            |tokens: &[&str]| tokens.iter().map(|text| Sha256::of(text.as_bytes())).collect();
        let one = Proofs {
            tokens: hashes(&["token-1", "token-2"]),
            access_keys: vec![key],
            certificate_names: vec!["a.internal".into()],
        };
        let other = Proofs { tokens: hashes(&["token-3"]), ..Proofs::default() };
        let principals = vec![(principal("a", &[]), one), (principal("b", &[]), other)];
        let principals = Principals::new(principals).unwrap();
        let name_of = |found: Option<&Arc<Principal>>| found.map(|found| found.name.to_string());
        for (token, name) in [("token-1", "a"), ("token-2", "a"), ("token-3", "b")] {
            assert_eq!(name_of(principals.with_token(token)).as_deref(), Some(name));
        }
        for unknown in ["", "token-4", "token-1 "] {
            assert_eq!(principals.with_token(unknown), None);
        }
        assert_eq!(name_of(principals.with_access_key("AK1")).as_deref(), Some("a"));
        assert_eq!(principals.credentials("AK1").unwrap().secret_access_key, "secret");
        assert!(principals.credentials("AK2").is_none());
        let named = principals.with_certificate_name("a.internal");
        assert_eq!(name_of(named).as_deref(), Some("a"));
        assert_eq!(principals.with_certificate_name("b.internal"), None);
        assert!(!format!("{principals:?}").contains("secret"));
    }

    #[test]
    fn nobody_is_two() {
        let one = |name, token: &str, id: &str, certificate: &str| {
            let proofs = Proofs {
                tokens: vec![Sha256::of(token.as_bytes())],
                access_keys: vec![AccessKey { id: id.into(), secret: "s".into() }],
                certificate_names: vec![certificate.into()],
            };
            (principal(name, &[]), proofs)
        };
        let error = |other| Principals::new(vec![one("a", "1", "A", "x"), other]).unwrap_err();
        assert_eq!(error(one("a", "2", "B", "y")), PrincipalsError::NameTwice("a".into()));
        assert_eq!(error(one("b", "1", "B", "y")), PrincipalsError::TokenTwice("b".into()));
        assert_eq!(error(one("b", "2", "A", "y")), PrincipalsError::AccessKeyTwice("A".into()));
        let twice = PrincipalsError::CertificateNameTwice("x".into());
        assert_eq!(error(one("b", "2", "B", "x")), twice);
    }

    #[test]
    fn a_bearer_token_stands_behind_its_scheme() {
        assert_eq!(bearer_token("Bearer abc"), Some("abc"));
        assert_eq!(bearer_token("bearer  abc "), Some("abc"));
        for other in ["", "abc", "Bearer", "Bearer ", "Basic abc", "Bearerabc"] {
            assert_eq!(bearer_token(other), None, "{other}");
        }
    }

    fn principal(name: &str, permissions: &[&str]) -> Principal {
        let permissions = permissions.iter().map(|text| text.parse().unwrap()).collect();
        Principal { name: name.into(), permissions }
    }
}
