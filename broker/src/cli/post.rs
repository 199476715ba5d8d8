//! `posthorn post`: one message to one client.

use bytes::Bytes;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, WaitFor as Wire};
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::cli::{Exit, PostArguments, WaitFor};

const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn post(arguments: PostArguments) -> Exit {
    let PostArguments { api, connection_id, message, binary, wait_for } = arguments;
    let endpoint = match Endpoint::from_shared(format!("http://{api}")) {
        Ok(endpoint) => endpoint.connect_timeout(CONNECT_TIMEOUT),
        Err(error) => {
            eprintln!("posthorn: {api}: {error}");
            return Exit::Usage;
        }
    };
    let channel = match endpoint.connect().await {
        Ok(channel) => channel,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            eprintln!("posthorn: cannot reach {api}: {}", cause.unwrap_or(error.to_string()));
            return Exit::Unavailable;
        }
    };
    let payload = match binary {
        true => Payload::Binary(Bytes::from(message)),
        false => Payload::Text(message),
    };
    let request = PostToConnectionRequest {
        connection_id,
        payload: Some(payload),
        wait_for: wait_for.wire().into(),
        idempotency_key: String::new(),
    };
    match ConnectionServiceClient::new(channel).post_to_connection(request).await {
        Ok(_) => {
            println!("{}", wait_for.as_past());
            Exit::Success
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

fn tell(status: &Status) -> Exit {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let reason = reason.unwrap_or_else(|| status.code().to_string());
    eprintln!("posthorn: {reason}: {}", status.message());
    match status.code() {
        Code::NotFound => Exit::Gone,
        Code::InvalidArgument => Exit::Usage,
        Code::Unavailable => Exit::Unavailable,
        Code::DeadlineExceeded => Exit::Unknown,
        _ => Exit::Failed,
    }
}
