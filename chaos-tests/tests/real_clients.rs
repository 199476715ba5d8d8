//! Clients that others wrote, at the edge: Python's `websockets` and Node.js's `ws`.

use std::process::Stdio;

use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::lambda::Lambda;
use posthorn_chaos::{tools, within};
use posthorn_proto::v1::{DeleteConnectionRequest, PostToConnectionRequest};
use posthorn_proto::v1::{WaitFor, post_to_connection_request};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

#[tokio::test(flavor = "multi_thread")]
async fn pythons_websockets_are_served() {
    let Some(python) = tools::python(&["websockets==17.4"]).await else { return };
    let mut command = python.command("python");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_clients/client.py"));
    serve(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ws_of_node_is_served() {
    let Some(node) = tools::node(&["ws@8.23.0"]).await else { return };
    let mut command = node.command();
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real_clients/client.cjs"));
    serve(command).await;
}

/// Runs a client against a node of its own, and plays its backend.
async fn serve(mut client: Command) {
    let lambda = Lambda::start(|_, event| match event["queryStringParameters"]["refuse"] {
        Value::Null => Ok(json!({
            "statusCode": 200,
            "headers": { "Sec-WebSocket-Protocol": "chat" },
        })),
        _ => Ok(json!({ "statusCode": 403 })),
    })
    .await;
    let cluster = start(&lambda).await;
    client.arg(cluster.url(0)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().expect("the client can be started");
    let stdout = client.stdout.take().expect("stdout is piped");
    let line = within("an ID", BufReader::new(stdout).lines().next_line()).await;
    if let Ok(Some(id)) = line {
        call(&cluster, &id).await;
    }
    let output = within("the client's end", client.wait_with_output()).await;
    let output = output.expect("a child can be awaited");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let mut ended = Vec::new();
    while ended.len() < 2 {
        let context = lambda.invocation().await.event["requestContext"].clone();
        if context["eventType"] == "DISCONNECT" {
            let code = context["disconnectStatusCode"].clone();
            ended.push(json!([code, context["disconnectReason"]]));
        }
    }
    ended.sort_by_key(Value::to_string);
    assert_eq!(ended, [json!([4000, "enough"]), json!([4321, "bye bye"])]);
}

/// The client answers our Ping behind the message, and our Close frame.
async fn call(cluster: &Cluster, id: &str) {
    let mut grpc = cluster.grpc(0).await;
    let text = "from the backend".to_owned();
    let post = PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(post_to_connection_request::Payload::Text(text)),
        wait_for: WaitFor::Answered.into(),
        ..Default::default()
    };
    within("a Pong", grpc.post_to_connection(post)).await.expect("the client is there");
    let delete = DeleteConnectionRequest {
        connection_id: id.to_owned(),
        close_code: 4000,
        close_reason: "enough".to_owned(),
    };
    grpc.delete_connection(delete).await.expect("the client is there");
}

async fn start(lambda: &Lambda) -> Cluster {
    let apis = r"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      $connect: { target: integrations/function }
      $disconnect: { target: integrations/function }
      $default: { target: integrations/echo, route_response_selection_expression: $default }
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
    integrations:
      function: { integration_type: AWS_PROXY, integration_uri: door }
      echo: { integration_type: MOCK, mock_response: { echo: true } }
      whoami: { integration_type: MOCK, mock_response: { body: $context.connectionId } }
    stages: { dev: {} }
"
    .to_owned();
    let settings = format!("aws: {{ lambda_endpoint: \"{}\" }}\n", lambda.endpoint());
    Cluster::start(Options { nodes: 1, apis, settings }).await
}
