//! The stages that this node serves: routes and what they lead to.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use posthorn_core::address::{Addresses, Target};
use posthorn_core::auth::origin::OriginRules;
use posthorn_core::auth::usage_plan::{Usage, UsagePlans};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::route::table::{RouteKey, RouteTable};

use crate::config::Config;
use crate::config::api::{Api, BinaryMessages, StageSettings};
use crate::config::aws::AwsSettings;
use crate::exchange::api_keys::ApiKeys;
use crate::exchange::gate::Door;
use crate::exchange::throttles::{Limiter, Place, Throttles};
use crate::integration::{Clients, Integration};
use crate::telemetry::{Metrics, RouteMetrics, StageMetrics};

/// All stages of all APIs, as of one reading of the configuration.
pub struct Stages {
    addresses: Arc<Addresses>,
    /// Over everything that anybody asks of this node.
    account: Option<Limiter>,
    by_api: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Stage>>>,
}

/// What outlives a reading of the configuration: connections to backends, the keys of issuers, and how
/// much was used of what is limited.
pub struct Lasting {
    clients: Clients,
    throttles: Throttles,
    usage: Arc<Mutex<Usage>>,
}

pub struct Stage {
    pub api_id: Arc<str>,
    pub name: Arc<str>,
    pub variables: BTreeMap<String, String>,
    pub routes: RouteTable<Route>,
    pub door: Door,
    /// Where a client must have an API key.
    pub api_keys: Option<ApiKeys>,
    /// That of the whole account.
    pub account: Option<Limiter>,
    /// For handshakes.
    pub connect_limiter: Option<Limiter>,
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
    /// For messages.
    pub limiter: Option<Limiter>,
}

impl Lasting {
    pub fn new(aws: Arc<AwsSettings>) -> Lasting {
        Lasting {
            clients: Clients::new(aws),
            throttles: Throttles::default(),
            usage: Arc::default(),
        }
    }
}

impl Stages {
    pub fn new(config: &Config, lasting: &Lasting, metrics: &Arc<Metrics>) -> Stages {
        let Lasting { throttles, usage, .. } = lasting;
        let account = config.account_throttle;
        let account = account.map(|throttle| throttles.limiter(Place::Account, throttle));
        let plans = Arc::new(config.usage_plans.clone());
        usage.lock().retain(&plans);
        let maker = Maker { lasting, metrics, account: &account, plans: &plans };
        let by_api = config.apis.iter().map(|api| (api.id.clone(), maker.stages_of(api)));
        let by_api = by_api.collect();
        throttles.forget_unused();
        Stages { addresses: config.addresses.clone(), account, by_api }
    }

    /// That of the whole account.
    pub fn account(&self) -> Option<&Limiter> {
        self.account.as_ref()
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

/// What stages are made of.
struct Maker<'a> {
    lasting: &'a Lasting,
    metrics: &'a Arc<Metrics>,
    account: &'a Option<Limiter>,
    plans: &'a Arc<UsagePlans>,
}

impl Maker<'_> {
    fn stages_of(&self, api: &Api) -> BTreeMap<Arc<str>, Arc<Stage>> {
        let stages = api.stages.iter();
        stages.map(|(name, settings)| (name.clone(), self.stage(api, name, settings))).collect()
    }

    fn stage(&self, api: &Api, name: &Arc<str>, settings: &StageSettings) -> Arc<Stage> {
        let Lasting { clients, throttles, usage } = self.lasting;
        let integrations = settings.integrations.iter().map(|(id, settings)| {
            (id, Arc::new(Integration::new(settings, clients, self.metrics.clone())))
        });
        let integrations: BTreeMap<_, _> = integrations.collect();
        let limiter = |key: &str| {
            let throttle = settings.throttles.get(key)?;
            let (api, stage) = (api.id.clone(), name.clone());
            Some(throttles.limiter(Place::Route { api, stage, key: key.into() }, *throttle))
        };
        let stage_metrics = StageMetrics::new(&api.id, name);
        let routes = api.routes.iter().filter_map(|(key, route)| {
            let route = Route {
                integration: integrations.get(&route.integration)?.clone(),
                metrics: Arc::new(stage_metrics.route(key.as_str())),
                is_two_way: route.is_two_way,
                limiter: limiter(key.as_str()),
            };
            Some((key.clone(), route))
        });
        let routes: BTreeMap<RouteKey, Route> = routes.collect();
        let api_keys = settings
            .api_key
            .map(|source| ApiKeys::new(source, self.plans.clone(), usage.clone(), &api.id, name));
        Arc::new(Stage {
            api_id: api.id.clone(),
            name: name.clone(),
            variables: settings.variables.clone(),
            routes: RouteTable::new(api.route_selection_expression.clone(), routes),
            door: Door::new(&settings.authorization, clients),
            api_keys,
            account: self.account.clone(),
            connect_limiter: limiter(RouteKey::CONNECT),
            allowed_origins: settings.allowed_origins.clone(),
            binary_messages: settings.binary_messages,
            region: clients.aws().region.clone(),
            account_id: clients.aws().account_id.clone(),
            metrics: Arc::new(stage_metrics),
        })
    }
}
