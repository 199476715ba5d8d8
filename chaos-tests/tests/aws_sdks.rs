//! AWS's own SDKs against the `@connections` API, unmodified: only the endpoint is ours.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use posthorn_chaos::cluster::{Cluster, ECHO_API, Options};
use posthorn_chaos::{tools, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const KEY: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

#[tokio::test(flavor = "multi_thread")]
async fn boto3_calls_as_it_calls_aws() {
    let Some(python) = tools::python(&["boto3==1.44.5"]).await else { return };
    let command = || {
        let mut command = python.command("python");
        command.arg(script("management.py"));
        command
    };
    // What boto3 makes of errors that have no message.
    let gone = json!({ "status": 410, "error": "GoneException", "message": "" });
    let large = json!({ "status": 413, "error": "PayloadTooLargeException", "message": "" });
    calls_are_answered(command, &gone, &large).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_javascript_sdk_calls_as_it_calls_aws() {
    let Some(node) = tools::node(&["@aws-sdk/client-apigatewaymanagementapi@3.1169.0"]).await
    else {
        return;
    };
    let command = || {
        let mut command = node.command();
        command.arg(script("management.js"));
        command
    };
    let gone = json!({ "status": 410, "error": "GoneException", "message": "UnknownError" });
    let large =
        json!({ "status": 413, "error": "PayloadTooLargeException", "message": "UnknownError" });
    calls_are_answered(command, &gone, &large).await;
}

async fn calls_are_answered(command: impl Fn() -> Command, gone: &Value, large: &Value) {
    let cluster = start().await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    // Another node than the owner's.
    let endpoint = format!("http://{}/dev", cluster.node(1).at("api"));
    let mut sdk = Sdk::start(command(), &endpoint, SECRET);
    let done = |status: u16| json!({ "status": status, "repetitions": 0, "sourceIp": null, "connectedAt": null });
    for text in ["hello", "", "größer"] {
        assert_eq!(sdk.call("post", &id, text.as_bytes()).await, done(200));
        assert_eq!(client.text().await, text);
    }
    let shown = sdk.call("get", &id, b"").await;
    assert_eq!((&shown["status"], &shown["sourceIp"]), (&json!(200), &json!("127.0.0.1")));
    assert!(shown["connectedAt"].as_f64().unwrap() > 1.7e9, "{shown}");
    assert_eq!(sdk.call("post", &id, &[b'x'; 128 * 1024 + 1]).await, *large);
    assert_eq!(sdk.call("post", UNKNOWN, b"x").await, *gone);
    let invalid = sdk.call("post", "AAAAAAAAAAAAAAA=", b"x").await;
    let message = "Invalid connectionId: AAAAAAAAAAAAAAA=";
    let error = "BadRequestException";
    assert_eq!(invalid, json!({ "status": 400, "error": error, "message": message }));
    let mut stranger = Sdk::start(command(), &endpoint, "another secret");
    let refused = stranger.call("post", &id, b"x").await;
    assert_eq!(
        (&refused["status"], &refused["error"]),
        (&json!(403), &json!("InvalidSignatureException"))
    );

    // The answer is lost, and the SDK repeats the call: once, and then twice.
    let proxy = LossyProxy::start(cluster.node(1).at("api")).await;
    let mut sdk = Sdk::start(command(), &format!("http://{}/dev", proxy.address), SECRET);
    for losses in [1, 2] {
        proxy.losses.store(losses, Ordering::Relaxed);
        let posted = sdk.call("post", &id, format!("lost {losses}").as_bytes()).await;
        assert_eq!(posted["status"], 200, "{posted}");
        assert_eq!(posted["repetitions"], losses, "{posted}");
    }
    assert_eq!(sdk.call("post", &id, b"last").await, done(200));
    for text in ["lost 1", "lost 2", "last"] {
        assert_eq!(client.text().await, text, "each once");
    }
    assert_eq!(sdk.call("delete", &id, b"").await, done(204));
    assert_eq!(client.closed().await, (1000, "Connection Closed Normally".to_owned()));
    assert_eq!(sdk.call("delete", &id, b"").await, *gone);
    assert_eq!(sdk.call("get", &id, b"").await, *gone);
}

async fn start() -> Cluster {
    let settings = format!(
        "api: {{ listen: \"{{ip}}:0\" }}\nprincipals:\n  backend:\n    permissions: ['dev/dev/*']\n    \
         access_keys: [{{ access_key_id: {KEY}, secret_access_key_file: secret }}]\n"
    );
    let options = Options { apis: ECHO_API.to_owned(), settings, ..Options::default() };
    let mut cluster = Cluster::prepare(options);
    std::fs::write(cluster.folder().join("secret"), SECRET).unwrap();
    cluster.bring_up(0..cluster.len()).await;
    cluster
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// A process that makes the calls it is bid.
struct Sdk {
    _child: Child,
    calls: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Sdk {
    fn start(mut command: Command, endpoint: &str, secret: &str) -> Sdk {
        command.args([endpoint, KEY, secret]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (calls, answers) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Sdk { _child: child, calls, answers: BufReader::new(answers).lines() }
    }

    async fn call(&mut self, name: &str, connection: &str, data: &[u8]) -> Value {
        let data = STANDARD.encode(data);
        let call = json!({ "name": name, "connection": connection, "data": data });
        self.calls.write_all(format!("{call}\n").as_bytes()).await.unwrap();
        let answer = within("an answer of the SDK", self.answers.next_line()).await.unwrap();
        serde_json::from_str(&answer.expect("the SDK runs")).unwrap()
    }
}

/// Between a caller and a node: it loses so many answers, and the connections that they came over.
struct LossyProxy {
    address: std::net::SocketAddr,
    losses: Arc<AtomicU32>,
}

impl LossyProxy {
    async fn start(node: std::net::SocketAddr) -> LossyProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let losses = Arc::new(AtomicU32::new(0));
        let own = losses.clone();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                tokio::spawn(relay(caller, node, own.clone()));
            }
        });
        LossyProxy { address, losses }
    }
}

async fn relay(caller: TcpStream, node: std::net::SocketAddr, losses: Arc<AtomicU32>) {
    let node = TcpStream::connect(node).await.unwrap();
    let ((mut asked, mut told), (mut answers, mut requests)) =
        (caller.into_split(), node.into_split());
    let asking = tokio::spawn(async move { tokio::io::copy(&mut asked, &mut requests).await });
    let mut answer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = answers.read(&mut answer).await {
        let is_lost = losses
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |losses| losses.checked_sub(1))
            .is_ok();
        if is_lost || told.write_all(&answer[..read]).await.is_err() {
            break;
        }
    }
    asking.abort();
}
