//! A backend that is called by gRPC: it lets everybody in who does not ask for a refusal, and
//! answers each message with its bytes in reverse.

use std::net::SocketAddr;

use posthorn_proto::v1::handle_event_request::Event;
use posthorn_proto::v1::handle_event_response::Payload as Reply;
use posthorn_proto::v1::integration_service_server::{
    IntegrationService, IntegrationServiceServer,
};
use posthorn_proto::v1::message_event::Payload;
use posthorn_proto::v1::{ConnectEvent, HandleEventRequest, HandleEventResponse, MessageEvent};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::within;

pub struct GrpcBackend {
    address: SocketAddr,
    requests: Mutex<mpsc::UnboundedReceiver<HandleEventRequest>>,
    server: JoinHandle<()>,
}

struct Desk {
    requests: mpsc::UnboundedSender<HandleEventRequest>,
}

impl GrpcBackend {
    pub async fn start() -> GrpcBackend {
        let (sender, requests) = mpsc::unbounded_channel();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let service = IntegrationServiceServer::new(Desk { requests: sender });
        let server = tokio::spawn(async move {
            let served = Server::builder().add_service(service);
            served.serve_with_incoming(TcpIncoming::from(listener)).await.expect("it serves");
        });
        GrpcBackend { address, requests: Mutex::new(requests), server }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next request, in the order of their coming.
    pub async fn request(&self) -> HandleEventRequest {
        let mut requests = self.requests.lock().await;
        within("a request", requests.recv()).await.expect("the backend serves")
    }
}

impl Drop for GrpcBackend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// # Panics
///
/// If it is another event.
pub fn connect_event(request: &HandleEventRequest) -> &ConnectEvent {
    match &request.event {
        Some(Event::Connect(connect)) => connect,
        other => panic!("not $connect: {other:?}"),
    }
}

/// # Panics
///
/// If it is another event.
pub fn message_event(request: &HandleEventRequest) -> &MessageEvent {
    match &request.event {
        Some(Event::Message(message)) => message,
        other => panic!("not a message: {other:?}"),
    }
}

#[tonic::async_trait]
impl IntegrationService for Desk {
    async fn handle_event(
        &self,
        request: Request<HandleEventRequest>,
    ) -> Result<Response<HandleEventResponse>, Status> {
        let request = request.into_inner();
        let mut response = HandleEventResponse::default();
        match &request.event {
            Some(Event::Connect(connect)) if connect.query == "refuse" => response.status = 403,
            Some(Event::Message(message)) => {
                response.payload = message.payload.as_ref().map(|payload| match payload {
                    Payload::Text(text) => Reply::Text(text.chars().rev().collect()),
                    Payload::Binary(bytes) => {
                        Reply::Binary(bytes.iter().rev().copied().collect::<Vec<_>>().into())
                    }
                });
            }
            _ => (),
        }
        // Where nobody looks at requests any more, the test is over.
        let _ = self.requests.send(request);
        Ok(Response::new(response))
    }
}
