//! The stages that this node serves: routes and what they lead to.

use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use posthorn_core::address::{Addresses, Target};
use posthorn_core::auth::origin::OriginRules;
use posthorn_core::auth::usage_plan::{Usage, UsagePlans};
use posthorn_core::event::connection_info::ConnectionInfo;
use posthorn_core::mapping::declared::RequiredParameters;
use posthorn_core::model::RequestModels;
use posthorn_core::route::table::{RouteKey, RouteTable};

use crate::config::Config;
use crate::config::api::{
    AccessLogSettings, Api, BinaryMessages, IntegrationSettings, StageSettings,
};
use crate::config::aws::AwsSettings;
use crate::config::principals::PrincipalSettings;
use crate::exchange::account::StageLog;
use crate::exchange::api_keys::ApiKeys;
use crate::exchange::gate::Door;
use crate::exchange::population::Population;
use crate::exchange::throttles::{Limiter, Place, Throttles};
use crate::integration::key_sets::KeySets;
use crate::integration::reach::Reach;
use crate::integration::{Clients, Integration};
use crate::telemetry::{Destination, Metrics, RouteMetrics, StageMetrics};

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
    clients: Mutex<Clients>,
    integrations: Mutex<BTreeMap<IntegrationPlace, Made>>,
    /// By API and stage.
    populations: Mutex<BTreeMap<[Arc<str>; 2], Population>>,
    throttles: Throttles,
    usage: Arc<Mutex<Usage>>,
}

/// An API, a stage and an integration of it.
type IntegrationPlace = [Arc<str>; 3];

/// An integration, and what it was made of. One that no stage has any more is gone.
struct Made {
    settings: IntegrationSettings,
    integration: Weak<Integration>,
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
    /// At this node, those that are being opened included.
    pub connections: Population,
    pub connections_max: Option<u64>,
    pub binary_messages: BinaryMessages,
    /// In the names that authorizers and policies know the stage by.
    pub region: Arc<str>,
    pub account_id: Arc<str>,
    pub metrics: Arc<StageMetrics>,
    pub access_log: Option<StageLog>,
}

#[derive(Clone)]
pub struct Route {
    pub integration: Arc<Integration>,
    pub metrics: Arc<RouteMetrics>,
    /// Whether what the integration answers goes back to the client.
    pub is_two_way: bool,
    /// What a message must fit to be given to the integration.
    pub request_models: Option<RequestModels>,
    /// What a handshake must have. Of `$connect` alone.
    pub required_parameters: Option<RequiredParameters>,
    /// For messages.
    pub limiter: Option<Limiter>,
}

impl Lasting {
    pub fn new(aws: Arc<AwsSettings>, reach: Reach) -> Lasting {
        Lasting {
            clients: Mutex::new(Clients::new(aws, reach)),
            integrations: Mutex::default(),
            populations: Mutex::default(),
            throttles: Throttles::default(),
            usage: Arc::default(),
        }
    }

    pub fn key_sets(&self) -> KeySets {
        self.clients.lock().key_sets().clone()
    }

    /// Other settings mean other clients, and other integrations.
    fn clients(&self, aws: &Arc<AwsSettings>) -> Clients {
        let mut clients = self.clients.lock();
        if *clients.aws() != **aws {
            *clients = clients.with_aws(aws.clone());
            self.integrations.lock().clear();
        }
        clients.clone()
    }

    fn population(&self, api: &Arc<str>, stage: &Arc<str>) -> Population {
        let mut populations = self.populations.lock();
        populations.entry([api.clone(), stage.clone()]).or_default().clone()
    }

    /// One that is as it was keeps its connections and its places.
    fn integration(
        &self,
        place: IntegrationPlace,
        settings: &IntegrationSettings,
        make: impl FnOnce() -> Integration,
    ) -> Arc<Integration> {
        let mut integrations = self.integrations.lock();
        let made = integrations.get(&place).filter(|made| made.settings.is_same(settings));
        if let Some(integration) = made.and_then(|made| made.integration.upgrade()) {
            return integration;
        }
        let integration = Arc::new(make());
        let made = Made { settings: settings.clone(), integration: Arc::downgrade(&integration) };
        integrations.insert(place, made);
        integration
    }
}

impl Stages {
    pub fn new(config: &Config, lasting: &Lasting, metrics: &Arc<Metrics>) -> Stages {
        let Lasting { throttles, usage, .. } = lasting;
        let account = config.account_throttle;
        let account = account.map(|throttle| throttles.limiter(Place::Account, throttle));
        let plans = Arc::new(config.usage_plans.clone());
        usage.lock().retain(&plans);
        let clients = &lasting.clients(&config.aws);
        let (account, plans, principals) = (&account, &plans, &config.principals);
        let maker = Maker { lasting, clients, metrics, account, plans, principals };
        let by_api = config.apis.iter().map(|api| (api.id.clone(), maker.stages_of(api)));
        let by_api = by_api.collect();
        throttles.forget_unused();
        lasting.integrations.lock().retain(|_, made| made.integration.strong_count() > 0);
        lasting.populations.lock().retain(|_, population| population.is_shared());
        Stages { addresses: config.addresses.clone(), account: account.clone(), by_api }
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
    clients: &'a Clients,
    metrics: &'a Arc<Metrics>,
    account: &'a Option<Limiter>,
    plans: &'a Arc<UsagePlans>,
    principals: &'a Arc<PrincipalSettings>,
}

impl Maker<'_> {
    fn stages_of(&self, api: &Api) -> BTreeMap<Arc<str>, Arc<Stage>> {
        let stages = api.stages.iter();
        stages.map(|(name, settings)| (name.clone(), self.stage(api, name, settings))).collect()
    }

    fn stage(&self, api: &Api, name: &Arc<str>, settings: &StageSettings) -> Arc<Stage> {
        let (Lasting { throttles, usage, .. }, clients) = (self.lasting, self.clients);
        let integrations = settings.integrations.iter().map(|(id, settings)| {
            let place = [api.id.clone(), name.clone(), id.clone()];
            let make = || Integration::new(settings, clients, self.metrics.clone());
            (id, self.lasting.integration(place, settings, make))
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
                request_models: route.request_models.clone(),
                required_parameters: route.required_parameters.clone(),
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
            door: Door::new(&settings.authorization, self.principals, clients),
            api_keys,
            account: self.account.clone(),
            connect_limiter: limiter(RouteKey::CONNECT),
            allowed_origins: settings.allowed_origins.clone(),
            connections: self.lasting.population(&api.id, name),
            connections_max: settings.connections_max,
            binary_messages: settings.binary_messages,
            region: clients.aws().region.clone(),
            account_id: clients.aws().account_id.clone(),
            metrics: Arc::new(stage_metrics),
            access_log: settings.access_log.as_ref().map(|written| StageLog {
                log: self.metrics.access_logs.open(&destination(written)),
                format: written.format.clone(),
            }),
        })
    }
}

fn destination(settings: &AccessLogSettings) -> Destination {
    settings.file.clone().map_or(Destination::Stdout, Destination::File)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Registry;

    #[test]
    fn an_integration_that_is_as_it_was_keeps_its_places() {
        let metrics = Arc::new(Metrics::new(&mut Registry::default()));
        let first = config("eu-west-1", "a", "a");
        let lasting = Lasting::new(first.aws.clone(), Reach::default());
        let mut before = Stages::new(&first, &lasting, &metrics);
        for (region, one, two, kept) in [
            ("eu-west-1", "a", "a", [true, true]),
            ("eu-west-1", "b", "a", [false, true]),
            ("eu-west-1", "b", "b", [true, false]),
            ("us-east-1", "b", "b", [false, false]),
        ] {
            let after = Stages::new(&config(region, one, two), &lasting, &metrics);
            let is_kept = |key| Arc::ptr_eq(&integration(&before, key), &integration(&after, key));
            assert_eq!(["one", "two"].map(is_kept), kept, "{region} {one} {two}");
            before = after;
        }
        assert_eq!(lasting.integrations.lock().len(), 2);
    }

    fn integration(stages: &Stages, key: &str) -> Arc<Integration> {
        let message = posthorn_core::message::Message::text(format!("{{\"action\":\"{key}\"}}"));
        match stages.by_api["chat"]["dev"].routes.select(&message) {
            posthorn_core::route::table::Selected::Route { value, .. } => value.integration.clone(),
            _ => panic!("{key} is no route"),
        }
    }

    fn config(region: &str, one: &str, two: &str) -> Config {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.yaml");
        let text = format!(
            "node: {{ id: 0, data_dir: data }}\n\
             cluster: {{ name: test, initial_voters: [{{ id: 0, address: 'a:1' }}] }}\n\
             fabric: {{ advertise: 'a:1', ca_file: a, cert_file: a, key_file: a }}\n\
             edge: {{ listen: '127.0.0.1:0' }}\n\
             api: {{ listen: '127.0.0.1:0' }}\n\
             aws: {{ region: {region} }}\n\
             apis:\n  chat:\n    route_selection_expression: $request.body.action\n    routes:\n      \
             one: {{ target: integrations/one }}\n      two: {{ target: integrations/two }}\n    \
             integrations:\n      \
             one: {{ integration_type: HTTP_EVENT, integration_uri: 'http://one/{one}' }}\n      \
             two:\n        integration_type: HTTP_EVENT\n        \
             integration_uri: 'http://two/${{stageVariables.two}}'\n    \
             stages: {{ dev: {{ stage_variables: {{ two: {two} }} }} }}\n"
        );
        std::fs::write(&path, text).expect("a file");
        Config::load(&path).expect("it is good")
    }
}
