//! Examples do what they say, and pages show them as they are.

use std::process::Stdio;

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, tools, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use crate::pages;
use crate::root;

const TOKEN: &str = "chat's own";
/// Of that token.
const TOKEN_SHA256: &str = "53766ca85a90375cf31ab16612e6e05234f7c0f877f0a0839d7c990af5e74631";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// A program, its standard output line by line.
struct Program {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

#[test]
fn pages_show_examples_as_they_are() {
    let pages = pages::all();
    let mut shown = Vec::new();
    for block in pages.iter().flat_map(|page| &page.blocks) {
        if let Some(file) = block.mark("file") {
            let text = std::fs::read_to_string(root().join(file));
            let text = text.unwrap_or_else(|error| panic!("{block}: {file}: {error}"));
            assert!(text.contains(&block.text), "{block} is not as {file} has it");
            shown.push(file);
        }
    }
    for file in std::fs::read_dir(root().join("docs/examples")).expect("examples") {
        let name = file.expect("an entry can be read").file_name();
        let name = format!("docs/examples/{}", name.to_string_lossy());
        assert!(shown.contains(&&*name), "no page shows {name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_in_python_is_a_chat_room() {
    let Some(python) = tools::python(&["boto3==1.44.5"]).await else { return };
    let mut backend = python.command("python");
    backend.arg(root().join("docs/examples/backend.py"));
    is_a_chat_room(backend, "HTTP_EVENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_in_node_is_a_chat_room() {
    let Some(node) = tools::node(&[]).await else { return };
    let mut backend = node.command();
    backend.arg(root().join("docs/examples/backend.mjs"));
    is_a_chat_room(backend, "HTTP_EVENT").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backend_in_rust_is_a_chat_room() {
    let file = binary().with_file_name("examples").join("backend");
    assert!(file.exists(), "{} is missing: run cargo test --workspace", file.display());
    is_a_chat_room(Command::new(file), "GRPC").await;
}

async fn is_a_chat_room(mut backend: Command, integration: &str) {
    let (cluster, listen) = start(integration).await;
    let api = cluster.node(2).at("api");
    let endpoint = match integration {
        "GRPC" => format!("http://{api}"),
        _ => format!("http://{api}/dev"),
    };
    backend.args([&listen, &endpoint]);
    backend.env("POSTHORN_TOKEN", TOKEN);
    backend.env("AWS_ACCESS_KEY_ID", "AKIDCHAT").env("AWS_SECRET_ACCESS_KEY", SECRET);
    let mut backend = Program::start(backend);
    assert_eq!(backend.line().await, "listening");

    let refused = Client::knock(&cluster.url(0), &[]).await.err().expect("nobody");
    assert_eq!(
        (refused.status, &refused.body["message"]),
        (400, &json!("say who you are: ?name=…"))
    );
    let enter = async |node, name: &str| {
        Client::connect(&format!("{}?name={name}", cluster.url(node))).await.expect("it is let in")
    };
    let (mut ann, mut ben) = (enter(0, "ann").await, enter(1, "ben").await);
    let say = async |client: &mut Client, text: &str| -> Value {
        client.send(&json!({ "action": "say", "text": text }).to_string()).await;
        serde_json::from_str(&client.text().await).expect("it is JSON")
    };
    assert_eq!(say(&mut ann, "hello").await, json!({ "heard_by": 1 }));
    let heard: Value = serde_json::from_str(&ben.text().await).expect("it is JSON");
    assert_eq!(heard, json!({ "from": "ann", "text": "hello" }));
    ben.close().await;
    let alone = async { while say(&mut ann, "anybody?").await != json!({ "heard_by": 0 }) {} };
    within("nobody to listen", alone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_in_python_comes_back() {
    let Some(python) = tools::python(&["websockets==17.4"]).await else { return };
    let mut client = python.command("python");
    client.arg(root().join("docs/examples/client.py"));
    comes_back(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_of_browsers_comes_back() {
    // Node.js has no WebSocket of its own before its release 22.
    let Some(node) = tools::node(&["ws@8.23.0"]).await else { return };
    let script = "
        import { createRequire } from 'node:module';
        globalThis.WebSocket ??= createRequire(import.meta.url)('ws');
        const [module, url] = process.argv.slice(1);
        const { connect } = await import(module);
        connect(url, {
          onOpen: () => console.log('connected'),
          onMessage: console.log,
          onEnd: (code) => console.log(`ended with ${code}`),
        });";
    let mut client = node.command();
    client.args(["--input-type=module", "--eval", script]);
    client.arg(root().join("docs/examples/client.mjs"));
    comes_back(client).await;
}

/// It is refused for a while, its node is restarted, it is told to come again, then it is sent away.
async fn comes_back(mut command: Command) {
    let settings =
        "edge: { listen: \"{ip}:8080\", connections_max: 1, retry_after_max_s: 1 }\n".to_owned();
    let mut cluster = Cluster::start(Options { nodes: 1, settings, ..Options::default() }).await;
    let mut occupant = cluster.client(0).await;
    command.arg(cluster.url(0));
    let mut client = Program::start(command);
    eventually("a refusal", || async {
        let refused = "posthorn_handshakes_refused_total{cause=\"too_many\"}";
        cluster.metric(0, refused).await.filter(|refused| *refused > 0.0)
    })
    .await;
    occupant.close().await;
    drop(occupant);
    assert_eq!(client.line_that_tells().await, "connected");
    let node = cluster.take(0);
    node.signal(nix::sys::signal::Signal::SIGTERM);
    node.wait().await;
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    assert_eq!(client.line_that_tells().await, "connected");

    let id = only_connection(&cluster).await;
    let mut grpc = cluster.grpc(0).await;
    let close = |connection_id, close_code| posthorn_proto::v1::DeleteConnectionRequest {
        connection_id,
        close_code,
        close_reason: String::new(),
    };
    grpc.delete_connection(close(id, 1013)).await.expect("it is there");
    assert_eq!(client.line_that_tells().await, "connected");
    let id = only_connection(&cluster).await;
    grpc.delete_connection(close(id, 1008)).await.expect("it is there");
    assert_eq!(client.line_that_tells().await, "ended with 1008");
}

async fn only_connection(cluster: &Cluster) -> String {
    let mut grpc = cluster.grpc(0).await;
    let list = posthorn_proto::v1::ListConnectionsRequest::default();
    let listed = grpc.list_connections(list).await.expect("a page").into_inner();
    let [connection] = &listed.connections[..] else { panic!("{listed:?}") };
    connection.connection_id.clone()
}

impl Program {
    fn start(mut command: Command) -> Program {
        command.stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("it can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        Program { lines: BufReader::new(stdout).lines(), _child: child }
    }

    async fn line(&mut self) -> String {
        let line = within("a line", self.lines.next_line()).await.expect("it prints text");
        line.expect("it goes on")
    }

    /// Passes over what it says of waiting.
    async fn line_that_tells(&mut self) -> String {
        loop {
            let line = self.line().await;
            if !line.contains("again in") {
                return line;
            }
        }
    }
}

/// A cluster whose backend is at the address that it returns.
async fn start(integration: &str) -> (Cluster, String) {
    // Free again, and nobody else is likely to take it so soon.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let listen = listener.local_addr().expect("a listener has an address").to_string();
    drop(listener);
    let route = "target: integrations/backend";
    let apis = format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ {route} }}\n      $disconnect: {{ {route} }}\n      \
         say: {{ {route}, route_response_selection_expression: $default }}\n    integrations:\n      \
         backend: {{ integration_type: {integration}, integration_uri: \"http://{listen}\" }}\n    \
         stages: {{ dev: {{}} }}\n"
    );
    let settings = format!(
        "api: {{ listen: \"{{ip}}:0\" }}\nprincipals:\n  chat:\n    permissions: ['dev/dev/post']\n    \
         token_sha256: [{TOKEN_SHA256}]\n    \
         access_keys: [{{ access_key_id: AKIDCHAT, secret_access_key_file: secret }}]\n"
    );
    let mut cluster = Cluster::prepare(Options { apis, settings, ..Options::default() });
    std::fs::write(cluster.folder().join("secret"), SECRET).expect("a file can be written");
    cluster.bring_up(0..cluster.len()).await;
    (cluster, listen)
}
