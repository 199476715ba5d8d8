//! The backend that an oracle listens to: it lets everybody in, and records each call.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::history::{Context, Event, History, Kind};

pub struct Witness {
    address: SocketAddr,
    desk: Arc<Desk>,
    server: JoinHandle<()>,
}

struct Desk {
    history: Arc<History>,
    /// What `$disconnect` is answered with.
    disconnect_status: AtomicU16,
    /// The connections of clients, by the number that those came with.
    connections: Mutex<HashMap<u64, String>>,
}

impl Witness {
    pub async fn start(ip: IpAddr, history: Arc<History>) -> Witness {
        let disconnect_status = AtomicU16::new(200);
        let desk = Arc::new(Desk { history, disconnect_status, connections: Mutex::default() });
        let router = Router::new().route("/events", post(take)).with_state(desk.clone());
        let listener = TcpListener::bind((ip, 0)).await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the backend serves");
        });
        Witness { address, desk, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// The connection of the client that came with this number, once `$connect` was called for it.
    pub fn connection_of(&self, client: u64) -> Option<String> {
        self.desk.connections.lock().get(&client).cloned()
    }

    pub fn answer_disconnects_with(&self, status: u16) {
        self.desk.disconnect_status.store(status, Ordering::SeqCst);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(desk): State<Arc<Desk>>, body: String) -> StatusCode {
    let event: Value = serde_json::from_str(&body).expect("an event is JSON");
    let context = &event["requestContext"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let connection = text(&context["connectionId"]);
    let (kind, status) = match context["eventType"].as_str() {
        Some("CONNECT") => {
            if let Some(client) = event["queryStringParameters"]["client"].as_str() {
                let client = client.parse().expect("clients come with a number");
                desk.connections.lock().insert(client, connection.clone());
            }
            (Kind::Connect, 200)
        }
        Some("MESSAGE") => (Kind::Message, 200),
        Some("DISCONNECT") => (Kind::Disconnect, desk.disconnect_status.load(Ordering::SeqCst)),
        other => panic!("no such event: {other:?}"),
    };
    let mut authorizer = context.get("authorizer").cloned();
    if let Some(authorizer) = authorizer.as_mut().and_then(Value::as_object_mut) {
        // Only `$connect` is told how long the authorizer took.
        authorizer.remove("integrationLatency");
    }
    let said = Context {
        identity: context["identity"].to_string(),
        connected_at: context["connectedAt"].as_u64().unwrap_or_default(),
        api_id: text(&context["apiId"]),
        stage: text(&context["stage"]),
        domain_name: text(&context["domainName"]),
        authorizer: authorizer.map_or(String::new(), |authorizer| authorizer.to_string()),
    };
    let run = context["posthorn"]["run"].to_string();
    let sequence = context["posthorn"]["sequence"].as_u64().unwrap_or_default();
    desk.history.record(Event::Called { kind, connection, run, sequence, context: said, status });
    StatusCode::from_u16(status).expect("a status")
}
