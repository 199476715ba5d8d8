//! What to do next, for who was told that something did not work.

use hyper::StatusCode;

/// By the reason that a node's answer has.
pub(super) fn of_reason(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "UNAUTHENTICATED" => {
            "say who you are: --token-file FILE, POSTHORN_TOKEN, or --cert-file and --key-file"
        }
        "PERMISSION_DENIED" => {
            "your principal needs the permission: see `principals.*.permissions` of the configuration; where \
             nobody is asked who he is, only the node's own machine may administer it"
        }
        "ISSUER_UNREACHABLE" => "nothing was done: try again once the issuer of your token answers",
        "CONNECTION_GONE" => "it never comes back: `posthorn connections list` shows who is there",
        "INVALID_CONNECTION_ID" => {
            "an ID is what the $connect event told, or `posthorn connections list` shows"
        }
        "INVALID_PAGE_TOKEN" => "begin with the first page",
        "PAYLOAD_TOO_LARGE" => "`api.payload_bytes_max` says how large a message may be",
        "CLIENT_TOO_SLOW" => "nothing was sent: try again once the client has read",
        "TOO_MANY_TAILS" => "end one of the others, or wait until it ends",
        "UNREAD" => "read what is printed faster, or into a file",
        "THROTTLED" => "nothing was done: try again later",
        "IDEMPOTENCY_KEY_REUSED" => "nothing was sent: another message came with that key",
        "OWNER_UNREACHABLE" | "NO_QUORUM" | "FENCED" | "BUSY" => {
            "nothing was done: try again, at any node; `posthorn cluster status` shows what is wrong"
        }
        "DRAINING" => "nothing was done: ask another node, by --api",
        "OUTCOME_UNKNOWN" => "perhaps it was done: look before you repeat it",
        "UNKNOWN_NODE" => "`posthorn cluster status` shows which nodes there are",
        "NODE_UNREACHABLE" => {
            "nothing was done: is it running? `posthorn cluster status` shows why not"
        }
        "INDISPENSABLE_NODE" => "have another node join first",
        "NO_LEADER" => "nothing was done: `posthorn cluster status` shows which voters are missing",
        "NOT_OFFERED" => "upgrade that node first",
        _ => return None,
    })
}

/// Where the API could not be reached.
pub(super) fn of_api(is_encrypted: bool) -> &'static str {
    match is_encrypted {
        true => {
            "is this a node's `api.listen`, and its certificate signed by an authority of --ca-file?"
        }
        false => {
            "is this a node's `api.listen`? --api says where; if it speaks TLS, --ca-file FILE"
        }
    }
}

/// Where a handshake was refused.
pub(super) fn of_refusal(status: StatusCode) -> Option<&'static str> {
    Some(match status {
        StatusCode::UNAUTHORIZED => "the API's authorizer wants to know who you are",
        StatusCode::FORBIDDEN => {
            "is the path that of a stage, as in /{api}/{stage}? Or an authorizer, an origin or an API key says no"
        }
        StatusCode::UPGRADE_REQUIRED => "there is a node, and it wants a WebSocket",
        StatusCode::TOO_MANY_REQUESTS => "a limit is reached: try again later",
        StatusCode::SERVICE_UNAVAILABLE => {
            "the node lets nobody in just now: try another; its /readyz says why"
        }
        status if status.is_server_error() => {
            "the integration of $connect did not answer as it should"
        }
        _ => return None,
    })
}
