//! How callers show who they are: certificates, JSON Web Tokens, tokens in files; over TLS.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::process::Output;

use nix::sys::signal::Signal;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, ECHO_API, Options};
use posthorn_chaos::issuer::{Issuer, SigningKey};
use posthorn_chaos::management::now_ms;
use posthorn_chaos::papers::{Authority, dial};
use posthorn_chaos::process::binary;
use posthorn_chaos::{eventually, within};
use posthorn_core::auth::hash::Sha256;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

/// One node that speaks TLS at its API and knows three principals.
struct Stage {
    cluster: Cluster,
    authority: Authority,
    client: Client,
    id: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_known_by_certificates_and_tokens() {
    let (key, other_key) = (SigningKey::new("1"), SigningKey::new("1"));
    let (issuer, broken) = (Issuer::start(&[&key]).await, Issuer::start(&[]).await);
    broken.break_down();
    let mut stage = Stage::start(&issuer, &broken).await;
    let folder = stage.cluster.folder().to_owned();
    let file = |name: &str| folder.join(name).display().to_string();

    // By certificate.
    stage.authority.papers(&["batch.internal"]).write(&folder, "batch");
    stage.authority.papers(&["other.internal"]).write(&folder, "other");
    Authority::new().papers(&["batch.internal"]).write(&folder, "strange");
    let with = |stem: &str| {
        [
            "--cert-file".to_owned(),
            file(&format!("{stem}.pem")),
            "--key-file".to_owned(),
            file(&format!("{stem}.key")),
        ]
    };
    stage.accepts(&with("batch"), None).await;
    stage.refuses(&with("other"), None, 1, "UNAUTHENTICATED").await;
    // The handshake ends while the client believes that it has ended well, or just before.
    let strange = stage.post(&with("strange"), None).await;
    assert!(matches!(strange.status.code(), Some(3 | 5)), "{strange:?}");
    stage.refuses(&[], None, 1, "UNAUTHENTICATED").await;

    // By a token from the environment or a file. A wrong one is not made good by a certificate.
    stage.accepts(&[], Some("static token")).await;
    stage.refuses(&with("batch"), Some("guess"), 1, "UNAUTHENTICATED").await;
    std::fs::write(folder.join("token"), "static token\n").unwrap();
    stage.accepts(&["--token-file".to_owned(), file("token")], None).await;
    stage.refuses(&["--token-file".to_owned(), file("none")], None, 2, "none: ").await;

    // By a JSON Web Token.
    let now_s = now_ms() / 1000;
    let claims = |issuer: &str, subject: &str, roles: Value, expires_s: u64| json!({ "iss": issuer, "aud": "posthorn", "sub": subject, "roles": roles, "exp": expires_s });
    let good = claims("https://issuer.test", "ci", json!(["reader", "poster"]), now_s + 600);
    stage.accepts(&[], Some(&key.token(&good))).await;
    for (what, token) in [
        (
            "another subject",
            key.token(&claims("https://issuer.test", "cd", json!(["poster"]), now_s + 600)),
        ),
        (
            "another role",
            key.token(&claims("https://issuer.test", "ci", json!("reader"), now_s + 600)),
        ),
        ("expired", key.token(&claims("https://issuer.test", "ci", json!("poster"), now_s - 600))),
        (
            "another issuer",
            key.token(&claims("https://other.test", "ci", json!("poster"), now_s + 600)),
        ),
        ("another key", other_key.token(&good)),
    ] {
        println!("{what}");
        stage.refuses(&[], Some(&token), 1, "UNAUTHENTICATED").await;
    }
    let unverifiable =
        key.token(&claims("https://broken.test", "ci", json!("poster"), now_s + 600));
    stage.refuses(&[], Some(&unverifiable), 3, "ISSUER_UNREACHABLE").await;
    assert_eq!(stage.http(&unverifiable).await, "503");
    assert_eq!(stage.http(&key.token(&good)).await, "200");
    assert_eq!(stage.client.text().await, "by HTTP");
    assert_eq!(stage.http("guess").await, "403");

    stage.renews_its_principals().await;
    let log = stage.cluster.node(0).log();
    assert!(!log.contains("static token") && !log.contains(&key.token(&good)), "{log}");
}

impl Stage {
    async fn start(issuer: &Issuer, broken: &Issuer) -> Stage {
        let hash = Sha256::of(b"static token");
        let jwt = |name: &str, url: &str, claims: &str| {
            format!(
                "      - jwt_configuration: {{ issuer: 'https://{name}.test', audience: [posthorn], \
                 jwks_uri: '{url}' }}\n        claims: {claims}\n"
            )
        };
        let settings = format!(
            "api:\n  listen: \"{{ip}}:0\"\n  tls:\n    cert_file: api.pem\n    key_file: api.key\n    \
             clients: {{ ca_file: clients.pem, certificate: optional }}\nprincipals:\n  batch:\n    \
             permissions: [dev/dev/post]\n    certificate_names: [batch.internal]\n  static:\n    \
             permissions: [dev/dev/post]\n    token_sha256: [{hash}]\n  ci:\n    \
             permissions: [dev/dev/post]\n    json_web_tokens:\n{}{}",
            jwt("issuer", &issuer.url(), "{ sub: ci, roles: poster }"),
            jwt("broken", &broken.url(), "{ sub: ci }"),
        );
        let options = Options { nodes: 1, apis: ECHO_API.to_owned(), settings };
        let mut cluster = Cluster::prepare(options);
        let authority = Authority::new();
        let config = cluster.config(0);
        let ip = config.split("edge: { listen: \"").nth(1).unwrap().split(':').next().unwrap();
        authority.papers(&[ip]).write(cluster.folder(), "api");
        std::fs::write(cluster.folder().join("clients.pem"), authority.pem()).unwrap();
        cluster.spawn(0).await;
        cluster.wait_ready(0).await;
        let mut client = cluster.client(0).await;
        let id = client.id().await;
        Stage { cluster, authority, client, id }
    }

    /// Another token takes the place of the old one, without a restart.
    async fn renews_its_principals(&self) {
        let path = self.cluster.config_path(0);
        let [old, new] =
            ["static token", "new token"].map(|token| Sha256::of(token.as_bytes()).to_string());
        std::fs::write(&path, self.cluster.config(0).replace(&old, &new)).unwrap();
        self.cluster.node(0).signal(Signal::SIGHUP);
        eventually("the new token in force", || async {
            let refused = self.post(&[], Some("static token")).await;
            (!refused.status.success()).then_some(())
        })
        .await;
        self.refuses(&[], Some("static token"), 1, "UNAUTHENTICATED").await;
        assert_eq!(self.post(&[], Some("new token")).await.status.code(), Some(0));
    }

    async fn accepts(&mut self, arguments: &[String], token: Option<&str>) {
        let output = self.post(arguments, token).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), &*error), (Some(0), ""), "{arguments:?}");
        assert_eq!(self.client.text().await, "by the command");
    }

    async fn refuses(&self, arguments: &[String], token: Option<&str>, code: i32, reason: &str) {
        let output = self.post(arguments, token).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
        assert!(error.contains(reason) && error.lines().count() <= 2, "{error}");
    }

    /// By `posthorn post`.
    async fn post(&self, arguments: &[String], token: Option<&str>) -> Output {
        let mut command = Command::new(binary());
        command.arg("post").arg("--ca-file").arg(self.cluster.folder().join("clients.pem"));
        command.arg("--api").arg(self.cluster.node(0).at("api").to_string()).args(arguments);
        command.arg(&self.id).arg("by the command").env_remove("POSTHORN_TOKEN");
        if let Some(token) = token {
            command.env("POSTHORN_TOKEN", token);
        }
        within("the command's end", command.output()).await.unwrap()
    }

    /// The status of a post by HTTP/1.1.
    async fn http(&self, token: &str) -> String {
        let api = self.cluster.node(0).at("api");
        let client = self.authority.client(rustls::ALL_VERSIONS);
        let mut stream = dial(api, &api.ip().to_string(), client).await.unwrap();
        let request = format!(
            "POST /dev/@connections/{} HTTP/1.1\r\nHost: {api}\r\nAuthorization: Bearer {token}\r\n\
             Content-Length: 7\r\nConnection: close\r\n\r\nby HTTP",
            self.id
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        within("an answer", stream.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    }
}
