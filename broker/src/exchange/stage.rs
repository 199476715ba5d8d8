//! The stages that this node serves: routes and what they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::route::table::{RouteKey, RouteTable};

use crate::config::api::{Api, IntegrationSettings};
use crate::integration::{HttpClient, Integration};
use crate::telemetry::Metrics;

/// All stages of all APIs, as of one reading of the configuration.
pub struct Stages {
    by_api: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Stage>>>,
}

pub struct Stage {
    pub api_id: Arc<str>,
    pub name: Arc<str>,
    pub variables: BTreeMap<String, String>,
    pub routes: RouteTable<Route>,
}

#[derive(Clone)]
pub struct Route {
    pub integration: Arc<Integration>,
    /// Whether what the integration answers goes back to the client.
    pub is_two_way: bool,
}

impl Stages {
    pub fn new(apis: &[Arc<Api>], client: &HttpClient, metrics: &Arc<Metrics>) -> Stages {
        let by_api = apis.iter().map(|api| (api.id.clone(), stages_of(api, client, metrics)));
        Stages { by_api: by_api.collect() }
    }

    /// The stage that a client asks for: `/{stage}` where only one API has a stage of that name,
    /// `/{api}/{stage}` always. One slash behind it is tolerated, as API Gateway does.
    pub fn resolve(&self, _host: &str, path: &str) -> Option<Arc<Stage>> {
        let path = path.strip_prefix('/')?;
        let path = path.strip_suffix('/').unwrap_or(path);
        if let Some((api, stage)) = path.split_once('/') {
            return self.by_api.get(api)?.get(stage).cloned();
        }
        let mut candidates = self.by_api.values().filter_map(|stages| stages.get(path));
        let stage = candidates.next()?;
        candidates.next().is_none().then(|| stage.clone())
    }

    /// The stage of a connection that is open already.
    pub fn of(&self, info: &ConnectionInfo) -> Option<&Arc<Stage>> {
        self.by_api.get(&info.api_id)?.get(&info.stage)
    }
}

fn stages_of(
    api: &Api,
    client: &HttpClient,
    metrics: &Arc<Metrics>,
) -> BTreeMap<Arc<str>, Arc<Stage>> {
    let integration = |(id, settings): (&Arc<str>, &Arc<IntegrationSettings>)| {
        (id.clone(), Arc::new(Integration::new(settings, client, metrics.clone())))
    };
    let integrations: BTreeMap<_, _> = api.integrations.iter().map(integration).collect();
    let stage = |name: &Arc<str>| {
        let routes = api.routes.iter().filter_map(|(key, route)| {
            let integration = integrations.get(&route.integration)?.clone();
            Some((key.clone(), Route { integration, is_two_way: route.is_two_way }))
        });
        let routes: BTreeMap<RouteKey, Route> = routes.collect();
        let variables = api.stages.get(name).map(|stage| stage.variables.clone());
        Arc::new(Stage {
            api_id: api.id.clone(),
            name: name.clone(),
            variables: variables.unwrap_or_default(),
            routes: RouteTable::new(api.route_selection_expression.clone(), routes),
        })
    };
    api.stages.keys().map(|name| (name.clone(), stage(name))).collect()
}
