//! What is wrong is named, with its place, and spoils nothing else.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Stdio};

use e2e::{A, only};

use crate::story::{SHOWN, Story, eventually};

/// What runs a program as somebody who is not root.
const AS_NOBODY: &str = "setpriv --reuid 65534 --regid 65534 --clear-groups";

#[test]
fn bad_manifests_are_named_by_file_line_and_field_and_the_rest_is_served() {
    let story = Story::running("manifests");
    let apiserver = "cluster-a/host/control/apiserver";
    story.write(&A, "port.yaml", PORT).unwrap();
    story.write(&A, "garbage.yaml", "this: [is not\n yaml: {\n").unwrap();
    story
        .write(&A, "widget.yaml", "apiVersion: example.org/v1\nkind: Widget\nmetadata: {name: x}\n")
        .unwrap();
    story.write(&A, "fqdn.yaml", FQDN).unwrap();
    let named = [
        ("port.yaml:9", "spec.ports[0].port: 70000 is not a port"),
        ("garbage.yaml:2", "not YAML"),
        ("widget.yaml:1", "kind: nothing here reads `Widget`"),
        ("fqdn.yaml:7", "addressType: FQDN is not supported"),
    ];
    eventually("each is named in the log", SHOWN, || {
        let log = story.log(apiserver);
        let is_named = |(place, what): &(&str, &str)| {
            log.lines().any(|line| line.contains(place) && line.contains(what))
        };
        named.iter().all(is_named).then_some(()).ok_or(log)
    });
    assert_eq!(story.apiserver_metric(&A, "mesh_apiserver_source_problems"), 4);

    // The second document of the file with the bad port, and everything else.
    let why = story.ctl(&["why", "shop/good", "--cluster", A.name]);
    assert!(why.contains("10.101.0.77:80/TCP"), "{why}");
    let (code, _, _) = story.try_ctl(&["why", "shop/bad", "--cluster", A.name]);
    assert_eq!(code, 1, "a Service with a port of 70000 is not served");
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));

    for file in ["port.yaml", "garbage.yaml", "widget.yaml", "fqdn.yaml"] {
        story.remove(&A, file).unwrap();
    }
    eventually("nothing is wrong any more", SHOWN, || {
        match story.apiserver_metric(&A, "mesh_apiserver_source_problems") {
            0 => Ok(()),
            some => Err(format!("{some} problems")),
        }
    });

    who_is_not_root_is_told_in_one_line(&story);
}

/// Nothing is half set up: the tunnel's device, the pins and the state come after the check.
fn who_is_not_root_is_told_in_one_line(story: &Story) {
    let bin = story.lab.state().unwrap().bin;
    let readable = story.dir().join("readable");
    let to = readable.display();
    let from = story.dir().join("cluster-a/nodes/a1");
    story.said("host/admin", &format!("cp -r {} {to} && chmod -R a+rX {to}", from.display()));
    let agent = format!(
        "{}/mesh-node-agent --apiserver {} --cert {to}/cert.pem --key {to}/key.pem --bundle {to}/bundle.pem",
        bin.display(),
        A.apiserver
    );
    let unreadable = agent.replace(&to.to_string(), &from.display().to_string());
    let apiserver = format!(
        "{}/clustermesh-apiserver run --data-dir {1}/cluster-a/data --manifests {1}/cluster-a/manifests",
        bin.display(),
        story.dir().display()
    );
    let table = [
        (agent, "CAP_BPF and CAP_NET_ADMIN are missing: run as root"),
        (unreadable, "Permission denied"),
        (format!("{}/mesh-tunnel", bin.display()), "needs CAP_NET_ADMIN; run as root"),
        (apiserver, "Permission denied"),
    ];
    for (program, what) in table {
        let (code, stdout, stderr) = story.sh("host/admin", &format!("{AS_NOBODY} {program}"));
        let first = stderr.lines().next().unwrap_or_default();
        assert!(
            code == 1 && first.starts_with("error: ") && first.contains(what),
            "{program}: {code} {stderr}"
        );
        let more = stderr.lines().skip(1).all(|line| line.starts_with("hint: "));
        assert!(more && stdout.is_empty(), "one line, and a hint at most: {stdout}{stderr}");
    }
    let devices = story.said("host/admin", "ls /sys/class/net");
    assert!(!devices.contains("mesh0"), "nothing is half set up: {devices}");
}

#[test]
fn clusters_that_cannot_be_one_mesh_are_refused_before_anything_is_touched() {
    let story = Story::connected("conflicts");
    let table = [
        (
            "cluster-c",
            "10.1.128.0/17",
            "100.64.3.0/24",
            "cluster-a",
            "cluster-a pods 10.1.0.0/16 overlaps cluster-c pods 10.1.128.0/17",
        ),
        (
            "cluster-c",
            "10.1.128.0/17",
            "100.64.3.0/24",
            "cluster-b",
            "cluster-c pods 10.1.128.0/17 overlaps 10.1.0.0/16 of cluster-a, a peer of cluster-b",
        ),
        (
            "cluster-c",
            "10.3.0.0/16",
            "100.64.1.128/25",
            "cluster-a",
            "cluster-a mesh 100.64.1.0/24 overlaps cluster-c mesh 100.64.1.128/25",
        ),
        (
            "cluster-c",
            "10.101.3.0/24",
            "100.64.3.0/24",
            "cluster-a",
            "cluster-a services 10.101.0.0/16 overlaps cluster-c pods 10.101.3.0/24",
        ),
        (
            "cluster-a",
            "10.3.0.0/16",
            "100.64.3.0/24",
            "cluster-b",
            "cluster-b already has a peer named cluster-a, with another UUID",
        ),
        (
            "cluster-a",
            "10.3.0.0/16",
            "100.64.3.0/24",
            "cluster-a",
            "two contexts are called `cluster-a` and are different clusters",
        ),
    ];
    let before = (objects(&story, "cluster-a"), objects(&story, "cluster-b"));
    for (number, (name, pods, mesh, with, because)) in table.into_iter().enumerate() {
        let mut third = Third::start(&story, number, name, pods, mesh);
        let (code, stdout, stderr) = third.connect(&story, with);
        third.stop();
        // Contexts that contradict each other are seen before anybody is asked; everything else is refused (4).
        let expected = if because.starts_with("two contexts") { 1 } else { 4 };
        assert!(
            code == expected && stderr.contains(because),
            "{name} {pods} {mesh} with {with}: {code} {stdout}{stderr}"
        );
        assert_eq!(objects(&story, &third.dir), Vec::<String>::new(), "nothing is written on the new side");
        assert_eq!(before, (objects(&story, "cluster-a"), objects(&story, "cluster-b")), "nor on the other");
    }
    story.well();
}

/// The MeshPeer objects of a cluster, file by file.
fn objects(story: &Story, dir: &str) -> Vec<String> {
    let dir = story.dir().join(dir).join("manifests");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let is_peer = |path: &PathBuf| path.to_string_lossy().contains("meshpeer");
    files.into_iter().filter(is_peer).map(|path| fs::read_to_string(path).unwrap()).collect()
}

/// A third cluster's apiserver, on the operator's machine.
struct Third {
    name: &'static str,
    dir: String,
    apiserver: Child,
}

impl Third {
    fn start(story: &Story, number: usize, name: &'static str, pods: &str, mesh: &str) -> Self {
        let dir = format!("third-{number}");
        let (bin, data) = (story.lab.state().unwrap().bin, story.dir().join(&dir));
        let program = format!("{}/clustermesh-apiserver", bin.display());
        fs::create_dir_all(data.join("manifests")).unwrap();
        let (manifests, data) = (data.join("manifests"), data.join("data"));
        story.said(
            "host/admin",
            &format!(
                "{program} init --data-dir {} --cluster-name {name} --pod-cidr {pods} --mesh-cidr {mesh} \
                 --service-cidr 10.103.0.0/16 --advertise 192.0.2.9:2379",
                data.display()
            ),
        );
        let (data, manifests) = (data.display().to_string(), manifests.display().to_string());
        let argv = [&program, "run", "--data-dir", &data, "--manifests", &manifests];
        let mut command = story.lab.command("host/admin", argv).unwrap();
        let apiserver = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let third = Self { name, dir, apiserver };
        eventually("the third cluster's apiserver is ready", SHOWN, || {
            let (code, stdout, stderr) = story.sh("host/admin", "curl -sSf http://127.0.0.1:9879/readyz");
            if code == 0 { Ok(()) } else { Err(format!("{stdout}{stderr}")) }
        });
        third
    }

    fn connect(&self, story: &Story, with: &str) -> (i32, String, String) {
        let context = |dir: &str| story.dir().join(dir).join("data/admin/config.yaml").display().to_string();
        let meshctl = story.lab.state().unwrap().bin.join("meshctl").display().to_string();
        let config = format!("{}:{}", context(&self.dir), context(with));
        story.sh("host/admin", &format!("{meshctl} --config {config} connect {} {with}", self.name))
    }

    fn stop(&mut self) {
        self.apiserver.kill().unwrap();
        self.apiserver.wait().unwrap();
    }
}

/// Two documents: the first has a port that is none, the second is good.
const PORT: &str = "apiVersion: v1
kind: Service
metadata:
  name: bad
  namespace: shop
spec:
  clusterIP: 10.101.0.99
  ports:
    - {name: x, port: 70000}
---
apiVersion: v1
kind: Service
metadata: {name: good, namespace: shop}
spec:
  clusterIP: 10.101.0.77
  ports:
    - {name: http, port: 80, targetPort: 8080}
";

/// An EndpointSlice whose addresses are names.
const FQDN: &str = "apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: fq
  namespace: shop
  labels: {kubernetes.io/service-name: good}
addressType: FQDN
ports:
  - {name: http, port: 8080}
endpoints:
  - addresses: [cart.example.org]
";
