//! What pages name is there: settings, metrics, and what cargo is asked to run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::process::binary;
use posthorn_chaos::rows::Row;
use serde_json::Value;
use tempfile::TempDir;

use crate::pages::{self, Page};
use crate::{commands, root};

const SECTIONS: &[&str] = &[
    "node",
    "cluster",
    "fabric",
    "edge",
    "api",
    "admin",
    "drain",
    "integrations",
    "log",
    "aws",
    "account",
];

/// A page, with the number of a line.
type Place<'a> = (&'a Page, usize);

#[test]
fn settings_are_known() {
    let pages = pages::all();
    let folder = TempDir::with_prefix("posthorn-").expect("a folder can be made");
    let file = folder.path().join("node.yaml");
    let (mut known, mut faults) = (BTreeSet::new(), Vec::new());
    for ((page, number), code) in codes(&pages) {
        let key = code.split([':', ' ']).next().unwrap_or_default();
        let Some((section, name)) = key.split_once('.') else { continue };
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        if !SECTIONS.contains(&section) || name.is_empty() || !name.chars().all(is_name) {
            continue;
        }
        // Not ours, or names of files.
        if matches!(name, "yaml" | "rs" | "json" | "md") || !known.insert(key.to_owned()) {
            continue;
        }
        std::fs::write(&file, format!("{section}: {{ {name}: [[]] }}\n")).expect("a file");
        let checked = Command::new(binary()).arg("check").arg(&file).output();
        let checked = checked.expect("the binary can be started");
        // Whatever it may be, it is not that; but only what is known is looked at.
        if String::from_utf8_lossy(&checked.stderr).contains("unknown field") {
            faults.push(format!("{}:{number}: {key}", page.path.display()));
        }
    }
    assert!(faults.is_empty(), "there are no such settings:\n{}", faults.join("\n"));
    assert!(known.len() > 30, "{known:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_there() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let (_, metrics) = cluster.get(0, "/metrics").await.expect("metrics");
    let pages = pages::all();
    let mut count = 0;
    for ((page, number), code) in codes(&pages) {
        let name = code.split(['{', ' ', '(']).next().unwrap_or_default();
        if !name.starts_with("posthorn_") {
            continue;
        }
        count += 1;
        let begins = name.strip_suffix('*').unwrap_or(name);
        let is_there = metrics.lines().any(|line| match name.ends_with('*') {
            true => line.starts_with(begins),
            false => line.strip_prefix("# TYPE ").is_some_and(|rest| {
                rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(' '))
            }),
        });
        assert!(is_there, "{}:{number}: there is no {name}", page.path.display());
    }
    assert!(count > 20, "{count} metrics were found");
}

#[test]
fn exit_codes_are_those_of_the_help() {
    let help = Command::new(binary()).arg("--help").output().expect("the binary can be started");
    let help = String::from_utf8_lossy(&help.stdout).replace('\n', " ");
    let help: Vec<_> = help.split_whitespace().collect();
    let help = help.join(" ");
    let codes = help.split_once("Exit codes: ").and_then(|(_, codes)| codes.split_once(". "));
    let (codes, _) = codes.expect("the help tells them");
    let page = Page::read("docs/operating.md");
    for code in codes.split("; ") {
        let (number, meaning) = code.split_once(' ').expect("a code and what it means");
        let row = format!("| {number} | {meaning} |");
        assert!(page.prose.contains(&row), "{row}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_programs_get_are_told() {
    let cluster = Cluster::start(Options { nodes: 1, ..Options::default() }).await;
    let mut client = cluster.client(0).await;
    let id = client.id().await;
    let api = cluster.node(0).at("api").to_string();
    let page = Page::read("docs/operating.md");
    let told: BTreeSet<_> = page.code().map(|(_, code)| code.to_owned()).collect();
    for command in ["cluster status", "connections list", &format!("connections get {id}")] {
        let words = command.split(' ').chain(["--json", "--api", &api]);
        let output = Command::new(binary()).args(words).output();
        let output = output.expect("the binary can be started");
        let json: Value = serde_json::from_slice(&output.stdout).expect("a line of JSON");
        let mut fields = BTreeSet::new();
        gather(&json, &mut fields);
        assert!(fields.len() > 5, "{json}");
        let untold: Vec<_> = fields.difference(&told).collect();
        assert!(untold.is_empty(), "docs/operating.md does not tell of {untold:?}");
    }
}

fn gather(json: &Value, fields: &mut BTreeSet<String>) {
    match json {
        Value::Object(members) => {
            for (name, value) in members {
                fields.insert(name.clone());
                gather(value, fields);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| gather(element, fields)),
        _ => (),
    }
}

#[test]
fn cargo_finds_what_it_is_asked_to_run() {
    let pages = pages::all();
    let mut count = 0;
    for (place, line) in commands::shown(&pages) {
        let words: Vec<_> = line.split_whitespace().collect();
        if words.first() != Some(&"cargo") {
            continue;
        }
        count += 1;
        for pair in words.windows(2) {
            let [option, name] = pair else { continue };
            let is_there = match *option {
                "-p" => is_package(name),
                "--test" => {
                    let tests = ["broker/tests", "broker/core/tests", "chaos-tests/tests"];
                    tests.iter().any(|folder| is_target(&Path::new(folder).join(name)))
                }
                "--bench" => is_target(&Path::new("benches/benches").join(name)),
                "--bin" => is_target(&Path::new("chaos-tests/src/bin").join(name)),
                "--example" => is_target(&Path::new("docs/examples").join(name)),
                _ => true,
            };
            assert!(is_there, "{place}: {option} {name}");
        }
        let chaos = line.split_once("--bin chaos -- ");
        let rows = chaos.map_or("", |(_, rows)| rows.split('#').next().unwrap_or_default());
        for row in rows.split_whitespace().filter(|_| !rows.starts_with("soak")) {
            assert!(Row::ALL.iter().any(|known| known.name() == row), "{place}: {row}");
        }
    }
    assert!(count > 10, "{count} calls of cargo were found");
}

fn is_package(name: &str) -> bool {
    ["broker", "broker/core", "proto", "chaos-tests", "benches"].iter().any(|folder| {
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml"));
        manifest.is_ok_and(|manifest| manifest.contains(&format!("name = \"{name}\"")))
    })
}

/// A file, or a folder with a `main.rs`.
fn is_target(path: &Path) -> bool {
    let path = root().join(path);
    path.with_extension("rs").exists() || path.join("main.rs").exists()
}

fn codes(pages: &[Page]) -> impl Iterator<Item = (Place<'_>, &str)> {
    pages.iter().flat_map(|page| page.code().map(move |(number, code)| ((page, number), code)))
}
