//! `posthorn version`: which release this is, and what it speaks with other nodes.

use serde_json::json;

use crate::cli::{Exit, print};
use crate::fabric::{PROTOCOL_VERSIONS, ProtocolVersions};

pub(super) fn version(is_json: bool) -> Exit {
    let version = env!("CARGO_PKG_VERSION");
    let ProtocolVersions { min, max } = PROTOCOL_VERSIONS;
    let printed = match is_json {
        true => print::json(&json!({
            "version": version, "protocol_version_min": min, "protocol_version_max": max,
        })),
        false => print::line(&format!("posthorn {version}, protocol versions {min} to {max}")),
    };
    printed.err().unwrap_or(Exit::Success)
}
