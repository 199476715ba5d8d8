//! Who a certificate says its holder is: `node-{ordinal}.{cluster name}`.

use posthorn_core::ids::{ClusterName, NodeId, NotAClusterName};
use rustls::pki_types::{CertificateDer, ServerName};
use webpki::EndEntityCert;

use super::stats::RefusalCause;

pub(super) fn server_name(
    cluster: &ClusterName,
    node: NodeId,
) -> Result<ServerName<'static>, NotAClusterName> {
    ServerName::try_from(cluster.node_name(node)).map_err(|_| NotAClusterName)
}

/// Names no node: who addresses it takes any of the cluster's.
pub(super) fn cluster_name(cluster: &ClusterName) -> Result<ServerName<'static>, NotAClusterName> {
    ServerName::try_from(cluster.to_string()).map_err(|_| NotAClusterName)
}

/// Which node of the cluster holds the certificate. Other names on it do not matter, but exactly
/// one must be a node's: who could be two is neither.
pub(super) fn holder(
    cluster: &ClusterName,
    certificate: &CertificateDer<'_>,
) -> Result<NodeId, RefusalCause> {
    let parsed =
        EndEntityCert::try_from(certificate).map_err(|_| RefusalCause::UntrustedCertificate)?;
    let names: Vec<String> = parsed.valid_dns_names().map(str::to_ascii_lowercase).collect();
    let mut nodes = names.iter().filter_map(|name| cluster.node_named(name));
    match (nodes.next(), nodes.next()) {
        (Some(node), None) => Ok(node),
        (None, _) if names.iter().any(|name| ClusterName::split(name).is_some()) => {
            Err(RefusalCause::AnotherClusterName)
        }
        (None | Some(_), _) => Err(RefusalCause::NoNodeName),
    }
}
