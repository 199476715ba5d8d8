//! `posthorn health`: what a node's admin listener says of it, as an exit code.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::cli::{Exit, HealthArguments};

/// A node that lives answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn health(arguments: &HealthArguments) -> Exit {
    let HealthArguments { admin, ready } = arguments;
    let (path, good) = if *ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let Ok(uri) = format!("http://{admin}{path}").parse() else {
        eprintln!("posthorn: --admin: `{admin}` is not a host and a port");
        return Exit::Usage;
    };
    match ask(uri).await {
        Ok(status) if status.is_success() => {
            println!("{good}");
            Exit::Success
        }
        Ok(status) => {
            eprintln!("posthorn: {admin} answers {path} with {status}");
            Exit::Failed
        }
        Err(error) => {
            eprintln!("posthorn: cannot reach {admin}: {error}");
            Exit::Unavailable
        }
    }
}

/// The status that a listener answers with.
pub(super) async fn ask(uri: Uri) -> Result<StatusCode, String> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    match tokio::time::timeout(ANSWER_TIMEOUT, client.get(uri)).await {
        Ok(Ok(response)) => Ok(response.status()),
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Err(cause.unwrap_or(error.to_string()))
        }
        Err(_) => Err(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
    }
}
