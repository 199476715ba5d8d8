//! `posthorn post`: one message to one client.

use std::path::Path;

use bytes::Bytes;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, WaitFor as Wire};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::cli::{Exit, PostArguments, WaitFor};

const TOKEN_VARIABLE: &str = "POSTHORN_TOKEN";
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn post(arguments: PostArguments) -> Exit {
    let PostArguments { api, token_file, connection_id, message, binary, wait_for } = arguments;
    let authorization = match authorization(token_file.as_deref()) {
        Ok(authorization) => authorization,
        Err(error) => {
            eprintln!("posthorn: {error}");
            return Exit::Usage;
        }
    };
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
    let mut request = Request::new(PostToConnectionRequest {
        connection_id,
        payload: Some(payload),
        wait_for: wait_for.wire().into(),
        idempotency_key: String::new(),
    });
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization);
    }
    match ConnectionServiceClient::new(channel).post_to_connection(request).await {
        Ok(_) => {
            println!("{}", wait_for.as_past());
            Exit::Success
        }
        Err(status) => tell(&status),
    }
}

/// What is said of who calls, if anything is.
fn authorization(token_file: Option<&Path>) -> Result<Option<AsciiMetadataValue>, String> {
    let (place, token) = match token_file {
        Some(file) => {
            let token = std::fs::read_to_string(file);
            let token = token.map_err(|error| format!("{}: {error}", file.display()))?;
            (file.display().to_string(), token)
        }
        None => match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => (TOKEN_VARIABLE.to_owned(), token),
            Err(_) => return Ok(None),
        },
    };
    let mut value: AsciiMetadataValue = format!("Bearer {}", token.trim())
        .parse()
        .map_err(|_| format!("{place}: a token is one line of ASCII"))?;
    value.set_sensitive(true);
    Ok(Some(value))
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
