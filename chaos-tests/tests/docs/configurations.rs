//! Configurations that pages show are believed.
//!
//! A block of YAML is some sections of a node's configuration, or, where it is indented, some of an API;
//! the rest is taken from a plain node with the APIs `chat` and `news`. Files that it names are made for it.

use std::path::Path;
use std::process::Command;

use posthorn_chaos::process::binary;
use posthorn_chaos::tools;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::{pages, root};

const SECRET: &str = "a secret that is long enough";

#[test]
fn configurations_are_believed() {
    let folder = TempDir::with_prefix("posthorn-").expect("a folder can be made");
    let papers = folder.path().join("papers");
    let certs = ["certs", "--cluster", "docs", "--nodes", "1", "--dir"];
    let made = Command::new(binary()).args(certs).arg(&papers).output().expect("the binary starts");
    assert!(made.status.success(), "{made:?}");
    std::fs::write(folder.path().join("secret"), SECRET).expect("a file can be written");

    let pages = pages::all();
    let blocks = pages.iter().flat_map(|page| &page.blocks);
    let blocks = blocks.filter(|block| block.language == "yaml");
    let mut count = 0;
    for block in blocks {
        let written: Value = match serde_saphyr::from_str(&block.text) {
            Ok(written) => written,
            Err(error) => panic!("{block}: {error}"),
        };
        let written = match &block.marks[..] {
            // Not ours.
            [mark] if mark == "other" => continue,
            // Of the chart, which hands it on to the nodes.
            [mark] if mark == "values" => written.get("config").cloned().unwrap_or(json!({})),
            _ if block.text.starts_with(' ') => json!({ "apis": { "chat": written } }),
            _ => written,
        };
        count += 1;
        let mut config = plain_node(folder.path());
        lay_over(&mut config, written);
        let mut variables = Vec::new();
        fill(&mut config, &papers, &mut variables);
        let file = folder.path().join("node.yaml");
        std::fs::write(&file, config.to_string()).expect("a file can be written");
        let checked = Command::new(binary()).arg("check").arg(&file).envs(variables).output();
        let checked = checked.expect("the binary can be started");
        let error = String::from_utf8_lossy(&checked.stderr);
        assert!(checked.status.success(), "{block}: {error}\n{config:#}");
    }
    assert!(count > 10, "{count} configurations were found");
}

#[tokio::test]
async fn charts_and_overlays_are_rendered() {
    let Some(kubernetes) = tools::kubernetes().await else { return };
    let folder = TempDir::with_prefix("posthorn-").expect("a folder can be made");
    let base = folder.path().join("posthorn/deploy/kubernetes");
    copy(&root().join("deploy/kubernetes"), &base);
    let (values, overlay) = (folder.path().join("values.yaml"), folder.path().join("overlay"));
    std::fs::create_dir(&overlay).expect("a folder can be made");
    let pages = pages::all();
    let blocks = pages.iter().flat_map(|page| &page.blocks);
    let (mut charts, mut overlays) = (0, 0);
    for block in blocks.filter(|block| block.language == "yaml") {
        let output = if block.marks == ["values"] {
            charts += 1;
            std::fs::write(&values, &block.text).expect("a file can be written");
            let mut helm = kubernetes.command("helm");
            helm.args(["template", "posthorn", "--namespace", "chat", "--values"]);
            helm.arg(&values).arg(root().join("deploy/helm/posthorn")).output().await
        } else if block.text.starts_with("# kustomization.yaml") {
            overlays += 1;
            let written = std::fs::write(overlay.join("kustomization.yaml"), &block.text);
            written.expect("a file can be written");
            std::fs::write(overlay.join("posthorn.yaml"), "mine").expect("a file can be written");
            kubernetes.command("kubectl").arg("kustomize").arg(&overlay).output().await
        } else {
            continue;
        };
        let output = output.expect("the program runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{block}: {error}");
        let rendered = String::from_utf8_lossy(&output.stdout);
        let is_whole =
            rendered.contains("kind: StatefulSet") && rendered.contains("namespace: chat");
        assert!(is_whole, "{block}: {rendered}");
        assert!(overlays == 0 || rendered.contains("posthorn.yaml: mine"), "{block}: {rendered}");
    }
    assert!(charts > 0 && overlays > 0, "{charts} {overlays}");
}

/// A node that is believed, whatever sections it is given beside.
fn plain_node(folder: &Path) -> Value {
    json!({
        "node": { "id": 0, "data_dir": folder.join("data") },
        "cluster": { "name": "docs", "initial_voters": [{ "id": 0, "address": "localhost:7946" }] },
        "fabric": { "advertise": "localhost:7946", "ca_file": "", "cert_file": "", "key_file": "" },
        "edge": { "listen": "127.0.0.1:8080" },
        "api": { "listen": "127.0.0.1:8081" },
        "apis": { "chat": {
            "route_selection_expression": "$request.body.action",
            "integrations": { "backend": {
                "integration_type": "HTTP_EVENT",
                "integration_uri": "http://127.0.0.1:9000/",
            } },
            "routes": { "$default": { "target": "integrations/backend" } },
            "stages": { "prod": {} },
        }, "news": { "route_selection_expression": "news", "stages": { "prod": {} } } },
    })
}

/// What is written goes over what is there, key by key.
fn lay_over(there: &mut Value, written: Value) {
    match (there, written) {
        (Value::Object(there), Value::Object(written)) => {
            for (key, value) in written {
                lay_over(there.entry(key).or_insert(Value::Null), value);
            }
        }
        (there, written) => *there = written,
    }
}

/// Names files that are there, and variables that are set, where any are named.
fn fill(config: &mut Value, papers: &Path, variables: &mut Vec<(String, String)>) {
    let nodes = papers.join("nodes");
    match config {
        Value::Object(members) => {
            name_node(members);
            for (key, value) in members {
                let file = match &**key {
                    "ca_file" => nodes.join("ca.pem"),
                    "cert_file" => nodes.join("node-0.pem"),
                    "key_file" => nodes.join("node-0.key"),
                    "secret_access_key_file" | "value_file" => papers.join("../secret"),
                    "value_env" | "secret_access_key_env" => {
                        let name = value.as_str().unwrap_or_default().to_owned();
                        variables.push((name, SECRET.to_owned()));
                        continue;
                    }
                    _ => {
                        fill(value, papers, variables);
                        continue;
                    }
                };
                *value = json!(file);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                fill(element, papers, variables);
            }
        }
        _ => (),
    }
}

/// Its papers are for node 0 of `docs`.
fn name_node(members: &mut Map<String, Value>) {
    if let Some(node) = members.get_mut("node").and_then(Value::as_object_mut) {
        node.insert("id".to_owned(), json!(0));
    }
    if let Some(cluster) = members.get_mut("cluster").and_then(Value::as_object_mut) {
        cluster.insert("name".to_owned(), json!("docs"));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder can be made");
    for entry in std::fs::read_dir(from).expect("a folder can be listed") {
        let entry = entry.expect("an entry can be read");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => drop(std::fs::copy(from, to).expect("a file can be copied")),
        }
    }
}
