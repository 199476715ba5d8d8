//! Who is let in, by whom, and how often.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use posthorn_chaos::backend::Backend;
use posthorn_chaos::client::{Client, Refused};
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::issuer::{Issuer, SigningKey};
use posthorn_chaos::tools;
use posthorn_core::auth::sigv4::{self, Credentials, Scope};
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
        close_when_token_expires: true
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
    let short = format!("Bearer {}", not(json!({ "exp": now_s() - 3 })));
    let (mut client, _) = knock(&cluster, "/dev", &[("authorization", &short)]).await.unwrap();
    assert_eq!(client.closed().await, (1008, "Token expired".to_owned()), "when the leeway ends");
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

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const REGION: &str = "eu-west-1";

/// One node with one API that asks for signatures, and three who can sign.
async fn with_signers(backend: &Backend) -> Cluster {
    let apis = format!(
        r#"
apis:
  chat:
    route_selection_expression: $request.body.action
    routes:
      $connect: {{ target: integrations/backend, authorization_type: AWS_IAM }}
      $disconnect: {{ target: integrations/backend }}
      $default: {{ target: integrations/backend }}
    integrations:
      backend: {{ integration_type: HTTP_EVENT, integration_uri: "{}" }}
    stages:
      dev: {{ allowed_origins: ['https://chat.example'] }}
      other: {{}}
"#,
        backend.url()
    );
    let settings = r#"
aws: { region: eu-west-1, account_id: '123456789012' }
log: { filter: "info,openraft=error,posthorn=trace" }
principals:
  ada:
    permissions: [chat/dev/connect]
    access_keys: [{ access_key_id: AKIDADA, secret_access_key_file: secret }]
  bob:
    permissions: [other/*/connect, chat/*/get]
    access_keys: [{ access_key_id: AKIDBOB, secret_access_key_file: secret }]
  eve:
    permissions: []
    access_keys: [{ access_key_id: AKIDEVE, secret_access_key_file: secret }]
    user_arn: arn:aws:iam::210987654321:user/eve
    policy:
      Version: '2012-10-17'
      Statement:
        - Effect: Allow
          Action: execute-api:Invoke
          Resource: 'arn:aws:execute-api:eu-west-1:123456789012:chat/*'
        - { Effect: Deny, Action: '*', Resource: '*/other/$connect' }
"#;
    let options = Options { nodes: 1, apis, settings: settings.to_owned() };
    let mut cluster = Cluster::prepare(options);
    std::fs::write(cluster.folder().join("secret"), format!("{SECRET}\n")).unwrap();
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    cluster
}

/// How a handshake is signed.
#[derive(Clone, Copy)]
struct Signing<'a> {
    key: &'a str,
    secret: &'a str,
    region: &'a str,
    service: &'a str,
    /// From now.
    at_s: i64,
    expires_s: u32,
    /// Of the path that is signed.
    path: &'a str,
}

const SIGNING: Signing<'_> = Signing {
    key: "AKIDADA",
    secret: SECRET,
    region: REGION,
    service: "execute-api",
    at_s: 0,
    expires_s: 60,
    path: "/dev",
};

impl Signing<'_> {
    /// Signs by `sign`, for the host of the cluster or none.
    fn by<T>(
        &self,
        host: &str,
        sign: impl FnOnce(&sigv4::Request<'_>, &Credentials<'_>, &Scope<'_>, u64) -> T,
    ) -> T {
        let host = [("host", host.as_bytes())];
        let headers = if host[0].1.is_empty() { &[][..] } else { &host[..] };
        let request =
            sigv4::Request { method: "GET", path: self.path, query: "a=b%20c", headers, body: &[] };
        let credentials = Credentials {
            access_key_id: self.key,
            secret_access_key: self.secret,
            session_token: None,
        };
        let scope = Scope { region: self.region, service: self.service };
        let now_ms = now_s().strict_add_signed(self.at_s) * 1000;
        sign(&request, &credentials, &scope, now_ms)
    }

    async fn in_headers(&self, cluster: &Cluster) -> Result<(Client, HeaderMap), Refused> {
        let host = cluster.node(0).at("edge").to_string();
        let headers = self.by(&host, sigv4::sign);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
        knock(cluster, &format!("{}?a=b%20c", self.path), &headers).await
    }

    async fn in_query(&self, cluster: &Cluster) -> Result<(Client, HeaderMap), Refused> {
        let host = cluster.node(0).at("edge").to_string();
        knock(cluster, &format!("{}?{}", self.path, self.presigned(&host)), &[]).await
    }

    fn presigned(&self, host: &str) -> String {
        self.by(host, |request, credentials, scope, now_ms| {
            sigv4::presign(request, credentials, scope, now_ms, Some(self.expires_s))
        })
    }
}

/// The status, AWS's name for it, and the message.
fn told(refused: &Refused) -> (u16, &str, &str) {
    let name = refused.headers.get("x-amzn-errortype").map_or("", |name| name.to_str().unwrap());
    let message = refused.body["message"].as_str().or(refused.body["Message"].as_str());
    (refused.status, name, message.unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_lets_in_whom_the_configuration_knows() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = with_signers(&backend).await;
    let (mut client, _) = SIGNING.in_headers(&cluster).await.unwrap();
    let identity = backend.event_of("CONNECT").await["requestContext"]["identity"].clone();
    let expected = json!({
        "accountId": "123456789012", "caller": "ada", "user": "ada", "accessKey": "AKIDADA",
        "userArn": "arn:aws:iam::123456789012:user/ada", "sourceIp": identity["sourceIp"],
    });
    assert_eq!(identity, expected);
    client.close().await;
    let disconnect = backend.event_of("DISCONNECT").await;
    assert_eq!(disconnect["requestContext"]["identity"], expected);
    SIGNING.in_query(&cluster).await.unwrap();
    let connect = backend.event_of("CONNECT").await;
    assert_eq!(connect["queryStringParameters"]["a"], "b c");
    SIGNING.in_query(&cluster).await.unwrap();

    let eve = Signing { key: "AKIDEVE", ..SIGNING };
    eve.in_query(&cluster).await.unwrap();
    backend.drain().await;
    let why = denied(&cluster, Signing { path: "/other", ..eve }).await;
    assert!(why.ends_with(" with an explicit deny in an identity-based policy"), "{why}");
    let why = denied(&cluster, Signing { key: "AKIDBOB", ..SIGNING }).await;
    let expected = "User: arn:aws:iam::123456789012:user/bob is not authorized to perform: \
        execute-api:Invoke on resource: arn:aws:execute-api:eu-west-1:********9012:chat/dev/$connect \
        because no identity-based policy allows the execute-api:Invoke action";
    assert_eq!(why, expected);
    denied(&cluster, Signing { path: "/other", ..SIGNING }).await;
    assert_eq!(connects(&backend).await, 0, "nobody was told of who was denied");
    assert!(!cluster.node(0).log().contains(SECRET));
}

/// How many handshakes the backend was told of since it was asked last.
async fn connects(backend: &Backend) -> usize {
    let events = backend.drain().await;
    events.iter().filter(|event| event["requestContext"]["eventType"] == "CONNECT").count()
}

/// What somebody is told who signs well and may not connect.
async fn denied(cluster: &Cluster, signing: Signing<'_>) -> String {
    let refused = signing.in_headers(cluster).await.err().unwrap();
    let (status, name, message) = told(&refused);
    assert_eq!((status, name), (403, "AccessDeniedException"), "{message}");
    assert!(refused.body["Message"].is_string());
    message.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_that_are_not_good_are_refused_by_name() {
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = with_signers(&backend).await;
    let refused = knock(&cluster, "/dev", &[]).await.err().unwrap();
    let missing = (403, "MissingAuthenticationTokenException", "Missing Authentication Token");
    assert_eq!(told(&refused), missing);
    assert_eq!(refused.body, json!({ "message": "Missing Authentication Token" }));
    const INVALID: &str = "InvalidSignatureException";
    for (signing, name, begin) in [
        (Signing { secret: "other", ..SIGNING }, INVALID, "The request signature we calculated"),
        (Signing { at_s: 400, ..SIGNING }, INVALID, "Signature not yet current: "),
        (Signing { region: "us-east-1", ..SIGNING }, INVALID, "Credential should be scoped to a"),
        (Signing { service: "lambda", ..SIGNING }, INVALID, "Credential should be scoped to corr"),
        (Signing { key: "AKIDNONE", ..SIGNING }, "UnrecognizedClientException", "The security"),
    ] {
        for refused in [signing.in_headers(&cluster).await, signing.in_query(&cluster).await] {
            let refused = refused.err().unwrap();
            let (status, told, message) = told(&refused);
            assert_eq!((status, told), (403, name), "{message}");
            assert!(message.starts_with(begin), "{message}");
        }
    }
    let late = Signing { at_s: -400, ..SIGNING };
    let refused = late.in_headers(&cluster).await.err().unwrap();
    assert!(told(&refused).2.starts_with("Signature expired: "), "{refused:?}");
    let refused = late.in_query(&cluster).await.err().unwrap();
    assert!(told(&refused).2.starts_with("Signature expired: "), "past its Expires: {refused:?}");
    Signing { expires_s: 3600, ..late }.in_query(&cluster).await.unwrap();

    let path = format!("/dev?{}", SIGNING.presigned(""));
    let refused = knock(&cluster, &path, &[]).await.err().unwrap();
    assert!(told(&refused).2.starts_with("'Host' or ':authority' must be"), "{refused:?}");
    let host = cluster.node(0).at("edge").to_string();
    let path = format!("/dev?{}", SIGNING.presigned(&host));
    for path in [path.replace("a=b", "a=c"), path.replace("/dev", "/chat/dev")] {
        let refused = knock(&cluster, &path, &[]).await.err().unwrap();
        assert_eq!(told(&refused).1, INVALID, "what is signed is not what is asked for");
    }
    let signature = [("authorization", "AWS4-HMAC-SHA256 Credential=a")];
    let refused = knock(&cluster, &path, &signature).await.err().unwrap();
    assert!(told(&refused).2.starts_with("Found both 'X-Amz-Algorithm'"), "{refused:?}");
    let refused = knock(&cluster, "/dev", &signature).await.err().unwrap();
    assert_eq!(told(&refused).1, "IncompleteSignatureException");
    let stranger = [("origin", "null")];
    let refused = knock(&cluster, &path, &stranger).await.err().unwrap();
    assert_eq!(told(&refused), (403, "", "Forbidden"), "whose page it is, is judged first");
    assert_eq!(connects(&backend).await, 1, "of the one that was good");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_botocore_signs_is_let_in() {
    let Some(python) = tools::python(&["boto3==1.44.5"]).await else { return };
    let backend = Backend::start(|_| (200, String::new())).await;
    let cluster = with_signers(&backend).await;
    let host = cluster.node(0).at("edge").to_string();
    let url = format!("http://{host}/dev?a=b%20c&x=%C3%A4&y=");
    let mut command = python.command("python");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/sign.py"));
    let output = command.args([&*url, "AKIDADA", SECRET, REGION]).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let signed: Value = serde_json::from_slice(&output.stdout).unwrap();
    let path = |url: &str| url.strip_prefix(&format!("http://{host}")).unwrap().to_owned();
    knock(&cluster, &path(signed["url"].as_str().unwrap()), &[]).await.unwrap();
    let header = |name: &str| signed["headers"][name].as_str().unwrap();
    let headers =
        [("x-amz-date", header("X-Amz-Date")), ("authorization", header("Authorization"))];
    knock(&cluster, &path(&url), &headers).await.unwrap();
    let query = &backend.event_of("CONNECT").await["queryStringParameters"];
    assert_eq!((&query["a"], &query["x"], &query["y"]), (&json!("b c"), &json!("ä"), &json!("")));
}
