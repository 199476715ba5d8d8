//! Which stage a host and a path lead to.
//!
//! | host | path |
//! |---|---|
//! | a domain name of the configuration, or one label more than one that begins with `*.` | `/{mapping key}…`: the longest key that fits |
//! | `{api}.execute-api.{region}.amazonaws.com` | `/{stage}…` |
//! | any other | `/{api}/{stage}…`, and `/{stage}…` where one API alone has a stage of that name |
//!
//! What follows is API Gateway's, the last row is ours: it lets a node be found by whatever name or
//! address it has. An API whose `execute-api` endpoint is disabled is reached by domain names alone.
//!
//! A path is compared as it is written: nothing is decoded or taken back by `..`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

const DOMAIN_NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;
/// As API Gateway has it.
const MAPPING_KEY_BYTES_MAX: usize = 300;

/// All addresses of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    domains: BTreeMap<DomainName, BTreeMap<MappingKey, Target>>,
    apis: BTreeMap<Arc<str>, ApiAddresses>,
    /// `.execute-api.{region}.amazonaws.com`
    execute_api: String,
}

/// An API that can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiAddresses {
    pub stages: BTreeSet<Arc<str>>,
    /// Only domain names lead to it.
    pub is_execute_api_endpoint_disabled: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub api: Arc<str>,
    pub stage: Arc<str>,
}

/// A DNS name in lower case, perhaps with `*` for its first label.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainName(String);

/// The first part of a path, without the slash before it; empty for all paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappingKey(String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a domain name is labels of A-Z, a-z, 0-9 and -, with dots between; the first may be *")]
pub struct NotADomainName;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a mapping key is up to 300 of A-Z, a-z, 0-9 and $-_.+!*'(), with single slashes in between"
)]
pub struct NotAMappingKey;

impl Addresses {
    pub fn new(
        region: &str,
        apis: BTreeMap<Arc<str>, ApiAddresses>,
        domains: BTreeMap<DomainName, BTreeMap<MappingKey, Target>>,
    ) -> Addresses {
        let execute_api = format!(".execute-api.{region}.amazonaws.com");
        Addresses { domains, apis, execute_api }
    }

    /// The stage, and what is left of the path: nothing, or a slash and what follows it.
    pub fn resolve<'p>(&self, host: &str, path: &'p str) -> Option<(Target, &'p str)> {
        let host = without_port(host).to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let inside = path.strip_prefix('/')?;
        if let Some(mappings) = self.mappings_of(host) {
            return mappings.iter().find_map(|(key, target)| {
                let rest = key.rest_of(path)?;
                Some((target.clone(), rest))
            });
        }
        if let Some(api) = host.strip_suffix(&*self.execute_api) {
            let is_named = |id: &&Arc<str>| id.eq_ignore_ascii_case(api);
            let api = self.open_apis().map(|(id, _)| id).find(is_named)?;
            let (stage, rest) = first_segment(inside);
            return Some((self.target(api, stage)?, rest));
        }
        let (first, rest) = first_segment(inside);
        let (second, behind) = first_segment(rest.get(1..).unwrap_or_default());
        match self.target(first, second) {
            Some(target) => Some((target, behind)),
            None => Some((self.only_stage(first)?, rest)),
        }
    }

    fn mappings_of(&self, host: &str) -> Option<&BTreeMap<MappingKey, Target>> {
        let own = self.domains.get(&DomainName(host.to_owned()));
        own.or_else(|| {
            let (_, parent) = host.split_once('.')?;
            self.domains.get(&DomainName(format!("*.{parent}")))
        })
    }

    fn open_apis(&self) -> impl Iterator<Item = (&Arc<str>, &BTreeSet<Arc<str>>)> {
        let is_open = |api: &ApiAddresses| !api.is_execute_api_endpoint_disabled;
        self.apis.iter().filter(move |(_, api)| is_open(api)).map(|(id, api)| (id, &api.stages))
    }

    fn target(&self, api: &str, stage: &str) -> Option<Target> {
        let (id, addresses) = self.apis.get_key_value(api)?;
        let stage = addresses.stages.get(stage)?;
        let is_open = !addresses.is_execute_api_endpoint_disabled;
        is_open.then(|| Target { api: id.clone(), stage: stage.clone() })
    }

    fn only_stage(&self, name: &str) -> Option<Target> {
        let mut found = self.open_apis().filter_map(|(id, stages)| Some((id, stages.get(name)?)));
        let (api, stage) = found.next()?;
        found.next().is_none().then(|| Target { api: api.clone(), stage: stage.clone() })
    }
}

impl MappingKey {
    fn rest_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        if self.0.is_empty() {
            return Some(path);
        }
        let rest = path.strip_prefix('/')?.strip_prefix(&*self.0)?;
        (rest.is_empty() || rest.starts_with('/')).then_some(rest)
    }
}

/// The longest first, so that the first that fits is the one.
impl Ord for MappingKey {
    fn cmp(&self, other: &MappingKey) -> std::cmp::Ordering {
        other.0.len().cmp(&self.0.len()).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for MappingKey {
    fn partial_cmp(&self, other: &MappingKey) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for DomainName {
    type Err = NotADomainName;

    fn from_str(text: &str) -> Result<DomainName, NotADomainName> {
        let plain = text.strip_prefix("*.").unwrap_or(text);
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_label = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(is_letter)
        };
        let is_name = text.len() <= DOMAIN_NAME_BYTES_MAX && plain.split('.').all(is_label);
        is_name.then(|| DomainName(text.to_ascii_lowercase())).ok_or(NotADomainName)
    }
}

impl FromStr for MappingKey {
    type Err = NotAMappingKey;

    fn from_str(text: &str) -> Result<MappingKey, NotAMappingKey> {
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"$-_.+!*'()".contains(&byte);
        let is_segment = |segment: &str| !segment.is_empty() && segment.bytes().all(is_letter);
        let is_key = text.len() <= MAPPING_KEY_BYTES_MAX
            && (text.is_empty() || text.split('/').all(is_segment));
        is_key.then(|| MappingKey(text.to_owned())).ok_or(NotAMappingKey)
    }
}

impl fmt::Display for DomainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A host as a `Host` header has it, without its port.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address in brackets is full of colons.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        Some(_) | None => host,
    }
}

/// What stands before the first slash, and what follows, that slash included.
fn first_segment(path: &str) -> (&str, &str) {
    path.split_at(path.find('/').unwrap_or(path.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_host_leads_by_the_name_of_a_stage() {
        for (path, expected) in [
            ("/dev", Some("chat dev ")),
            ("/dev/", Some("chat dev /")),
            ("/chat/prod", Some("chat prod ")),
            ("/news/prod/", Some("news prod /")),
            ("/dev/@connections/a%3D", Some("chat dev /@connections/a%3D")),
            ("/chat/dev/@connections/a", Some("chat dev /@connections/a")),
            ("/dev/more", Some("chat dev /more")),
            ("/prod", None),
            ("/news/dev", None),
            ("/closed/only", None),
            ("/only", None),
            ("/", None),
            ("//dev", None),
            ("/DEV", None),
            ("/%64ev", None),
            ("/../dev", None),
            ("dev", None),
            ("", None),
        ] {
            for host in ["localhost:8080", "10.0.0.1", "[::1]:80", "[::1]", "unknown.example"] {
                assert_eq!(resolve(host, path).as_deref(), expected, "{host}{path}");
            }
        }
    }

    #[test]
    fn the_default_host_of_an_api_leads_to_its_stages() {
        for (host, path, expected) in [
            ("chat.execute-api.eu-west-1.amazonaws.com", "/prod", Some("chat prod ")),
            ("CHAT.execute-api.EU-west-1.amazonaws.com:443", "/dev/", Some("chat dev /")),
            ("news.execute-api.eu-west-1.amazonaws.com", "/prod/x", Some("news prod /x")),
            ("news.execute-api.eu-west-1.amazonaws.com", "/dev", None),
            ("news.execute-api.eu-west-1.amazonaws.com", "/chat/dev", None),
            ("closed.execute-api.eu-west-1.amazonaws.com", "/only", None),
            ("unknown.execute-api.eu-west-1.amazonaws.com", "/dev", None),
            ("chat.execute-api.us-east-1.amazonaws.com", "/dev", Some("chat dev ")),
        ] {
            assert_eq!(resolve(host, path).as_deref(), expected, "{host}{path}");
        }
    }

    #[test]
    fn a_domain_name_leads_by_its_longest_mapping() {
        for (host, path, expected) in [
            ("ws.example.com", "/", Some("chat prod /")),
            ("WS.example.com.:8443", "/v1", Some("chat dev ")),
            ("ws.example.com", "/v1/beta/", Some("closed only /")),
            ("ws.example.com", "/v1/beta/@connections/a", Some("closed only /@connections/a")),
            ("ws.example.com", "/v1/betas", Some("chat dev /betas")),
            ("ws.example.com", "/v10", Some("chat prod /v10")),
            ("a.example.org", "/news", Some("news prod ")),
            ("a.example.org", "/", None),
            ("a.example.org", "/chat/dev", None),
            ("own.example.org", "/", Some("chat dev /")),
            ("own.example.org", "/news", Some("chat dev /news")),
            ("a.b.example.org", "/news", None),
            ("example.org", "/news", None),
        ] {
            assert_eq!(resolve(host, path).as_deref(), expected, "{host}{path}");
        }
    }

    #[test]
    fn names_and_keys_are_what_they_may_be() {
        for good in ["localhost", "a.b", "*.example.com", "A-1.example"] {
            assert!(good.parse::<DomainName>().is_ok(), "{good}");
        }
        let long = "a.".repeat(127) + "a";
        for bad in ["", "*", "a..b", "a.", ".a", "a.*.b", "**.a", "a b", "a:1", "ä.example", &long]
        {
            assert_eq!(bad.parse::<DomainName>(), Err(NotADomainName), "{bad}");
        }
        for good in ["", "v1", "a/b", "$-_.+!*'()"] {
            assert!(good.parse::<MappingKey>().is_ok(), "{good}");
        }
        let long = "a".repeat(301);
        for bad in ["/", "/a", "a/", "a//b", "@connections", "a%20", "ä", &long] {
            assert_eq!(bad.parse::<MappingKey>(), Err(NotAMappingKey), "{bad}");
        }
    }

    fn resolve(host: &str, path: &str) -> Option<String> {
        let api = |stages: &[&str], is_disabled| ApiAddresses {
            stages: stages.iter().map(|stage| Arc::from(*stage)).collect(),
            is_execute_api_endpoint_disabled: is_disabled,
        };
        let apis = BTreeMap::from([
            ("chat".into(), api(&["dev", "prod"], false)),
            ("news".into(), api(&["prod"], false)),
            ("closed".into(), api(&["only"], true)),
        ]);
        let mappings = |mappings: &[(&str, &str, &str)]| {
            let mapping = |(key, api, stage): &(&str, &str, &str)| {
                let target = Target { api: Arc::from(*api), stage: Arc::from(*stage) };
                (key.parse().expect("it is a key"), target)
            };
            mappings.iter().map(mapping).collect::<BTreeMap<MappingKey, Target>>()
        };
        let domains = [
            (
                "ws.example.com",
                mappings(&[
                    ("", "chat", "prod"),
                    ("v1", "chat", "dev"),
                    ("v1/beta", "closed", "only"),
                ]),
            ),
            ("*.example.org", mappings(&[("news", "news", "prod")])),
            ("own.example.org", mappings(&[("", "chat", "dev")])),
        ];
        let domains = domains.map(|(name, mappings)| (name.parse().expect("a name"), mappings));
        let addresses = Addresses::new("eu-west-1", apis, domains.into());
        let (Target { api, stage }, rest) = addresses.resolve(host, path)?;
        Some(format!("{api} {stage} {rest}"))
    }
}
