//! A Deployment is rolled by the real controllers, and in the middle of it a part of the control plane is killed.
//!
//! `make test-kubernetes` builds the real parts and runs what is ignored here.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::time::{Duration, Instant};

use e2e::{A, B, kubernetes::Kubernetes, report};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::on_kubernetes::{by_contexts, started, topology};
use crate::story::{Answers, SHOWN, Story, eventually};

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: cart, namespace: shop}
spec:
  replicas: 2
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}
  selector: {matchLabels: {app: cart}}
  template:
    metadata: {labels: {app: cart}}
    spec:
      serviceAccountName: cart
      containers:
        - {name: cart, image: 'example.org/cart:1', ports: [{name: http, containerPort: 8080}]}
";

/// Where pods of the Deployment run in cluster-a: two at a time, and two that come in their place.
const PLACES: [(&str, &str, [&str; 2]); 4] = [
    ("cart-1", "a1", ["10.1.1.11", "fd00:10:1:1::11"]),
    ("cart-2", "a2", ["10.1.2.11", "fd00:10:1:2::11"]),
    ("cart-3", "a1", ["10.1.1.12", "fd00:10:1:1::12"]),
    ("cart-4", "a2", ["10.1.2.12", "fd00:10:1:2::12"]),
];

/// A first packet may be sent again, after 1, 3 and 7 s: after an outage of their apiserver a peer may hear of a new pod
/// before the pod's own node does, which drops what it does not know. A connection that needs longer has failed.
const RESENT_WITHIN_MS: &str = "8000";

/// Between a pod's address, which its sandbox has, and the readiness of its containers.
const STARTS_IN: Duration = Duration::from_secs(1);

/// Whoever asks while it is rolled: a pod of the same cluster, and one of the other.
const CLIENTS: [(&str, &str); 2] = [("cluster-a/pod/client", A.cart), ("cluster-b/pod/client", B.cart)];

#[test]
#[ignore = "needs the real parts of Kubernetes: make test-kubernetes"]
fn a_part_that_is_killed_while_a_deployment_is_rolled_costs_no_connection_and_leaves_no_backend() {
    let story = Story::made_in("roll-out", topology(with_places).path());
    let mut a = started(&story, A);
    let b = started(&story, B);
    a.kubectl(&["-n", "shop", "delete", "pod", "cart-1", "cart-2", "--force", "--grace-period=0"]).unwrap();
    a.kubectl_with(&["apply", "-f", "-"], DEPLOYMENT).unwrap();
    let mut pods = Pods::default();
    pods.tend_until(&a, "the first pods are there", |at| at.len() == 2);
    by_contexts(&story, [&a, &b], "connect ctx-a ctx-b");
    only_those_of(&story, &a, &pods);

    // Nothing of the roll gets on before it is there again.
    rolled(&story, &mut a, &mut pods, 2, |a| a.kill_apiserver().unwrap(), |a| a.start_apiserver().unwrap());

    // The roll goes on and ends while nobody tells the agents; what they missed is listed when somebody does.
    let apiserver = "cluster-a/host/control/apiserver";
    let dead = |_: &mut Kubernetes<'_>| story.kill9(apiserver);
    rolled(&story, &mut a, &mut pods, 3, dead, |_| story.lab.start(apiserver).unwrap());

    for (revision, agent) in [(4, "cluster-a/node/a1/agent"), (5, "cluster-b/node/b1/agent")] {
        let dead = |_: &mut Kubernetes<'_>| story.kill9(agent);
        rolled(&story, &mut a, &mut pods, revision, dead, |_| story.lab.start(agent).unwrap());
    }
}

/// Rolls cart to an image, kills a part when a new pod is in use beside the old ones, and starts it again after the roll
/// has done what it can without it. Old pods end, as with every roll that drops nothing, when nobody asks them any more.
fn rolled<'a>(
    story: &'a Story,
    a: &mut Kubernetes<'a>,
    pods: &mut Pods,
    revision: u32,
    dies: impl FnOnce(&mut Kubernetes<'a>),
    comes_back: impl FnOnce(&mut Kubernetes<'a>),
) {
    let streams = CLIENTS.map(|(place, cart)| Connections::start(story, place, cart));
    let before = pods.places();
    let new = |at: &Running| at.values().filter(|place| !before.contains(*place)).count();
    let image = format!("cart=example.org/cart:{revision}");
    a.kubectl(&["-n", "shop", "set", "image", "deployment/cart", &image]).unwrap();
    pods.tend_until(a, "a new pod is ready beside the old ones", |at| new(at) > 0);
    for (place, cart) in CLIENTS {
        let used = |answers: &Answers| answers.keys().any(|who| pods.is_new(&before, who));
        story.ask_until(place, &format!("http://{cart}/"), SHOWN, used).unwrap();
    }
    dies(a);
    let done = |at: &Running| at.len() == 2 && new(at) == 2;
    // Without the API server nothing gets on, and nobody can ask.
    if a.kubectl(&["get", "--raw", "/readyz"]).is_ok() {
        pods.tend_until(a, "the roll ends", done);
    }
    comes_back(a);
    pods.tend_until(a, "the roll ends", done);
    answered_by(story, pods);
    pods.end_old(a);
    only_those_of(story, a, pods);
    for stream in streams {
        stream.none_failed();
    }
}

/// What the slices say, both clusters' records and every kind of client say, too.
fn only_those_of(story: &Story, a: &Kubernetes<'_>, pods: &Pods) {
    let addresses: BTreeSet<String> = PLACES
        .iter()
        .filter(|(place, ..)| pods.places().contains(place))
        .flat_map(|(.., ips)| ips.map(str::to_owned))
        .collect();
    eventually("the slices name the pods", SHOWN, || {
        let path = "jsonpath={range .items[*].endpoints[*]}{.addresses[0]}{\"\\n\"}{end}";
        let slices =
            ["-n", "shop", "get", "endpointslices", "-l", "kubernetes.io/service-name=cart", "-o", path];
        let named: BTreeSet<String> = a.kubectl(&slices).unwrap().lines().map(str::to_owned).collect();
        if named == addresses { Ok(()) } else { Err(format!("{named:?} instead of {addresses:?}")) }
    });
    for cluster in [&A, &B] {
        eventually("the records are the slices'", SHOWN, || {
            let prefix = format!("mesh/v1/{}/backends/shop/cart/", A.name);
            let args = ["store", "get", "--cluster", cluster.name, &prefix, "-o", "json"];
            let records: Value = serde_json::from_str(&story.ctl(&args)).unwrap();
            let all = records.as_array().into_iter().flatten();
            let held: BTreeSet<String> =
                all.filter_map(|it| it["key"].as_str()?.strip_prefix(&prefix).map(str::to_owned)).collect();
            if held == addresses { Ok(()) } else { Err(format!("{}: {held:?}", cluster.name)) }
        });
    }
    story.well();
    answered_by(story, pods);
}

/// Every kind of client of both clusters is answered by the pods that are to stay, and by nobody else.
fn answered_by(story: &Story, pods: &Pods) {
    let theirs = ["cart-1", "cart-2"].map(|place| format!("{}/{place}", B.name));
    let ours = pods.places().into_iter().map(|place| format!("{}/{place}", A.name));
    let wanted: BTreeSet<String> = ours.chain(theirs).collect();
    let of_a = (A, ["pod/client", "pod/shell", "node/a1"]);
    let of_b = (B, ["pod/client", "pod/shell", "node/b1"]);
    for (cluster, places) in [of_a, of_b] {
        for place in places.map(|place| format!("{}/{place}", cluster.name)) {
            for cart in [cluster.cart, cluster.cart_v6] {
                let url = format!("http://{cart}/");
                story.ask_until(&place, &url, SHOWN, |answers| answers.keys().eq(&wanted)).unwrap();
            }
        }
    }
}

/// By the pods' names, where they run.
type Running = BTreeMap<String, &'static str>;

/// Pods of the Deployment.
#[derive(Default)]
struct Pods {
    at: Running,
    /// Those that are not ready yet, and since when they run.
    starting: BTreeMap<String, Instant>,
    /// Those that are to end.
    ending: BTreeSet<String>,
    /// How many there were: each takes the next place, so that nobody comes where one has just gone.
    placed: usize,
}

impl Pods {
    fn places(&self) -> BTreeSet<&'static str> {
        self.at.values().copied().collect()
    }

    /// Whether somebody who answered runs where none of these did.
    fn is_new(&self, before: &BTreeSet<&str>, who: &str) -> bool {
        let place = who.strip_prefix(A.name).and_then(|rest| rest.strip_prefix('/'));
        place.is_some_and(|place| self.places().contains(place) && !before.contains(place))
    }

    /// Does what a scheduler and kubelets would until it is so, and everybody is ready.
    fn tend_until(&mut self, kubernetes: &Kubernetes<'_>, what: &str, is: impl Fn(&Running) -> bool) {
        eventually(what, SHOWN * 3, || {
            self.tend(kubernetes).map_err(|error| format!("{error:#}"))?;
            if self.starting.is_empty() && is(&self.at) { Ok(()) } else { Err(format!("{:?}", self.at)) }
        });
    }

    fn tend(&mut self, kubernetes: &Kubernetes<'_>) -> anyhow::Result<()> {
        let pods = kubernetes.kubectl(&["-n", "shop", "get", "pods", "-l", "app=cart", "-o", "json"])?;
        let pods: Value = serde_json::from_str(&pods)?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default();
            if pod["metadata"].get("deletionTimestamp").is_some() {
                self.at.remove(name);
                self.ending.insert(name.to_owned());
            } else if !self.at.contains_key(name) {
                let (place, node, ips) = PLACES[self.placed % PLACES.len()];
                kubernetes.run_pod("shop", name, node, ips)?;
                self.at.insert(name.to_owned(), place);
                self.starting.insert(name.to_owned(), Instant::now());
                self.placed += 1;
            } else if self.starting.get(name).is_some_and(|since| since.elapsed() > STARTS_IN) {
                kubernetes.make_pod_ready("shop", name)?;
                self.starting.remove(name);
            }
        }
        Ok(())
    }

    /// Those that were to end have ended.
    fn end_old(&mut self, kubernetes: &Kubernetes<'_>) {
        for name in std::mem::take(&mut self.ending) {
            let delete = ["-n", "shop", "delete", "pod", &name, "--force", "--grace-period=0"];
            kubernetes.kubectl(&delete).unwrap();
        }
    }
}

/// A new connection to cart every 50 ms, until somebody wants to know.
struct Connections {
    from: &'static str,
    program: Child,
}

impl Connections {
    fn start(story: &Story, from: &'static str, cart: &str) -> Self {
        let target = format!("{cart}:80");
        let paced = ["--interval-ms", "50", "--timeout-ms", RESENT_WITHIN_MS, "--seconds", "600"];
        let args = [&["connect-loop", "--target", &target, "--http"][..], &paced].concat();
        Self { from, program: story.traffic(from, &args).unwrap() }
    }

    fn none_failed(self) {
        kill(Pid::from_raw(self.program.id().cast_signed()), Signal::SIGTERM).unwrap();
        let connections = report(self.program).unwrap();
        assert!(connections["failures"] == 0, "from {}: {connections}", self.from);
        assert!(connections["attempts"].as_u64() > Some(20), "{connections}");
    }
}

/// Two more places in cluster-a.
fn with_places(text: String) -> String {
    let mut more = String::new();
    for (place, node, [v4, v6]) in &PLACES[2..] {
        more += &format!(
            "      {place}:\n        namespace: shop\n        node: {node}\n        ips: [{v4}, \"{v6}\"]\n        run:\n          \
             - name: http\n            command: \"{{bin}}/mesh-traffic http-serve --name {}/{place} --port 8080\"\n            \
             ready: {{ tcp: 8080 }}\n",
            A.name
        );
    }
    let at = text.find("      shell:\n").expect("cluster-a has a shell");
    let (before, after) = text.split_at(at);
    format!("{before}{more}{after}")
}
