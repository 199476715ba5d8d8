//! What an API leads to: functions, servers, authorizers.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::grpc::{GrpcBackend, connect_event, message_event};
use posthorn_chaos::lambda::Lambda;
use posthorn_core::auth::sigv4::{self, Credentials, Expectation, UnsignedPayload};
use serde_json::{Value, json};
use tungstenite::Message;
use tungstenite::client::IntoClientRequest as _;

const FUNCTION: &str = "arn:aws:lambda:eu-west-1:123456789012:function:chat";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

/// One node whose API sends everything to the function, replies included.
async fn with_function(lambda: &Lambda, connect: &str, more: &str) -> Cluster {
    let apis = format!(
        "apis:\n  chat:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/function{connect} }}\n      \
         $disconnect: {{ target: integrations/function }}\n      \
         $default: {{ target: integrations/function, route_response_selection_expression: $default }}\n      \
         quiet: {{ target: integrations/function }}\n    \
         integrations:\n      function:\n        integration_type: AWS_PROXY\n        integration_uri: \
         'arn:aws:apigateway:eu-west-1:lambda:path/2015-03-31/functions/{FUNCTION}:${{stageVariables.alias}}/invocations'\n    \
         stages:\n      dev: {{ stage_variables: {{ alias: live }}{more} }}\n    \
         authorizers:\n      who: {{ authorizer_type: REQUEST, authorizer_uri: '{FUNCTION}-who', \
         identity_source: [route.request.querystring.token] }}\n"
    );
    let settings = format!(
        "aws:\n  region: eu-west-1\n  account_id: '123456789012'\n  lambda_endpoint: \"{}\"\n  \
         access_key_id: AKIDEXAMPLE\n  secret_access_key_file: secret\n",
        lambda.endpoint()
    );
    let options = Options { nodes: 1, apis, settings };
    let mut cluster = Cluster::prepare(options);
    std::fs::write(cluster.folder().join("secret"), format!("{SECRET}\n")).unwrap();
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    cluster
}

fn ok(body: &str) -> Value {
    json!({ "statusCode": 200, "body": body })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_gets_every_event_signed_and_answers_as_behind_a_proxy() {
    let lambda = Lambda::start(|_, event| match event["requestContext"]["eventType"].as_str() {
        Some("MESSAGE") if event["body"] == "fail" => Err("boom".to_owned()),
        Some("MESSAGE") if event["body"] == "nonsense" => Ok(json!("nonsense")),
        Some("MESSAGE") if event["body"] == "teapot" => {
            Ok(json!({ "statusCode": 418, "body": "short and stout" }))
        }
        Some("MESSAGE") if event["body"] == "bytes" => {
            Ok(json!({ "statusCode": 200, "body": "AAH/", "isBase64Encoded": true }))
        }
        _ => Ok(ok("hello")),
    })
    .await;
    let cluster = with_function(&lambda, "", "").await;
    let mut client = Client::connect(&format!("{}?a=1", cluster.url(0))).await.unwrap();
    let connect = lambda.invocation().await;
    assert_eq!(connect.function, format!("{FUNCTION}:live"));
    assert_eq!(connect.event["requestContext"]["eventType"], "CONNECT");
    assert_eq!(connect.event["queryStringParameters"], json!({ "a": "1" }));
    assert_eq!(connect.event["stageVariables"], json!({ "alias": "live" }));
    assert_signed(&connect);

    client.send("hi").await;
    assert_eq!(client.text().await, "hello");
    let message = lambda.invocation().await;
    assert_eq!(message.event["body"], "hi");
    assert_signed(&message);
    client.send("bytes").await;
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![0, 1, 255]));
    client.send("teapot").await;
    assert_eq!(client.text().await, "short and stout", "a message's status means nothing");
    for text in ["fail", "nonsense"] {
        client.send(text).await;
        let frame = client.text().await;
        assert!(frame.starts_with(r#"{"message": "Internal server error", "#), "{frame}");
    }
    client.send(r#"{"action":"quiet"}"#).await;
    client.send("hi").await;
    assert_eq!(client.text().await, "hello", "a one-way route answers nothing");
    client.close().await;
    loop {
        let invocation = lambda.invocation().await;
        if invocation.event["requestContext"]["eventType"] == "DISCONNECT" {
            break;
        }
    }
}

/// As Lambda would check it.
fn assert_signed(invocation: &posthorn_chaos::lambda::Invocation) {
    let headers: Vec<_> =
        invocation.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let request = sigv4::Request {
        method: "POST",
        path: &invocation.path,
        query: "",
        headers: &headers,
        body: &invocation.body,
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let expectation = Expectation {
        region: Some("eu-west-1"),
        service: "lambda",
        unsigned_payload: UnsignedPayload::Refused,
    };
    let credentials = |id: &str| {
        (id == "AKIDEXAMPLE").then_some(Credentials {
            access_key_id: "AKIDEXAMPLE",
            secret_access_key: SECRET,
            session_token: None,
        })
    };
    let verified = sigv4::verify(&request, &expectation, now.as_millis() as u64, credentials);
    verified.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_function_makes_of_connect_is_the_handshakes_status() {
    let lambda = Lambda::start(|_, event| {
        let is_connect = event["requestContext"]["eventType"] == "CONNECT";
        match event["queryStringParameters"]["case"].as_str().filter(|_| is_connect) {
            Some("forbidden") => Ok(json!({ "statusCode": 403, "body": "no" })),
            Some("splitting") => Ok(json!({
                "statusCode": 403,
                "headers": { "X-Good": "yes", "X-Bad": "a\r\nX-Made-Up: b", "X Bad": "c" },
            })),
            Some("throws") => Err("boom".to_owned()),
            Some("nonsense") => Ok(json!({ "status": 200 })),
            Some("zero") => Ok(json!({ "statusCode": 0 })),
            Some("low") => Ok(json!({ "statusCode": 99 })),
            Some("high") => Ok(json!({ "statusCode": 1000 })),
            Some("text") => Ok(json!({ "statusCode": "x" })),
            Some("huge") => Ok(json!({ "statusCode": 200, "body": "x".repeat(10 << 20) })),
            _ => Ok(json!({ "statusCode": 200 })),
        }
    })
    .await;
    let required = ", request_parameters: { route.request.querystring.case: { required: true } }";
    let cluster = with_function(&lambda, required, "").await;
    for missing in [cluster.url(0), format!("{}?case=", cluster.url(0))] {
        let refused = Client::connect(&missing).await.err().expect("it is refused");
        let tungstenite::Error::Http(response) = refused else { panic!("{refused}") };
        assert_eq!(response.status(), 400);
        let body = String::from_utf8_lossy(response.body().as_ref().unwrap()).into_owned();
        assert!(
            body.contains(r#""message":"Missing required request parameters: [case]""#),
            "{body}"
        );
    }
    for (case, status) in [
        ("forbidden", 403),
        ("throws", 502),
        ("nonsense", 500),
        ("zero", 500),
        ("low", 500),
        ("high", 500),
        ("text", 500),
        ("huge", 502),
    ] {
        assert_eq!(status_of(&format!("{}?case={case}", cluster.url(0))).await, status, "{case}");
    }
    let failed = Client::connect(&format!("{}?case=throws", cluster.url(0))).await;
    let Some(tungstenite::Error::Http(response)) = failed.err() else { panic!("not refused") };
    let body = String::from_utf8(response.body().clone().unwrap()).unwrap();
    assert!(body.starts_with(r#"{"message": "Internal server error", "connectionId":""#), "{body}");
    let refused = Client::connect(&format!("{}?case=splitting", cluster.url(0))).await;
    let Some(tungstenite::Error::Http(response)) = refused.err() else { panic!("not refused") };
    assert_eq!(response.headers()["x-good"], "yes");
    assert!(!response.headers().contains_key("x-made-up"), "{response:?}");
    assert!(!response.headers().contains_key("x-bad"), "{response:?}");
    Client::connect(&format!("{}?case=good", cluster.url(0))).await.unwrap();
}

async fn status_of(url: &str) -> u16 {
    match Client::connect(url).await.err().expect("it is refused") {
        tungstenite::Error::Http(response) => response.status().as_u16(),
        error => panic!("{error}"),
    }
}

fn policy(effect: &str, resource: &str) -> Value {
    json!({
        "principalId": "ada",
        "policyDocument": { "Version": "2012-10-17", "Statement": [
            { "Action": "execute-api:Invoke", "Effect": effect, "Resource": resource },
        ] },
        "context": { "plan": "free", "level": 7 },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_decides_who_connects_and_what_integrations_know_of_him() {
    let lambda = Lambda::start(|function, event| {
        if !function.ends_with("-who") {
            return Ok(ok("hello"));
        }
        let arn = event["methodArn"].as_str().unwrap();
        match event["queryStringParameters"]["token"].as_str() {
            Some("good") => Ok(policy("Allow", arn)),
            Some("denied") => Ok(policy("Deny", "*")),
            Some("elsewhere") => Ok(policy("Allow", "arn:aws:execute-api:*:*:other/*")),
            Some("unauthorized") => Err("Unauthorized".to_owned()),
            Some("throws") => Err("boom".to_owned()),
            _ => Ok(json!({ "isAuthorized": true })),
        }
    })
    .await;
    let route = ", authorization_type: CUSTOM, authorizer_id: who, \
                 request_parameters: { route.request.querystring.token: { required: true } }";
    let cluster = with_function(&lambda, route, "").await;
    let url = |token: &str| format!("{}?token={token}", cluster.url(0));
    assert_eq!(status_of(&cluster.url(0)).await, 401, "its identity source is missing");
    for (token, status) in [
        ("denied", 403),
        ("elsewhere", 403),
        ("unauthorized", 401),
        ("throws", 500),
        ("other", 500),
    ] {
        assert_eq!(status_of(&url(token)).await, status, "{token}");
        let asked = lambda.invocation().await;
        assert_eq!(asked.event["queryStringParameters"]["token"], token, "and only that was asked");
    }
    let mut client = Client::connect(&url("good")).await.unwrap();
    let asked = lambda.invocation().await.event;
    assert_eq!(asked["type"], "REQUEST");
    let arn = "arn:aws:execute-api:eu-west-1:123456789012:chat/dev/$connect";
    assert_eq!(asked["methodArn"], arn);
    let connect = lambda.invocation().await.event;
    assert_eq!(connect["requestContext"]["authorizer"]["principalId"], "ada");
    assert!(connect["requestContext"]["authorizer"]["integrationLatency"].is_u64());
    client.send("hi").await;
    assert_eq!(client.text().await, "hello");
    let message = lambda.invocation().await.event;
    let expected = json!({ "principalId": "ada", "plan": "free", "level": "7" });
    assert_eq!(message["requestContext"]["authorizer"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_kept_out() {
    let lambda = Lambda::start(|_, _| Ok(ok("hello"))).await;
    let origins = ", allowed_origins: ['https://chat.example', 'https://*.example.org']";
    let cluster = with_function(&lambda, "", origins).await;
    for (origin, is_allowed) in [
        ("https://chat.example", true),
        ("https://a.example.org", true),
        ("https://example.org", false),
        ("http://chat.example", false),
        ("https://evil.example", false),
        ("https://chat.example.evil.io", false),
        ("https://evil-chat.example", false),
        ("https://chat.example:8443", false),
        ("null", false),
    ] {
        let mut request = cluster.url(0).into_client_request().unwrap();
        request.headers_mut().insert("origin", origin.parse().unwrap());
        match tokio_tungstenite::connect_async(request).await {
            Ok(_) => assert!(is_allowed, "{origin}"),
            Err(tungstenite::Error::Http(response)) => {
                assert_eq!((response.status().as_u16(), is_allowed), (403, false), "{origin}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    cluster.client(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_server_gets_what_the_client_sent() {
    let backend = Backend::start(|_| (200, "welcome".to_owned())).await;
    let apis = format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $default: {{ target: integrations/server, route_response_selection_expression: $default }}\n    \
         integrations:\n      \
         server: {{ integration_type: HTTP_PROXY, integration_method: POST, integration_uri: \"{}\" }}\n    \
         stages:\n      dev: {{}}\n",
        backend.url()
    );
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    client.send(r#"{"n":1}"#).await;
    assert_eq!(client.text().await, "welcome");
    assert_eq!(backend.event().await, json!({ "n": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_may_speak_grpc() {
    let backend = GrpcBackend::start().await;
    let apis = format!(
        "apis:\n  dev:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $connect: {{ target: integrations/backend }}\n      \
         $disconnect: {{ target: integrations/backend }}\n      \
         $default: {{ target: integrations/backend, route_response_selection_expression: $default }}\n    \
         integrations:\n      \
         backend: {{ integration_type: GRPC, integration_uri: \"{}\" }}\n    \
         stages:\n      dev: {{ stage_variables: {{ color: blue }} }}\n",
        backend.url()
    );
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    assert_eq!(status_of(&format!("{}?refuse", cluster.url(0))).await, 403);
    assert_eq!(connect_event(&backend.request().await).query, "refuse");
    let mut client = Client::connect(&format!("{}?a=1", cluster.url(0))).await.unwrap();
    let request = backend.request().await;
    let context = request.context.clone().unwrap();
    assert_eq!((&*request.route_key, &*connect_event(&request).query), ("$connect", "a=1"));
    assert_eq!((&*context.api_id, &*context.stage), ("dev", "dev"));
    assert_eq!(context.stage_variables["color"], "blue");
    assert_eq!((&*context.run, context.sequence), ("0/1", 1));

    client.send_message(Message::binary(vec![1, 2])).await;
    assert_eq!(client.next().await.unwrap(), Message::binary(vec![2, 1]));
    client.send("abc").await;
    assert_eq!(client.text().await, "cba");
    let message = backend.request().await;
    assert_eq!(message.context.as_ref().unwrap().connection_id, context.connection_id);
    assert!(!message_event(&message).message_id.is_empty());
    backend.request().await;
    client.close().await;
    assert_eq!(backend.request().await.route_key, "$disconnect");
}
