//! An application in the shape of AWS's own chat sample: three functions, a table of connections, and
//! a broadcast that posts to each. It knows nothing of Posthorn: its endpoint is made of what the event
//! says, `https://{domainName}/{stage}`, and a name of API Gateway's leads to the nodes, which speak TLS
//! under it.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::papers::Authority;
use posthorn_chaos::tools::{self, Python};
use posthorn_chaos::{eventually, within};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Child;
use tokio_rustls::client::TlsStream;

const HOST: &str = "chat.execute-api.eu-west-1.amazonaws.com";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

#[tokio::test(flavor = "multi_thread")]
async fn awss_chat_sample_runs_with_nothing_changed() {
    let Some(python) = tools::python(&["boto3==1.44.5"]).await else { return };
    let authority = Authority::new();
    let front = Front::listen().await;
    let sample = Sample::start(&python, &front, &authority).await;
    let cluster = start(&sample, &authority).await;
    let apis = (0..cluster.len()).map(|index| cluster.node(index).at("api")).collect();
    front.lead_to(apis);

    let mut clients = Vec::new();
    for index in 0..cluster.len() {
        clients.push(connect(&cluster, index, &authority).await);
    }
    assert_eq!(sample.connections().await, 3);
    for (index, text) in ["hello", "grüß dich", "{\"nested\":\"JSON\"}"].into_iter().enumerate() {
        clients[index].send(&json!({ "action": "sendmessage", "data": text }).to_string()).await;
        for client in &mut clients {
            assert_eq!(client.text().await, text);
        }
    }
    // Who has left is told of, and taken out of the table.
    clients.remove(1).close().await;
    eventually("two connections in the table", || async {
        (sample.connections().await == 2).then_some(())
    })
    .await;
    // What the table still has of one that is gone is found out by posting to it.
    sample.put("AAAAAAAAAAAAAAAAAAAAAA").await;
    clients[0].send(r#"{"action":"sendmessage","data":"are you there"}"#).await;
    for client in &mut clients {
        assert_eq!(client.text().await, "are you there");
    }
    eventually("the stale connection's end", || async {
        (sample.connections().await == 2).then_some(())
    })
    .await;
    // A function that throws is told to its client alone.
    clients[0].send(r#"{"action":"sendmessage"}"#).await;
    let frame = clients[0].text().await;
    assert!(frame.starts_with(r#"{"message": "Internal server error", "#), "{frame}");
}

async fn connect(
    cluster: &Cluster,
    index: usize,
    authority: &Authority,
) -> Client<TlsStream<TcpStream>> {
    let (edge, url) = (cluster.node(index).at("edge"), format!("wss://{HOST}/prod"));
    let config = authority.client(rustls::ALL_VERSIONS);
    Client::connect_over_tls(edge, &url, config).await.expect("it is let in")
}

async fn start(sample: &Sample, authority: &Authority) -> Cluster {
    let function = |name: &str| {
        format!(
            "      {name}: {{ integration_type: AWS_PROXY, integration_uri: \
             'arn:aws:apigateway:eu-west-1:lambda:path/2015-03-31/functions/{name}/invocations' }}\n"
        )
    };
    let apis = format!(
        "apis:\n  chat:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/onconnect }}\n      \
         $disconnect: {{ target: integrations/ondisconnect }}\n      \
         sendmessage: {{ target: integrations/sendmessage }}\n    integrations:\n{}{}{}    \
         stages: {{ prod: {{}} }}\n",
        function("onconnect"),
        function("ondisconnect"),
        function("sendmessage"),
    );
    let tls = "tls: { cert_file: chat.pem, key_file: chat.key }";
    let settings = format!(
        "edge: {{ listen: \"{{ip}}:0\", {tls} }}\napi: {{ listen: \"{{ip}}:0\", {tls} }}\naws: {{ region: eu-west-1, lambda_endpoint: \"http://127.0.0.1:{}\" }}\nprincipals:\n  \
         chat:\n    permissions: ['chat/prod/post']\n    \
         access_keys: [{{ access_key_id: AKIDCHAT, secret_access_key_file: secret }}]\n",
        sample.functions
    );
    let mut cluster = Cluster::prepare(Options { nodes: 3, apis, settings });
    std::fs::write(cluster.folder().join("secret"), SECRET).expect("a file can be written");
    authority.papers(&[HOST]).write(cluster.folder(), "chat");
    cluster.bring_up(0..cluster.len()).await;
    cluster
}

/// The application.
struct Sample {
    _runtime: Child,
    /// The authority's certificate.
    _trusted: tempfile::NamedTempFile,
    table: u16,
    functions: u16,
}

impl Sample {
    async fn start(python: &Python, front: &Front, authority: &Authority) -> Sample {
        let trusted = tempfile::NamedTempFile::new().expect("a file can be made");
        std::fs::write(trusted.path(), authority.pem()).expect("a file can be written");
        let mut command = python.command("python");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chat_sample/runtime.py"))
            .env("TABLE_NAME", "simplechat_connections")
            .env("AWS_REGION", "eu-west-1")
            .env("AWS_DEFAULT_REGION", "eu-west-1")
            .env("AWS_ACCESS_KEY_ID", "AKIDCHAT")
            .env("AWS_SECRET_ACCESS_KEY", SECRET)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("PYTHONDONTWRITEBYTECODE", "1")
            // In place of a resolver that knows the name.
            .env("HTTPS_PROXY", format!("http://{}", front.address))
            .env("NO_PROXY", "127.0.0.1")
            .env("AWS_CA_BUNDLE", trusted.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut runtime = command.spawn().expect("Python can be started");
        let stdout = runtime.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let line = within("the runtime", lines.next_line()).await;
        let line = line.expect("stdout can be read").expect("the handlers can be loaded");
        // What the handlers print is read as well, or printing would be an error of theirs.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let mut ports = line.split(' ').map(|port| port.parse().expect("a port"));
        let mut next = || ports.next().expect("two ports");
        Sample { _runtime: runtime, _trusted: trusted, table: next(), functions: next() }
    }

    /// How many connections its table has.
    async fn connections(&self) -> u64 {
        let answer = self.ask("Scan", &json!({ "TableName": "simplechat_connections" })).await;
        answer["Count"].as_u64().expect("a number")
    }

    async fn put(&self, connection: &str) {
        self.ask("PutItem", &json!({ "Item": { "connectionId": { "S": connection } } })).await;
    }

    async fn ask(&self, operation: &str, request: &Value) -> Value {
        let request = request.to_string();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: dynamodb\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\n\
             Content-Length: {}\r\n\r\n{request}",
            request.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.table)).await.expect("it listens");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut bytes = [0; 4096];
            let read = within("an answer", stream.read(&mut bytes)).await.expect("it answers");
            answer.push_str(std::str::from_utf8(&bytes[..read]).expect("JSON is text"));
        }
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        serde_json::from_str(body).expect("it is JSON")
    }
}

/// What knows the way to API Gateway's name: it leads each connection to the next node, whatever is
/// said on it. It is reached as a proxy.
struct Front {
    address: SocketAddr,
    nodes: Arc<std::sync::OnceLock<Vec<SocketAddr>>>,
}

impl Front {
    async fn listen() -> Front {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let nodes: Arc<std::sync::OnceLock<Vec<SocketAddr>>> = Arc::default();
        let known = nodes.clone();
        tokio::spawn(async move {
            let turn = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let nodes = known.get().expect("the cluster runs");
                let node = nodes[turn.fetch_add(1, Ordering::Relaxed) % nodes.len()];
                tokio::spawn(pass_on(stream, node));
            }
        });
        Front { address, nodes }
    }

    fn lead_to(&self, nodes: Vec<SocketAddr>) {
        self.nodes.set(nodes).expect("it is said once");
    }
}

async fn pass_on(mut client: TcpStream, node: SocketAddr) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.expect("a proxy is told where to"));
    }
    assert!(head.starts_with(format!("CONNECT {HOST}:443 ").as_bytes()), "{head:?}");
    client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("it waits for that");
    let mut node = TcpStream::connect(node).await.expect("the node listens");
    // Whoever ends it ends it.
    let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
}
