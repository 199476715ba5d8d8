//! The `@connections` API over HTTP, and who may call it and gRPC: every answer, byte for byte.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::path::Path;

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::management::{Management, Reply, now_ms};
use posthorn_chaos::process::binary;
use posthorn_chaos::within;
use posthorn_core::auth::hash::Sha256;
use posthorn_proto::v1::post_to_connection_request::Payload;
use posthorn_proto::v1::{
    DeleteConnectionRequest, GetConnectionRequest, PostToConnectionRequest,
    PostToConnectionsRequest,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;
use tungstenite::Message;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const UNKNOWN: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// Two APIs, the first with two stages.
fn apis(disconnect: &str) -> String {
    let api = |id: &str, stages: &str, more: &str| {
        format!(
            "  {id}:\n    route_selection_expression: $request.body.action\n    routes:\n      \
             whoami: {{ target: integrations/whoami, route_response_selection_expression: $default }}\n\
             {more}    integrations:\n      \
             whoami: {{ integration_type: MOCK, mock_response: {{ body: $context.connectionId }} }}\n      \
             backend: {{ integration_type: HTTP_EVENT, integration_uri: '{disconnect}' }}\n    \
             stages: {stages}\n"
        )
    };
    let chat = api(
        "chat",
        "{ dev: {}, prod: {} }",
        "      $disconnect: { target: integrations/backend }\n",
    );
    format!("apis:\n{chat}{}", api("game", "{ live: {} }", ""))
}

/// Principals: each with a token of its name.
fn principals() -> String {
    let one = |name: &str, permissions: &str, more: &str| {
        let hash = Sha256::of(name.as_bytes());
        format!("  {name}:\n    permissions: [{permissions}]\n    token_sha256: [{hash}]\n{more}")
    };
    let key = "    access_keys: [{ access_key_id: AKIDALL, secret_access_key_file: secret }]\n";
    let game = "    access_keys: [{ access_key_id: AKIDGAME, secret_access_key_file: secret }]\n";
    let slow = "    throttling_rate_limit: 0.001\n    throttling_burst_limit: 2\n";
    [
        "principals:\n".to_owned(),
        one("all", "'*/*/*'", key),
        one("chat", "chat/dev/post, chat/dev/get", ""),
        one("game", "'game/*/*'", game),
        one("slow", "'*/*/post'", slow),
        one("root", "'*/*/admin'", ""),
    ]
    .concat()
}

async fn start(nodes: u32, disconnect: &str, api: &str, more: &str) -> Cluster {
    let settings = format!("api: {{ listen: \"{{ip}}:0\"{api} }}\n{more}{}", principals());
    let mut cluster = Cluster::prepare(Options { nodes, apis: apis(disconnect), settings });
    std::fs::write(cluster.folder().join("secret"), format!("{SECRET}\n")).unwrap();
    cluster.bring_up(0..cluster.len()).await;
    cluster
}

fn management(cluster: &Cluster, index: usize) -> Management {
    Management::new(cluster.node(index).at("api"))
}

async fn connect(cluster: &Cluster, index: usize, path: &str) -> (Client, String) {
    let url = format!("ws://{}{path}", cluster.node(index).at("edge"));
    let mut client = Client::connect(&url).await.unwrap();
    let id = client.id().await;
    (client, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn post_get_and_delete_answer_as_api_gateway_does() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = start(3, &backend.url(), "", "").await;
    let (mut client, id) = connect(&cluster, 0, "/dev").await;
    for index in 0..cluster.len() {
        let api = management(&cluster, index).with_key("AKIDALL", SECRET);
        for (prefix, at) in [("/dev", "@"), ("/dev", "%40"), ("/chat/prod", "@")] {
            let path = format!("{prefix}/{at}connections/{id}");
            let posted = api.post(&path, format!("{prefix} {at} {index}").as_bytes()).await;
            assert_eq!(posted.parts(), (200, "", ""));
            assert_named(&posted);
            assert_eq!(posted.header("content-length"), Some("0"));
            assert_eq!(client.text().await, format!("{prefix} {at} {index}"));
        }
        let path = format!("/dev/@connections/{id}");
        assert_eq!(api.post(&path, b"").await.parts(), (200, "", ""));
        assert_eq!(client.next().await.unwrap(), Message::text(""));
        assert_eq!(api.post(&path, &[0, b'a', 0xff, 0xfe, 0x80]).await.status, 200);
        assert_eq!(client.text().await, "\0a\u{fffd}\u{fffd}\u{fffd}");
        let large = vec![b'x'; 128 * 1024];
        assert_eq!(api.post(&path, &large).await.status, 200);
        assert_eq!(client.text().await.len(), large.len());

        let shown = api.get(&path).await;
        assert_eq!(shown.status, 200);
        assert_named(&shown);
        let value: serde_json::Value = serde_json::from_str(&shown.body).unwrap();
        let [connected_at, last_active_at] =
            ["connectedAt", "lastActiveAt"].map(|key| value[key].as_str().unwrap().to_owned());
        let expected = format!(
            "{{\n  \"identity\" : {{\n    \"sourceIp\" : \"127.0.0.1\",\n    \
             \"userAgent\" : \"\"\n  }},\n  \"connectedAt\" : \"{connected_at}\",\n  \
             \"lastActiveAt\" : \"{last_active_at}\"\n}}"
        );
        assert_eq!(shown.body, expected);
        assert!(connected_at.len() == 24 && connected_at.ends_with('Z'), "{connected_at}");
        assert!(last_active_at >= connected_at);
        assert_eq!(api.get(&path).await.body, shown.body, "who looks does not change it");
    }
    // The other stage of the API deletes it, over HTTP/2.
    let api = management(&cluster, 2).with_key("AKIDALL", SECRET);
    let path = format!("/prod/@connections/{id}");
    let deleted = api.clone().by_http_2().delete(&path).await;
    assert_eq!(deleted.parts(), (204, "", ""));
    assert_named(&deleted);
    assert_eq!(deleted.header("content-length"), None);
    assert_eq!(client.closed().await, (1000, "Connection Closed Normally".to_owned()));
    let context = backend.event_of("DISCONNECT").await["requestContext"].clone();
    assert_eq!(context["disconnectStatusCode"], 1000);
    assert_eq!(context["disconnectReason"], "Connection Closed Normally");
    for method in ["GET", "POST", "DELETE"] {
        for id in [&id, UNKNOWN] {
            let path = format!("/dev/@connections/{id}");
            let gone = api.call(method, &path, &[], b"").await;
            assert_eq!(gone.parts(), (410, "GoneException", ""), "{method} {id}");
            assert_eq!(gone.header("content-length"), Some("0"));
            assert_named(&gone);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_their_status_and_reach_nobody() {
    let cluster = start(1, "http://127.0.0.1:9/", "", "").await;
    let (mut client, id) = connect(&cluster, 0, "/dev").await;
    let api = management(&cluster, 0).with_token("all");
    let good = format!("/dev/@connections/{id}");

    let bad_id = |echo: &str| format!(r#"{{"message":"Invalid connectionId: {echo}"}}"#);
    let long = "x".repeat(10_000);
    for (written, echo) in [
        ("AAAAAAAAAAAAAAA%3D", "AAAAAAAAAAAAAAA=".to_owned()),
        ("A", "A".to_owned()),
        ("%22%5C%0A%1b", r#"\"\\\n\u001b"#.to_owned()),
        ("a%2Fb", "a/b".to_owned()),
        ("%2541AAAAAAAAAAAAAAAAAAAAA", "%41AAAAAAAAAAAAAAAAAAAAA".to_owned()),
        ("AAAAAAAAAAAAAAAAAAAAAB", "AAAAAAAAAAAAAAAAAAAAAB".to_owned()),
        (&long, "x".repeat(64)),
    ] {
        for method in ["GET", "POST", "DELETE"] {
            let refused = api.call(method, &format!("/dev/@connections/{written}"), &[], b"").await;
            assert_eq!(refused.parts(), (400, "BadRequestException", &*bad_id(&echo)));
        }
    }
    let forbidden = (403, "ForbiddenException", r#"{"message":"Forbidden"}"#);
    for path in [
        "/",
        "/dev",
        "/dev/@connections",
        "/dev/@connections/",
        &format!("//@connections/{id}"),
        &format!("/%64ev%2F/@connections/{id}"),
        &format!("/dev/%2540connections/{id}"),
        &format!("/unknown/@connections/{id}"),
        &format!("/chat/live/@connections/{id}"),
    ] {
        assert_eq!(api.post(path, b"x").await.parts(), forbidden, "{path}");
    }
    for method in ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "FROB"] {
        let refused = api.call(method, &good, &[], b"").await;
        assert_eq!(refused.status, 405, "{method}");
        assert_eq!(refused.header("allow"), Some("DELETE, GET, POST"));
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    // Of another API: to this path it does not exist.
    let (mut other, other_id) = connect(&cluster, 0, "/game/live").await;
    let gone = api.post(&format!("/dev/@connections/{other_id}"), b"x").await;
    assert_eq!(gone.parts(), (410, "GoneException", ""));
    assert_eq!(other.id().await, other_id);

    assert_bodies_and_heads_are_bounded(&cluster, &api, &good).await;
    assert_eq!(api.post(&good, b"after").await.status, 200);
    assert_eq!(client.text().await, "after", "nothing else arrived");
}

async fn assert_bodies_and_heads_are_bounded(cluster: &Cluster, api: &Management, good: &str) {
    // Too large by one, by far, and without an end.
    let refused = api.post(good, &vec![b'x'; 128 * 1024 + 1]).await;
    assert_eq!(refused.parts(), (413, "PayloadTooLargeException", ""));
    let head = |length: &str| {
        format!("POST {good} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer all\r\n{length}\r\n\r\n")
    };
    let announced = exchange(cluster, head("Content-Length: 10000000000").as_bytes()).await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced}");
    let mut endless = head("Transfer-Encoding: chunked").into_bytes();
    for _ in 0..40 {
        endless.extend(b"10000\r\n");
        endless.resize(endless.len() + 0x10000, b'x');
        endless.extend(b"\r\n");
    }
    let refused = exchange(cluster, &endless).await;
    assert!(refused.starts_with("HTTP/1.1 413 "), "{refused}");
    for (what, request, status) in [
        ("a header too large", head(&format!("X: {}", "x".repeat(40_000))), "431"),
        ("too many headers", head(&"X: y\r\n".repeat(200)), "431"),
        ("a header with a line break", head("X: a\nb: c\0"), "400"),
        ("two lengths", head("Content-Length: 1\r\nContent-Length: 2"), "400"),
        ("length and chunks", head("Content-Length: 1\r\nTransfer-Encoding: chunked, x"), "400"),
        ("no HTTP", "\x16\x03\x01\x02\0\x01\0\x01\x03\x03 and no more of it".into(), "400"),
        ("a body that breaks off", format!("{}abc", head("Content-Length: 9")), "400"),
    ] {
        let answer = exchange(cluster, request.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{what}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_known_and_permitted_may_call() {
    let cluster = start(1, "http://127.0.0.1:9/", "", "").await;
    let (mut client, id) = connect(&cluster, 0, "/dev").await;
    let (_game, game_id) = connect(&cluster, 0, "/live").await;
    let (path, open) = (format!("/dev/@connections/{id}"), management(&cluster, 0));
    let missing = "MissingAuthenticationTokenException";
    let message = r#"{"message":"Missing Authentication Token"}"#;
    assert_eq!(open.post(&path, b"x").await.parts(), (403, missing, message));
    // A stranger learns nothing of stages and connections.
    for path in ["/unknown/@connections/A", "/dev/@connections/A", "/game/live/@connections/A"] {
        assert_eq!(open.get(path).await.parts(), (403, missing, message));
    }
    let unknown = "UnrecognizedClientException";
    let token = open.clone().with_token("guess").post(&path, b"x").await;
    assert_eq!(token.parts().1, unknown);
    assert_eq!(
        open.clone().with_key("AKIDNONE", SECRET).post(&path, b"x").await.parts().1,
        unknown
    );
    let invalid = "InvalidSignatureException";
    let wrong = open.clone().with_key("AKIDALL", "wrong").post(&path, b"x").await;
    assert_eq!((wrong.status, wrong.parts().1), (403, invalid));

    assert_bad_signatures_are_refused(&open, &path).await;

    // Right key, wrong API, stage or verb.
    for (caller, path) in [
        (open.clone().with_key("AKIDGAME", SECRET), &path),
        (open.clone().with_token("chat"), &format!("/prod/@connections/{id}")),
        (open.clone().with_token("root"), &path),
    ] {
        let denied = caller.post(path, b"x").await;
        assert_eq!((denied.status, denied.parts().1), (403, "AccessDeniedException"));
        assert!(denied.body.starts_with(r#"{"Message":"User: "#), "{}", denied.body);
        assert!(
            denied.body.contains("/POST/@connections/{connectionId} because"),
            "{}",
            denied.body
        );
    }
    let chat = open.clone().with_token("chat");
    let denied = chat.delete(&path).await;
    assert_eq!(
        denied.body,
        r#"{"Message":"User: chat is not authorized to perform: execute-api:ManageConnections on resource: arn:aws:execute-api:us-east-1:********0000:chat/dev/DELETE/@connections/{connectionId} because no permission allows the execute-api:ManageConnections action"}"#
    );
    // Permitted, and the connection is of another API, closed, or was never there: all the same.
    for id in [&*game_id, UNKNOWN] {
        let gone = chat.post(&format!("/dev/@connections/{id}"), b"x").await;
        assert_eq!(gone.parts(), (410, "GoneException", ""));
    }
    let slow = open.clone().with_token("slow");
    assert_eq!(
        [slow.post(&path, b"1").await.status, slow.post(&path, b"2").await.status],
        [200, 200]
    );
    let limited = slow.post(&path, b"3").await;
    let too_many = r#"{"message":"Too Many Requests"}"#;
    assert_eq!(limited.parts(), (429, "LimitExceededException", too_many));
    assert!(limited.header("retry-after").unwrap().parse::<u64>().unwrap() > 1);
    let signer = open.clone().with_key("AKIDALL", SECRET);
    assert_eq!(signer.post(&path, b"signed").await.status, 200);
    assert_eq!(chat.post(&path, b"by token").await.status, 200);
    for expected in ["1", "2", "signed", "by token"] {
        assert_eq!(client.text().await, expected);
    }
    assert!(!cluster.node(0).log().contains(SECRET));
}

async fn assert_bad_signatures_are_refused(open: &Management, path: &str) {
    let invalid = "InvalidSignatureException";
    let signer = open.clone().with_key("AKIDALL", SECRET);
    let sign = |headers: &[(&str, &str)], body: &[u8], now_ms| {
        signer.signature("POST", path, headers, body, now_ms)
    };
    let hash = Sha256::of(b"x").to_string();
    let hour = 60 * 60 * 1000;
    let (fresh, unsigned) = (now_ms(), [("x-amz-content-sha256", "UNSIGNED-PAYLOAD")]);
    for (what, headers, mut signature, body) in [
        ("an hour ago", &[][..], sign(&[], b"x", fresh - hour), "x"),
        ("in an hour", &[], sign(&[], b"x", fresh + hour), "x"),
        ("another body", &[], sign(&[], b"x", fresh), "y"),
        (
            "another hash",
            &[("x-amz-content-sha256", &*hash)],
            sign(&[("x-amz-content-sha256", &hash)], b"x", fresh),
            "y",
        ),
        ("no hash", &unsigned, sign(&unsigned, b"x", fresh), "x"),
        ("a signed header that is not sent", &[], sign(&[("x-more", "1")], b"x", fresh), "x"),
        (
            "another value of a signed header",
            &[("x-more", "2")],
            sign(&[("x-more", "1")], b"x", fresh),
            "x",
        ),
    ] {
        let mut all: Vec<_> = headers.to_vec();
        all.extend(signature.iter_mut().map(|(name, value)| (*name, value.as_str())));
        let refused = open.call("POST", path, &all, body.as_bytes()).await;
        assert_eq!((refused.status, refused.parts().1), (403, invalid), "{what}: {}", refused.body);
        assert!(!refused.body.contains(SECRET));
    }
    // Signed for another path or method.
    for (method, other) in [("POST", "/prod/@connections/x"), ("GET", path)] {
        let signature = signer.signature(method, other, &[], b"x", fresh);
        let all: Vec<_> = signature.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(open.call("POST", path, &all, b"x").await.parts().1, invalid);
    }
    let garbled = [("authorization", "AWS4-HMAC-SHA256 Credential=x")];
    let refused = open.call("POST", path, &garbled, b"x").await;
    assert_eq!((refused.status, refused.parts().1), (403, "IncompleteSignatureException"));
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_asks_who_calls_and_hides_what_is_not_his() {
    let cluster = start(3, "http://127.0.0.1:9/", "", "").await;
    let (mut chat_client, chat) = connect(&cluster, 0, "/dev").await;
    let (mut prod_client, prod) = connect(&cluster, 1, "/prod").await;
    for index in 0..cluster.len() {
        let mut grpc = cluster.grpc(index).await;
        for token in [None, Some("guess"), Some("")] {
            let status = grpc.post_to_connection(by(token, post(&chat, "x"))).await.unwrap_err();
            assert_eq!(reason(&status), (Code::Unauthenticated, "UNAUTHENTICATED".to_owned()));
            let stream = by(token, tokio_stream::iter([streamed(1, &chat, "x")]));
            let status = grpc.post_to_connections(stream).await.unwrap_err();
            assert_eq!(status.code(), Code::Unauthenticated);
        }
        for status in [
            grpc.post_to_connection(by(Some("root"), post(&chat, "x"))).await.unwrap_err(),
            grpc.delete_connection(by(Some("chat"), delete(&chat))).await.unwrap_err(),
            grpc.get_connection(by(Some("slow"), get("no ID"))).await.unwrap_err(),
        ] {
            assert_eq!(reason(&status), (Code::PermissionDenied, "PERMISSION_DENIED".to_owned()));
        }
        // What is there, and not his, looks like what is not there.
        let mut told = Vec::new();
        for id in [&*prod, UNKNOWN] {
            let posted = grpc.post_to_connection(by(Some("chat"), post(id, "x"))).await;
            let got = grpc.get_connection(by(Some("chat"), get(id))).await;
            told.push([posted.unwrap_err(), got.unwrap_err()].map(|status| {
                (status.code(), status.message().to_owned(), status.details().to_vec())
            }));
        }
        assert_eq!(told[0], told[1]);
        assert_eq!(told[0][0].0, Code::NotFound);
        let posts =
            [streamed(1, &prod, "x"), streamed(2, UNKNOWN, "x"), streamed(3, &chat, "stream")];
        let stream = by(Some("chat"), tokio_stream::iter(posts));
        let answers = grpc.post_to_connections(stream).await.unwrap().into_inner();
        let mut answers: Vec<_> = answers.map(Result::unwrap).collect().await;
        answers.sort_by_key(|answer| answer.sequence);
        let reasons: Vec<_> = answers.iter().map(|answer| &*answer.reason).collect();
        assert_eq!(reasons, ["CONNECTION_GONE", "CONNECTION_GONE", ""]);
        assert_eq!(chat_client.text().await, "stream");
        grpc.post_to_connection(by(Some("all"), post(&prod, "all"))).await.unwrap();
        assert_eq!(prod_client.text().await, "all", "and nothing before it");
    }
    // Each post of a stream is a call.
    let posts: Vec<_> = (0..5).map(|number| streamed(number, &chat, "slow")).collect();
    let stream = by(Some("slow"), tokio_stream::iter(posts));
    let answers = cluster.grpc(0).await.post_to_connections(stream).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let throttled = answers.iter().filter(|answer| answer.reason == "THROTTLED").count();
    assert_eq!((answers.len(), throttled), (5, 3));
    // Health is for everybody.
    let channel = format!("http://{}", cluster.node(0).at("api"));
    let channel = Channel::from_shared(channel).unwrap().connect().await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_beyond_loopback_are_for_who_administers() {
    let settings = format!("admin: {{ listen: \"0.0.0.0:0\" }}\n{}", principals());
    let settings = settings.replace("file: secret", "env: PATH");
    let apis = apis("http://127.0.0.1:9/");
    let cluster = Cluster::start(Options { nodes: 1, apis, settings }).await;
    let admin = Management::new(cluster.node(0).at("admin"));
    for path in ["/livez", "/readyz"] {
        assert_eq!(admin.get(path).await.status, 200, "{path}");
    }
    for (token, status) in
        [(None, 401), (Some("guess"), 401), (Some("all"), 403), (Some("root"), 200)]
    {
        let admin = token.map_or(admin.clone(), |token| admin.clone().with_token(token));
        assert_eq!(admin.get("/metrics").await.status, status, "{token:?}");
    }
}

#[test]
fn an_exposed_listener_that_is_not_safe_and_a_principal_that_is_not_clear_are_refused() {
    let cluster = Cluster::prepare(Options {
        nodes: 1,
        apis: apis("http://127.0.0.1:9/"),
        settings: format!("api: {{ listen: \"{{ip}}:0\" }}\n{}", principals()),
    });
    std::fs::write(cluster.folder().join("secret"), SECRET).unwrap();
    let (good, path) = (cluster.config(0), cluster.config_path(0));
    let ip = good.split("admin: { listen: \"").nth(1).unwrap().split(':').next().unwrap();
    let listen = |door: &str| format!("{door}: {{ listen: \"{ip}:0\"");
    let exposed = |door: &str| format!("{door}: {{ listen: \"0.0.0.0:0\"");
    let insecure = |door: &str| format!("{}, insecure: true", exposed(door));
    let check = |from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replace(from, to)).unwrap();
        outcome(&path)
    };
    assert_eq!(check("", ""), (Some(0), String::new()));
    for door in ["edge", "api"] {
        let (status, error) = check(&listen(door), &exposed(door));
        let expected = format!(
            ": {door}.listen: `0.0.0.0:0` is beyond loopback, and without TLS; to mean it, say \
             insecure: true\n"
        );
        assert_eq!(status, Some(2));
        assert!(error.ends_with(&expected) && error.lines().count() == 1, "{error}");
        assert_eq!(check(&listen(door), &insecure(door)), (Some(0), String::new()));
    }
    let nobody = good.split_once("principals:\n").unwrap();
    let nobody = format!("{}apis:\n{}", nobody.0, nobody.1.split_once("apis:\n").unwrap().1);
    let tls = format!("{}, tls: {{ cert_file: node-0.pem, key_file: node-0.key }}", exposed("api"));
    std::fs::write(&path, nobody.replace(&listen("api"), &tls)).unwrap();
    let (status, error) = outcome(&path);
    assert_eq!(status, Some(2));
    assert!(error.contains("beyond loopback, and there are no principals"), "{error}");
    assert_eq!(check(&listen("api"), &tls), (Some(0), String::new()));
    // There is somebody who may administer.
    assert_eq!(check(&listen("admin"), &exposed("admin")), (Some(0), String::new()));
    for (from, to, expected) in [
        ("*/*/admin", "*/*/post", ""),
        ("chat/dev/post", "chat/dev/pots", "principals.chat.permissions: `chat/dev/pots` is no"),
        ("token_sha256: [", "token_sha256: [7, ", "principals.all.token_sha256: a SHA-256 is"),
        ("token_sha256", "tokens", "unknown field `tokens`"),
        ("file: secret", "file: none", "principals.all.access_keys.secret_access_key_file: "),
        ("file: secret", "env: NOWHERE_1", "the environment has no variable `NOWHERE_1`"),
        (", secret_access_key_file: secret", "", "has either a secret_access_key_file or a"),
        ("AKIDGAME", "AKIDALL", "principals: the access key ID `AKIDALL` is there twice"),
        (
            "_rate_limit: 0.001",
            "_rate_limit: -1",
            "principals.slow.throttling_rate_limit: is 0, or",
        ),
        ("    throttling_burst_limit: 2\n", "", "needs a throttling_burst_limit beside it"),
    ] {
        let (status, error) = check(from, to);
        if expected.is_empty() {
            assert_eq!(status, Some(0), "{error}");
            continue;
        }
        assert_eq!((status, error.lines().count()), (Some(2), 1), "{from} -> {to}: {error}");
        assert!(error.contains(expected), "{from} -> {to}: {error}");
        assert!(!error.contains(SECRET));
    }
    let (from, to) = (listen("admin"), exposed("admin"));
    let nobody = good.replace("*/*/admin", "*/*/post").replace(&from, &to);
    std::fs::write(&path, nobody).unwrap();
    let (_, error) = outcome(&path);
    assert!(error.contains("no principal has the permission */*/admin"), "{error}");
}

/// What `posthorn check` says.
fn outcome(config: &Path) -> (Option<i32>, String) {
    let output = std::process::Command::new(binary()).arg("check").arg(config).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn by<T>(token: Option<&str>, message: T) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        let value: MetadataValue<_> = format!("Bearer {token}").parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request
}

fn post(id: &str, text: &str) -> PostToConnectionRequest {
    PostToConnectionRequest {
        connection_id: id.to_owned(),
        payload: Some(Payload::Text(text.to_owned())),
        ..Default::default()
    }
}

fn streamed(sequence: u64, id: &str, text: &str) -> PostToConnectionsRequest {
    PostToConnectionsRequest { sequence, post: Some(post(id, text)) }
}

fn get(id: &str) -> GetConnectionRequest {
    GetConnectionRequest { connection_id: id.to_owned() }
}

fn delete(id: &str) -> DeleteConnectionRequest {
    DeleteConnectionRequest { connection_id: id.to_owned(), ..Default::default() }
}

fn reason(status: &tonic::Status) -> (Code, String) {
    let info = status.get_details_error_info();
    (status.code(), info.map(|info| info.reason).unwrap_or_default())
}

fn assert_named(reply: &Reply) {
    assert_eq!(reply.header("content-type"), Some("application/json"));
    let request_id = reply.header("x-amzn-requestid").unwrap();
    assert_eq!(request_id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert_eq!(reply.header("x-amz-apigw-id").unwrap().len(), 16);
    assert!(reply.header("x-amzn-trace-id").unwrap().starts_with("Root=1-"));
    assert!(reply.header("date").is_some());
}

/// Sends bytes and returns what is answered.
async fn exchange(cluster: &Cluster, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(cluster.node(0).at("api")).await.unwrap();
    // The node may answer and close before all is sent.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let _ = within("an answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}
