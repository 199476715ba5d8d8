//! How often clients may do what: throttles of account, stage and route, API keys and their plans.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use nix::sys::signal::Signal;
use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::{Client, Refused};
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::process::Process;
use posthorn_core::auth::hash::Sha256;
use posthorn_proto::v1::GetConnectionRequest;
use serde_json::{Value, json};
use tonic::Code;
use tungstenite::http::HeaderMap;

/// Rates of one in a thousand seconds: whatever is taken does not come back while a test runs.
const LIMITS: &str = r#"
apis:
  limited:
    route_selection_expression: $request.body.action
    routes:
      $default: { target: integrations/echo, route_response_selection_expression: $default }
      roomy: { target: integrations/echo, route_response_selection_expression: $default }
    integrations:
      echo: { integration_type: MOCK, mock_response: { echo: true } }
    stages:
      dev:
        default_route_settings: { throttling_rate_limit: 0.001, throttling_burst_limit: 2 }
        route_settings:
          roomy: { throttling_burst_limit: 3 }
      closed:
        default_route_settings: { throttling_rate_limit: 0, throttling_burst_limit: 0 }
      flooded:
        route_settings:
          $default: { throttling_rate_limit: 5, throttling_burst_limit: 0 }
      free: {}
"#;

async fn knock(
    cluster: &Cluster,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, HeaderMap), Refused> {
    let url = format!("ws://{}{path}", cluster.node(0).at("edge"));
    Client::knock(&url, headers).await
}

async fn enter(cluster: &Cluster, path: &str) -> Client {
    knock(cluster, path, &[]).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_has_the_limit_of_its_stage_or_its_own() {
    let apis = LIMITS.to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = enter(&cluster, "/limited/dev").await;
    let mut other = enter(&cluster, "/limited/dev").await;
    let refused = knock(&cluster, "/limited/dev", &[]).await.err().unwrap();
    assert_eq!((refused.status, &refused.body["message"]), (429, &json!("Too Many Requests")));
    assert!(refused.body["requestId"].is_string() && refused.body["connectionId"].is_string());
    let retry_after: u64 = refused.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((900..=1000).contains(&retry_after), "{retry_after}");

    for message in ["one", "two"] {
        client.send(message).await;
        assert_eq!(client.text().await, message);
    }
    // The bucket is the route's, not the connection's.
    for client in [&mut client, &mut other] {
        client.send("three").await;
        let frame = client.text().await;
        let parsed: Value = serde_json::from_str(&frame).unwrap();
        assert!(
            frame.starts_with(r#"{"message": "Too Many Requests", "connectionId":""#),
            "{frame}"
        );
        assert_eq!(parsed.as_object().unwrap().len(), 3, "{frame}");
    }
    let roomy = r#"{"action":"roomy"}"#;
    for _ in 0..3 {
        client.send(roomy).await;
        assert_eq!(client.text().await, roomy);
    }
    client.send(roomy).await;
    assert!(client.text().await.contains("Too Many Requests"), "its own limit, the stage's rate");

    let refused = knock(&cluster, "/limited/closed", &[]).await.err().unwrap();
    assert_eq!((refused.status, refused.headers.get("retry-after")), (429, None));
    let mut free = enter(&cluster, "/limited/free").await;
    for _ in 0..100 {
        free.send("free").await;
    }
    for _ in 0..100 {
        assert_eq!(free.text().await, "free");
    }

    let mut flood = enter(&cluster, "/limited/flooded").await;
    for _ in 0..999 {
        flood.send("again").await;
        assert!(flood.text().await.contains("Too Many Requests"));
    }
    flood.send("again").await;
    assert!(flood.text().await.contains("Too Many Requests"));
    assert_eq!(flood.closed().await, (1008, "Too Many Requests".to_owned()));
    let refused = r#"posthorn_handshakes_refused_total{cause="throttled"}"#;
    assert_eq!(cluster.metric(0, refused).await, Some(2.0));
    let closed = r#"posthorn_connections_closed_total{cause="throttled"}"#;
    eventually("a connection that is counted as closed", || async {
        (cluster.metric(0, closed).await? == 1.0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_has_a_limit_over_all_of_them() {
    let settings =
        "account: { throttling_rate_limit: 0.001, throttling_burst_limit: 5 }".to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis: LIMITS.to_owned(), settings }).await;
    let mut client = enter(&cluster, "/limited/free").await;
    for message in ["one", "two"] {
        client.send(message).await;
        assert_eq!(client.text().await, message);
    }
    let mut other = enter(&cluster, "/limited/dev").await;
    other.send("three").await;
    assert_eq!(other.text().await, "three");
    for client in [&mut client, &mut other] {
        client.send("four").await;
        assert!(client.text().await.contains("Too Many Requests"));
    }
    assert_eq!(knock(&cluster, "/limited/free", &[]).await.err().unwrap().status, 429);
    let request = GetConnectionRequest { connection_id: "AAAAAAAAAAAAAAAAAAAAAA".to_owned() };
    let status = cluster.grpc(0).await.get_connection(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_used_outlives_a_change_of_the_limits() {
    let apis = LIMITS.to_owned();
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = enter(&cluster, "/limited/dev").await;
    for answered in ["one", "two", "Too Many Requests"] {
        client.send(if answered == "Too Many Requests" { "three" } else { answered }).await;
        assert!(client.text().await.contains(answered));
    }
    let config =
        cluster.config(0).replace("throttling_burst_limit: 2", "throttling_burst_limit: 3");
    std::fs::write(cluster.config_path(0), config).unwrap();
    cluster.node(0).signal(Signal::SIGHUP);
    let applied = r#"posthorn_config_reloads_total{outcome="applied"}"#;
    eventually("the new limits", || async {
        (cluster.metric(0, applied).await? >= 1.0).then_some(())
    })
    .await;
    for answered in ["four", "Too Many Requests"] {
        client.send("four").await;
        assert!(client.text().await.contains(answered), "one more, not three");
    }
}

/// Two APIs that ask for keys, one in a header and one by its authorizer.
fn keyed(backend: &Backend, by_hash: &str) -> String {
    let api = |more: &str, connect: &str| {
        format!(
            r#"
    route_selection_expression: $request.body.action
    {more}
    routes:
      $connect: {{ target: integrations/backend, api_key_required: true{connect} }}
      $disconnect: {{ target: integrations/backend }}
      $default: {{ target: integrations/backend }}
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{url}" }}
    authorizers:
      who: {{ authorizer_type: REQUEST, authorizer_uri: "{url}" }}
    stages:
      dev: {{ allowed_origins: ['https://chat.example'] }}
      other: {{}}
"#,
            url = backend.url()
        )
    };
    let selection = "api_key_selection_expression: $context.authorizer.usageIdentifierKey";
    format!(
        "api_keys:\n  hashed: {{ value_sha256: {hash} }}\n  filed: {{ value_file: key }}\n  \
           idle: {{ value_sha256: {idle} }}\n  off: {{ value_sha256: {off}, enabled: false }}\n\
         usage_plans:\n  \
           slow:\n    api_keys: [hashed, off]\n    throttle: {{ rate_limit: 0.001, burst_limit: 2 }}\n    \
             api_stages: [{{ api_id: by-header, stage: dev }}, {{ api_id: by-authorizer, stage: dev }}]\n  \
           counted:\n    api_keys: [filed]\n    quota: {{ limit: 2, period: MONTH }}\n    \
             api_stages: [{{ api_id: by-header, stage: dev }}, {{ api_id: by-authorizer, stage: dev }}]\n\
         apis:\n  by-header:{}\n  by-authorizer:{}\n",
        api("", ""),
        api(selection, ", authorization_type: CUSTOM, authorizer_id: who"),
        hash = Sha256::of(by_hash.as_bytes()),
        idle = Sha256::of(IDLE.as_bytes()),
        off = Sha256::of(OFF.as_bytes()),
    )
}

const HASHED: &str = "hashed-key-0123456789";
const FILED: &str = "filed-key-01234567890";
const IDLE: &str = "idle-key-012345678901";
const OFF: &str = "off-key-0123456789012";

/// Says yes to everybody, with the key that the query names.
fn authorize(event: &Value) -> (u16, String) {
    if event["type"] != "REQUEST" {
        return (200, String::new());
    }
    let answer = json!({
        "principalId": "ada",
        "policyDocument": { "Version": "2012-10-17", "Statement": [
            { "Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "*" },
        ] },
        "usageIdentifierKey": event["queryStringParameters"]["key"],
    });
    (200, answer.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn api_keys_open_the_stages_of_their_plans_as_often_as_these_say() {
    let backend = Backend::start(authorize).await;
    let settings = "log: { filter: \"info,openraft=error,posthorn=trace\" }".to_owned();
    let options = Options { nodes: 1, apis: keyed(&backend, HASHED), settings };
    let mut cluster = Cluster::prepare(options);
    std::fs::write(cluster.folder().join("key"), format!("{FILED}\n")).unwrap();
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    let with = async |path: &str, key: &str| knock(&cluster, path, &[("x-api-key", key)]).await;
    let refused = async |path: &str, key: &str| {
        let refused = with(path, key).await.err().unwrap();
        (refused.status, refused.body["message"].as_str().unwrap_or_default().to_owned())
    };
    let no = |status: u16, message: &str| (status, message.to_owned());

    for key in ["", "hashed", IDLE, OFF] {
        assert_eq!(refused("/by-header/dev", key).await, no(403, "Forbidden"), "{key}");
    }
    assert_eq!(knock(&cluster, "/by-header/dev", &[]).await.err().unwrap().status, 403);
    assert_eq!(refused("/by-header/other", HASHED).await.0, 403, "its plan has not that stage");
    let stranger = [("x-api-key", HASHED), ("origin", "https://chat.example.evil.io")];
    assert_eq!(knock(&cluster, "/by-header/dev", &stranger).await.err().unwrap().status, 403);
    assert_eq!(backend.drain().await, Vec::<Value>::new(), "nobody was told of any of these");

    let (mut client, _) = with("/by-header/dev", HASHED).await.unwrap();
    let identity = backend.event_of("CONNECT").await["requestContext"]["identity"].clone();
    let known = (&identity["apiKey"], &identity["apiKeyId"]);
    assert_eq!(known, (&json!(HASHED), &json!("hashed")));
    client.close().await;
    assert_eq!(backend.event_of("DISCONNECT").await["requestContext"]["identity"], identity);
    with("/by-header/dev", HASHED).await.unwrap();
    let too_many = refused("/by-header/dev", HASHED).await;
    assert_eq!(too_many, no(429, "Too Many Requests"));

    let named = async |key: &str| {
        let refused = knock(&cluster, &format!("/by-authorizer/dev?key={key}"), &[]).await;
        refused.map_or_else(|refused| refused.status, |_| 101)
    };
    assert_eq!(named("nobody").await, 403);
    assert_eq!(named(FILED).await, 101);
    with("/by-header/dev", FILED).await.unwrap();
    assert_eq!(refused("/by-header/dev", FILED).await, no(429, "Limit Exceeded"));
    assert_eq!(named(FILED).await, 429, "one quota for all stages of the plan");
    let log = cluster.node(0).log();
    for key in [HASHED, FILED, IDLE, OFF] {
        assert!(!log.contains(key), "keys are not logged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_keys_that_make_no_sense_are_named() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = Cluster::prepare(Options {
        nodes: 1,
        apis: keyed(&backend, HASHED),
        settings: "account: { throttling_rate_limit: 5, throttling_burst_limit: 5 }".to_owned(),
    });
    let path = cluster.folder().join("bad.yaml");
    std::fs::write(cluster.folder().join("key"), FILED).unwrap();
    let good = cluster.config(0);
    let header = "api_key_selection_expression: $request.header.key";
    for (from, to, expected) in [
        ("limit: 5, throttling_burst_limit: 5", "limit: 5", "account.throttling_rate_limit: needs"),
        ("throttling_rate_limit: 5", "throttling_rate_limit: -1", "account.throttling_rate_limit"),
        ("throttling_rate_limit: 5", "throttling_rate_limit: 0.0001", "0.001"),
        (
            "other: {}",
            "other: { route_settings: { x: {} } }",
            "stages.other.route_settings.x: there",
        ),
        ("other: {}", "other: { route_settings: { $disconnect: {} } }", "$disconnect"),
        ("[hashed, off]", "[hashed, of]", "an API key `of`, which there is not"),
        ("[filed]", "[hashed]", "has two usage plans"),
        ("stage: dev }]", "stage: prod }]", "there is no stage `prod` of an API `by-authorizer`"),
        ("value_file: key", "value_file: kez", "kez"),
        ("value_file: key", "value_env: POSTHORN_NO_SUCH", "no variable `POSTHORN_NO_SUCH`"),
        ("value_file: key", "enabled: true", "api_keys.filed: has one of"),
        ("period: MONTH", "period: YEAR", "period"),
        ("period: MONTH", "period: MONTH, offset: 28", "from 0 to 27"),
        ("api_key_selection_expression: $context.authorizer.usageIdentifierKey", header, "neither"),
        (", authorization_type: CUSTOM, authorizer_id: who", "", "authorizer of the type REQUEST"),
        (
            "$default: { target: integrations/backend }",
            "$default: { target: integrations/backend, api_key_required: true }",
            "only $connect",
        ),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&path, good.replacen(from, to, 1)).unwrap();
        let (status, error) = Process::start_in_vain(&path).await;
        assert_eq!(status.code(), Some(2), "{from} -> {to}: {error}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.contains(expected), "{from} -> {to}: {error}");
        std::fs::remove_file(path.with_extension("log")).unwrap();
    }
}
