//! `posthorn certs`: papers for the nodes of a cluster, and the authority that signs them.

use posthorn_core::ids::NodeId;
use serde_json::json;

use crate::cli::{CertsArguments, Exit, print};
use crate::fabric::{Authority, DevAuthorityError};

pub(super) fn certs(arguments: &CertsArguments) -> Exit {
    match write(arguments) {
        Ok(()) => tell(arguments).err().unwrap_or(Exit::Success),
        Err(error) => {
            print::failure(&error.to_string(), None);
            Exit::Failed
        }
    }
}

fn write(arguments: &CertsArguments) -> Result<(), DevAuthorityError> {
    let CertsArguments { cluster, dir, nodes, days, json: _ } = arguments;
    let authority = Authority::kept_in(dir, cluster)?;
    let folder = dir.join("nodes");
    for node in (0..*nodes).map(NodeId) {
        authority.write(&folder, node, *days)?;
    }
    Ok(())
}

fn tell(arguments: &CertsArguments) -> Result<(), Exit> {
    let CertsArguments { cluster, dir, nodes, days, json } = arguments;
    let (folder, key) = (dir.join("nodes"), dir.join("ca.key"));
    if *json {
        return print::json(&json!({
            "cluster": cluster.to_string(), "nodes_dir": folder, "nodes": nodes, "days": days,
            "authority_key_file": key,
        }));
    }
    print::line(&format!(
        "{}: ca.pem, and node-{{id}}.pem and .key of {nodes} nodes, for {days} days",
        folder.display()
    ))?;
    print::line(&format!("{}: the authority's key; no node needs it, keep it safe", key.display()))
}
