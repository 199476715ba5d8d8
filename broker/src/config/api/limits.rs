//! How often a stage's routes may be used, and by which keys.

use std::collections::BTreeMap;

use posthorn_core::auth::throttle::Throttle;
use posthorn_core::route::table::RouteKey;

use crate::config::api::{Authorization, WrittenApi, WrittenStage};
use crate::config::source::Fault;

/// Where the API key of a client comes from, for an API that asks for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKeySource {
    /// `$request.header.x-api-key`
    Header,
    /// `$context.authorizer.usageIdentifierKey`
    Authorizer,
}

const HEADER: &str = "$request.header.x-api-key";
const AUTHORIZER: &str = "$context.authorizer.usageIdentifierKey";

impl WrittenStage {
    /// Of every route that has a limit. A limit of the stage's default is each route's own.
    pub(super) fn throttles(
        &self,
        place: &str,
        api: &WrittenApi,
    ) -> Result<BTreeMap<RouteKey, Throttle>, Fault> {
        let WrittenStage { default_route_settings: default, route_settings, .. } = self;
        let default_throttle = default.believe(&format!("{place}.default_route_settings"))?;
        for (key, settings) in route_settings {
            let place = format!("{place}.route_settings.{key}");
            if key == RouteKey::DISCONNECT {
                let rule =
                    "$disconnect is called for every connection that ends: no limit holds it";
                return Err(Fault::new(place, rule));
            }
            if key != RouteKey::CONNECT && !api.routes.contains_key(key) {
                return Err(Fault::new(place, "there is no such route"));
            }
            settings.believe_over(&place, default)?;
        }
        let keys = api.routes.keys().map(String::as_str).filter(|key| *key != RouteKey::CONNECT);
        // Whether or not it leads anywhere, clients connect.
        let keys = keys.chain([RouteKey::CONNECT]).filter(|key| *key != RouteKey::DISCONNECT);
        let mut throttles = BTreeMap::new();
        for key in keys {
            let own = route_settings.get(key);
            let throttle = match own {
                Some(settings) => settings.believe_over(place, default)?,
                None => default_throttle,
            };
            if let Some(throttle) = throttle {
                let fault = |rule: String| Fault::new(format!("routes.{key}"), rule);
                let key = key.parse().map_err(|error| fault(format!("{error}")))?;
                throttles.insert(key, throttle);
            }
        }
        Ok(throttles)
    }
}

impl WrittenApi {
    /// None if it asks for no key.
    pub(super) fn api_key_source(
        &self,
        authorization: &Authorization,
    ) -> Result<Option<ApiKeySource>, Fault> {
        let expression = self.api_key_selection_expression.as_ref();
        let source = match expression {
            None => ApiKeySource::Header,
            Some(written) => match &*written.value {
                HEADER => ApiKeySource::Header,
                AUTHORIZER => ApiKeySource::Authorizer,
                other => {
                    let rule = format!("`{other}` is neither {HEADER} nor {AUTHORIZER}");
                    return Err(Fault::at("api_key_selection_expression", written, rule));
                }
            },
        };
        let mut is_required = false;
        for (key, route) in &self.routes {
            let Some(written) = &route.api_key_required else { continue };
            let fault = |rule| Fault::at(format!("routes.{key}.api_key_required"), written, rule);
            if written.value && key != RouteKey::CONNECT {
                return Err(fault("only $connect can ask for an API key"));
            }
            let can_tell = matches!(authorization, Authorization::Custom(_));
            if written.value && source == ApiKeySource::Authorizer && !can_tell {
                return Err(fault("the API takes keys from an authorizer of the type REQUEST"));
            }
            is_required |= written.value;
        }
        Ok(is_required.then_some(source))
    }
}
