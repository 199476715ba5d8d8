//! What the chart renders, under the hands of a StatefulSet's controller: it grows, is updated, loses
//! volumes and hosts, shrinks, and comes back after all was dark.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use posthorn_chaos::backend::backend_api;
use posthorn_chaos::client::Client;
use posthorn_chaos::eventually;
use posthorn_chaos::history::{Event, History, Outcome, Record};
use posthorn_chaos::hosts::{ADMIN_PORT, API_PORT, EDGE_PORT, Host, Hosts};
use posthorn_chaos::load::{Load, Plan};
use posthorn_chaos::management::Management;
use posthorn_chaos::oracle::{self, End};
use posthorn_chaos::stateful_set::StatefulSet;
use posthorn_chaos::tools;
use posthorn_chaos::witness::Witness;
use posthorn_proto::v1::GetClusterRequest;
use posthorn_proto::v1::admin_service_client::AdminServiceClient;
use serde_json::{Value, json};
use tempfile::TempDir;
use tonic::Request;

const NODES_MAX: usize = 5;
const CLIENTS_PER_NODE: usize = 4;
/// So many pods are there ever: each has an address of its own.
const PODS: usize = 16;
const TOKEN: &str = "token";
const TOKEN_SHA256: &str = "3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0";

#[test]
fn a_stateful_set_grows_is_updated_loses_volumes_and_hosts_and_shrinks() {
    let Some(hosts) = Hosts::build(PODS) else { return };
    let hosts = Arc::new(hosts);
    hosts.run_outside(async || {
        let outside = hosts.address(Host::Outside);
        let history = Arc::new(History::default());
        let witness = Arc::new(Witness::start(outside, history.clone()).await);
        let Some((spec, config)) = render(&witness.url()).await else { return };
        let mut set = StatefulSet::new(hosts.clone(), spec, &config, NODES_MAX).await;
        let doors = set.expose(outside, NODES_MAX).await;
        set.scale(1).await;
        let plan = Plan {
            clients_per_node: CLIENTS_PER_NODE,
            post_interval: Duration::from_millis(15),
            stay: None,
            token: Some(TOKEN),
        };
        let load = Load::start(doors, history.clone(), witness, &plan);
        let mut story = Story { set, load, history };
        story.settled().await;
        story.set.scale(3).await;
        story.settled().await;
        story.set.scale(5).await;
        story.at_home().await;
        story.assert_members(5).await;

        // What takes effect as it arrives, and what does when a node starts.
        story.set.configure(&changed(&config));
        let later = format!("ws://{}/later", story.set.at(0, EDGE_PORT));
        eventually("a stage that is new", || async { Client::connect(&later).await.ok() }).await;
        let since = story.history.now();
        story.set.roll().await;
        story.at_home().await;
        story.assert_none_unknown(since);

        story.set.lose(2).await;
        story.set.lose_volume(2);
        story.set.create(2).await;
        story.set.wait_ready(2).await;
        story.at_home().await;
        story.assert_members(5).await;

        // Whoever was on a host that is lost is taken over by the others until it is made anew elsewhere.
        story.set.lose(1).await;
        story.settled().await;
        story.set.create(1).await;
        story.set.wait_ready(1).await;
        story.at_home().await;

        let since = story.history.now();
        story.set.scale(3).await;
        story.settled().await;
        story.assert_none_unknown(since);

        // All is dark. Whoever comes back alone is alive, and not ready.
        for ordinal in story.set.ordinals() {
            story.set.lose(ordinal).await;
        }
        story.set.create(1).await;
        eventually("a node without a quorum", || async {
            (story.set.probe(1, "readinessProbe").await == Some(503)).then_some(())
        })
        .await;
        story.set.assert_alive(1).await;
        story.set.scale(3).await;
        story.set.wait_ready(1).await;
        story.settled().await;
        story.finish().await;
    });
}

struct Story {
    set: StatefulSet,
    load: Load,
    history: Arc<History>,
}

impl Story {
    /// Waits until everybody sits somewhere, and every node knows exactly that, and nothing is owed.
    async fn settled(&self) {
        eventually("seats that are taken", || async {
            (self.load.sitting().len() == NODES_MAX * CLIENTS_PER_NODE).then_some(())
        })
        .await;
        self.entries(NODES_MAX * CLIENTS_PER_NODE).await;
    }

    /// The same, once everybody sits at the node that he belongs to.
    async fn at_home(&self) {
        eventually("everybody at home", || async {
            self.load.go_home();
            self.load.is_at_home().then_some(())
        })
        .await;
        self.settled().await;
    }

    async fn entries(&self, count: usize) {
        for ordinal in self.set.ordinals() {
            eventually("a directory without leaks", || async {
                let metric = |name| self.metric(ordinal, name);
                let entries = metric("posthorn_directory_entries").await?;
                let debts = metric("posthorn_directory_debts").await?;
                (entries == count as f64 && debts == 0.0).then_some(())
            })
            .await;
        }
    }

    async fn metric(&self, ordinal: usize, series: &str) -> Option<f64> {
        let admin = Management::new(self.set.at(ordinal, ADMIN_PORT)).with_token(TOKEN);
        let text = admin.get("/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line?.parse().ok()
    }

    /// As many as that, of which three vote, each from one disk.
    async fn assert_members(&self, count: usize) {
        let api = format!("http://{}", self.set.at(0, API_PORT));
        eventually("the members", || async {
            let mut admin = AdminServiceClient::connect(api.clone()).await.ok()?;
            let mut request = Request::new(GetClusterRequest {});
            let bearer = format!("Bearer {TOKEN}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
            let members = admin.get_cluster(request).await.ok()?.into_inner().cluster?.members;
            let voters = members.iter().filter(|member| member.is_voter).count();
            (members.len() == count && voters == 3).then_some(())
        })
        .await;
    }

    /// No sender was left in doubt by a node that took its leave.
    fn assert_none_unknown(&self, since: u64) {
        let is_unknown = |record: &&Record| {
            matches!(record.event, Event::PostEnd { outcome: Outcome::Unknown, .. })
        };
        let records = self.history.since(since);
        assert_eq!(records.iter().find(is_unknown), None);
    }

    async fn finish(mut self) {
        self.load.end().await;
        self.entries(0).await;
        let violations = oracle::judge(&self.history.records(), End::InPeace);
        assert!(violations.is_empty(), "{}: {:?}", violations.len(), violations.first());
    }
}

/// What the chart renders of the StatefulSet and of its configuration. Nothing where there is no helm.
async fn render(backend: &str) -> Option<(Value, String)> {
    let kubernetes = tools::kubernetes().await?;
    let values = format!(
        "replicas: 1\ncluster: {{ initialVoters: 1 }}\nconfig:\n  \
         edge: {{ insecure: true, ping_interval_s: 4, pong_timeout_s: 4 }}\n  \
         api: {{ insecure: true, post_timeout_ms: 3000 }}\n  \
         drain: {{ grace_s: 1, window_s: 2 }}\n  \
         principals:\n    everybody:\n      \
         permissions: [\"*/*/post\", \"*/*/get\", \"*/*/delete\", \"*/*/admin\"]\n      \
         token_sha256: [{TOKEN_SHA256}]\n  {}",
        backend_api(backend).replace('\n', "\n  ")
    );
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let file = folder.path().join("values.yaml");
    std::fs::write(&file, values).unwrap();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm/posthorn");
    let mut helm = kubernetes.command("helm");
    helm.args(["template", "posthorn", "--namespace", "posthorn", "--values"]);
    let output = helm.arg(file).arg(chart).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let config = objects.iter().find_map(|object| object.pointer("/data/posthorn.yaml")).unwrap();
    let set = objects.iter().find(|object| object["kind"] == "StatefulSet").unwrap();
    Some((set["spec"].clone(), config.as_str().unwrap().to_owned()))
}

/// With another stage, and another limit.
fn changed(config: &str) -> String {
    let mut config: Value = serde_saphyr::from_str(config).unwrap();
    config["apis"]["dev"]["stages"]["later"] = json!({});
    config["edge"]["connections_max"] = json!(100);
    config.to_string()
}
