//! What backends and operators call: gRPC and the HTTP `@connections` API at one port, and the admin
//! listener.

pub(crate) mod admin;
mod administration;
mod callers;
mod connections;
mod guard;
mod listener;
mod listing;
mod management;
mod status;
mod tail;

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::any;
use posthorn_proto::FILE_DESCRIPTOR_SET;
use posthorn_proto::v1::admin_service_server::AdminServiceServer;
use posthorn_proto::v1::connection_service_server::ConnectionServiceServer;
use tokio::net::TcpListener;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::administration::Administration;
pub(crate) use crate::api::callers::Callers;
use crate::api::connections::Connections;
use crate::api::listener::Door;
use crate::api::management::Management;
use crate::config::node::ApiSettings;
use crate::descriptors::Shares;
use crate::exchange::Gateway;
use crate::operator::Operator;
use crate::tls::ServerTls;

/// Beside the payload: IDs, keys, framing.
const REQUEST_BYTES_BESIDE_PAYLOAD: usize = 4 * 1024;
const SERVICES: [&str; 2] = ["posthorn.v1.ConnectionService", "posthorn.v1.AdminService"];

/// What may be spoken above TLS.
pub(crate) const PROTOCOLS: &[&str] = &["h2", "http/1.1"];

/// What backends call.
pub(crate) struct Api {
    router: Router,
    tls: Option<Arc<ServerTls>>,
    gateway: Arc<Gateway>,
    reporter: HealthReporter,
}

impl Api {
    pub(crate) fn new(
        settings: &ApiSettings,
        tls: Option<Arc<ServerTls>>,
        gateway: Arc<Gateway>,
        callers: Arc<Callers>,
        operator: Arc<Operator>,
    ) -> Api {
        let (reporter, health) = tonic_health::server::health_reporter();
        let management = Arc::new(Management::new(settings, gateway.clone(), callers.clone()));
        let router = services(settings, gateway.clone(), operator)
            .route_layer(from_fn_with_state(callers, guard::admit))
            .route_service(&path_of(&health), health)
            .fallback(any(management::handle).with_state(management));
        Api { router, tls, gateway, reporter }
    }

    /// Serves until `stop` resolves, then lets the calls under way end.
    pub(crate) async fn serve(
        self,
        listener: TcpListener,
        shares: Shares,
        stop: impl Future<Output = ()>,
    ) {
        let Api { router, tls, gateway, reporter } = self;
        let door = Arc::new(Door::new(router, tls, shares));
        tokio::select! {
            () = door.serve(listener, stop) => (),
            () = report_health(reporter, gateway) => (),
        }
    }
}

/// What is for those only whom we know.
fn services(settings: &ApiSettings, gateway: Arc<Gateway>, operator: Arc<Operator>) -> Router {
    let request_bytes_max = settings.payload_bytes_max as usize + REQUEST_BYTES_BESIDE_PAYLOAD;
    let connections = Connections::new(gateway, settings);
    let connections =
        ConnectionServiceServer::new(connections).max_decoding_message_size(request_bytes_max);
    let administration = AdminServiceServer::new(Administration::new(operator));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICES[0])
        .with_service_name(SERVICES[1])
        .with_service_name("grpc.health.v1.Health")
        .build_v1();
    let reflection = match reflection {
        Ok(reflection) => reflection,
        // The descriptors are compiled in: this is not to be had at run time.
        Err(error) => unreachable!("{error}"),
    };
    Router::new()
        .route_service(&path_of(&connections), connections)
        .route_service(&path_of(&administration), administration)
        .route_service(&path_of(&reflection), reflection)
}

fn path_of<S: NamedService>(_service: &S) -> String {
    format!("/{}/{{*method}}", S::NAME)
}

/// Tells the health service what the node knows of itself. Ends never.
async fn report_health(reporter: HealthReporter, gateway: Arc<Gateway>) {
    let reporter = &reporter;
    let tell = |is_ready| async move {
        let status = match is_ready {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
    };
    gateway.on_readiness(tell).await;
}
