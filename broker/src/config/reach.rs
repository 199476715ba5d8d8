//! Whom backends' names may lead to.

use std::net::IpAddr;
use std::str::FromStr;

use posthorn_core::proxies::{IpBlock, NotAnIpBlock};
use posthorn_derive::Setting;
use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// How a node reaches its backends: integrations, authorizers, and issuers of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Setting)]
#[serde(deny_unknown_fields, default)]
pub struct IntegrationsSettings {
    /// Where none of them may be, whatever name leads there: IP addresses, or with `/` and how many
    /// bits of one count, and `own_listeners`, which are the node's `edge`, `api` and `admin`. It is
    /// looked at the address of each connection. By default, these three, and the addresses where
    /// clouds offer a machine's credentials: 169.254.0.0/16, fe80::/10 and fd00:ec2::254.
    pub denied_addresses: DeniedAddresses,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeniedAddresses {
    blocks: Vec<IpBlock>,
    pub own_listeners: bool,
}

const OWN_LISTENERS: &str = "own_listeners";
const DEFAULT: &[&str] = &[OWN_LISTENERS, "169.254.0.0/16", "fe80::/10", "fd00:ec2::254"];

impl DeniedAddresses {
    pub fn none() -> DeniedAddresses {
        DeniedAddresses { blocks: Vec::new(), own_listeners: false }
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.blocks.iter().any(|block| block.contains(address))
    }

    /// As they may be written.
    pub(super) fn texts(&self) -> impl Iterator<Item = String> + '_ {
        let own_listeners = self.own_listeners.then(|| OWN_LISTENERS.to_owned());
        own_listeners.into_iter().chain(self.blocks.iter().map(ToString::to_string))
    }

    fn add(&mut self, text: &str) -> Result<(), NotAnIpBlock> {
        if text == OWN_LISTENERS {
            self.own_listeners = true;
        } else {
            self.blocks.push(text.parse()?);
        }
        Ok(())
    }
}

impl Default for DeniedAddresses {
    fn default() -> DeniedAddresses {
        let mut denied = DeniedAddresses::none();
        for text in DEFAULT {
            denied.add(text).expect("they are addresses");
        }
        denied
    }
}

impl FromStr for DeniedAddresses {
    type Err = NotAnIpBlock;

    /// One of them.
    fn from_str(text: &str) -> Result<DeniedAddresses, NotAnIpBlock> {
        let mut denied = DeniedAddresses::none();
        denied.add(text)?;
        Ok(denied)
    }
}

impl<'de> Deserialize<'de> for DeniedAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DeniedAddresses, D::Error> {
        let mut denied = DeniedAddresses::none();
        for text in Vec::<String>::deserialize(deserializer)? {
            let added = denied.add(&text);
            added.map_err(|error| {
                D::Error::custom(format!("`{text}`: {error}, or own_listeners"))
            })?;
        }
        Ok(denied)
    }
}
