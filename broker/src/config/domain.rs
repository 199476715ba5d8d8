//! Domain names and what their paths are mapped to, as written and as believed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use posthorn_core::address::{
    Addresses, ApiAddresses, DomainName, MappingKey, NotADomainName, NotAMappingKey, Target,
};
use posthorn_derive::Setting;
use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::config::api::Api;
use crate::config::source::{ConfigError, Fault};

/// The mappings of a domain name: `ws.example.com`, or `*.example.com` for every name with one label
/// more.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenDomainName {
    /// Where its paths lead.
    api_mappings: Vec<WrittenApiMapping>,
}

/// A stage, and which paths of the domain name lead to it.
#[derive(Debug, Deserialize, Setting)]
#[serde(deny_unknown_fields)]
struct WrittenApiMapping {
    /// How paths begin that are mapped, without a slash before it. All do where it is missing or
    /// empty. Of several that fit, the longest counts.
    api_mapping_key: Option<Spanned<String>>,
    /// The API that they lead to.
    api_id: Spanned<String>,
    /// The API's stage.
    stage: Spanned<String>,
}

type Mappings = BTreeMap<MappingKey, Target>;

/// All addresses that lead to the APIs. `written` is what each file has.
pub(super) fn believe<'a>(
    written: impl IntoIterator<Item = (&'a Path, &'a BTreeMap<String, WrittenDomainName>)>,
    apis: &[Arc<Api>],
    region: &str,
) -> Result<Addresses, ConfigError> {
    let mut domains = BTreeMap::new();
    for (file, names) in written {
        for (text, written) in names {
            let below = |fault| ConfigError::below(file, "domain_names", fault);
            let name: DomainName = text
                .parse()
                .map_err(|error: NotADomainName| below(Fault::new(text, error.to_string())))?;
            let mappings = written.believe(text, apis).map_err(below)?;
            if domains.insert(name, mappings).is_some() {
                return Err(below(Fault::new(text, "each domain name is there once")));
            }
        }
    }
    let addresses = apis.iter().map(|api| {
        let addresses = ApiAddresses {
            stages: api.stages.keys().cloned().collect(),
            is_execute_api_endpoint_disabled: api.disable_execute_api_endpoint,
        };
        (api.id.clone(), addresses)
    });
    Ok(Addresses::new(region, addresses.collect(), domains))
}

impl WrittenDomainName {
    fn believe(&self, name: &str, apis: &[Arc<Api>]) -> Result<Mappings, Fault> {
        let mut mappings = BTreeMap::new();
        for (index, mapping) in self.api_mappings.iter().enumerate() {
            let place = format!("{name}.api_mappings[{index}]");
            let WrittenApiMapping { api_mapping_key, api_id, stage } = mapping;
            let Some(api) = apis.iter().find(|api| *api.id == *api_id.value) else {
                let rule = format!("`{}` is no API", api_id.value);
                return Err(Fault::at(format!("{place}.api_id"), api_id, rule));
            };
            let Some((known, _)) = api.stages.get_key_value(&*stage.value) else {
                let rule = format!("`{}` is no stage of `{}`", stage.value, api.id);
                return Err(Fault::at(format!("{place}.stage"), stage, rule));
            };
            let text = api_mapping_key.as_ref().map_or("", |key| &key.value);
            let fault = |rule: &str| {
                let key = format!("{place}.api_mapping_key");
                match api_mapping_key {
                    Some(written) => Fault::at(key, written, rule),
                    None => Fault::at(key, api_id, rule),
                }
            };
            let key: MappingKey =
                text.parse().map_err(|error: NotAMappingKey| fault(&error.to_string()))?;
            let target = Target { api: api.id.clone(), stage: known.clone() };
            if mappings.insert(key, target).is_some() {
                return Err(fault("each mapping key is there once"));
            }
        }
        Ok(mappings)
    }
}
