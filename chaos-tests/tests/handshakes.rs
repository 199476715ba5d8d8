//! What a handshake may ask for besides a connection, and authorizers that cannot be trusted to answer.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use posthorn_chaos::backend::Backend;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::lambda::Lambda;
use posthorn_chaos::raw::{self, HANDSHAKE};
use posthorn_chaos::{eventually, within};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// The status and the headers, in lower case, that a handshake is answered with.
async fn shake(cluster: &Cluster, path: &str, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(cluster.node(0).at("edge")).await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
    );
    let (status, answer) = raw::ask(&mut stream, request.as_bytes()).await;
    (status, answer.to_ascii_lowercase())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subprotocol_is_the_backends_choice_and_extensions_are_declined() {
    let lambda = Lambda::start(|_, event| {
        let chosen = match event["queryStringParameters"]["case"].as_str() {
            Some("one") => "chat",
            Some("other") => "news",
            Some("crlf") => "chat\r\nX-Made-Up: 1",
            _ => return Ok(json!({ "statusCode": 200 })),
        };
        Ok(json!({ "statusCode": 200, "headers": { "Sec-WebSocket-Protocol": chosen } }))
    })
    .await;
    let apis = r#"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      $connect: { target: integrations/function }
    integrations:
      function: { integration_type: AWS_PROXY, integration_uri: 'arn:aws:lambda:us-east-1:123456789012:function:f' }
    stages:
      dev: {}
"#;
    let settings = format!("aws: {{ lambda_endpoint: \"{}\" }}", lambda.endpoint());
    let cluster = Cluster::start(Options { nodes: 1, apis: apis.to_owned(), settings }).await;
    let offer = "Sec-WebSocket-Protocol: chat, superchat\r\n";
    let (status, answer) = shake(&cluster, "/dev?case=one", offer).await;
    assert_eq!(status, 101);
    assert!(answer.contains("\r\nsec-websocket-protocol: chat\r\n"), "{answer}");
    let (status, answer) = shake(&cluster, "/dev", offer).await;
    assert!(status == 101 && !answer.contains("sec-websocket-protocol"), "{answer}");
    for case in ["other", "crlf"] {
        let (status, answer) = shake(&cluster, &format!("/dev?case={case}"), offer).await;
        assert!(status == 500 && !answer.contains("made-up"), "{answer}");
    }
    assert_eq!(shake(&cluster, "/dev?case=one", "").await.0, 500, "nothing was offered");

    let window = |bits: &str| format!("permessage-deflate; client_max_window_bits={bits}");
    let twice = "permessage-deflate; server_max_window_bits=8; server_max_window_bits=9".to_owned();
    let many = vec!["permessage-deflate"; 700].join(",");
    let odd = ["0", "7", "16", "99", "-1", "\"", "x"].map(window);
    for offer in odd.into_iter().chain([twice, many, ";=,;\"".to_owned(), "\t,,".to_owned()]) {
        let header = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let (status, answer) = shake(&cluster, "/dev", &header).await;
        assert_eq!(status, 101, "{offer}: {answer}");
        assert!(!answer.contains("sec-websocket-extensions"), "{offer}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorizer_that_does_not_answer_well_lets_nobody_in() {
    let policy = json!({ "Version": "2012-10-17", "Statement": [
        { "Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "*" },
    ] });
    let backend = Backend::start(move |event| {
        assert_eq!(event["type"], "REQUEST", "no integration is asked");
        match event["queryStringParameters"]["case"].as_str() {
            Some("large") => {
                let context = json!({ "a": "x".repeat(9000) });
                let answer =
                    json!({ "principalId": "a", "policyDocument": policy, "context": context });
                (200, answer.to_string())
            }
            Some("nested") => {
                let context = json!({ "a": {} });
                let answer =
                    json!({ "principalId": "a", "policyDocument": policy, "context": context });
                (200, answer.to_string())
            }
            Some("policy") => {
                let policy = json!({ "Statement": [{ "Effect": "Allow", "Principal": "*" }] });
                (200, json!({ "principalId": "a", "policyDocument": policy }).to_string())
            }
            Some("unauthorized") => (401, String::new()),
            Some("forbidden") => (403, String::new()),
            _ => (200, "nonsense".to_owned()),
        }
    })
    .await;
    // Takes connections and never says a word.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = [&silent, &gone].map(|listener| listener.local_addr().unwrap());
    drop(gone);
    let api = |name: &str, url: &str| {
        format!(
            r#"
  {name}:
    route_selection_expression: $request.body.action
    routes:
      $connect: {{ target: integrations/backend, authorization_type: CUSTOM, authorizer_id: who }}
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
    authorizers:
      who: {{ authorizer_type: REQUEST, authorizer_uri: "{url}", timeout_in_millis: 300 }}
    stages:
      dev: {{}}
"#,
            backend.url()
        )
    };
    let [silent_url, gone_url] = addresses.map(|address| format!("http://{address}/"));
    let apis = [("odd", &*backend.url()), ("silent", &*silent_url), ("gone", &*gone_url)];
    let apis: String = apis.iter().map(|(name, url)| api(name, url)).collect();
    let apis = format!("apis:\n{apis}");
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    for (path, status) in [
        ("/odd/dev?case=large", 500),
        ("/odd/dev?case=nested", 500),
        ("/odd/dev?case=policy", 500),
        ("/odd/dev?case=nonsense", 500),
        ("/odd/dev?case=forbidden", 500),
        ("/odd/dev?case=unauthorized", 401),
        ("/silent/dev", 500),
        ("/gone/dev", 500),
    ] {
        assert_eq!(shake(&cluster, path, "").await.0, status, "{path}");
    }
    let unauthorized = r#"posthorn_handshakes_refused_total{cause="unauthorized"}"#;
    assert_eq!(cluster.metric(0, unauthorized).await, Some(8.0));
    assert_eq!(cluster.metric(0, "posthorn_directory_entries").await, Some(0.0));
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_while_the_authorizer_is_asked_leaves_nothing_behind() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let (asked, allowed) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let desk = (asked.clone(), allowed.clone());
    let authorizer = Router::new().route(
        "/",
        post(move || async move {
            let (asked, allowed) = desk;
            asked.add_permits(1);
            allowed.acquire().await.unwrap().forget();
            let policy = json!({ "Version": "2012-10-17", "Statement": [
            { "Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "*" },
        ] });
            json!({ "principalId": "a", "policyDocument": policy }).to_string()
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let authorizing = tokio::spawn(async move { axum::serve(listener, authorizer).await.unwrap() });
    let apis = format!(
        r#"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      $connect: {{ target: integrations/backend, authorization_type: CUSTOM, authorizer_id: who }}
      $disconnect: {{ target: integrations/backend }}
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
    authorizers:
      who: {{ authorizer_type: REQUEST, authorizer_uri: "http://{address}/" }}
    stages:
      dev: {{ connections_max: 1 }}
"#,
        backend.url()
    );
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    for leaves_softly in [true, false] {
        let mut stream = TcpStream::connect(cluster.node(0).at("edge")).await.unwrap();
        stream.write_all(HANDSHAKE.as_bytes()).await.unwrap();
        within("a call of the authorizer", asked.acquire()).await.unwrap().forget();
        assert_eq!(shake(&cluster, "/dev", "").await.0, 429, "the place is taken");
        if !leaves_softly {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        allowed.add_permits(1);
        // Whoever comes next finds the place free.
        eventually("a place", || async {
            allowed.add_permits(1);
            (shake(&cluster, "/dev", "").await.0 == 101).then_some(())
        })
        .await;
        eventually("an end of all connections", || async {
            let entries = cluster.metric(0, "posthorn_directory_entries").await?;
            let connections = cluster.metric(0, "posthorn_connections").await?;
            (entries == 0.0 && connections == 0.0).then_some(())
        })
        .await;
        let events = backend.drain().await;
        let count = |kind| {
            events.iter().filter(|event| event["requestContext"]["eventType"] == kind).count()
        };
        assert!(count("CONNECT") >= 1);
        assert_eq!(count("CONNECT"), count("DISCONNECT"), "{events:?}");
        asked.forget_permits(usize::MAX);
        allowed.forget_permits(usize::MAX);
    }
    authorizing.abort();
}
