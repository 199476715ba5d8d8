//! Whom a caller may reach. To him, other connections are as those that do not exist.

use std::sync::Arc;

use posthorn_core::auth::principal::{Principal, Verb};
use posthorn_core::event::connection_info::ConnectionInfo;

#[derive(Debug, Clone)]
pub enum Scope {
    Everyone,
    /// The clients of one API.
    Api(Arc<str>),
    /// The clients of those stages where the principal may do it.
    Permitted(Arc<Principal>, Verb),
}

impl Scope {
    pub(super) fn covers(&self, info: &ConnectionInfo) -> bool {
        self.covers_stage(&info.api_id, &info.stage)
    }

    /// The same for a connection as the directory has it. What cannot be read is in nobody's scope.
    pub(super) fn covers_encoded(&self, context: &[u8]) -> bool {
        match self {
            Scope::Everyone => true,
            Scope::Api(_) | Scope::Permitted(..) => ConnectionInfo::peek_stage(context)
                .is_some_and(|(api, stage)| self.covers_stage(api, stage)),
        }
    }

    pub(super) fn covers_stage(&self, api: &str, stage: &str) -> bool {
        match self {
            Scope::Everyone => true,
            Scope::Api(own) => **own == *api,
            Scope::Permitted(principal, verb) => principal.may(*verb, api, stage),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use posthorn_core::ids::ConnectionId;

    use super::*;

    #[test]
    fn a_scope_says_the_same_of_a_connection_here_and_elsewhere() {
        let permissions = vec!["chat/prod/post".parse().unwrap(), "game/*/get".parse().unwrap()];
        let principal = Arc::new(Principal { name: "p".into(), permissions });
        for (api, stage, is_chat, may_post) in [
            ("chat", "prod", true, true),
            ("chat", "dev", true, false),
            ("game", "prod", false, false),
        ] {
            for source_ip in ["192.0.2.1", "2001:db8::1"] {
                let info = info(api, stage, source_ip.parse().unwrap());
                let encoded = info.encode();
                for (scope, covers) in [
                    (Scope::Everyone, true),
                    (Scope::Api("chat".into()), is_chat),
                    (Scope::Permitted(principal.clone(), Verb::Post), may_post),
                ] {
                    assert_eq!(scope.covers(&info), covers, "{scope:?} {api}/{stage}");
                    assert_eq!(scope.covers_encoded(&encoded), covers, "{scope:?} {api}/{stage}");
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_read_is_in_no_scope_but_everyones() {
        for bytes in [&b""[..], &[9, 0, 0], &[1, 0, 127, 0, 0, 1, 0, 4, b'c']] {
            assert!(!Scope::Api("c".into()).covers_encoded(bytes));
            assert!(Scope::Everyone.covers_encoded(bytes));
        }
    }

    fn info(api: &str, stage: &str, source_ip: IpAddr) -> ConnectionInfo {
        ConnectionInfo {
            connection: ConnectionId::from_random([7; 16]),
            api_id: api.into(),
            stage: stage.into(),
            domain_name: "localhost".into(),
            host: "localhost:8080".into(),
            source_ip,
            user_agent: None,
            connected_at_ms: 1_700_000_000_000,
            api_key: None,
            authorized: None,
            signer: None,
        }
    }
}
