//! Who is let in, by whom, and how often.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::{Client, Refused};
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::issuer::{Issuer, SigningKey};
use serde_json::{Value, json};
use tungstenite::http::HeaderMap;

/// Opens a connection. `path` may have a query.
async fn knock(
    cluster: &Cluster,
    path: &str,
    headers: &[(&'static str, &str)],
) -> Result<(Client, HeaderMap), Refused> {
    let url = format!("ws://{}{path}", cluster.node(0).at("edge"));
    Client::knock(&url, headers).await
}

async fn status_of(cluster: &Cluster, path: &str, headers: &[(&'static str, &str)]) -> u16 {
    knock(cluster, path, headers).await.map_or_else(|refused| refused.status, |_| 101)
}

fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Claims that are good for an hour, changed.
fn claims(change: Value) -> Value {
    let mut claims = json!({
        "iss": "https://issuer.example/", "aud": ["chat"], "sub": "ada", "scope": "read write",
        "exp": now_s() + 3600, "nbf": now_s() - 10, "plan": "paid", "level": 7, "roles": ["a"],
    });
    let Value::Object(changes) = change else { panic!("changes are an object") };
    claims.as_object_mut().unwrap().extend(changes);
    claims
}

/// A header of an event.
fn header<'a>(event: &'a Value, name: &str) -> &'a Value {
    let mut headers = event["headers"].as_object().unwrap().iter();
    headers.find(|(other, _)| other.eq_ignore_ascii_case(name)).unwrap().1
}

/// One node with one API that asks for tokens and sends every event to a backend.
async fn with_tokens(backend: &Backend, keys: &str) -> Cluster {
    let apis = format!(
        r#"
apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      $connect:
        target: integrations/backend
        authorization_type: JWT
        authorizer_id: tokens
        authorization_scopes: [admin, write]
      $disconnect: {{ target: integrations/backend }}
      $default:
        target: integrations/backend
        route_response_selection_expression: $default
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
    authorizers:
      tokens:
        authorizer_type: JWT
        identity_source:
          - route.request.header.Authorization
          - route.request.querystring.access_token
          - route.request.subprotocol.bearer
        jwt_configuration:
          issuer: https://issuer.example/
          audience: [chat, other]
          leeway_s: 5
          {keys}
    stages:
      dev: {{}}
"#,
        backend.url()
    );
    let settings = "log: { filter: \"info,openraft=error,posthorn=debug\" }".to_owned();
    Cluster::start(Options { nodes: 1, apis, settings }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_its_bearer_in_and_its_claims_go_to_the_backend() {
    let backend = Backend::start(|_| (200, "hello".to_owned())).await;
    let (key, stranger) = (SigningKey::new("one"), SigningKey::new("one"));
    let issuer = Issuer::start(&[&key]).await;
    let cluster = with_tokens(&backend, &format!("jwks_uri: \"{}\"", issuer.url())).await;
    let good = key.token(&claims(json!({})));
    let bearer = format!("Bearer {good}");

    let (mut client, _) = knock(&cluster, "/dev?a=1", &[("authorization", &bearer)]).await.unwrap();
    let connect = backend.event().await;
    let context = &connect["requestContext"]["authorizer"];
    assert_eq!((&context["principalId"], &context["plan"]), (&json!("ada"), &json!("paid")));
    assert_eq!((&context["level"], &context["roles"]), (&json!("7"), &Value::Null));
    assert!(!connect.to_string().contains(&good), "the backend does not need the token");
    client.send("hi").await;
    assert_eq!(client.text().await, "hello");
    assert_eq!(backend.event().await["requestContext"]["authorizer"], *context);
    client.close().await;
    let disconnect = backend.event().await;
    assert_eq!(disconnect["requestContext"]["authorizer"]["principalId"], "ada");

    let path = format!("/dev?a=1&access_token={good}&b=2");
    let (_by_query, _) = knock(&cluster, &path, &[]).await.unwrap();
    let connect = backend.event_of("CONNECT").await;
    assert_eq!(connect["queryStringParameters"], json!({ "a": "1", "b": "2" }));

    let offered = format!("bearer, bearer.{good}");
    let (_by_subprotocol, answered) =
        knock(&cluster, "/dev", &[("sec-websocket-protocol", &offered)]).await.unwrap();
    assert_eq!(answered["sec-websocket-protocol"], "bearer");
    let connect = backend.event_of("CONNECT").await;
    assert_eq!(header(&connect, "sec-websocket-protocol"), "bearer");

    let not = |change: Value| key.token(&claims(change));
    let (header, rest) = good.split_once('.').unwrap();
    let (payload, _) = rest.split_once('.').unwrap();
    for (what, token, status) in [
        ("no token", String::new(), 401),
        ("no token at all", "nonsense".to_owned(), 401),
        ("expired", not(json!({ "exp": now_s() - 60 })), 401),
        ("without an end", not(json!({ "exp": null })), 401),
        ("not yet valid", not(json!({ "nbf": now_s() + 60 })), 401),
        ("of another issuer", not(json!({ "iss": "https://issuer.example" })), 401),
        ("for another audience", not(json!({ "aud": "shop" })), 401),
        ("without a scope", not(json!({ "scope": "read" })), 403),
        ("signed by another", stranger.token(&claims(json!({}))), 401),
        ("without a signature", format!("{header}.{payload}."), 401),
        ("unsigned", format!("eyJhbGciOiJub25lIn0.{payload}."), 401),
        ("within the leeway", not(json!({ "exp": now_s() - 2 })), 101),
    ] {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", &*bearer)];
        let headers = if token.is_empty() { &[][..] } else { &headers[..] };
        assert_eq!(status_of(&cluster, "/dev", headers).await, status, "{what}");
    }
    let long = format!("Bearer {}", "a".repeat(9000));
    assert_eq!(status_of(&cluster, "/dev", &[("authorization", &long)]).await, 401);
    let refused = knock(&cluster, "/dev", &[]).await.err().unwrap();
    assert_eq!(refused.body["message"], "Unauthorized");
    assert!(refused.headers.contains_key("content-length"));
    let log = cluster.node(0).log();
    assert!(!log.contains(payload), "tokens are not logged");
    assert!(log.contains("fetched the keys of an issuer"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_when_they_are_needed_and_kept_while_their_issuer_is_down() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let issuer = Issuer::start(&[&old]).await;
    issuer.break_down();
    let cluster = with_tokens(&backend, &format!("jwks_uri: \"{}\"", issuer.url())).await;
    assert_eq!(issuer.asked(), 0, "nobody needed them yet");
    let [by_old, by_new] =
        [&old, &new].map(|key| format!("Bearer {}", key.token(&claims(json!({})))));
    let knock_by =
        async |token: &str| status_of(&cluster, "/dev", &[("authorization", token)]).await;
    assert_eq!(knock_by(&by_old).await, 500, "without keys nobody is let in");
    issuer.publish(&[&old]);
    assert_eq!(knock_by(&by_old).await, 101);
    assert_eq!(issuer.asked(), 2);
    assert_eq!(knock_by(&by_old).await, 101);
    assert_eq!(issuer.asked(), 2, "they are kept");

    issuer.publish(&[&old, &new]);
    assert_eq!(knock_by(&by_new).await, 101, "a key that is not known is asked for");
    assert_eq!(issuer.asked(), 3);
    issuer.break_down();
    let made_up = SigningKey::new("made up").token(&claims(json!({})));
    for _ in 0..20 {
        assert_eq!(knock_by(&format!("Bearer {made_up}")).await, 401);
    }
    assert!(issuer.asked() <= 5, "clients cannot make us ask often: {}", issuer.asked());
    assert_eq!(knock_by(&by_new).await, 101, "the keys are good while their issuer is down");
    assert_eq!(knock_by(&by_old).await, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_may_come_from_a_file_that_is_replaced() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let (old, new) = (SigningKey::new("old"), SigningKey::new("new"));
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("keys.json");
    let write = |key: &SigningKey| {
        std::fs::write(&file, posthorn_chaos::issuer::key_set(&[key]).to_string()).unwrap();
    };
    write(&old);
    let cluster = with_tokens(&backend, &format!("jwks_file: \"{}\"", file.display())).await;
    let [by_old, by_new] =
        [&old, &new].map(|key| format!("Bearer {}", key.token(&claims(json!({})))));
    let knock_by =
        async |token: &str| status_of(&cluster, "/dev", &[("authorization", token)]).await;
    assert_eq!(knock_by(&by_old).await, 101);
    write(&new);
    assert_eq!(knock_by(&by_new).await, 101);
    assert_eq!(knock_by(&by_old).await, 401, "the file does not have it any more");
}
