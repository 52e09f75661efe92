//! A site behind a radio link: 64 kbit/s, half a second there and back, one packet of twenty lost; and sometimes no link.

use crate::{
    cost::{CONTROL, count, counted, service},
    story::{SHOWN, Story, eventually},
};
use e2e::{A, B, Cluster};
use lab::{Traffic, cached};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    process::Stdio,
    time::{Duration, Instant},
};

/// Services that come with the many backends, and backends of each.
const SERVICES: usize = 8;
const BACKENDS: usize = 1_000;

/// Of each of these Services so many backends vanish, come, and are ready no more, during the cut.
const CHANGES: usize = 6;

/// How long a whole list may take: 1 MB over 64 kbit/s is more than two minutes, and what is lost is sent again.
const LISTED: Duration = Duration::from_secs(500);

/// How long it may take until a link that is there again is used: the longest wait between two attempts (15 s), two
/// handshakes, and what changed.
const CAUGHT_UP: Duration = Duration::from_secs(90);

/// How long a link is there, and how long it is not, and how often.
const PHASE: Duration = Duration::from_secs(30);
const PHASES: usize = 5;

#[test]
#[ignore = "some minutes of 64 kbit/s: cargo test -p e2e --test main -- --ignored --nocapture thin_links::"]
fn after_a_cut_longer_than_the_history_a_thin_link_carries_only_what_changed() {
    let story = Story::connected("thin");
    count(&story);
    story.kill9(FOLLOWER);
    publish(&story, 0..BACKENDS, &[]);

    make_thin(&story);
    let (before, began) = (counted(&story), Instant::now());
    story.lab.start(FOLLOWER).unwrap();
    eventually("the follower has listed all", LISTED, || same(&story));
    let list = counted(&story) - before;
    println!("the first list:      {list} bytes, {:.0} s", began.elapsed().as_secs_f64());

    let (ended, listed) = (told(&story, ENDED), told(&story, LISTED_ALL));
    cut(&story);
    eventually("the session is given up", SHOWN, || {
        if told(&story, ENDED) > ended { Ok(()) } else { Err(story.log(FOLLOWER)) }
    });
    publish(&story, CHANGES..BACKENDS + CHANGES, &(CHANGES..2 * CHANGES).collect::<Vec<_>>());
    // An hour is over: what history would have forgotten by then, an operator has it forget now.
    let status: Value = serde_json::from_str(&etcdctl(&story, &B, "endpoint status -w json")).expect("JSON");
    let revision = &status[0]["Status"]["header"]["revision"];
    etcdctl(&story, &B, &format!("compact {revision}"));

    let (before, began) = (counted(&story), Instant::now());
    heal(&story);
    eventually("the follower is right again", CAUGHT_UP, || same(&story));
    let moved = counted(&story) - before;
    let ended = told(&story, ENDED) - ended;
    println!(
        "after an hour's cut: {moved} bytes, {:.0} s, {ended} sessions ended",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(told(&story, LISTED_ALL), listed, "nothing was listed: {}", story.log(FOLLOWER));
    assert!(told(&story, "was compacted") > 0, "{}", story.log(FOLLOWER));
    assert!(moved * 5 < list, "{moved} bytes moved, of {list} in all");
}

#[test]
#[ignore = "half a minute of link and half a minute of none, five times: cargo test -p e2e --test main -- --ignored --nocapture thin_links::"]
fn a_thin_link_that_comes_and_goes_is_used_whenever_it_is_there_and_nothing_is_withdrawn() {
    let story = Story::connected("flapping");
    count(&story);
    make_thin(&story);
    let watched = story.dir().join("watched");
    let argv = etcdctl_argv(&story, &A, "watch --prefix mesh/v1/cluster-b/");
    let mut watch = story.lab.command(&control(&A), ["bash", "-c", &format!("exec {argv}")]).unwrap();
    let mut watch =
        watch.stdin(Stdio::null()).stdout(File::create(&watched).unwrap()).spawn().expect("etcdctl starts");

    for phase in 0..PHASES {
        cut(&story);
        // The phases are what is tested, so they take their time.
        story.said(CONTROL, &format!("sleep {}", PHASE.as_secs()));
        let new = format!("10.2.3.{}", phase + 1);
        story
            .write(&B, "flap.yaml", &service("flap", "10.102.2.1", (0..=phase).map(|n| ([3, n + 1], true))))
            .unwrap();
        let (before, began) = (counted(&story), Instant::now());
        heal(&story);
        eventually("both follow each other again", PHASE, || {
            let there = etcdctl(&story, &A, "get --prefix --keys-only mesh/v1/cluster-b/backends/shop/flap/");
            let fresh = [&A, &B].map(|cluster| fresh(&story, cluster));
            if there.contains(&new) && fresh == [true, true] {
                Ok(())
            } else {
                Err(format!("{fresh:?} {there}"))
            }
        });
        let (bytes, took) = (counted(&story) - before, began.elapsed());
        println!("up {}: {bytes} bytes, {:.0} s", phase + 1, took.as_secs_f64());
        story.said(CONTROL, &format!("sleep {}", PHASE.saturating_sub(took).as_secs()));
    }

    watch.kill().unwrap();
    watch.wait().unwrap();
    // Keys are text, values are not.
    let watched = String::from_utf8_lossy(&fs::read(watched).unwrap()).into_owned();
    assert!(watched.contains(&format!("10.2.3.{PHASES}")), "the watch saw what came: {watched}");
    let withdrawn: Vec<_> = watched.lines().skip_while(|line| *line != "DELETE").take(2).collect();
    assert!(withdrawn.is_empty(), "{withdrawn:?}");
}

/// The apiserver that is far from what it follows.
const FOLLOWER: &str = "cluster-a/host/control/apiserver";

/// What it logs.
const ENDED: &str = "No session with the peer";
const LISTED_ALL: &str = "Synced with the peer";

fn told(story: &Story, what: &str) -> usize {
    story.log(FOLLOWER).matches(what).count()
}

/// Whether a cluster calls its only peer fresh, as it tells an operator beside it.
fn fresh(story: &Story, cluster: &Cluster) -> bool {
    let argv = story.meshctl_argv(["status", cluster.name, "-o", "json"]);
    let output = story.lab.exec(&control(cluster), argv).unwrap();
    let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    status[0]["peers"][0]["freshness"] == "fresh"
}

fn control(cluster: &Cluster) -> String {
    format!("{}/host/control", cluster.name)
}

/// Nothing passes between the two clusters, until it is healed. How it is when it is there stays.
fn cut(story: &Story) {
    for place in SIDES {
        story.lab.cut(place, B.name, Traffic::All).unwrap();
    }
}

fn heal(story: &Story) {
    for place in SIDES {
        story.lab.heal(place, B.name).unwrap();
    }
}

const SIDES: [&str; 3] = ["cluster-a/host/control", "cluster-a/node/a1", "cluster-a/node/a2"];

/// What goes to either segment from the other: as fast as a modem, with a second's queue as modems have, and lossy. The probes of
/// four agents, each with a tunnel to two nodes, take a sixteenth of it.
fn make_thin(story: &Story) {
    for cluster in [A, B] {
        let address = cluster.apiserver.split(':').next().expect("host:port");
        story.said(
            "underlay",
            &format!(
                "set -o pipefail; dev=$(ip -o route get {address} | grep -o 'dev [^ ]*'); \
                 tc qdisc replace $dev root tbf rate 64kbit burst 1600 latency 1s"
            ),
        );
    }
    story.lab.cut(A.name, B.name, Traffic::Percent(5)).unwrap();
    story.lab.cut(A.name, B.name, Traffic::DelayMs(250)).unwrap();
}

/// Whether the follower's store holds what the other cluster announces, every backend.
fn same(story: &Story) -> Result<(), String> {
    // Looks without haste: a list takes minutes, and to compare it takes a while, too.
    story.said(&control(&A), "sleep 1");
    let keys = story.apiserver_metric(&A, "mesh_apiserver_store_keys");
    if keys < u64::try_from(SERVICES * BACKENDS).expect("few") {
        return Err(format!("{keys} keys"));
    }
    let [theirs, ours] = [B, A].map(|cluster| backends_of_b(story, &cluster));
    if theirs == ours { Ok(()) } else { Err(format!("{} of {} backends", ours.len(), theirs.len())) }
}

fn backends_of_b(story: &Story, cluster: &Cluster) -> BTreeMap<String, String> {
    let listed = etcdctl(story, cluster, "get --prefix mesh/v1/cluster-b/backends/ -w json");
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let kvs = listed["kvs"].as_array().into_iter().flatten();
    kvs.map(|kv| (text(&kv["key"]), text(&kv["value"]))).collect()
}

/// etcdctl beside a cluster's apiserver, as its operator.
fn etcdctl(story: &Story, cluster: &Cluster, line: &str) -> String {
    story.said(&control(cluster), &etcdctl_argv(story, cluster, line))
}

fn etcdctl_argv(story: &Story, cluster: &Cluster, line: &str) -> String {
    let admin = story.dir().join(cluster.name).join("data/admin");
    let admin = admin.display();
    format!(
        "{} --endpoints={} --cacert={admin}/bundle.pem --cert={admin}/cert.pem --key={admin}/key.pem {line}",
        cached("etcd-3.5.1/etcdctl", "ci/etcd.sh").unwrap().display(),
        cluster.apiserver
    )
}

/// Has cluster-b announce these backends of each of the many Services, of which some are not ready, and no others.
fn publish(story: &Story, range: std::ops::Range<usize>, unready: &[usize]) {
    let backends = |service: usize| {
        range.clone().map(move |n| ([8 + 8 * service + n / 250, 1 + n % 250], !unready.contains(&n)))
    };
    let services = (0..SERVICES)
        .map(|n| service(&format!("many-{n}"), &format!("10.102.1.{n}"), backends(n)))
        .collect::<Vec<_>>();
    story.write(&B, "many.yaml", &services.join("---\n")).unwrap();
    let last = format!("mesh/v1/cluster-b/backends/shop/many-{}/", SERVICES - 1);
    eventually("the source has published them", SHOWN, || {
        let keys = etcdctl(story, &B, &format!("get --prefix --keys-only {last}"));
        let wanted: Vec<String> =
            backends(SERVICES - 1).map(|([c, d], _)| format!("{last}10.2.{c}.{d}")).collect();
        let found: Vec<&str> = keys.lines().filter(|line| !line.is_empty()).collect();
        if found.len() == wanted.len() && wanted.iter().all(|key| found.contains(&key.as_str())) {
            Ok(())
        } else {
            Err(format!("{} backends", found.len()))
        }
    });
}
