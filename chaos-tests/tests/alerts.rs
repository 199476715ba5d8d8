//! What watches a cluster speaks of what the nodes say: rules, dashboards, and the runbook.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::{tools, within};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

#[tokio::test]
async fn each_alert_fires_when_it_should_and_not_in_peace() {
    let Some(mut promtool) = tools::installed("promtool") else { return };
    succeed(promtool.args(["test", "rules"]).arg(prometheus("tests.yaml"))).await;
    let tested = std::fs::read_to_string(prometheus("tests.yaml")).unwrap();
    for alert in alerts() {
        let expected = format!("alertname=\"{alert}\"");
        assert!(tested.contains(&expected), "in tests.yaml, no story has {alert} fire");
    }
}

#[test]
fn each_alert_has_its_entry_in_the_runbook() {
    let runbook = root().join("docs/runbook.md");
    let runbook = std::fs::read_to_string(runbook).unwrap();
    let entries = runbook.lines().filter_map(|line| line.strip_prefix("## "));
    let entries: BTreeSet<_> = entries.map(str::to_owned).collect();
    let alerts = alerts();
    assert_eq!(entries, alerts.iter().cloned().collect());
    for rule in rules().iter().filter(|rule| rule.get("alert").is_some()) {
        let name = rule["alert"].as_str().unwrap();
        let (severity, annotations) = (&rule["labels"]["severity"], &rule["annotations"]);
        assert!(severity == "page" || severity == "ticket", "{name}: {severity}");
        let entry = format!("docs/runbook.md#{}", name.to_lowercase());
        assert_eq!(annotations["runbook"], entry);
        assert!(annotations["summary"].is_string() && annotations["description"].is_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_and_dashboards_name_is_what_a_node_says() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let (_, metrics) = cluster.get(0, "/metrics").await.unwrap();
    let recorded: BTreeSet<_> =
        rules().iter().filter_map(|rule| Some(rule.get("record")?.as_str()?.to_owned())).collect();
    let dashboards: Vec<_> = dashboards().iter().flat_map(queries).collect();
    for expression in expressions().into_iter().chain(dashboards) {
        for name in words(&expression) {
            let is_series = |line: &str| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            let is_known = match name.contains(':') {
                true => recorded.contains(name),
                false if name.starts_with("posthorn_") || name.starts_with("process_") => {
                    metrics.lines().any(is_series)
                }
                false => true,
            };
            assert!(is_known, "there is no {name}: {expression}");
        }
        for (label, value) in matched(&expression) {
            let is_known = metrics.contains(&format!("{label}=\"{value}\""));
            assert!(is_known, "there is no {label}=\"{value}\": {expression}");
        }
    }
    let Some(mut promtool) = tools::installed("promtool") else { return };
    let mut promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped()).spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).await.unwrap();
    assert!(within("promtool", promtool.wait()).await.unwrap().success());
}

#[tokio::test]
async fn prometheus_can_compute_what_dashboards_ask_for() {
    let mut rules = Vec::new();
    for dashboard in dashboards() {
        let panels = dashboard["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), panels.len(), "{}: no two panels have one id", dashboard["title"]);
        let expressions = texts_at(&dashboard, "expr");
        assert!(expressions.len() > 10, "{}", dashboard["title"]);
        for expression in expressions {
            // What Grafana puts in.
            let expression = expression.replace("$__rate_interval", "1m");
            rules.push(
                json!({ "record": format!("test:rule:{}", rules.len()), "expr": expression }),
            );
        }
    }
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let file = folder.path().join("rules.json");
    let text = json!({ "groups": [{ "name": "dashboards", "rules": rules }] }).to_string();
    std::fs::write(&file, text).unwrap();
    let Some(mut promtool) = tools::installed("promtool") else { return };
    succeed(promtool.args(["check", "rules"]).arg(&file)).await;
}

fn dashboards() -> Vec<Value> {
    let files = ["fleet.json", "directory.json", "api.json"];
    let read = |file| std::fs::read(root().join("deploy/grafana").join(file)).unwrap();
    files.iter().map(|file| serde_json::from_slice(&read(file)).unwrap()).collect()
}

/// All that a dashboard asks Prometheus.
fn queries(dashboard: &Value) -> Vec<String> {
    let mut queries = texts_at(dashboard, "expr");
    queries.extend(texts_at(&dashboard["templating"], "definition"));
    queries
}

/// What is written at a key, however deep.
fn texts_at(value: &Value, wanted: &str) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(|item| texts_at(item, wanted)).collect(),
        Value::Object(members) => members
            .iter()
            .flat_map(|(key, member)| match member {
                Value::String(text) if key == wanted => vec![text.clone()],
                _ => texts_at(member, wanted),
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// All that rules ask Prometheus.
fn expressions() -> Vec<String> {
    rules().iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect()
}

fn alerts() -> Vec<String> {
    rules().iter().filter_map(|rule| Some(rule.get("alert")?.as_str()?.to_owned())).collect()
}

fn rules() -> Vec<Value> {
    let mut rules = Vec::new();
    for file in ["recording.yaml", "alerts.yaml"] {
        let text = std::fs::read_to_string(prometheus(file)).unwrap();
        let file: Value = serde_saphyr::from_str(&text).unwrap();
        for group in file["groups"].as_array().unwrap() {
            rules.extend(group["rules"].as_array().unwrap().iter().cloned());
        }
    }
    rules
}

/// Names of series, labels and functions.
fn words(expression: &str) -> impl Iterator<Item = &str> {
    let is_within = |letter: char| letter.is_ascii_alphanumeric() || "_:".contains(letter);
    let outside_quotes = expression.split('"').step_by(2);
    outside_quotes.flat_map(move |text| text.split(move |letter| !is_within(letter)))
}

/// Labels of ours whose values are a closed set, and the values that are looked for.
fn matched(expression: &str) -> Vec<(&str, &str)> {
    let mut pairs = Vec::new();
    let parts: Vec<_> = expression.split('"').collect();
    for pair in parts.chunks_exact(2) {
        let before = pair[0].trim_end_matches(['=', '~', '!']);
        for label in ["cause", "outcome"] {
            if before.ends_with(label) {
                pairs.extend(pair[1].split('|').map(|value| (label, value)));
            }
        }
    }
    pairs
}

fn prometheus(file: &str) -> PathBuf {
    root().join("deploy/prometheus").join(file)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

async fn succeed(command: &mut Command) {
    let output = command.output().await.unwrap();
    let (stdout, stderr) = (&output.stdout, &output.stderr);
    let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
    assert!(output.status.success(), "{:?}\n{stdout}\n{stderr}", command.as_std());
}
