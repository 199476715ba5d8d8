//! What the operator writes, and what the broker believes.
//!
//! * A value is parsed once, into the type that means it; from there on it is believed.
//! * A key that is not known is refused: a misspelt limit is not a limit.
//! * Every error names the file, the line where there is one, the key and the rule.
//!
//! The environment overrides the file: `POSTHORN_EDGE__LISTEN` is `edge.listen`. Two underscores go
//! one level down.

pub mod api;
pub mod aws;
mod domain;
pub mod drain;
pub mod effective;
pub mod jwt;
pub mod node;
mod place;
pub mod principals;
pub mod reach;
pub mod reference;
mod secret;
mod source;
mod throttling;
pub mod tls;
mod usage;
pub mod user;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use posthorn_core::address::Addresses;
use posthorn_core::auth::throttle::Throttle;
use posthorn_core::auth::usage_plan::UsagePlans;
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_json::Value;

use crate::config::api::{Api, Surroundings, WrittenApi};
use crate::config::aws::{AwsSettings, WrittenAws};
use crate::config::domain::WrittenDomainName;
use crate::config::drain::DrainSettings;
use crate::config::node::{
    AdminSettings, ApiSettings, ClusterSettings, EdgeSettings, FabricSettings, LogSettings,
    NodeSettings,
};
use crate::config::principals::{PrincipalSettings, WrittenPrincipal};
use crate::config::reach::IntegrationsSettings;
use crate::config::reference::Setting as _;
use crate::config::secret::Secrets;
pub use crate::config::source::ConfigError;
use crate::config::throttling::WrittenThrottle;
use crate::config::usage::{WrittenKey, WrittenPlan};

/// All that a node is told.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it was read from.
    pub path: PathBuf,
    /// That file, and all that were read with it.
    pub files: BTreeSet<PathBuf>,
    pub node: NodeSettings,
    pub cluster: ClusterSettings,
    pub fabric: FabricSettings,
    pub edge: EdgeSettings,
    pub api: ApiSettings,
    pub admin: AdminSettings,
    pub drain: DrainSettings,
    pub integrations: IntegrationsSettings,
    pub log: LogSettings,
    pub aws: Arc<AwsSettings>,
    pub principals: Arc<PrincipalSettings>,
    /// Over all handshakes, messages and calls of the management API at this node.
    pub account_throttle: Option<Throttle>,
    pub usage_plans: UsagePlans,
    pub apis: Vec<Arc<Api>>,
    /// What leads to their stages.
    pub addresses: Arc<Addresses>,
}

#[derive(Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Who this node is.
    node: NodeSettings,
    /// What all nodes agree on.
    cluster: ClusterSettings,
    /// Between nodes.
    fabric: FabricSettings,
    /// For clients.
    #[serde(default)]
    edge: EdgeSettings,
    /// For backends and operators.
    #[serde(default)]
    api: ApiSettings,
    /// For Prometheus and probes.
    #[serde(default)]
    admin: AdminSettings,
    /// How the node ends.
    #[serde(default)]
    drain: DrainSettings,
    /// Whom backends' names may lead to.
    #[serde(default)]
    integrations: IntegrationsSettings,
    /// The log.
    #[serde(default)]
    log: LogSettings,
    /// Functions, and names in ARNs.
    #[serde(default)]
    aws: WrittenAws,
    /// Who may call the management API, by name.
    #[serde(default)]
    principals: BTreeMap<Arc<str>, WrittenPrincipal>,
    /// How often, at each node, anything may be asked of all APIs together: handshakes, messages and
    /// calls of the management API. As often as may be where it is missing.
    #[serde(default)]
    account: WrittenThrottle,
    /// API keys, by their IDs.
    #[serde(default)]
    api_keys: BTreeMap<Arc<str>, WrittenKey>,
    /// What API keys are good for, by their IDs.
    #[serde(default)]
    usage_plans: BTreeMap<Arc<str>, WrittenPlan>,
    /// API definitions, by API ID.
    #[serde(default)]
    apis: BTreeMap<Arc<str>, WrittenApi>,
    /// By which names clients and backends find their stages, beside those that every stage has.
    #[serde(default)]
    domain_names: BTreeMap<String, WrittenDomainName>,
    /// Files with more of both, relative to this one: each has `apis`, `domain_names` or both.
    #[serde(default)]
    api_files: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenApiFile {
    #[serde(default)]
    apis: BTreeMap<Arc<str>, WrittenApi>,
    #[serde(default)]
    domain_names: BTreeMap<String, WrittenDomainName>,
}

impl Config {
    /// Reads a configuration and every file that it names.
    pub fn load(path: &Path) -> Result<Config, ConfigError> {
        Config::load_noting_files(path).0
    }

    /// Returns with it every file that has a say, also where it is not to be believed.
    pub fn load_noting_files(path: &Path) -> (Result<Config, ConfigError>, BTreeSet<PathBuf>) {
        let environment: Vec<_> = std::env::vars().collect();
        let (mut config, files) = source::noting_files(|| Config::load_with(path, &environment));
        if let Ok(config) = &mut config {
            config.files.clone_from(&files);
        }
        (config.map_err(ConfigError::placed), files)
    }

    /// The configuration that a node would have, as it could be written, with what the environment says
    /// and what is not written. Secrets are masked. What other files have (`api_files`) is not in it.
    pub fn effective(path: &Path) -> Result<Value, ConfigError> {
        Config::load(path)?;
        let environment: Vec<_> = std::env::vars().collect();
        let mut written: Written = source::read_with(path, &environment)?;
        written.cluster = written.cluster.filled();
        written.fabric = written.fabric.filled(written.node.id);
        let mut value = written.written().unwrap_or_default();
        reference::mask(&reference::sections(), &mut value);
        Ok(value)
    }

    /// The sections that only take effect when a node starts, as far as they differ.
    pub fn sections_that_differ(&self, other: &Config) -> Vec<&'static str> {
        let Config {
            node,
            cluster,
            fabric,
            edge,
            api,
            admin,
            drain,
            integrations,
            log,
            path: _,
            files: _,
            // These take effect when they are read.
            aws: _,
            principals: _,
            account_throttle: _,
            usage_plans: _,
            apis: _,
            addresses: _,
        } = self;
        let sections = [
            ("node", *node == other.node),
            ("cluster", *cluster == other.cluster),
            ("fabric", *fabric == other.fabric),
            ("edge", *edge == other.edge),
            ("api", *api == other.api),
            ("admin", *admin == other.admin),
            ("drain", *drain == other.drain),
            ("integrations", *integrations == other.integrations),
            ("log", *log == other.log),
        ];
        sections.iter().filter(|(_, is_same)| !is_same).map(|(name, _)| *name).collect()
    }

    fn load_with(path: &Path, environment: &[(String, String)]) -> Result<Config, ConfigError> {
        let written: Written = source::read_with(path, environment)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut apis = believe_apis(path, &written.apis)?;
        let mut domain_names = vec![(path.to_owned(), written.domain_names)];
        for file in &written.api_files {
            let file = folder.join(file);
            let more: WrittenApiFile = source::read(&file)?;
            apis.extend(believe_apis(&file, &more.apis)?);
            domain_names.push((file, more.domain_names));
        }
        let secrets = Secrets { folder, environment };
        let principals = principals::believe(&written.principals, &secrets)
            .map_err(|fault| ConfigError::below(path, "principals", fault))?;
        let account_throttle = written
            .account
            .believe("account")
            .map_err(|fault| ConfigError::of_section(path, fault))?;
        let is_stage = |id: &str, stage: &str| {
            apis.iter().any(|api| *api.id == *id && api.stages.contains_key(stage))
        };
        let usage_plans =
            usage::believe(&written.api_keys, &written.usage_plans, is_stage, &secrets)
                .map_err(|fault| ConfigError::of_section(path, fault))?;
        let Written {
            mut node,
            cluster,
            fabric,
            mut edge,
            mut api,
            admin,
            drain,
            integrations,
            log,
            aws,
            ..
        } = written;
        let (cluster, fabric) = (cluster.filled(), fabric.filled(node.id).found_from(folder));
        node.data_dir = folder.join(node.data_dir);
        edge.tls = edge.tls.map(|tls| tls.found_from(folder));
        api.tls = api.tls.map(|tls| tls.found_from(folder));
        let aws = aws
            .believe(folder, environment)
            .map_err(|(key, rule)| ConfigError::rule(path, key, rule))?;
        let aws = Arc::new(aws);
        let domain_names = domain_names.iter().map(|(file, names)| (&**file, names));
        let addresses = Arc::new(domain::believe(domain_names, &apis, &aws.region)?);
        let (path, files) = (path.to_owned(), BTreeSet::new());
        let config = Config {
            path,
            files,
            node,
            cluster,
            fabric,
            edge,
            api,
            admin,
            drain,
            integrations,
            log,
            aws,
            principals: Arc::new(principals),
            account_throttle,
            usage_plans,
            apis,
            addresses,
        };
        config.check().map_err(|(key, rule)| ConfigError::rule(&config.path, key, rule))?;
        Ok(config)
    }

    /// What no value can break alone.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let ClusterSettings { initial_voters, heartbeat_ms, election_timeout_ms, .. } =
            &self.cluster;
        let ClusterSettings { beat_ms, lease_ms, patience_ms, .. } = &self.cluster;
        if !matches!(initial_voters.len(), 1 | 3 | 5) {
            return Err(("cluster.initial_voters", "names 1, 3 or 5 nodes".to_owned()));
        }
        let ids: BTreeSet<_> = initial_voters.iter().map(|voter| voter.id).collect();
        if ids.len() != initial_voters.len() {
            return Err(("cluster.initial_voters", "names each node once".to_owned()));
        }
        self.check_addresses()?;
        if !matches!(self.cluster.voters_max(), 1 | 3 | 5) {
            return Err(("cluster.voters_max", "is 1, 3 or 5".to_owned()));
        }
        if self.cluster.voter_absence_max_s.0 < patience_ms.0 {
            let rule = "is at least cluster.patience_ms";
            return Err(("cluster.voter_absence_max_s", rule.to_owned()));
        }
        if election_timeout_ms.0 < heartbeat_ms.0 * 5 {
            let rule = "is at least 5 times cluster.heartbeat_ms";
            return Err(("cluster.election_timeout_ms", rule.to_owned()));
        }
        if lease_ms.0 < beat_ms.0 * 3 {
            return Err(("cluster.lease_ms", "is at least 3 times cluster.beat_ms".to_owned()));
        }
        if patience_ms.0 * 2 < lease_ms.0 * 3 {
            return Err((
                "cluster.patience_ms",
                "is at least 1.5 times cluster.lease_ms".to_owned(),
            ));
        }
        if self.cluster.snapshot_entries < 10 {
            return Err(("cluster.snapshot_entries", "is at least 10".to_owned()));
        }
        if self.cluster.snapshot_bytes < 64 * 1024 {
            return Err(("cluster.snapshot_bytes", "is at least 65536".to_owned()));
        }
        self.check_exposure()?;
        if self.edge.lifetime_jitter_percent > 90 {
            return Err(("edge.lifetime_jitter_percent", "is at most 90".to_owned()));
        }
        let mut apis = BTreeSet::new();
        if let Some(twice) = self.apis.iter().find(|api| !apis.insert(&api.id)) {
            return Err(("apis", format!("names `{}` once", twice.id)));
        }
        Ok(())
    }

    /// Where nodes are to find each other can be dialed.
    fn check_addresses(&self) -> Result<(), (&'static str, String)> {
        let voters = self.cluster.initial_voters.iter().map(|voter| &voter.address);
        let addresses = [("fabric.advertise", &self.fabric.advertise)].into_iter();
        let addresses = addresses
            .chain(voters.map(|address| ("cluster.initial_voters", address)))
            .chain(self.cluster.peers.iter().map(|name| ("cluster.peers", name)));
        for (key, address) in addresses {
            if !node::is_address(address) {
                return Err((key, format!("`{address}` is not a host and a port: host:7946")));
            }
        }
        Ok(())
    }

    /// Who can be reached from other machines is encrypted and asks who calls, or is said not to be.
    fn check_exposure(&self) -> Result<(), (&'static str, String)> {
        let exposed = |listen: SocketAddr, insecure: bool| !listen.ip().is_loopback() && !insecure;
        let rule = |listen: SocketAddr, what: &str| {
            format!("`{listen}` is beyond loopback, and {what}; to mean it, say insecure: true")
        };
        let Config { edge, api, admin, principals, .. } = self;
        if edge.tls.is_none() && exposed(edge.listen, edge.insecure) {
            return Err(("edge.listen", rule(edge.listen, "without TLS")));
        }
        if api.tls.is_none() && exposed(api.listen, api.insecure) {
            return Err(("api.listen", rule(api.listen, "without TLS")));
        }
        if principals.known.is_empty() && exposed(api.listen, api.insecure) {
            return Err(("api.listen", rule(api.listen, "there are no principals")));
        }
        let mut known = principals.known.iter();
        if exposed(admin.listen, admin.insecure) && !known.any(|one| one.may_administer()) {
            let what = "no principal has the permission */*/admin";
            return Err(("admin.listen", rule(admin.listen, what)));
        }
        Ok(())
    }
}

/// Of one file. What they name is looked for beside it.
fn believe_apis(
    file: &Path,
    written: &BTreeMap<Arc<str>, WrittenApi>,
) -> Result<Vec<Arc<Api>>, ConfigError> {
    let surroundings = Surroundings { folder: file.parent().unwrap_or(Path::new("")) };
    source::believe(file, written, |id, written| Api::believe(id, written, &surroundings))
}
