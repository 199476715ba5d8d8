//! What backends and operators call: gRPC, and the admin listener.

pub(crate) mod admin;
mod connections;
mod status;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use posthorn_proto::FILE_DESCRIPTOR_SET;
use posthorn_proto::v1::connection_service_server::ConnectionServiceServer;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::api::connections::Connections;
use crate::config::node::ApiSettings;
use crate::exchange::Gateway;

/// What one HTTP/2 connection may have open at once.
const STREAMS_MAX: u32 = 1024;
const HEADER_BYTES_MAX: u32 = 16 * 1024;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Beside the payload: IDs, keys, framing.
const REQUEST_BYTES_BESIDE_PAYLOAD: usize = 4 * 1024;
const SERVICE: &str = "posthorn.v1.ConnectionService";

/// Serves gRPC until `stop` resolves, then lets the calls under way end.
pub(crate) async fn serve(
    listener: TcpListener,
    settings: ApiSettings,
    gateway: Arc<Gateway>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let request_bytes_max = settings.payload_bytes_max as usize + REQUEST_BYTES_BESIDE_PAYLOAD;
    let connections = Connections::new(gateway.clone(), &settings);
    let connections =
        ConnectionServiceServer::new(connections).max_decoding_message_size(request_bytes_max);
    let (reporter, health) = tonic_health::server::health_reporter();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .with_service_name(SERVICE)
        .with_service_name("grpc.health.v1.Health")
        .build_v1();
    let reflection = match reflection {
        Ok(reflection) => reflection,
        // The descriptors are compiled in: this is not to be had at run time.
        Err(error) => unreachable!("{error}"),
    };
    // Answers are small and are to leave at once.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let served = Server::builder()
        .max_concurrent_streams(Some(STREAMS_MAX))
        .http2_max_header_list_size(Some(HEADER_BYTES_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .add_service(health)
        .add_service(reflection)
        .add_service(connections)
        .serve_with_incoming_shutdown(incoming, stop);
    tokio::select! {
        served = served => served,
        () = report_health(reporter, gateway) => Ok(()),
    }
}

/// Tells the health service what the node knows of itself. Ends never.
async fn report_health(reporter: HealthReporter, gateway: Arc<Gateway>) {
    let mut ready = gateway.watch_ready();
    loop {
        let status = match *ready.borrow_and_update() {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        reporter.set_service_status("", status).await;
        reporter.set_service_status(SERVICE, status).await;
        if ready.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
