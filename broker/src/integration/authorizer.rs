//! A backend that is asked who a client is, before anything else is known of its connection.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use metrics::Gauge;
use posthorn_core::auth::authorizer::{AuthorizerAnswer, UNAUTHORIZED};
use posthorn_core::auth::identity_source::IdentitySource;
use posthorn_core::event::proxy::AuthorizerEvent;
use serde::Deserialize;

use crate::config::api::{AuthorizerSettings, AuthorizerTarget, PlacesSettings};
use crate::integration::http::USER_AGENT;
use crate::integration::lambda::Invoked;
use crate::integration::places::Places;
use crate::integration::{CallError, Clients, within};

pub struct Authorizer {
    target: AuthorizerTarget,
    timeout: Option<Duration>,
    places: Places,
    /// What a client must send to be asked about at all.
    pub identity_sources: Vec<IdentitySource>,
    clients: Clients,
}

/// Why an authorizer gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizerError {
    /// It said so in so many words.
    #[error("unauthorized")]
    Unauthorized,
    #[error("{0}")]
    Failed(String),
}

impl Authorizer {
    pub fn new(settings: &AuthorizerSettings, clients: &Clients) -> Authorizer {
        let AuthorizerSettings { target, timeout, identity_sources } = settings.clone();
        // Handshakes under way are counted by the edge.
        let places = Places::new(PlacesSettings::default(), Gauge::noop());
        Authorizer { target, timeout, places, identity_sources, clients: clients.clone() }
    }

    pub async fn ask(
        &self,
        event: &AuthorizerEvent<'_>,
    ) -> Result<AuthorizerAnswer, AuthorizerError> {
        let asked = async {
            let _place = self.places.take().await.map_err(|error| failed(&error))?;
            match &self.target {
                AuthorizerTarget::Lambda(function) => {
                    let invoked =
                        self.clients.lambda.invoke(function, event.to_json().into(), &[]).await;
                    match invoked.map_err(|error| failed(&error))? {
                        Invoked::Returned(answer) => Ok(answer),
                        Invoked::Threw(error) => Err(thrown(&error)),
                    }
                }
                AuthorizerTarget::Http(uri) => {
                    let request = Request::post(uri.clone())
                        .header("content-type", "application/json")
                        .header("user-agent", USER_AGENT)
                        .body(Full::new(Bytes::from(event.to_json())))
                        .map_err(|error| AuthorizerError::Failed(error.to_string()))?;
                    let answer =
                        self.clients.http.send(request).await.map_err(|error| failed(&error))?;
                    match answer.status {
                        200 => Ok(answer.body),
                        401 => Err(AuthorizerError::Unauthorized),
                        status => Err(AuthorizerError::Failed(format!("it answered {status}"))),
                    }
                }
            }
        };
        let answer = within(self.timeout, asked).await.map_err(|timeout| {
            AuthorizerError::Failed(CallError::TimedOut(timeout).to_string())
        })??;
        AuthorizerAnswer::parse(&answer).map_err(|error| AuthorizerError::Failed(error.to_string()))
    }
}

fn failed(error: &CallError) -> AuthorizerError {
    AuthorizerError::Failed(error.to_string())
}

/// A function says "no" by failing with one certain message.
fn thrown(error: &[u8]) -> AuthorizerError {
    #[derive(Deserialize)]
    struct Thrown {
        #[serde(rename = "errorMessage")]
        error_message: Option<String>,
    }
    let thrown = serde_json::from_slice::<Thrown>(error).ok();
    match thrown.and_then(|thrown| thrown.error_message) {
        Some(message) if message == UNAUTHORIZED => AuthorizerError::Unauthorized,
        Some(message) => AuthorizerError::Failed(format!("it failed: {message}")),
        None => AuthorizerError::Failed("it failed".to_owned()),
    }
}
