//! `posthorn health`: what a node's admin listener says of it, as an exit code.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::cli::{Exit, HealthArguments, print};

/// A node that lives answers within milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) async fn health(arguments: &HealthArguments) -> Exit {
    let HealthArguments { admin, ready, json } = arguments;
    let (path, good) = if *ready { ("/readyz", "ready") } else { ("/livez", "alive") };
    let Ok(uri) = format!("http://{admin}{path}").parse() else {
        print::failure(&format!("--admin: `{admin}` is not a host and a port"), None);
        return Exit::Usage;
    };
    let asked = ask(uri).await;
    if *json {
        let status = asked.as_ref().ok().map(StatusCode::as_u16);
        let is_good = asked.as_ref().is_ok_and(StatusCode::is_success);
        if let Err(exit) = print::json(&json!({ "admin": admin, good: is_good, "status": status }))
        {
            return exit;
        }
    }
    match asked {
        Ok(status) if status.is_success() => match json {
            true => Exit::Success,
            false => print::line(good).err().unwrap_or(Exit::Success),
        },
        Ok(status) => {
            let next = ready
                .then_some("leave it running: `posthorn cluster status` shows what is missing");
            print::failure(&format!("{admin} answers {path} with {status}"), next);
            Exit::Failed
        }
        Err(error) => {
            let next = "is this the node's `admin.listen`, and is the node running?";
            print::failure(&format!("cannot reach {admin}: {error}"), Some(next));
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
