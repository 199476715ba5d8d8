//! The stages that this node serves: routes and what they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use posthorn_core::address::{Addresses, Target};
use posthorn_core::auth::origin::OriginRules;
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::route::table::{RouteKey, RouteTable};

use crate::config::api::{Api, BinaryMessages, StageSettings};
use crate::exchange::gate::Door;
use crate::integration::{Clients, Integration};
use crate::telemetry::{Metrics, RouteMetrics, StageMetrics};

/// All stages of all APIs, as of one reading of the configuration.
pub struct Stages {
    addresses: Arc<Addresses>,
    by_api: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Stage>>>,
}

pub struct Stage {
    pub api_id: Arc<str>,
    pub name: Arc<str>,
    pub variables: BTreeMap<String, String>,
    pub routes: RouteTable<Route>,
    pub door: Door,
    /// From which web pages browsers may connect. None is from all.
    pub allowed_origins: Option<OriginRules>,
    pub binary_messages: BinaryMessages,
    /// In the names that authorizers and policies know the stage by.
    pub region: Arc<str>,
    pub account_id: Arc<str>,
    pub metrics: Arc<StageMetrics>,
}

#[derive(Clone)]
pub struct Route {
    pub integration: Arc<Integration>,
    pub metrics: Arc<RouteMetrics>,
    /// Whether what the integration answers goes back to the client.
    pub is_two_way: bool,
}

impl Stages {
    pub fn new(
        apis: &[Arc<Api>],
        addresses: Arc<Addresses>,
        clients: &Clients,
        metrics: &Arc<Metrics>,
    ) -> Stages {
        let by_api = apis.iter().map(|api| (api.id.clone(), stages_of(api, clients, metrics)));
        Stages { addresses, by_api: by_api.collect() }
    }

    /// The stage that a host and a path lead to, and what is left of the path: nothing, or a slash
    /// and what follows it.
    pub fn resolve<'p>(&self, host: &str, path: &'p str) -> Option<(&Arc<Stage>, &'p str)> {
        let (Target { api, stage }, rest) = self.addresses.resolve(host, path)?;
        Some((self.by_api.get(&api)?.get(&stage)?, rest))
    }

    /// The stage of a connection that is open already.
    pub fn of(&self, info: &ConnectionInfo) -> Option<&Arc<Stage>> {
        self.by_api.get(&info.api_id)?.get(&info.stage)
    }
}

fn stages_of(
    api: &Api,
    clients: &Clients,
    metrics: &Arc<Metrics>,
) -> BTreeMap<Arc<str>, Arc<Stage>> {
    let stage = |(name, settings): (&Arc<str>, &StageSettings)| {
        let integrations = settings.integrations.iter().map(|(id, settings)| {
            (id, Arc::new(Integration::new(settings, clients, metrics.clone())))
        });
        let integrations: BTreeMap<_, _> = integrations.collect();
        let stage_metrics = StageMetrics::new(&api.id, name);
        let routes = api.routes.iter().filter_map(|(key, route)| {
            let integration = integrations.get(&route.integration)?.clone();
            let metrics = Arc::new(stage_metrics.route(key.as_str()));
            Some((key.clone(), Route { integration, metrics, is_two_way: route.is_two_way }))
        });
        let routes: BTreeMap<RouteKey, Route> = routes.collect();
        let stage = Stage {
            api_id: api.id.clone(),
            name: name.clone(),
            variables: settings.variables.clone(),
            routes: RouteTable::new(api.route_selection_expression.clone(), routes),
            door: Door::new(&settings.authorization, clients),
            allowed_origins: settings.allowed_origins.clone(),
            binary_messages: settings.binary_messages,
            region: clients.aws().region.clone(),
            account_id: clients.aws().account_id.clone(),
            metrics: Arc::new(stage_metrics),
        };
        (name.clone(), Arc::new(stage))
    };
    api.stages.iter().map(stage).collect()
}
