//! API definitions that change while clients are connected.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::signal::Signal;
use posthorn_chaos::client::Client;
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::eventually;

const APPLIED: &str = "posthorn_config_reloads_total{outcome=\"applied\"}";
const REFUSED: &str = "posthorn_config_reloads_total{outcome=\"refused\"}";

#[tokio::test(flavor = "multi_thread")]
async fn definitions_are_read_anew_all_or_nothing_under_live_connections() {
    let apis = "api_files: [current/chat.yaml]\n".to_owned();
    let mut cluster = Cluster::prepare(Options { nodes: 1, apis, ..Options::default() });
    let folder = cluster.folder().to_owned();
    publish(&folder, "v1", &chat("one", "dev: {}"));
    cluster.spawn(0).await;
    cluster.wait_ready(0).await;
    let mut client = cluster.client(0).await;
    assert_eq!(ask(&mut client).await, "one");

    // The whole folder is swapped, as Kubernetes does it.
    publish(&folder, "v2", &chat("two", "dev: {}, beta: {}"));
    wait_for(&cluster, APPLIED, 1).await;
    assert_eq!(ask(&mut client).await, "two", "the same connection");
    let edge = cluster.node(0).at("edge");
    let beta = format!("ws://{edge}/beta");
    let mut guest = Client::connect(&beta).await.unwrap();
    assert_eq!(ask(&mut guest).await, "two");

    // What is wrong in one place changes nothing anywhere.
    let broken = chat("three", "gamma: {}").replace("target: integrations/say", "target: sya");
    publish(&folder, "v3", &broken);
    wait_for(&cluster, REFUSED, 1).await;
    let log = cluster.node(0).log();
    let place = "current/chat.yaml:5:27: apis.chat.routes.$default.target: ";
    assert!(log.contains(place), "{log}");
    assert_eq!(ask(&mut client).await, "two");
    assert_eq!(ask(&mut Client::connect(&beta).await.unwrap()).await, "two");

    // A file that is missing is looked for; and a stage that is gone has no routes.
    std::fs::remove_file(folder.join("current")).unwrap();
    wait_for(&cluster, REFUSED, 2).await;
    publish(&folder, "v4", &chat("four", "dev: {}"));
    wait_for(&cluster, APPLIED, 2).await;
    assert_eq!(ask(&mut client).await, "four");
    assert!(ask(&mut guest).await.starts_with(r#"{"message": "Forbidden", "#));
    assert!(Client::connect(&beta).await.is_err());

    // What takes effect at the start only is named.
    let config = cluster.config(0).replace("edge: {", "edge: { connections_max: 7,");
    let config = config.replace("api: {", "api: { post_timeout_ms: 1234,");
    let more = "log: { filter: debug }\naws: { region: eu-west-1 }\naccount: {}\n";
    let config = config.replace("name: test", "name: test\n  patience_ms: 60000") + more;
    std::fs::write(cluster.config_path(0), config).unwrap();
    wait_for(&cluster, APPLIED, 3).await;
    let log = cluster.node(0).log();
    assert!(
        log.contains(r#"takes effect when the node is started anew sections=["cluster", "edge", "api", "log"]"#),
        "{log}"
    );

    cluster.node(0).signal(Signal::SIGHUP);
    wait_for(&cluster, APPLIED, 4).await;
    assert_eq!(ask(&mut client).await, "four");
}

/// An API whose only route answers with a word.
fn chat(word: &str, stages: &str) -> String {
    format!(
        "apis:\n  chat:\n    route_selection_expression: $request.body.action\n    routes:\n      \
         $default: {{ target: integrations/say, route_response_selection_expression: $default }}\n    \
         integrations:\n      say: {{ integration_type: MOCK, mock_response: {{ body: {word} }} }}\n    \
         stages: {{ {stages} }}\n"
    )
}

/// Writes a file to a folder of its own, and points `current` there in one step.
fn publish(folder: &Path, version: &str, text: &str) {
    std::fs::create_dir(folder.join(version)).unwrap();
    std::fs::write(folder.join(version).join("chat.yaml"), text).unwrap();
    symlink(version, folder.join("next")).unwrap();
    std::fs::rename(folder.join("next"), folder.join("current")).unwrap();
}

async fn ask(client: &mut Client) -> String {
    client.send("?").await;
    client.text().await
}

async fn wait_for(cluster: &Cluster, series: &str, count: u32) {
    eventually(&format!("{series} {count}"), || async {
        (cluster.metric(0, series).await? >= f64::from(count)).then_some(())
    })
    .await;
}
