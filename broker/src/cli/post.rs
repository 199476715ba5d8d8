//! `posthorn post`: one message to one client.

use std::path::Path;

use bytes::Bytes;
use posthorn_proto::v1::connection_service_client::ConnectionServiceClient;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{PostToConnectionRequest, WaitFor as Wire};
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::cli::{Exit, PostArguments, WaitFor};

const TOKEN_VARIABLE: &str = "POSTHORN_TOKEN";
const CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) async fn post(arguments: PostArguments) -> Exit {
    let prepared = authorization(arguments.token_file.as_deref())
        .and_then(|authorization| Ok((authorization, endpoint_of(&arguments)?)));
    let (authorization, endpoint) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("posthorn: {error}");
            return Exit::Usage;
        }
    };
    let PostArguments { api, connection_id, message, binary, wait_for, .. } = arguments;
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

fn endpoint_of(arguments: &PostArguments) -> Result<Endpoint, String> {
    let PostArguments { api, ca_file, cert_file, key_file, .. } = arguments;
    let scheme = if ca_file.is_some() { "https" } else { "http" };
    let fault = |error: tonic::transport::Error| format!("{api}: {error}");
    let endpoint = Endpoint::from_shared(format!("{scheme}://{api}")).map_err(fault)?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    let Some(ca_file) = ca_file else { return Ok(endpoint) };
    let read =
        |file: &Path| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca_file)?));
    if let (Some(cert_file), Some(key_file)) = (cert_file, key_file) {
        tls = tls.identity(Identity::from_pem(read(cert_file)?, read(key_file)?));
    }
    endpoint.tls_config(tls).map_err(fault)
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
        // Without a status from the node, the connection broke.
        Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Exit::Unknown,
        _ => Exit::Failed,
    }
}
