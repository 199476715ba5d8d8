//! `posthorn post`: one message to one client.

use bytes::Bytes;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, WaitFor as Wire};
use serde_json::json;

use crate::cli::access::tell;
use crate::cli::{Exit, PostArguments, WaitFor, print};

pub(super) async fn post(arguments: PostArguments) -> Exit {
    let PostArguments { api, connection_id, message, binary, wait_for, json } = arguments;
    let access = match api.connect().await {
        Ok(access) => access,
        Err(exit) => return exit,
    };
    let payload = match binary {
        true => Payload::Binary(Bytes::from(message)),
        false => Payload::Text(message),
    };
    let request = access.request(PostToConnectionRequest {
        connection_id: connection_id.clone(),
        payload: Some(payload),
        wait_for: wait_for.wire().into(),
        idempotency_key: String::new(),
    });
    match ConnectionServiceClient::new(access.channel).post_to_connection(request).await {
        Ok(_) => {
            let done = wait_for.as_past();
            let printed = match json {
                true => print::json(&json!({ "connection_id": connection_id, "done": done })),
                false => print::line(done),
            };
            printed.err().unwrap_or(Exit::Success)
        }
        Err(status) => tell(&status),
    }
}

impl WaitFor {
    fn wire(self) -> Wire {
        match self {
            WaitFor::Accepted => Wire::Accepted,
            WaitFor::Written => Wire::Written,
            WaitFor::Answered => Wire::Answered,
        }
    }

    fn as_past(self) -> &'static str {
        match self {
            WaitFor::Accepted => "accepted",
            WaitFor::Written => "written",
            WaitFor::Answered => "answered",
        }
    }
}
