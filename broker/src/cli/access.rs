//! How commands call a node's API: where it is, who calls, and what an answer that says no means.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::cli::{Exit, advice, print};

const TOKEN_VARIABLE: &str = "POSTHORN_TOKEN";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
pub(super) struct ApiArguments {
    /// Any node's API: host and port.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    api: String,
    /// Speak TLS, and believe a certificate for the host that one of the authorities in this file
    /// signed.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// A certificate to show.
    #[arg(long, value_name = "FILE", requires = "key_file", requires = "ca_file")]
    cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// A file that holds the bearer token to call with. Otherwise, the environment's POSTHORN_TOKEN
    /// is, if it is set.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// A node that was reached, and who calls it.
pub(super) struct Access {
    pub(super) channel: Channel,
    authorization: Option<AsciiMetadataValue>,
}

impl ApiArguments {
    /// Reaches the node, or tells the user why not.
    pub(super) async fn connect(&self) -> Result<Access, Exit> {
        let prepared = authorization(self.token_file.as_deref())
            .and_then(|authorization| Ok((authorization, self.endpoint()?)));
        let (authorization, endpoint) = prepared.map_err(|error| {
            print::failure(&error, None);
            Exit::Usage
        })?;
        let channel = endpoint.connect().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            let cause = cause.unwrap_or(error.to_string());
            let what = format!("cannot reach {}: {cause}", self.api);
            print::failure(&what, Some(advice::of_api(self.ca_file.is_some())));
            Exit::Unavailable
        })?;
        Ok(Access { channel, authorization })
    }

    fn endpoint(&self) -> Result<Endpoint, String> {
        let ApiArguments { api, ca_file, cert_file, key_file, token_file: _ } = self;
        let scheme = if ca_file.is_some() { "https" } else { "http" };
        let fault = |error: tonic::transport::Error| format!("{api}: {error}");
        let endpoint = Endpoint::from_shared(format!("{scheme}://{api}")).map_err(fault)?;
        let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
        let Some(ca_file) = ca_file else { return Ok(endpoint) };
        let read = |file: &Path| {
            std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))
        };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca_file)?));
        if let (Some(cert_file), Some(key_file)) = (cert_file, key_file) {
            tls = tls.identity(Identity::from_pem(read(cert_file)?, read(key_file)?));
        }
        endpoint.tls_config(tls).map_err(fault)
    }
}

impl Access {
    /// A request by who calls.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        request
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

/// Tells the user what the node, or the way to it, said.
pub(super) fn tell(status: &Status) -> Exit {
    let reason = status.get_details_error_info().map(|info| info.reason);
    let reason = reason.unwrap_or_else(|| status.code().to_string());
    let what = format!("{reason}: {}", print::plain(status.message()));
    print::failure(&what, advice::of_reason(&reason));
    match status.code() {
        Code::NotFound => Exit::Gone,
        Code::InvalidArgument => Exit::Usage,
        Code::Unavailable => Exit::Unavailable,
        // Without a status from the node, the connection broke.
        Code::DeadlineExceeded | Code::Unknown | Code::Cancelled => Exit::Unknown,
        _ => Exit::Failed,
    }
}
