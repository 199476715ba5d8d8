//! Where operators and Prometheus look.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use crate::api::callers::Callers;
use crate::config::node::AdminSettings;
use crate::operator::Operator;
use crate::telemetry::Exporter;

#[derive(Clone)]
struct Admin {
    operator: Arc<Operator>,
    exporter: Exporter,
    callers: Arc<Callers>,
    /// Whether everybody who reaches us may look.
    is_open: bool,
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: AdminSettings,
    operator: Arc<Operator>,
    exporter: Exporter,
    callers: Arc<Callers>,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let is_open = settings.insecure || settings.listen.ip().is_loopback();
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(Admin { operator, exporter, callers, is_open });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(admin): State<Admin>, headers: HeaderMap) -> Response {
    if let Err(refused) = admin.judge(&headers).await {
        return refused.into_response();
    }
    // Adding up is for who looks, not for who posts.
    admin.operator.measure();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.exporter.render()).into_response()
}

/// Ready is who is part of a quorum, can register connections and means to stay. Liveness must not ask
/// that: a partition would have every node restarted.
async fn readyz(State(admin): State<Admin>) -> Response {
    match admin.operator.not_ready() {
        None => "ready\n".into_response(),
        Some(why) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")).into_response()
        }
    }
}

impl Admin {
    async fn judge(&self, headers: &HeaderMap) -> Result<(), impl IntoResponse + use<>> {
        if self.is_open {
            return Ok(());
        }
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        match self.callers.known().identify(headers, None).await {
            Ok(caller) if caller.may_administer() => Ok(()),
            Ok(_) => Err((StatusCode::FORBIDDEN, challenge, "needs the permission */*/admin\n")),
            Err(_) => Err((StatusCode::UNAUTHORIZED, challenge, "needs a bearer token\n")),
        }
    }
}
