//! Lambda's Invoke API, as far as brokers call it: functions are closures.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;

use crate::within;

/// What a function does: return something, or throw an error with this message.
pub type Outcome = Result<Value, String>;
type Functions = Arc<dyn Fn(&str, &Value) -> Outcome + Send + Sync>;

pub struct Lambda {
    address: SocketAddr,
    invocations: Mutex<mpsc::UnboundedReceiver<Invocation>>,
    server: JoinHandle<()>,
}

/// One call of the API.
#[derive(Debug)]
pub struct Invocation {
    /// Decoded: a name or an ARN.
    pub function: String,
    /// As it came.
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub event: Value,
}

#[derive(Clone)]
struct Desk {
    invocations: mpsc::UnboundedSender<Invocation>,
    functions: Functions,
}

impl Lambda {
    /// Starts it. Each event goes to `functions`, with the name of the function.
    pub async fn start(
        functions: impl Fn(&str, &Value) -> Outcome + Send + Sync + 'static,
    ) -> Lambda {
        let (sender, invocations) = mpsc::unbounded_channel();
        let desk = Desk { invocations: sender, functions: Arc::new(functions) };
        let router = Router::new().fallback(invoke).with_state(desk);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("the functions are served");
        });
        Lambda { address, invocations: Mutex::new(invocations), server }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn invocation(&self) -> Invocation {
        let mut invocations = self.invocations.lock().await;
        within("an invocation", invocations.recv()).await.expect("the functions are served")
    }
}

impl Drop for Lambda {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn invoke(
    State(desk): State<Desk>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, HeaderMap, String) {
    let path = uri.path().to_owned();
    let function = path.strip_prefix("/2015-03-31/functions/");
    let function = function.and_then(|rest| rest.strip_suffix("/invocations"));
    let Some(function) = function.map(|name| name.replace("%3A", ":")) else {
        return (StatusCode::NOT_FOUND, HeaderMap::new(), "no such path".to_owned());
    };
    let event: Value = serde_json::from_slice(&body).expect("an event is JSON");
    let is_later = headers.get("x-amz-invocation-type").is_some_and(|kind| kind == "Event");
    let outcome = (desk.functions)(&function, &event);
    // Where nobody looks at invocations any more, the test is over.
    let _ = desk.invocations.send(Invocation { function, path, headers, body, event });
    let mut headers = HeaderMap::new();
    if is_later {
        return (StatusCode::ACCEPTED, headers, String::new());
    }
    let answer = outcome.unwrap_or_else(|message| {
        headers.insert("x-amz-function-error", HeaderValue::from_static("Unhandled"));
        json!({ "errorMessage": message, "errorType": "Error" })
    });
    (StatusCode::OK, headers, answer.to_string())
}
