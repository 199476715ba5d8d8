//! What operators see of an API.

use std::path::Path;

use futures_util::{SinkExt as _, StreamExt as _};
use nix::sys::signal::Signal;
use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::management::Management;
use posthorn_proto::v1::PostToConnectionRequest;
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

/// A node with an API whose messages go to the backend, by a route whose name is hard to write down.
async fn observed(backend: &Backend, stage: &str) -> Cluster {
    let apis = format!(
        r#"apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      $connect: {{ target: integrations/backend }}
      $disconnect: {{ target: integrations/backend }}
      'say "hi" \ ü': {{ target: integrations/backend, route_response_selection_expression: $default }}
      echo: {{ target: integrations/echo, route_response_selection_expression: $default }}
      closed: {{ target: integrations/closed }}
      fitting:
        target: integrations/echo
        route_response_selection_expression: $default
        model_selection_expression: $request.body.kind
        request_models: {{ $default: named }}
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
      echo: {{ integration_type: MOCK, mock_response: {{ echo: true }} }}
      closed: {{ integration_type: HTTP_EVENT, integration_uri: "http://127.0.0.1:1/" }}
    models: {{ named: {{ schema: {{ type: object, required: [name] }} }} }}
    stages:
      dev: {{ {stage} }}
"#,
        backend.url()
    );
    Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await
}

const SAY: &str = r#"{"action":"say \"hi\" \\ ü"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_api_is_counted_by_stage_and_route() {
    let backend = Backend::start(|event| {
        let is_bad = event["queryStringParameters"]["bad"].is_string();
        (if is_bad { 403 } else { 200 }, "hi".to_owned())
    })
    .await;
    let cluster = observed(&backend, "").await;
    let mut client = cluster.client(0).await;
    Client::connect(&format!("{}?bad=1", cluster.url(0))).await.err().unwrap();
    client.send(r#"{"action":"echo"}"#).await;
    client.text().await;
    for message in [SAY, SAY, r#"{"action":"closed"}"#, "no route"] {
        client.send(message).await;
        client.text().await;
    }
    let id = backend.event_of("MESSAGE").await["requestContext"]["connectionId"].clone();
    let connection_id = id.as_str().unwrap().to_owned();
    let post = PostToConnectionRequest { connection_id, ..Default::default() };
    cluster.grpc(0).await.post_to_connection(post).await.unwrap();
    client.text().await;
    client.close().await;
    backend.event_of("DISCONNECT").await;

    let say = r#"route="say \"hi\" \\ ü""#;
    for (series, expected) in [
        (r#"connects_total{api="chat",stage="dev"}"#.to_owned(), 2.0),
        (format!(r#"messages_total{{api="chat",stage="dev",{say},direction="received"}}"#), 2.0),
        (format!(r#"messages_total{{api="chat",stage="dev",{say},direction="sent"}}"#), 2.0),
        (messages("echo", "received"), 1.0),
        (messages("echo", "sent"), 1.0),
        (messages("closed", "received"), 1.0),
        (messages("closed", "sent"), 1.0),
        (messages("", "received"), 1.0),
        // An error frame and a post.
        (messages("", "sent"), 2.0),
        (errors("client", ""), 1.0),
        (errors("integration", "$connect"), 1.0),
        (errors("integration", "closed"), 0.0),
        (errors("execution", "closed"), 1.0),
        (errors("execution", "echo"), 0.0),
        (latencies("$connect"), 2.0),
        (latencies("$disconnect"), 1.0),
        (latencies("closed"), 1.0),
        (format!(r#"integration_latency_seconds_count{{api="chat",stage="dev",{say}}}"#), 2.0),
    ] {
        let series = format!("posthorn_api_{series}");
        let is_there = || async { (cluster.metric(0, &series).await? == expected).then_some(()) };
        eventually(&format!("{series} {expected}"), is_there).await;
    }
    // A mock has no latency.
    let (_, text) = cluster.get(0, "/metrics").await.unwrap();
    let echo = r#"integration_latency_seconds_count{api="chat",stage="dev",route="echo"} "#;
    assert!(!text.contains(&format!("posthorn_api_{echo}")) || text.contains(&format!("{echo}0")));
    assert!(text.contains("# HELP posthorn_api_messages_total "), "{text}");
}

fn messages(route: &str, direction: &str) -> String {
    format!(r#"messages_total{{api="chat",stage="dev",route="{route}",direction="{direction}"}}"#)
}

fn errors(kind: &str, route: &str) -> String {
    format!(r#"{kind}_errors_total{{api="chat",stage="dev",route="{route}"}}"#)
}

fn latencies(route: &str) -> String {
    format!(r#"integration_latency_seconds_count{{api="chat",stage="dev",route="{route}"}}"#)
}

const FORMAT: &str = r#"{
  "id": "$context.requestId", "event": "$context.eventType", "route": $context.routeKey,
  "status": $context.status, "error": $context.error.message, "agent": $context.identity.userAgent,
  "connection": "$context.connectionId", "integration": $context.integration.status,
  "latency": $context.integrationLatency, "failed": $context.integration.error,
  "code": $context.disconnectStatusCode, "reason": $context.disconnectReason,
  "misfit": $context.error.validationErrorString, "direction": $context.messageDirection,
  "connected": $context.connectedAt, "address": "$context.identity.sourceIp",
  "place": "$context.apiId/$context.stage", "kind": $context.error.responseType,
  "said": "$context.error.messageString"
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_a_line_of_the_access_log() {
    let backend = Backend::start(|event| {
        let is_bad = event["queryStringParameters"]["bad"].is_string();
        (if is_bad { 403 } else { 200 }, "hi".to_owned())
    })
    .await;
    let format = serde_json::to_string(FORMAT).unwrap();
    let settings = format!(
        "access_log_settings: {{ destination: access.log, format: {format} }}, \
         allowed_origins: ['https://good.example']"
    );
    let cluster = observed(&backend, &settings).await;
    let log = cluster.folder().join("access.log");
    Client::connect(&format!("{}?bad=1", cluster.url(0))).await.err().unwrap();
    let mut request = cluster.url(0).into_client_request().unwrap();
    request.headers_mut().insert("origin", "https://bad.example".parse().unwrap());
    tokio_tungstenite::connect_async(request).await.err().unwrap();
    let lines = lines_of(&log, 2).await;
    for (line, expected) in lines.iter().zip([
        json!(["CONNECT", "$connect", 403, null, 403]),
        json!(["CONNECT", "$connect", 403, "Forbidden", null]),
    ]) {
        assert_eq!(outline(line), expected, "{line}");
    }
    assert_eq!((&lines[0]["kind"], &lines[0]["said"]), (&Value::Null, &json!("-")));
    let said = (&json!("ACCESS_DENIED"), &json!("\"Forbidden\""));
    assert_eq!((&lines[1]["kind"], &lines[1]["said"]), said);

    // Whoever rotates it renames it, and need not tell us.
    std::fs::rename(&log, log.with_extension("1")).unwrap();
    let mut request = cluster.url(0).into_client_request().unwrap();
    let agent = "a \"browser\" \\";
    request.headers_mut().insert("user-agent", agent.parse().unwrap());
    let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
    let mut told = Vec::new();
    for message in [SAY, r#"{"action":"echo"}"#, r#"{"action":"closed"}"#, "no route"] {
        socket.send(Message::text(message)).await.unwrap();
        told.push(socket.next().await.unwrap().unwrap().to_string());
    }
    socket.close(None).await.unwrap();
    let lines = lines_of(&log, 6).await;
    let expected = [
        json!(["CONNECT", "$connect", 200, null, 200]),
        json!(["MESSAGE", "say \"hi\" \\ ü", 200, null, 200]),
        json!(["MESSAGE", "echo", 200, null, null]),
        json!(["MESSAGE", "closed", 500, "Internal server error", null]),
        json!(["MESSAGE", null, 403, "Forbidden", null]),
        json!(["DISCONNECT", "$disconnect", 200, null, 200]),
    ];
    for (line, expected) in lines.iter().zip(&expected) {
        assert_eq!(outline(line), *expected, "{line}");
        assert_eq!(line["agent"], agent);
    }
    assert!(lines[1]["latency"].is_u64() && lines[2]["latency"].is_null(), "{lines:?}");
    assert!(lines[3]["failed"].is_string(), "{}", lines[3]);
    assert_eq!(lines[3]["kind"], "INTEGRATION_FAILURE");
    assert_eq!((&lines[5]["code"], lines[5]["reason"].is_string()), (&json!(1005), true));
    // What the client is told can be found.
    for (line, told) in [(&lines[3], &told[2]), (&lines[4], &told[3])] {
        let told: Value = serde_json::from_str(told).unwrap();
        assert_eq!((&told["requestId"], &told["connectionId"]), (&line["id"], &line["connection"]));
    }
    // Its end is written as well.
    let mut client = cluster.client(0).await;
    let mut cluster = cluster;
    let node = cluster.take(0);
    node.signal(Signal::SIGTERM);
    client.closed().await;
    // Our own Close frame leaves with the next look.
    client.next().await.unwrap_err();
    node.wait().await;
    let lines = lines_of(&log, 8).await;
    assert_eq!((&lines[7]["event"], &lines[7]["code"]), (&json!("DISCONNECT"), &json!(1012)));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_the_connections_api_and_what_models_refuse_are_logged() {
    let backend = Backend::start(|_| (200, "hi".to_owned())).await;
    let format = serde_json::to_string(FORMAT).unwrap();
    let settings = format!("access_log_settings: {{ destination: access.log, format: {format} }}");
    let cluster = observed(&backend, &settings).await;
    let log = cluster.folder().join("access.log");
    let mut client = cluster.client(0).await;
    for message in [r#"{"action":"fitting","name":"a"}"#, r#"{"action":"fitting"}"#] {
        client.send(message).await;
        client.text().await;
    }
    let lines = lines_of(&log, 3).await;
    assert_eq!(lines[1]["misfit"], Value::Null);
    assert_eq!(lines[2]["misfit"], "\"name\" is a required property");
    assert_eq!(lines[2]["kind"], "BAD_REQUEST_BODY");
    assert_eq!(outline(&lines[2]), json!(["MESSAGE", "fitting", 400, "Bad request body", null]));

    let id = lines[0]["connection"].as_str().unwrap();
    let gone = "AAAAAAAAAAAAAAAAAAAAAA";
    let api = Management::new(cluster.node(0).at("api"));
    for (count, (method, id, status, error)) in (4..).zip([
        ("POST", id, 200, None),
        ("GET", id, 200, None),
        ("POST", gone, 410, Some("GoneException")),
        ("GET", gone, 410, Some("GoneException")),
    ]) {
        let path = format!("/dev/@connections/{id}");
        let answer = api.call(method, &path, &[("user-agent", "a backend")], b"hello").await;
        assert_eq!(answer.status, status);
        let lines = lines_of(&log, count).await;
        let is_call = |line: &&Value| line["event"] == "CONNECTION_API";
        let line = lines.iter().rfind(is_call).unwrap();
        let route = format!("{method} /@connections/{{connectionId}}");
        assert_eq!(outline(line), json!(["CONNECTION_API", route, status, error, null]));
        assert_eq!(line["id"], answer.header("x-amz-apigw-id").unwrap());
        assert_eq!((&line["connection"], &line["agent"]), (&json!(id), &json!("a backend")));
        assert_eq!((&line["direction"], &line["connected"]), (&Value::Null, &Value::Null));
        assert_eq!((&line["address"], &line["place"]), (&json!("127.0.0.1"), &json!("chat/dev")));
    }
}

fn outline(line: &Value) -> Value {
    ["event", "route", "status", "error", "integration"].map(|key| line[key].clone()).into()
}

async fn lines_of(log: &Path, count: usize) -> Vec<Value> {
    eventually("a log", || async {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let lines = text.lines().map(|line| serde_json::from_str(line).expect(line));
        let lines: Vec<Value> = lines.collect();
        (lines.len() >= count).then_some(lines)
    })
    .await
}
