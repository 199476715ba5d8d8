//! Who a certificate says its holder is: `node-{ordinal}.{cluster name}`.

use std::fmt;

use posthorn_core::ids::NodeId;
use rustls::pki_types::{CertificateDer, DnsName, ServerName};
use webpki::EndEntityCert;

use super::stats::RefusalCause;

/// The name of a cluster, in which all its nodes' certificates end. Lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

/// The text cannot be the end of a DNS name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cluster name is a DNS name of lower case letters, digits, hyphens and dots")]
pub struct NotAClusterName;

impl ClusterName {
    /// The DNS name that a node's certificate carries.
    pub fn node_name(&self, node: NodeId) -> String {
        format!("node-{node}.{self}")
    }

    pub(super) fn server_name(&self, node: NodeId) -> Result<ServerName<'static>, NotAClusterName> {
        ServerName::try_from(self.node_name(node)).map_err(|_| NotAClusterName)
    }

    /// Which node of this cluster holds the certificate. Other names on it do not matter, but
    /// exactly one must be a node's: who could be two is neither.
    pub(super) fn holder(&self, certificate: &CertificateDer<'_>) -> Result<NodeId, RefusalCause> {
        let parsed =
            EndEntityCert::try_from(certificate).map_err(|_| RefusalCause::UntrustedCertificate)?;
        let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
        let mut nodes = names.iter().filter_map(|name| self.node_of(name));
        match (nodes.next(), nodes.next()) {
            (Some(node), None) => Ok(node),
            (None, _) if names.iter().any(|name| is_some_node(name)) => {
                Err(RefusalCause::AnotherClusterName)
            }
            (None | Some(_), _) => Err(RefusalCause::NoNodeName),
        }
    }

    fn node_of(&self, name: &str) -> Option<NodeId> {
        let (node, cluster) = split(name)?;
        (cluster == self.0).then_some(node)
    }
}

impl TryFrom<&str> for ClusterName {
    type Error = NotAClusterName;

    fn try_from(text: &str) -> Result<ClusterName, NotAClusterName> {
        let is_plain =
            |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || "-.".contains(char);
        if text.is_empty() || text.ends_with('.') || !text.chars().all(is_plain) {
            return Err(NotAClusterName);
        }
        let name = ClusterName(text.to_owned());
        // The longest name that the cluster could need must fit.
        match DnsName::try_from(name.node_name(NodeId(u32::MAX))) {
            Ok(_) => Ok(name),
            Err(_) => Err(NotAClusterName),
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_some_node(name: &str) -> bool {
    split(name).is_some()
}

fn split(name: &str) -> Option<(NodeId, &str)> {
    let (ordinal, cluster) = name.strip_prefix("node-")?.split_once('.')?;
    let node = NodeId(ordinal.parse().ok()?);
    // One node, one name: no leading zeros, no sign.
    (node.to_string() == ordinal).then_some((node, cluster))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_node_and_cluster() {
        assert_eq!(split("node-7.post.example"), Some((NodeId(7), "post.example")));
        assert_eq!(split("node-0.posthorn"), Some((NodeId(0), "posthorn")));
        for other in
            ["node-07.a", "node-+7.a", "node-.a", "node-7", "7.a", "*.a", "node-4294967296.a"]
        {
            assert_eq!(split(other), None, "{other}");
        }
    }

    #[test]
    fn cluster_names_are_lower_case_dns_names() {
        for good in ["posthorn", "post.example", "a-1.b"] {
            assert_eq!(ClusterName::try_from(good).map(|name| name.to_string()), Ok(good.into()));
        }
        for bad in ["", ".", "Post", "a b", "a..b", "-", "*.a", "a_b", &"a".repeat(64)] {
            assert_eq!(ClusterName::try_from(bad), Err(NotAClusterName), "{bad}");
        }
    }
}
