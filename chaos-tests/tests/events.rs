//! The events that functions get, field by field and in the order of API Gateway's recorded ones.

use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::lambda::Lambda;
use posthorn_core::route::json;
use serde_json::{Value, json};
use tungstenite::Message;

const APIS: &str = r"
apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      $connect: { target: integrations/function }
      $disconnect: { target: integrations/function }
      $default: { target: integrations/function }
      join: { target: integrations/function }
    integrations:
      function: { integration_type: AWS_PROXY, integration_uri: chat }
    stages:
      dev: {}
      varied: { stage_variables: { color: blue } }
";

/// An event as it came, beside what it means.
struct Event {
    raw: String,
    value: Value,
}

impl Event {
    async fn next(lambda: &Lambda) -> Event {
        let invocation = lambda.invocation().await;
        let raw = String::from_utf8(invocation.body.into()).expect("JSON is text");
        Event { raw, value: invocation.event }
    }

    /// The names of the members at a path, in their order.
    fn members(&self, path: &[&str]) -> Vec<String> {
        let path: Vec<_> = path.iter().map(|name| json::Key::Name((*name).into())).collect();
        let object = json::find(&self.raw, &path).expect("it is JSON").expect("it is there");
        object.members().map(|(name, _)| name.decode().into_owned()).collect()
    }

    fn context(&self, key: &str) -> &Value {
        &self.value["requestContext"][key]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_those_of_api_gateway_to_the_order_of_their_members() {
    let lambda = Lambda::start(|_, _| Ok(json!({ "statusCode": 200 }))).await;
    let settings = format!("aws: {{ lambda_endpoint: \"{}\" }}\n", lambda.endpoint());
    let apis = APIS.to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis, settings }).await;
    let edge = cluster.node(0).at("edge");

    let url = "ws://Chat.Example:8080/dev/?a=1&b=%C3%BC&a=2";
    let mut client = Client::connect_at(edge, url).await.expect("it is let in");
    let connect = Event::next(&lambda).await;
    assert_connect(&connect, edge.port());

    client.send(r#"{"action":"join","text":"ü"}"#).await;
    let message = Event::next(&lambda).await;
    assert_eq!(message.members(&[]), ["requestContext", "body", "isBase64Encoded"]);
    let members = message.members(&["requestContext"]);
    assert_eq!(members[..3], ["routeKey", "messageId", "eventType"]);
    assert_eq!(members[3..], connect.members(&["requestContext"])[2..]);
    assert_common(&message, "join", "MESSAGE");
    assert_eq!(message.value["body"], r#"{"action":"join","text":"ü"}"#);
    assert_eq!(message.context("messageId").as_str().map(str::len), Some(16));
    for key in ["connectionId", "connectedAt", "domainName", "identity"] {
        assert_eq!(message.context(key), connect.context(key), "{key}");
    }
    client.send_message(Message::binary(vec![0, 255])).await;
    let binary = Event::next(&lambda).await;
    assert_eq!(binary.value["body"], "AP8=");
    assert_eq!(binary.value["isBase64Encoded"], true);
    assert_eq!(binary.context("routeKey"), "$default");

    client.close().await;
    assert_disconnect(&Event::next(&lambda).await);

    let url = "ws://chat.example/varied";
    let client = Client::connect_at(edge, url).await.expect("it is let in");
    let connect = Event::next(&lambda).await;
    let members = connect.members(&[]);
    let without_query =
        ["headers", "multiValueHeaders", "requestContext", "stageVariables", "isBase64Encoded"];
    assert_eq!(members, without_query);
    assert_eq!(connect.value["stageVariables"], json!({ "color": "blue" }));
    drop(client);
    let lost = Event::next(&lambda).await;
    assert_eq!(lost.context("disconnectStatusCode"), 1006);
}

fn assert_connect(connect: &Event, port: u16) {
    assert_eq!(
        connect.members(&[]),
        [
            "headers",
            "multiValueHeaders",
            "queryStringParameters",
            "multiValueQueryStringParameters",
            "requestContext",
            "isBase64Encoded"
        ]
    );
    assert_eq!(
        connect.members(&["requestContext"]),
        [
            "routeKey",
            "eventType",
            "extendedRequestId",
            "requestTime",
            "messageDirection",
            "stage",
            "connectedAt",
            "requestTimeEpoch",
            "identity",
            "requestId",
            "domainName",
            "connectionId",
            "apiId",
            "posthorn"
        ]
    );
    assert_common(connect, "$connect", "CONNECT");
    assert_eq!(connect.value["queryStringParameters"], json!({ "a": "2", "b": "ü" }));
    let all = json!({ "a": ["1", "2"], "b": ["ü"] });
    assert_eq!(connect.value["multiValueQueryStringParameters"], all);
    let headers = &connect.value["headers"];
    for header in ["Connection", "Upgrade", "connection", "upgrade"] {
        assert!(headers[header].is_null(), "{header}");
    }
    for header in ["Sec-WebSocket-Key", "Sec-WebSocket-Version", "Host", "X-Forwarded-For"] {
        let found = headers.as_object().expect("a map").iter();
        let mut found = found.filter(|(name, _)| name.eq_ignore_ascii_case(header));
        let (name, value) = found.next().expect(header);
        assert_eq!(connect.value["multiValueHeaders"][name], json!([value]), "{header}");
    }
    assert!(headers["X-Amzn-Trace-Id"].as_str().expect("a trace").starts_with("Root=1-"));
    assert_eq!(headers["X-Forwarded-Port"], port.to_string());
    assert_eq!(headers["X-Forwarded-Proto"], "http");
}

fn assert_disconnect(disconnect: &Event) {
    assert_eq!(
        disconnect.members(&[]),
        ["headers", "multiValueHeaders", "requestContext", "isBase64Encoded"]
    );
    let members = disconnect.members(&["requestContext"]);
    assert_eq!(members[..3], ["routeKey", "disconnectStatusCode", "eventType"]);
    assert_eq!(members[5..8], ["messageDirection", "disconnectReason", "stage"]);
    assert_common(disconnect, "$disconnect", "DISCONNECT");
    assert_eq!(disconnect.context("disconnectStatusCode"), 1005);
    let reason = "Client-side close frame status not set";
    assert_eq!(disconnect.context("disconnectReason"), reason);
    let host = "chat.example:8080";
    let headers = json!({ "Host": host, "x-api-key": "", "X-Forwarded-For": "", "x-restapi": "" });
    assert_eq!(disconnect.value["headers"], headers);
    assert_eq!(disconnect.value["multiValueHeaders"]["Host"], json!([host]));
}

/// What every event says.
fn assert_common(event: &Event, route: &str, kind: &str) {
    let expected = json!({
        "routeKey": route,
        "eventType": kind,
        "messageDirection": "IN",
        "stage": "dev",
        "apiId": "chat",
        "domainName": "chat.example",
    });
    for (key, value) in expected.as_object().expect("a map") {
        assert_eq!(event.context(key), value, "{key}");
    }
    assert_eq!(event.context("extendedRequestId"), event.context("requestId"));
    assert_eq!(event.context("requestId").as_str().map(str::len), Some(16));
    let (connected, at) = (event.context("connectedAt"), event.context("requestTimeEpoch"));
    assert!(connected.as_u64().expect("a time") <= at.as_u64().expect("a time"));
    let time = event.context("requestTime").as_str().expect("a time");
    assert_eq!((time.len(), &time[time.len() - 6..]), (26, " +0000"), "{time}");
    // A client that sends no User-Agent has none.
    let identity = event.context("identity").as_object().expect("a map");
    assert_eq!(identity.keys().collect::<Vec<_>>(), ["sourceIp"]);
    let is_base64 = &event.value["isBase64Encoded"];
    assert_eq!(is_base64, false);
}
