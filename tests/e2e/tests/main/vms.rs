//! A host outside Kubernetes, behind a NAT box: it joins by the line that `meshctl vm add` prints, uses global Services
//! and serves one, and is out when it is removed.

use e2e::{A, B, both};

use crate::{
    cold_start::reboot,
    nats::{Says, behind_a_box},
    story::{SHOWN, Story, eventually},
};

/// The VM's machine in the lab, and who asks it.
pub const VM: &str = "cluster-b/node/b2";
pub const POD: &str = "cluster-a/pod/client";

/// The address of the Service `shop/legacy` in cluster-a; nothing but the VM serves it.
pub const LEGACY: &str = "http://10.101.0.20/";

/// What adds the VM.
pub const ADD: [&str; 10] = [
    "vm",
    "add",
    "web-1",
    "--cluster=cluster-b",
    "--namespace",
    "shop",
    "--labels",
    "app=legacy,env=old",
    "--serve",
    "legacy:9000",
];

/// The cluster's own pods behind cart: those of the machine that is a VM here are no pods.
pub const CART: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-v4, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.2.1.11], nodeName: b1}]
";

#[test]
fn a_vm_behind_a_nat_box_joins_by_one_line_and_is_a_workload_also_without_any_control_plane() {
    let story = awaiting_the_vm();
    let line = story.ctl(&ADD);
    assert!(line.starts_with("mesh-vm-agent join mesh-vm-") && line.lines().count() == 1, "{line}");
    let (code, _, stderr) = story.try_ctl(&ADD);
    assert!(code == 4 && stderr.contains("the name is taken by ExternalWorkload shop/web-1"), "{stderr}");
    let (code, _, stderr) = join(&story, &line.replace("mesh-vm-CgV3", "mesh-vm-AAAA"));
    assert!(code == 1 && stderr.contains("token"), "{stderr}");
    let (code, stdout, stderr) = join(&story, &line);
    assert!(code == 0 && stdout.starts_with("this machine is web-1 of cluster-b now"), "{stdout}{stderr}");
    assert_eq!(story.said(VM, "stat -c %a /var/lib/mesh-vm-agent/key.pem").trim(), "600");
    let mut server = story.traffic(VM, &["http-serve", "--name", "cluster-b/vm", "--port", "9000"]).unwrap();
    story.await_tcp(VM, 9000, SHOWN).unwrap();
    story.lab.start(&format!("{VM}/agent")).unwrap();

    serves_and_uses(&story);
    well(&story);
    resolves(&story);
    small(&story);
    let why = story.ctl(&["why", "shop/legacy", "--cluster", A.name]);
    assert!(why.contains(":9000 in cluster-b/web-1: used"), "{why}");

    // It moves, everything of the control plane dies, and it is switched off and on again.
    story.lab.rebind(&"home".parse().unwrap()).unwrap();
    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    serves_and_uses(&story);
    story.kill9(&format!("{VM}/tunnel"));
    reboot(&story, VM);
    story.lab.start(&format!("{VM}/tunnel")).unwrap();
    story.lab.start(&format!("{VM}/agent")).unwrap();
    serves_and_uses(&story);
    resolves(&story);
    for cluster in [A, B] {
        story.lab.start(&format!("{}/host/control/apiserver", cluster.name)).unwrap();
        story.lab.start(&format!("{}/node/{}/agent", cluster.name, cluster.nodes[0])).unwrap();
    }
    story.lab.start("cluster-a/node/a2/agent").unwrap();
    well(&story);

    // What it serves dies: its own check says so, and a connection is refused at once.
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("the dead program is out of use", SHOWN, || {
        let (code, said, _) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        let why = story.ctl(&["why", "shop/legacy", "--cluster", A.name]);
        let is_out = code == 1
            && said.contains("nobody answers at 100.64.2.")
            && why.contains("web-1: not used: not ready");
        if is_out { Ok(()) } else { Err(said + &why) }
    });
    let refused = story.curl(POD, LEGACY).unwrap_err();
    assert!(refused.contains("(7)"), "{refused}");

    // Removed: its tunnels end, and it is told why it is not let in.
    story.ctl(&["vm", "remove", "web-1", "--cluster", B.name]);
    eventually("nobody has a tunnel to it", SHOWN, || {
        let (code, said, _) = story.sh(VM, "curl -sS --max-time 1 http://10.2.1.11:8080/");
        if code == 0 { Err(said) } else { Ok(()) }
    });
    eventually("the VM says why", SHOWN, || {
        let log = story.log(&format!("{VM}/agent"));
        if log.contains("no longer a VM of this cluster") { Ok(()) } else { Err(log) }
    });
    let (code, _, stderr) = join(&story, &line);
    assert!(code == 1 && stderr.contains("there is no VM web-1 in this cluster"), "{stderr}");
    leaves_nothing(&story);
}

/// The machine leaves, and is as it was before it joined.
fn leaves_nothing(story: &Story) {
    let agent = format!("{}/mesh-vm-agent", story.lab.state().unwrap().bin.display());
    let (code, _, stderr) = story.sh(VM, &format!("{agent} leave"));
    assert!(code == 1 && stderr.contains("another mesh-vm-agent runs on this host"), "{stderr}");
    story.kill9(&format!("{VM}/agent"));
    let said = story.said(VM, &format!("{agent} leave"));
    assert!(said.starts_with("this machine is web-1 of cluster-b no longer"), "{said}");
    let left = "ip -o link show mesh0; ip -4 rule; ip -6 rule; ip -4 route show table 27973; ip -6 route show table 27973; \
                nft list tables; ls -A /sys/fs/bpf /var/lib/mesh-vm-agent /var/lib/mesh/tunnel; \
                ls /etc/resolv.conf.mesh-vm-agent; cat /etc/resolv.conf; pgrep -x mesh-tunnel --ns $$ --nslist net";
    let (_, left, _) = story.sh(VM, left);
    for word in ["mesh0", "27973", "inet mesh", ".pem", ".json", "last-view", "wireguard.key", "127.0.0.153"]
    {
        assert!(!left.contains(word), "{word} is left: {left}");
    }
    assert!(!left.lines().any(|line| line == "mesh" || line.parse::<u32>().is_ok()), "{left}");
    let again = story.said(VM, &format!("{agent} leave"));
    assert_eq!(again, "this machine had not joined a cluster\n");
}

/// Both clusters, connected, with the Service that the VM is to serve. Its machine stands behind a box and is no node.
pub fn awaiting_the_vm() -> Story {
    let story = behind_a_box("symmetric", Says::NothingAsItIsNoNode);
    for (cluster, address) in [(A, "10.101.0.20"), (B, "10.102.0.20")] {
        story.write(&cluster, "legacy.yaml", &service(address)).unwrap();
    }
    story.write(&B, "cart-endpoints.yaml", CART).unwrap();
    story.connect();
    story
}

/// Pastes the line on the VM.
pub fn join(story: &Story, line: &str) -> (i32, String, String) {
    let bin = story.lab.state().unwrap().bin;
    story.sh(VM, &format!("{}/{}", bin.display(), line.trim()))
}

/// The operator sees that it is there, and all its tunnels.
pub fn well(story: &Story) {
    eventually("meshctl finds the VM well", SHOWN, || {
        let (code, stdout, stderr) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        if code == 0 && stdout.contains("3/3 carry") { Ok(()) } else { Err(format!("{stdout}{stderr}")) }
    });
}

/// Programs of the VM find Services by the names that pods of its namespace have for them. Nobody there is asked for any
/// other name: the host's own server is out of reach in the lab, and says nothing.
fn resolves(story: &Story) {
    for name in ["cart.shop.svc.cluster.local", "cart.shop.svc.clusterset.local", "cart"] {
        eventually("libc finds the name", SHOWN, || {
            let (_, said, stderr) = story.sh(VM, &format!("getent ahostsv4 {name}"));
            if said.starts_with("10.102.0.10 ") { Ok(()) } else { Err(format!("{name}: {said}{stderr}")) }
        });
    }
}

/// What an idle agent may hold: 25 MB. Pages of its program's file come on top, and the kernel takes them back at will.
fn small(story: &Story) {
    let state = story.lab.state().unwrap();
    let pid = state.processes[&format!("{VM}/agent").parse().unwrap()].pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells it");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kilobytes <= 25_000, "the agent holds {kilobytes} kB:\n{status}");
}

/// What `shop/legacy` is in a cluster where it has this address.
fn service(address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: legacy\n  namespace: shop\n  annotations:\n    \
         service.cilium.io/global: \"true\"\nspec:\n  clusterIP: {address}\n  ports: [{{name: http, port: 80}}]\n"
    )
}

/// A pod of the other cluster is answered by the VM; the VM is answered by pods of both.
fn serves_and_uses(story: &Story) {
    eventually("the VM answers", SHOWN, || match story.curl(POD, LEGACY)? {
        who if who == "cluster-b/vm" => Ok(()),
        other => Err(format!("{other} answered")),
    });
    story.carts(VM, &B, both);
}
