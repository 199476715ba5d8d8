//! `posthorn certs`: papers for the nodes of a cluster, and the authority that signs them.

use posthorn_core::ids::NodeId;

use crate::cli::{CertsArguments, Exit};
use crate::fabric::{Authority, DevAuthorityError};

pub(super) fn certs(arguments: &CertsArguments) -> Exit {
    match write(arguments) {
        Ok(()) => Exit::Success,
        Err(error) => {
            eprintln!("posthorn: {error}");
            Exit::Failed
        }
    }
}

fn write(arguments: &CertsArguments) -> Result<(), DevAuthorityError> {
    let CertsArguments { cluster, dir, nodes, days } = arguments;
    let authority = Authority::kept_in(dir, cluster)?;
    let folder = dir.join("nodes");
    for node in (0..*nodes).map(NodeId) {
        authority.write(&folder, node, *days)?;
    }
    println!(
        "{}: ca.pem, and node-{{id}}.pem and .key of {nodes} nodes, for {days} days",
        folder.display()
    );
    println!(
        "{}: the authority's key; no node needs it, keep it safe",
        dir.join("ca.key").display()
    );
    Ok(())
}
