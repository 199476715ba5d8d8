//! What operators see of an API.

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_proto::v1::PostToConnectionRequest;

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
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
      echo: {{ integration_type: MOCK, mock_response: {{ echo: true }} }}
      closed: {{ integration_type: HTTP_EVENT, integration_uri: "http://127.0.0.1:1/" }}
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
