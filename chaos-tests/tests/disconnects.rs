//! `$disconnect` comes last, and is not tried for ever.

use posthorn_chaos::backend::{Backend, backend_api};
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;
use posthorn_chaos::process::Launch;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_hears_of_the_end_behind_all_that_the_client_sent() {
    // Messages are answered once their client has gone, and an event is counted once it is answered.
    let (gone, watched) = watch::channel(false);
    let backend = Backend::start(move |event| {
        if event["requestContext"]["eventType"] == "MESSAGE" {
            let mut watched = watched.clone();
            let wait = async { watched.wait_for(|gone| *gone).await.map(drop) };
            tokio::task::block_in_place(|| Handle::current().block_on(wait)).expect("a test");
        }
        (200, String::new())
    })
    .await;
    let apis = backend_api(&backend.url());
    let cluster = Cluster::start(Options { nodes: 1, apis, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    client.send("one").await;
    client.send("two").await;
    client.close().await;
    eventually("a client that is gone", || async {
        (cluster.metric(0, "posthorn_connections").await? == 0.0).then_some(())
    })
    .await;
    gone.send_replace(true);
    let mut events = Vec::new();
    for _ in 0..4 {
        events.push(backend.event().await["requestContext"].clone());
    }
    let kinds: Vec<_> = events.iter().map(|context| context["eventType"].as_str()).collect();
    assert_eq!(kinds, [Some("CONNECT"), Some("MESSAGE"), Some("MESSAGE"), Some("DISCONNECT")]);
    let mut numbers: Vec<_> =
        events.iter().map(|context| context["posthorn"]["sequence"].as_u64()).collect();
    // Two messages may be told at once.
    numbers[1..3].sort();
    assert_eq!(numbers, [Some(1), Some(2), Some(3), Some(4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disconnect_that_nobody_answers_is_given_up_and_counted() {
    let backend = Backend::start(|event| {
        let ends = event["requestContext"]["eventType"] == "DISCONNECT";
        (if ends { 503 } else { 200 }, String::new())
    })
    .await;
    let apis = backend_api(&backend.url());
    let mut cluster = Cluster::prepare(Options { nodes: 1, apis, ..Options::default() });
    let limit = ("POSTHORN_CLUSTER__DISCONNECT_RETRY_MAX_S".to_owned(), "1".to_owned());
    let launch = Launch { environment: vec![limit], ..Launch::default() };
    cluster.spawn_with(0, &launch).await;
    cluster.wait_ready(0).await;
    cluster.client(0).await.close().await;
    for series in ["posthorn_disconnects_given_up_total 1", "posthorn_directory_entries 0"] {
        let (name, expected) = series.split_once(' ').unwrap_or_default();
        eventually(series, || async {
            (cluster.metric(0, name).await? == expected.parse::<f64>().ok()?).then_some(())
        })
        .await;
    }
    let told = backend.drain().await.len();
    assert!(told >= 3, "$connect, and $disconnect more than once: {told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_heir_tells_the_same_of_a_client_as_its_owner_would_have() {
    let authorizer = Backend::start(|_| {
        let policy = json!({ "Version": "2012-10-17", "Statement": [
            { "Action": "execute-api:Invoke", "Effect": "Allow", "Resource": "*" },
        ] });
        let context = json!({ "tenant": "acme", "level": 7 });
        let answer = json!({ "principalId": "ada", "policyDocument": policy, "context": context });
        (200, answer.to_string())
    })
    .await;
    let backend = Backend::start(|_| (200, String::new())).await;
    let routes = "$connect: { target: integrations/backend, authorization_type: CUSTOM, \
                  authorizer_id: who }";
    let apis = backend_api(&backend.url())
        .replace("$connect: { target: integrations/backend }", routes)
        .replace(
            "    stages:",
            &format!(
                "    authorizers:\n      \
                 who: {{ authorizer_type: REQUEST, authorizer_uri: \"{}\" }}\n    stages:",
                authorizer.url()
            ),
        );
    let mut cluster = Cluster::start(Options { apis, ..Options::default() }).await;
    let mut clients = Vec::new();
    let mut connects = Vec::new();
    for node in [0, 2] {
        clients.push(cluster.client(node).await);
        connects.push(facts(&backend.event_of("CONNECT").await));
    }
    cluster.take(2).kill().await;
    let inherited = facts(&backend.event_of("DISCONNECT").await);
    assert_eq!(inherited, connects[1]);
    assert_eq!(inherited["authorizer"]["tenant"], "acme");
    assert_eq!(inherited["authorizer"]["principalId"], "ada");
    clients.swap_remove(0).close().await;
    assert_eq!(facts(&backend.event_of("DISCONNECT").await), connects[0]);
}

/// What every event of one connection says of it.
fn facts(event: &Value) -> Value {
    let mut context = event["requestContext"].clone();
    if let Some(authorizer) = context["authorizer"].as_object_mut() {
        // Of the call that has just been, and so of `$connect` alone.
        authorizer.remove("integrationLatency");
    }
    let fields = ["connectionId", "connectedAt", "identity", "authorizer", "apiId", "stage"];
    fields.iter().map(|field| ((*field).to_owned(), context[*field].clone())).collect()
}
