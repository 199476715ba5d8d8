//! Where operators and Prometheus look.

use std::future::Future;
use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::exchange::Gateway;
use crate::telemetry::Exporter;

#[derive(Clone)]
struct Admin {
    gateway: Arc<Gateway>,
    exporter: Exporter,
}

/// Serves until `stop` resolves.
pub(crate) async fn serve(
    listener: TcpListener,
    gateway: Arc<Gateway>,
    exporter: Exporter,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .with_state(Admin { gateway, exporter });
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    // Adding up is for who looks, not for who posts.
    admin.gateway.measure_outboxes();
    let content_type = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], admin.exporter.render())
}

/// Ready is who is part of a quorum and can register connections. Liveness must not ask that: a
/// partition would have every node restarted.
async fn readyz(State(admin): State<Admin>) -> impl IntoResponse {
    match *admin.gateway.watch_ready().borrow() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not part of a quorum\n"),
    }
}
