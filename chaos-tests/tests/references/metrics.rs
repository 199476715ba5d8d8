//! `docs/metrics.md`, against what a node says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::OnceLock;

use posthorn::telemetry::{ARITHMETIC, Exporter, Metrics, Registry, Series, Values};
use posthorn_chaos::cluster::{Cluster, Options};
use posthorn_chaos::{eventually, tools, within};
use posthorn_proto::v1::PostToConnectionRequest;
use tokio::io::AsyncWriteExt as _;

use crate::{MADE, cell, check_page};

/// What is not the broker's own: of the process.
const PROCESS: &str = "process_";
const APIS: &str = r#"
apis:
  dev:
    route_selection_expression: $request.body.action
    routes:
      $connect: { target: integrations/closed }
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
      closed: { target: integrations/closed }
    integrations:
      closed: { integration_type: HTTP_EVENT, integration_uri: "http://127.0.0.1:1/" }
      whoami: { integration_type: MOCK, mock_response: { body: '$context.connectionId' } }
    stages:
      dev: {}
  open:
    route_selection_expression: $request.body.action
    routes:
      whoami: { target: integrations/whoami, route_response_selection_expression: $default }
      closed: { target: integrations/closed }
    integrations:
      closed: { integration_type: HTTP_EVENT, integration_uri: "http://127.0.0.1:1/" }
      whoami: { integration_type: MOCK, mock_response: { body: '$context.connectionId' } }
    stages:
      open: {}
"#;

#[test]
fn the_page_of_metrics_is_current() {
    check_page("metrics.md", &page());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_says_is_on_the_page_and_adds_up() {
    let cluster = Cluster::start(Options { apis: APIS.to_owned(), ..Options::default() }).await;
    cluster.try_client(0).await.err().unwrap();
    let url = cluster.url(0).replace("/dev", "/open");
    let mut client = posthorn_chaos::client::Client::connect(&url).await.unwrap();
    client.send(r#"{"action":"whoami"}"#).await;
    let connection_id = client.text().await;
    for message in [r#"{"action":"closed"}"#, "no route"] {
        client.send(message).await;
        client.text().await;
    }
    for node in [0, 1, 2] {
        let post =
            PostToConnectionRequest { connection_id: connection_id.clone(), ..Default::default() };
        cluster.grpc(node).await.post_to_connection(post).await.unwrap();
        client.text().await;
    }
    let mut gone = posthorn_chaos::client::Client::connect(&url).await.unwrap();
    gone.close().await;

    let known = known();
    for node in [0, 1, 2] {
        let (_, metrics) = cluster.get(node, "/metrics").await.unwrap();
        for (family, kind, labels) in families(&metrics) {
            let Some((known_kind, known_labels)) = known.get(&family) else {
                panic!("{family} is not on the page")
            };
            assert_eq!((&kind, &labels), (known_kind, known_labels), "{family}");
        }
        let Some(mut promtool) = tools::installed("promtool") else { continue };
        let promtool = promtool.args(["check", "metrics"]).stdin(Stdio::piped());
        let mut promtool = promtool.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).await.unwrap();
        let output = within("promtool", promtool.wait_with_output()).await.unwrap();
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        assert!(output.status.success() && said.is_empty(), "{said}");
    }
    for equation in ARITHMETIC {
        let of_all = equation.meaning.contains("all nodes");
        eventually(equation.text, || async {
            let mut all = String::new();
            for node in 0..cluster.len() {
                all += &cluster.get(node, "/metrics").await?.1;
            }
            let (_, own) = cluster.get(0, "/metrics").await?;
            let (own, all) = (own.as_str(), all.as_str());
            let [left, right] = match (of_all, equation.meaning.contains("the right side")) {
                (false, _) => [own, own],
                (true, true) => [own, all],
                (true, false) => [all, own],
            };
            holds(equation.text, left, right).then_some(())
        })
        .await;
    }
}

fn page() -> String {
    let mut page = format!(
        "{MADE}# Metrics\n\n\
         What `GET /metrics` of a node's admin listener shows, in Prometheus's text format: all that Posthorn \
         counts, and the process's own figures. The values of labels are closed sets, or names of the \
         configuration: neither clients nor backends can make a new series. Counters begin at 0 with the \
         process. A histogram `x` is the series `x_bucket` (with the label `le`), `x_sum` and `x_count`. Names \
         end in their unit (`_seconds`, `_bytes`); without one, they count what they name. What is meant to be \
         looked at first is in the [dashboards](../deploy/grafana) and [alerts](../deploy/prometheus).\n"
    );
    let mut section = "";
    for series in &registry().series {
        if series.section != section {
            section = series.section;
            let head = "| series | type | unit | labels | means |\n|---|---|---|---|---|";
            let _ = write!(page, "\n## {section}\n\n{head}\n");
        }
        let labels: Vec<_> = series.labels.iter().map(label).collect();
        let Series { name, kind, help, .. } = series;
        let (labels, help) = (labels.join("<br>"), cell(help));
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {labels} | {help} |", unit_of(name));
    }
    page += "\n## The process\n\n| series | type | unit | means |\n|---|---|---|---|\n";
    for (name, kind, help) in of_the_process() {
        let _ = writeln!(page, "| `{name}` | {kind} | {} | {} |", unit_of(&name), cell(&help));
    }
    page += "\n## How they add up\n\n\
        At a node that is at rest; while something happens, series are read one after the other. A name \
        stands for the sum of all its series.\n\n| | where |\n|---|---|\n";
    for equation in ARITHMETIC {
        let _ = writeln!(page, "| `{}` | {} |", equation.text, cell(equation.meaning));
    }
    page
}

/// As Prometheus has it: names end in their unit, and what has none is a count.
fn unit_of(name: &str) -> &'static str {
    let name = name.trim_end_matches("_total");
    let units = [("_seconds", "seconds"), ("_bytes", "bytes"), ("_index", "index of an entry")];
    units.iter().find(|(end, _)| name.ends_with(end)).map_or("count", |(_, unit)| unit)
}

fn label((name, values): &(&str, Values)) -> String {
    match values {
        Values::Closed(values) => {
            let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{name}`: {}", values.join(", "))
        }
        Values::Configured(what) => format!("`{name}`: {what}"),
    }
}

/// What a node of this release has. The recorder is the process's, and made once.
fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        exporter();
        let mut registry = Registry::default();
        Metrics::new(&mut registry);
        registry
    })
}

fn exporter() -> &'static Exporter {
    static EXPORTER: OnceLock<Exporter> = OnceLock::new();
    EXPORTER.get_or_init(|| Exporter::install().unwrap())
}

/// Name, type and help, as the library that measures them has them.
fn of_the_process() -> Vec<(String, String, String)> {
    let text = exporter().render();
    let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let mut helps: BTreeMap<_, _> = helps.collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let own = types.filter(|(name, _)| name.starts_with(PROCESS));
    let mut found: Vec<_> = own
        .map(|(name, kind)| {
            let help = helps.remove(name).unwrap_or_default();
            (name.to_owned(), kind.to_owned(), help.to_owned())
        })
        .collect();
    found.sort();
    found
}

/// Type and labels of each family on the page.
fn known() -> BTreeMap<String, (String, BTreeSet<String>)> {
    let own = registry().series.iter().map(|series| {
        let labels = series.labels.iter().map(|(name, _)| (*name).to_owned());
        (series.name.to_owned(), (series.kind.to_owned(), labels.collect()))
    });
    let process =
        of_the_process().into_iter().map(|(name, kind, _)| (name, (kind, BTreeSet::new())));
    own.chain(process).collect()
}

/// Name, type and labels of each family that a node shows. An empty label is none.
fn families(text: &str) -> Vec<(String, String, BTreeSet<String>)> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let family = |(name, kind): (&str, &str)| {
        let series = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            let rest = rest.map(|rest| match kind {
                "histogram" => rest.trim_start_matches("_bucket").trim_start_matches("_sum"),
                _ => rest,
            });
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let labels = series.flat_map(|line| {
            // Values are quoted, and none here has a quotation mark in it.
            let names = line.split('"').step_by(2);
            let names = names.filter_map(|part| part.strip_suffix('=')?.rsplit(['{', ',']).next());
            names.filter(|name| *name != "le").map(str::to_owned).collect::<Vec<_>>()
        });
        (name.to_owned(), kind.to_owned(), labels.collect())
    };
    types.map(family).collect()
}

/// Whether an equation holds between what two scrapes say.
fn holds(equation: &str, left: &str, right: &str) -> bool {
    let (a, relation, b) = match equation.split_once(" >= ") {
        Some((a, b)) => (a, ">=", b),
        None => {
            let (a, b) = equation.split_once(" = ").unwrap();
            (a, "=", b)
        }
    };
    let (a, b) = (value_of(a, left), value_of(b, right));
    match relation {
        ">=" => a >= b,
        _ => a == b,
    }
}

fn value_of(side: &str, metrics: &str) -> f64 {
    let mut sign = 1.0;
    let mut value = 0.0;
    for word in side.split(' ') {
        match word {
            "+" => sign = 1.0,
            "-" => sign = -1.0,
            name => value += sign * name.parse().unwrap_or_else(|_| sum_of(name, metrics)),
        }
    }
    value
}

/// Of all series with this name, and with this label if one is named.
fn sum_of(term: &str, metrics: &str) -> f64 {
    let (name, label) = term.split_once('{').unwrap_or((term, ""));
    let label = label.trim_end_matches('}');
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' ']))?;
        rest.contains(label).then(|| rest.rsplit(' ').next())??.parse::<f64>().ok()
    });
    values.sum()
}
