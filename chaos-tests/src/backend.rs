//! A backend that is called by `HTTP_EVENT` integrations: it remembers what it was told and answers
//! as it is bid.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::within;

type Answer = Arc<dyn Fn(&Value) -> (u16, String) + Send + Sync>;

pub struct Backend {
    address: SocketAddr,
    inbox: Mutex<Inbox>,
    server: JoinHandle<()>,
}

struct Inbox {
    events: mpsc::UnboundedReceiver<Value>,
    /// Those that came while another type was asked for.
    passed_over: VecDeque<Value>,
}

#[derive(Clone)]
struct Desk {
    events: mpsc::UnboundedSender<Value>,
    answer: Answer,
}

impl Backend {
    /// Starts one that answers each event as `answer` says: with a status and a body.
    pub async fn start(
        answer: impl Fn(&Value) -> (u16, String) + Send + Sync + 'static,
    ) -> Backend {
        let (sender, events) = mpsc::unbounded_channel();
        let desk = Desk { events: sender, answer: Arc::new(answer) };
        let router = Router::new().route("/events", post(take)).with_state(desk);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the backend serves");
        });
        let inbox = Mutex::new(Inbox { events, passed_over: VecDeque::new() });
        Backend { address, inbox, server }
    }

    pub fn url(&self) -> String {
        format!("http://{}/events", self.address)
    }

    /// The next event, in the order of their coming.
    pub async fn event(&self) -> Value {
        self.inbox.lock().await.event(|_| true).await
    }

    /// The next event of a type: `CONNECT`, `MESSAGE` or `DISCONNECT`. Others are kept.
    pub async fn event_of(&self, kind: &str) -> Value {
        let is_asked_for = |event: &Value| event["requestContext"]["eventType"] == kind;
        self.inbox.lock().await.event(is_asked_for).await
    }

    /// All events that have come and were not asked for yet.
    pub async fn drain(&self) -> Vec<Value> {
        let mut inbox = self.inbox.lock().await;
        let mut events: Vec<_> = inbox.passed_over.drain(..).collect();
        events.extend(std::iter::from_fn(|| inbox.events.try_recv().ok()));
        events
    }
}

impl Inbox {
    async fn event(&mut self, is_asked_for: impl Fn(&Value) -> bool) -> Value {
        if let Some(place) = self.passed_over.iter().position(&is_asked_for)
            && let Some(event) = self.passed_over.remove(place)
        {
            return event;
        }
        loop {
            let event = within("an event", self.events.recv()).await.expect("the backend serves");
            if is_asked_for(&event) {
                return event;
            }
            self.passed_over.push_back(event);
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(desk): State<Desk>, body: String) -> (StatusCode, String) {
    let event: Value = serde_json::from_str(&body).expect("an event is JSON");
    let (status, answer) = (desk.answer)(&event);
    // Where nobody looks at events any more, the test is over.
    let _ = desk.events.send(event);
    (StatusCode::from_u16(status).expect("a status"), answer)
}

/// API definitions that send everything to a backend, replies included.
pub fn backend_api(url: &str) -> String {
    format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/backend }}\n      \
         $disconnect: {{ target: integrations/backend }}\n      \
         $default: {{ target: integrations/backend, route_response_selection_expression: $default }}\n    \
         integrations:\n      \
         backend: {{ integration_type: HTTP_EVENT, integration_uri: \"{url}\" }}\n    \
         stages:\n      dev: {{}}\n"
    )
}
