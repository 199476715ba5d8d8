//! What `$connect` asks of a client before it is let in.

use std::collections::BTreeMap;

use posthorn_core::route::table::RouteKey;
use posthorn_derive::Setting;
use serde::Deserialize;

use crate::config::api::authorizer::{AuthorizerSettings, Believed, JwtAuthorizerSettings};
use crate::config::api::{Surroundings, WrittenApi, WrittenRoute};
use crate::config::source::Fault;

/// As the route `$connect` has it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Authorization {
    #[default]
    None,
    /// A function or a server is asked.
    Custom(AuthorizerSettings),
    /// The handshake is signed.
    Iam,
    /// A token is shown.
    Jwt(JwtAuthorizerSettings),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Setting)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum AuthorizationType {
    /// Everybody may.
    None,
    /// The handshake is signed by Signature Version 4.
    AwsIam,
    /// An authorizer of the type REQUEST is asked.
    Custom,
    /// A token is shown, which an authorizer of the type JWT verifies.
    Jwt,
}

impl WrittenApi {
    /// Every authorizer is judged, also those that nothing leads to.
    pub(super) fn authorization(
        &self,
        variables: &BTreeMap<String, String>,
        surroundings: &Surroundings<'_>,
    ) -> Result<Authorization, Fault> {
        for (key, route) in &self.routes {
            route.check_authorization(key)?;
        }
        let connect = self.routes.get(RouteKey::CONNECT);
        let scopes = connect.map_or(&[][..], |connect| &connect.authorization_scopes);
        let mut believed = self
            .authorizers
            .iter()
            .map(|(id, written)| {
                let place = format!("authorizers.{id}");
                Ok((&**id, written.believe(&place, variables, scopes, surroundings)?))
            })
            .collect::<Result<BTreeMap<_, _>, Fault>>()?;
        let Some(connect) = connect else { return Ok(Authorization::None) };
        match (connect.kind(), &connect.authorizer_id) {
            (AuthorizationType::AwsIam, _) => Ok(Authorization::Iam),
            (AuthorizationType::None, _) | (_, None) => Ok(Authorization::None),
            (kind, Some(id)) => match (kind, believed.remove(&*id.value)) {
                (AuthorizationType::Custom, Some(Believed::Request(settings))) => {
                    Ok(Authorization::Custom(settings))
                }
                (AuthorizationType::Jwt, Some(Believed::Jwt(settings))) => {
                    Ok(Authorization::Jwt(settings))
                }
                (_, found) => {
                    let rule = match found {
                        None => format!("`{}` is no key of authorizers", id.value),
                        Some(Believed::Request(_)) => {
                            format!("`{}` is of the authorizer_type REQUEST", id.value)
                        }
                        Some(Believed::Jwt(_)) => {
                            format!("`{}` is of the authorizer_type JWT", id.value)
                        }
                    };
                    Err(Fault::at("routes.$connect.authorizer_id", id, rule))
                }
            },
        }
    }
}

impl WrittenRoute {
    fn kind(&self) -> AuthorizationType {
        self.authorization_type.as_ref().map_or(AuthorizationType::None, |kind| kind.value)
    }

    fn check_authorization(&self, key: &str) -> Result<(), Fault> {
        let at = |name: &str| format!("routes.{key}.{name}");
        let kind = self.kind();
        let needs_authorizer = matches!(kind, AuthorizationType::Custom | AuthorizationType::Jwt);
        if let Some(written) = &self.authorization_type {
            if kind != AuthorizationType::None && key != RouteKey::CONNECT {
                let rule = "authorization is restricted to the $connect route";
                return Err(Fault::at(at("authorization_type"), written, rule));
            }
            if needs_authorizer && self.authorizer_id.is_none() {
                let rule = "CUSTOM and JWT need an authorizer_id";
                return Err(Fault::at(at("authorization_type"), written, rule));
            }
        }
        if let Some(id) = self.authorizer_id.as_ref().filter(|_| !needs_authorizer) {
            let rule = "an authorizer needs the authorization_type CUSTOM or JWT";
            return Err(Fault::at(at("authorizer_id"), id, rule));
        }
        let scope = self.authorization_scopes.first();
        if let Some(scope) = scope.filter(|_| kind != AuthorizationType::Jwt) {
            let rule = "scopes need the authorization_type JWT";
            return Err(Fault::at(at("authorization_scopes"), scope, rule));
        }
        Ok(())
    }
}
