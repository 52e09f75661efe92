//! Two clusters whose objects are real Kubernetes' own: kubectl makes them, controllers make the EndpointSlices, nodes enrol
//! with the tokens of their pods, and `meshctl connect` writes custom resources.
//!
//! `make test-kubernetes` builds the real parts and runs what is ignored here.

use std::fs;

use e2e::{A, B, Cluster, both, carts, files, kubernetes::Kubernetes, only};

use crate::story::{SHOWN, Story, eventually};

/// Where what no source can rebuild is kept, and how nodes enrol.
const NAMES: &str = "--state-secret mesh-state --bundle-configmap mesh-trust --enrol-service-account mesh/node-agent \
                     --operator-service-account mesh/operator --readiness-gate";

/// Pods, the agents' among them, need accounts; and operators what the chart makes for them.
const ACCOUNTS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: mesh}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: node-agent, namespace: mesh}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: mesh}
---
apiVersion: v1
kind: ConfigMap
metadata:
  name: mesh-trust
  namespace: mesh
  labels: {app.kubernetes.io/name: clustermesh, app.kubernetes.io/component: apiserver, app.kubernetes.io/instance: lab}
";

/// Services as they are written by hand: their slices are the controller's.
const SERVICE: &str = "cart.yaml";

#[test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
fn two_clusters_of_real_kubernetes_act_as_one() {
    let story = Story::made_in("kubernetes", topology(|text| text).path());
    let mut a = started(&story, A);
    let b = started(&story, B);

    // Each for itself, by slices that the controller wrote.
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &A));
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));

    // Connected, by nothing but a kubeconfig: custom resources on both sides, and their status is what was measured.
    let connected = by_contexts(&story, [&a, &b], "connect ctx-a ctx-b");
    assert!(connected.contains("undo: meshctl disconnect ctx-a ctx-b"), "{connected}");
    for kubernetes in [&a, &b] {
        eventually("the MeshPeer is ready", SHOWN, || {
            let peers = kubernetes.kubectl(&["get", "meshpeers"]).unwrap();
            if peers.contains("True") && peers.contains("Fresh") { Ok(()) } else { Err(peers) }
        });
    }
    for place in ["cluster-a/pod/client", "cluster-a/pod/shell", "cluster-a/node/a1", "cluster-b/pod/client"]
    {
        let cart = if place.starts_with("cluster-a") { &A } else { &B };
        story.carts(place, cart, both);
    }
    let status = story.well();
    assert_eq!(status.matches("4/4").count(), 2, "{status}");

    // A pod that is deleted, and one that is not ready any more, are asked no longer; the other cluster sees it, too.
    a.kubectl(&["-n", "shop", "delete", "pod", "cart-1", "--force", "--grace-period=0"]).unwrap();
    let gone = |answers: &crate::story::Answers| {
        !answers.contains_key("cluster-a/cart-1")
            && answers.contains_key("cluster-a/cart-2")
            && answers.len() == 3
    };
    story.carts("cluster-a/pod/client", &A, gone);
    story.carts("cluster-b/pod/client", &B, gone);
    let not_ready = r#"{"status": {"conditions": [{"type": "Ready", "status": "False"}]}}"#;
    a.kubectl(&["-n", "shop", "patch", "pod", "cart-2", "--subresource=status", "-p", not_ready]).unwrap();
    story.carts("cluster-a/pod/client", &A, |answers| only(answers, &B));
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));

    // A typing error exports nothing, and its author is told.
    a.kubectl(&["-n", "shop", "annotate", "--overwrite", "service", "cart", "service.cilium.io/global=yes"])
        .unwrap();
    eventually("the Service has an Event", SHOWN, || {
        let events = a.kubectl(&["-n", "shop", "get", "events", "-o", "custom-columns=M:.message"]).unwrap();
        if events.contains("`yes` is neither true nor false") { Ok(()) } else { Err(events) }
    });
    a.kubectl(&["-n", "shop", "annotate", "--overwrite", "service", "cart", "service.cilium.io/global=True"])
        .unwrap();
    let ready = not_ready.replace("False", "True");
    a.kubectl(&["-n", "shop", "patch", "pod", "cart-2", "--subresource=status", "-p", &ready]).unwrap();
    story.carts("cluster-b/pod/client", &B, |answers| answers.len() == 3);

    // The Kubernetes API dies: everything goes on, the source's age is told, and the peer demotes what it says.
    a.kill_apiserver().unwrap();
    story.carts("cluster-a/pod/client", &A, |answers| answers.len() == 3);
    eventually("cluster-b sees that nobody confirms cluster-a's records", SHOWN * 2, || {
        let (_, status, _) = story.try_ctl(&["status"]);
        if status.contains("stale") { Ok(()) } else { Err(status) }
    });
    story.carts("cluster-b/pod/client", &B, |answers| only(answers, &B));
    a.start_apiserver().unwrap();
    story.carts("cluster-b/pod/client", &B, |answers| answers.len() == 3);

    // The mesh's own apiserver comes back on an empty disk, and is the same cluster.
    let control = "cluster-a/host/control/apiserver";
    story.lab.kill(control, nix::sys::signal::Signal::SIGKILL).unwrap();
    let data = story.dir().join("cluster-a/data");
    let ca = fs::read(data.join("ca/cert.pem")).unwrap();
    fs::remove_dir_all(&data).unwrap();
    init(&story, &a, A);
    assert_eq!(fs::read(data.join("ca/cert.pem")).unwrap(), ca);
    story.lab.start(control).unwrap();
    story.carts("cluster-b/pod/client", &B, |answers| answers.len() == 3);
    story.well();

    by_contexts(&story, [&a, &b], "disconnect ctx-a ctx-b");
    for kubernetes in [&a, &b] {
        assert_eq!(kubernetes.kubectl(&["get", "meshpeers", "-o", "name"]).unwrap(), "");
    }
    story.carts("cluster-b/pod/client", &B, |answers| carts(answers, &[B]));

    // A peer's object goes while the apiserver is away, and its disk with it: what was encrypted stays closed.
    by_contexts(&story, [&a, &b], "connect ctx-a ctx-b");
    story.lab.kill(control, nix::sys::signal::Signal::SIGKILL).unwrap();
    fs::remove_dir_all(&data).unwrap();
    a.kubectl(&["delete", "meshpeer", B.name]).unwrap();
    init(&story, &a, A);
    story.lab.start(control).unwrap();
    let why = eventually("cluster-b's prefixes are closed", SHOWN, || {
        let (_, why, stderr) = story.try_ctl(&["why", "--cluster", A.name, "10.2.1.11"]);
        if why.contains("closed: 10.2.0.0/16 was cluster-b's") { Ok(why) } else { Err(why + &stderr) }
    });
    assert!(why.contains("cluster-b"), "{why}");
    story.carts("cluster-a/pod/client", &A, |answers| answers.keys().all(|who| who.starts_with(A.name)));
    let plain = story.curl("cluster-a/pod/client", "http://10.2.1.11:8080/");
    assert!(plain.as_ref().is_err_and(|said| said.contains("timed out")), "dropped, not in plain: {plain:?}");
}

/// The topology of the other tests, with the products started as the chart starts them, and what the caller makes of it.
pub fn topology(change: impl FnOnce(String) -> String) -> tempfile::NamedTempFile {
    let mut text = fs::read_to_string(files().join("topology.yaml")).unwrap();
    for cluster in [A, B] {
        let name = cluster.name;
        let of = |what: &str| format!("{{lab}}/{name}/{what}");
        text = text.replace(
            &format!(
                "{{bin}}/clustermesh-apiserver run --data-dir {} --manifests {}",
                of("data"),
                of("manifests")
            ),
            &format!(
                "env KUBECONFIG={} {{bin}}/clustermesh-apiserver run --data-dir {} --kubernetes {NAMES}",
                of("kubernetes/mesh.kubeconfig"),
                of("data")
            ),
        );
        for node in cluster.nodes {
            let of = |what: &str| format!("{{lab}}/{name}/nodes/{node}/{what}");
            text = text.replace(
                &format!("--cert {} --key {} --bundle {}", of("cert.pem"), of("key.pem"), of("bundle.pem")),
                &format!("--enrol-token {} --bundle {{lab}}/{name}/kubernetes/bundle.pem", of("token")),
            );
        }
    }
    assert_eq!(text.matches("--enrol-token").count(), 4, "every node enrols");
    assert_eq!(text.matches("--kubernetes ").count(), 2, "both apiservers read Kubernetes");
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), change(text)).unwrap();
    file
}

/// Kubernetes, the mesh's apiserver in it, and its nodes.
pub fn started(story: &Story, cluster: Cluster) -> Kubernetes<'_> {
    let kubernetes = Kubernetes::start(story, cluster).unwrap();
    kubernetes.start_controllers().unwrap();
    for crd in ["meshpeers", "externalworkloads"] {
        let crd = files().join(format!("../../helm/clustermesh/files/{crd}.yaml"));
        kubernetes.kubectl(&["apply", "-f", &crd.display().to_string()]).unwrap();
    }
    kubernetes.kubectl_with(&["apply", "-f", "-"], ACCOUNTS).unwrap();
    kubernetes.kubectl(&["create", "namespace", "shop"]).unwrap();
    for account in ["client", "cart", "shell"] {
        kubernetes.kubectl(&["-n", "shop", "create", "serviceaccount", account]).unwrap();
    }
    kubernetes.apply("nodes.yaml").unwrap();
    kubernetes.kubectl(&["taint", "nodes", "--all", "clustermesh.io/agent-not-ready=:NoSchedule"]).unwrap();
    kubernetes.apply("pods.yaml").unwrap();
    kubernetes.apply(SERVICE).unwrap();
    init(story, &kubernetes, cluster);
    story.lab.start(&format!("{}/host/control/apiserver", cluster.name)).unwrap();

    let dir = story.dir().join(cluster.name);
    let bundle = ["-n", "mesh", "get", "configmap", "mesh-trust", "-o", "jsonpath={.data.bundle\\.pem}"];
    eventually("the trust bundle is published", SHOWN, || {
        let bundle = kubernetes.kubectl(&bundle).map_err(|error| format!("{error:#}"))?;
        fs::write(dir.join("kubernetes/bundle.pem"), bundle).map_err(|error| error.to_string())
    });
    let tainted = || {
        let keys = "jsonpath={.items[*].spec.taints[?(@.key=='clustermesh.io/agent-not-ready')].key}";
        kubernetes.kubectl(&["get", "nodes", "-o", keys]).unwrap().split_whitespace().count()
    };
    assert_eq!(tainted(), 2, "no agent has said anything");
    for node in cluster.nodes {
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: agent-{node}, namespace: mesh}}\nspec: {{serviceAccountName: node-agent, \
             nodeName: {node}, hostNetwork: true, containers: [{{name: agent, image: example.org/agent:1}}]}}\n"
        );
        kubernetes.kubectl_with(&["apply", "-f", "-"], &pod).unwrap();
        let pod = format!("agent-{node}");
        let token = [
            "-n",
            "mesh",
            "create",
            "token",
            "node-agent",
            "--audience",
            "clustermesh",
            "--bound-object-kind",
            "Pod",
        ];
        let token = kubernetes.kubectl(&[&token[..], &["--bound-object-name", &pod]].concat()).unwrap();
        // Nothing but the token: the certificate that the other tests use is not there.
        let of_node = dir.join("nodes").join(node);
        fs::remove_dir_all(&of_node).unwrap();
        fs::create_dir(&of_node).unwrap();
        fs::write(of_node.join("token"), token).unwrap();
        story.lab.start(&format!("{}/node/{node}/tunnel", cluster.name)).unwrap();
        story.lab.start(&format!("{}/node/{node}/agent", cluster.name)).unwrap();
    }
    eventually("the nodes take pods", SHOWN, || if tainted() == 0 { Ok(()) } else { Err(String::new()) });
    kubernetes
}

/// What `meshctl` prints to an operator who has both clusters' kubeconfigs and no context file.
pub fn by_contexts(story: &Story, all: [&Kubernetes<'_>; 2], command: &str) -> String {
    let kubeconfig = all.map(Kubernetes::kubeconfig).join(":");
    let meshctl = story.lab.state().unwrap().bin.join("meshctl");
    let line = format!(
        "HOME=/nowhere KUBECONFIG={kubeconfig} {} --mesh-namespace mesh {command}",
        meshctl.display()
    );
    story.said("host/admin", &line)
}

/// `init --state-secret`, as the chart's init container does it, in the namespace `mesh`.
fn init(story: &Story, kubernetes: &Kubernetes<'_>, cluster: Cluster) {
    let own = kubernetes.kubeconfig().replace("/kubeconfig", "/mesh.kubeconfig");
    let text = fs::read_to_string(kubernetes.kubeconfig()).unwrap();
    let user = format!("user: {}", kubernetes.context());
    fs::write(&own, text.replace(&format!(", {user}"), &format!(", {user}, namespace: mesh"))).unwrap();
    let Cluster { name, pods, services, mesh, apiserver, .. } = cluster;
    let data = story.dir().join(name).join("data");
    let line = format!(
        "KUBECONFIG={own} {}/clustermesh-apiserver init --data-dir {} --state-secret mesh-state --cluster-name {name} \
         --pod-cidr {pods} --service-cidr {services} --mesh-cidr {mesh} --advertise {apiserver}",
        story.lab.state().unwrap().bin.display(),
        data.display(),
    );
    story.said(&format!("{name}/host/control"), &line);
}
