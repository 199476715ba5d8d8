//! The part of Kubernetes: a StatefulSet's controller, the names of a headless Service, and the way
//! to a Service, for the manifests as they are handed out.
//!
//! A pod is a process on a host of its own, with a host name, a root that cannot be written to, the
//! volumes that the manifests mount, and no privileges. Each new pod has an address that none had before.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use parking_lot::RwLock;
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::cluster::http_get;
use crate::eventually;
use crate::hosts::{ADMIN_PORT, API_PORT, EDGE_PORT, Host, Hosts};
use crate::load::Doors;
use crate::process::{Process, binary};

/// What a container runtime does before a container's own process runs.
const POD: &str = r#"
set -e
hostname "$1"
mount -t tmpfs tmpfs /mnt && touch /mnt/posthorn && mount --bind "$2" /mnt/posthorn
mount -t tmpfs tmpfs /etc && touch /etc/hosts && mount --bind "$3" /etc/hosts
printf 'hosts: files\n' >/etc/nsswitch.conf
printf 'multi on\n' >/etc/host.conf
mount -t tmpfs tmpfs /var/lib
user=$4
shift 4
while [ "$1" != -- ]; do
  mkdir -p "$2" && mount --bind "$1" "$2"
  [ "$3" = rw ] || mount -o remount,bind,ro "$2"
  shift 3
done
shift
mount -o remount,bind,ro /
exec setpriv --reuid "$user" --regid "$user" --clear-groups --bounding-set -all --inh-caps -all \
  --no-new-privs /mnt/posthorn "$@"
"#;

/// A StatefulSet and its pods.
pub struct StatefulSet {
    hosts: Arc<Hosts>,
    /// Those that no pod has had yet.
    free_hosts: VecDeque<usize>,
    spec: Value,
    /// The content of a ConfigMap's volume, of a Secret's, and of claims.
    folder: TempDir,
    pods: BTreeMap<usize, Pod>,
    /// Where each pod is that there is.
    addresses: Addresses,
    kube_proxy: Option<JoinHandle<()>>,
    fronts: Vec<Front>,
}

type Addresses = Arc<RwLock<BTreeMap<usize, IpAddr>>>;

struct Pod {
    process: Process,
    ip: IpAddr,
}

/// The way to a port of one pod, whatever its address is just now, as long as it is ready.
struct Front {
    address: SocketAddr,
    behind: Arc<RwLock<Option<SocketAddr>>>,
    server: JoinHandle<()>,
}

/// A probe that a kubelet makes.
struct Probe {
    path: String,
    timeout: Duration,
}

impl StatefulSet {
    /// None of its pods is there yet. `config` is the ConfigMap's, and certificates are made for as
    /// many nodes as there will ever be.
    pub async fn new(
        hosts: Arc<Hosts>,
        spec: Value,
        config: &str,
        nodes_max: usize,
    ) -> StatefulSet {
        let folder = TempDir::with_prefix("posthorn-").expect("a folder can be made");
        let free_hosts = (0..hosts.nodes()).collect();
        let set = StatefulSet {
            hosts,
            free_hosts,
            spec,
            folder,
            pods: BTreeMap::new(),
            addresses: Addresses::default(),
            kube_proxy: None,
            fronts: Vec::new(),
        };
        let papers = set.path("papers");
        let (nodes_max, user) = (nodes_max.to_string(), set.user());
        let mut certs = Command::new(binary());
        certs.args(["certs", "--cluster", "posthorn", "--nodes", &nodes_max, "--dir"]).arg(&papers);
        assert!(certs.output().await.expect("the binary runs").status.success());
        for file in std::fs::read_dir(papers.join("nodes")).expect("papers").flatten() {
            chown(file.path(), None, Some(user)).expect("our own file");
            let readable = std::fs::Permissions::from_mode(0o440);
            std::fs::set_permissions(file.path(), readable).expect("our own file");
        }
        std::fs::create_dir(set.path("config")).expect("a folder can be made");
        set.configure(config);
        set.tell_names();
        set
    }

    /// What the ConfigMap's volume holds from now on.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.path("config/posthorn.yaml"), config).expect("a file can be written");
    }

    /// Ways to the pods of the first ordinals, whether they are there already or not. A way is open
    /// while its pod is ready, and whoever is on it stays there.
    pub async fn expose(&mut self, ip: IpAddr, ordinals: usize) -> Vec<Doors> {
        let (mut doors, mut ways) = (Vec::new(), Vec::new());
        for _ in 0..ordinals {
            let (edge, api) = (Front::start(ip).await, Front::start(ip).await);
            doors.push(Doors { edge: edge.address, api: api.address });
            ways.push([(edge.behind.clone(), EDGE_PORT), (api.behind.clone(), API_PORT)]);
            self.fronts.extend([edge, api]);
        }
        let probe = Probe::of(self.container(), "readinessProbe");
        let addresses = self.addresses.clone();
        self.kube_proxy = Some(tokio::spawn(async move {
            loop {
                for (ordinal, ways) in ways.iter().enumerate() {
                    let ip = addresses.read().get(&ordinal).copied();
                    let is_ready = match ip {
                        Some(ip) => probe.ask(ip).await == Some(200),
                        None => false,
                    };
                    for (behind, port) in ways {
                        let pod = ip.map(|ip| SocketAddr::new(ip, *port));
                        *behind.write() = pod.filter(|_| is_ready);
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }));
        doors
    }

    pub fn ordinals(&self) -> Vec<usize> {
        self.pods.keys().copied().collect()
    }

    /// Where a pod's port is.
    pub fn at(&self, ordinal: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.pods[&ordinal].ip, port)
    }

    /// More pods, all at once, or fewer, one after the other from the highest on.
    pub async fn scale(&mut self, replicas: usize) {
        while let Some((ordinal, _)) = self.pods.last_key_value()
            && *ordinal >= replicas
        {
            self.delete(*ordinal).await;
        }
        let missing: Vec<_> =
            (0..replicas).filter(|ordinal| !self.pods.contains_key(ordinal)).collect();
        for ordinal in &missing {
            self.create(*ordinal).await;
        }
        for ordinal in missing {
            self.wait_ready(ordinal).await;
        }
    }

    /// A new pod with the same name and volume.
    pub async fn create(&mut self, ordinal: usize) {
        let host = Host::Node(self.free_hosts.pop_front().expect("a host that is free"));
        let ip = self.hosts.address(host);
        let (name, user) = (self.name(ordinal), self.user());
        let claim = self.path(&format!("claim-{ordinal}"));
        std::fs::create_dir_all(&claim).expect("a folder can be made");
        chown(&claim, Some(user), Some(user)).expect("our own folder");
        let container = &self.spec["template"]["spec"]["containers"][0];
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.hosts.namespace(host)));
        command.args(["unshare", "--mount", "--uts", "sh", "-c", POD, "pod", &name]);
        command.args([&binary(), &self.path("hosts")]).arg(user.to_string());
        for mount in container["volumeMounts"].as_array().expect("volumes") {
            let source = match &*text(&mount["name"]) {
                "data" => claim.clone(),
                "config" => self.path("config"),
                "fabric" => self.path("papers/nodes"),
                other => panic!("the volume {other}"),
            };
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            command.arg(source).args([&text(&mount["mountPath"]), access]);
        }
        command.arg("--");
        let arguments = container["args"].as_array().expect("arguments");
        command.args(arguments.iter().map(text)).arg("--end-with-stdin");
        let log = self.path(&format!("{name}.log"));
        let process = Process::start_command(command, log).await;
        self.pods.insert(ordinal, Pod { process, ip });
        self.tell_names();
    }

    /// Ends a pod as a kubelet does.
    ///
    /// # Panics
    ///
    /// If it does not end in order within its grace period.
    pub async fn delete(&mut self, ordinal: usize) {
        let seconds = &self.spec["template"]["spec"]["terminationGracePeriodSeconds"];
        let grace = Duration::from_secs(seconds.as_u64().expect("a number of seconds"));
        let pod = self.pods.remove(&ordinal).expect("the pod is there");
        pod.process.signal(Signal::SIGTERM);
        let ended = tokio::time::timeout(grace, pod.process.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("{ordinal} does not end within {grace:?}"));
        assert_eq!(status.code(), Some(0), "how {ordinal} ended");
        self.tell_names();
    }

    /// The host of a pod is gone.
    pub async fn lose(&mut self, ordinal: usize) -> ExitStatus {
        let pod = self.pods.remove(&ordinal).expect("the pod is there");
        pod.process.signal(Signal::SIGKILL);
        let status = pod.process.wait().await;
        self.tell_names();
        status
    }

    /// The volume of a pod that is not there is empty from now on.
    pub fn lose_volume(&self, ordinal: usize) {
        std::fs::remove_dir_all(self.path(&format!("claim-{ordinal}"))).expect("it had one");
    }

    /// One pod after the other is deleted and made anew, from the highest on.
    pub async fn roll(&mut self) {
        for ordinal in self.ordinals().into_iter().rev() {
            self.delete(ordinal).await;
            self.create(ordinal).await;
            self.wait_ready(ordinal).await;
        }
    }

    /// Asks the readiness probe until it is content. All that live say so meanwhile.
    pub async fn wait_ready(&self, ordinal: usize) {
        eventually("a pod that is ready", || async {
            for other in self.pods.keys() {
                self.assert_alive(*other).await;
            }
            (self.probe(ordinal, "readinessProbe").await == Some(200)).then_some(())
        })
        .await;
    }

    /// # Panics
    ///
    /// If the liveness probe fails, as the kubelet would count it.
    pub async fn assert_alive(&self, ordinal: usize) {
        let failures = &self.container()["livenessProbe"]["failureThreshold"];
        for _ in 0..failures.as_u64().expect("a number") {
            if self.probe(ordinal, "livenessProbe").await == Some(200) {
                return;
            }
        }
        panic!("{ordinal} would be restarted");
    }

    pub async fn probe(&self, ordinal: usize, probe: &str) -> Option<u16> {
        Probe::of(self.container(), probe).ask(self.pods[&ordinal].ip).await
    }

    pub fn log(&self, ordinal: usize) -> String {
        std::fs::read_to_string(self.path(&format!("{}.log", self.name(ordinal))))
            .unwrap_or_default()
    }

    fn container(&self) -> &Value {
        &self.spec["template"]["spec"]["containers"][0]
    }

    fn user(&self) -> u32 {
        let user = &self.spec["template"]["spec"]["securityContext"]["runAsUser"];
        user.as_u64().and_then(|user| u32::try_from(user).ok()).expect("a user")
    }

    fn name(&self, ordinal: usize) -> String {
        format!("posthorn-{ordinal}")
    }

    /// The headless Service: a name for each pod, and one for all. In place, since pods have it mounted.
    fn tell_names(&self) {
        let service = self.spec["serviceName"].as_str().expect("a name");
        let mut hosts = "127.0.0.1 localhost\n".to_owned();
        for (ordinal, Pod { ip, .. }) in &self.pods {
            let _ = writeln!(hosts, "{ip} {}.{service} {service}", self.name(*ordinal));
        }
        std::fs::write(self.path("hosts"), hosts).expect("a file can be written");
        *self.addresses.write() =
            self.pods.iter().map(|(ordinal, pod)| (*ordinal, pod.ip)).collect();
    }

    fn path(&self, below: &str) -> PathBuf {
        self.folder.path().join(below)
    }
}

impl Front {
    async fn start(ip: IpAddr) -> Front {
        let listener = TcpListener::bind((ip, 0)).await.expect("a port");
        let address = listener.local_addr().expect("a listener has an address");
        let behind = Arc::new(RwLock::new(None));
        let target = behind.clone();
        let server = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                // Who comes while nobody is there is turned away.
                let Some(pod) = *target.read() else { continue };
                tokio::spawn(async move {
                    if let Ok(mut pod) = TcpStream::connect(pod).await {
                        // Either end may break it off.
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut pod).await;
                    }
                });
            }
        });
        Front { address, behind, server }
    }
}

impl Probe {
    fn of(container: &Value, name: &str) -> Probe {
        let probe = &container[name];
        let path = probe["httpGet"]["path"].as_str().expect("a path").to_owned();
        let timeout = Duration::from_secs(probe["timeoutSeconds"].as_u64().unwrap_or(1));
        Probe { path, timeout }
    }

    /// The status of the answer, if there is one in time.
    async fn ask(&self, ip: IpAddr) -> Option<u16> {
        let url = format!("http://{}{}", SocketAddr::new(ip, ADMIN_PORT), self.path);
        let asked = tokio::time::timeout(self.timeout, http_get(&url)).await;
        asked.ok().flatten().map(|(status, _)| status)
    }
}

impl Drop for StatefulSet {
    fn drop(&mut self) {
        if let Some(kube_proxy) = &self.kube_proxy {
            kube_proxy.abort();
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}
