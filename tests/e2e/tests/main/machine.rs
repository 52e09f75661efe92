//! The VM agent's package on a real machine: Debian's own kernel and systemd, installed by dpkg, started by its unit.

use std::{path::PathBuf, time::Duration};

use e2e::{B, both, counted, machine::Machine};

use crate::{
    story::{SHOWN, Story, eventually},
    vms::{ADD, LEGACY, POD, VM, awaiting_the_vm, well},
};

/// What `make test-vm` made before: a directory of `tests/vm/image`, the package, and the program that is served.
const IMAGE: &str = "MESH_VM_IMAGE";
const PACKAGE: &str = "MESH_VM_PACKAGE";
const TRAFFIC: &str = "MESH_VM_TRAFFIC";

/// What an idle agent may hold. Pages of its program's file come on top, and the kernel takes them back at will.
const MEMORY_MAX_KB: u64 = 25_000;

/// A view that changes is kept every 30 s.
const KEPT: Duration = Duration::from_secs(45);

/// Everything that runs beside the tunnels.
const CONTROL: [&str; 5] = [
    "cluster-a/host/control/apiserver",
    "cluster-b/host/control/apiserver",
    "cluster-a/node/a1/agent",
    "cluster-a/node/a2/agent",
    "cluster-b/node/b1/agent",
];

/// The program that the VM serves, as a unit: it comes again after a reboot.
const SERVER: &str = "\
[Service]
ExecStart=/usr/local/bin/mesh-traffic http-serve --name cluster-b/vm --port 9000
[Install]
WantedBy=multi-user.target
";

#[test]
#[ignore = "boots a Debian under qemu: make test-vm"]
fn a_debian_joins_by_its_package_and_a_token_and_serves_also_after_a_reboot_without_any_control_plane() {
    let story = awaiting_the_vm();
    let mut vm = Machine::boot(&story, VM, made(IMAGE)).unwrap();
    let boot = vm.await_boot(None).unwrap();
    let release = vm.said("uname -r").unwrap();
    // The kernel's name and the distribution's are for whoever reads the log.
    println!(
        "{}",
        vm.said("uname -r; . /etc/os-release; echo $PRETTY_NAME; systemctl --version | head -n1").unwrap()
    );

    vm.put(&made(PACKAGE), "/root/agent.deb").unwrap();
    vm.said("dpkg --install /root/agent.deb").unwrap();
    let units =
        vm.said("systemctl is-enabled mesh-vm-agent mesh-tunnel; systemctl is-active mesh-vm-agent || true");
    assert_eq!(units.unwrap(), "enabled\nenabled\ninactive\n", "until it has joined there is nothing to run");
    vm.put(&made(TRAFFIC), "/usr/local/bin/mesh-traffic").unwrap();
    vm.said(&format!(
        "chmod +x /usr/local/bin/mesh-traffic; echo '{SERVER}' >/etc/systemd/system/legacy.service; \
         systemctl enable --now legacy 2>&1; \
         curl -sS --retry 5 --retry-connrefused http://127.0.0.1:9000/"
    ))
    .unwrap();

    let line = story.ctl(&ADD);
    let joined = vm.said(line.trim()).unwrap();
    assert!(joined.starts_with("this machine is web-1 of cluster-b now"), "{joined}");
    serves_and_uses(&story, &vm);
    well(&story);
    resolves(&vm);
    balances(&vm, &release);
    hardened(&vm);
    small(&vm);

    let kept = "grep -aq backends/shop/cart/10.1.1.11 /var/lib/mesh-vm-agent/last-view";
    eventually("the connected view is on the disk", KEPT, || {
        let output = vm.sh(kept).map_err(|error| format!("{error:#}"))?;
        if output.status.success() { Ok(()) } else { Err("it is not".to_owned()) }
    });
    for process in CONTROL {
        story.kill9(process);
    }
    // The connection ends before the command does.
    let _cut = vm.sh("systemctl reboot").unwrap();
    vm.await_boot(Some(&boot)).unwrap();
    serves_and_uses(&story, &vm);
    resolves(&vm);
    let ready = vm.said("curl -sS http://127.0.0.1:9878/readyz").unwrap();
    assert!(ready.contains("from this node's disk"), "{ready}");
}

/// A pod of the other cluster is answered by the VM; the VM is answered by pods of both.
fn serves_and_uses(story: &Story, vm: &Machine<'_>) {
    eventually("the VM answers", SHOWN, || match story.curl(POD, LEGACY)? {
        who if who == "cluster-b/vm" => Ok(()),
        other => Err(format!("{other} answered")),
    });
    let ask = format!("for i in $(seq 10); do curl -sS --max-time 5 http://{}/ 2>&1 || echo; done", B.cart);
    eventually("the VM is answered by both clusters", SHOWN, || {
        let answers = counted(&vm.said(&ask).map_err(|error| format!("{error:#}"))?);
        if both(&answers) { Ok(()) } else { Err(format!("{answers:?}")) }
    });
}

/// systemd-resolved asks the agent for the mesh's names.
fn resolves(vm: &Machine<'_>) {
    for name in ["cart.shop.svc.cluster.local", "cart"] {
        eventually("libc finds the name", SHOWN, || {
            let said = vm.said(&format!("getent ahostsv4 {name}")).map_err(|error| format!("{error:#}"))?;
            if said.starts_with("10.102.0.10 ") { Ok(()) } else { Err(format!("{name}: {said}")) }
        });
    }
}

/// Sockets balance where the kernel lets programs do it, and the agent says which one it is. (docs/decisions/0013)
fn balances(vm: &Machine<'_>, release: &str) {
    let version: Vec<u32> = release.split('.').map_while(|number| number.parse().ok()).collect();
    let kind = if version.as_slice() < &[5, 18] { "nftables" } else { "socket" };
    let metrics = vm.said("curl -sS http://127.0.0.1:9878/metrics | grep ^mesh_agent_balancer").unwrap();
    assert!(metrics.contains(&format!("kind=\"{kind}\"}} 1\n")), "{kind} on {release}: {metrics}");
}

/// The unit runs as it was written: with its capabilities and no others, under its filter of calls, never started again.
fn hardened(vm: &Machine<'_>) {
    let shown = vm.said("systemctl show --property=ActiveState,NRestarts mesh-vm-agent").unwrap();
    assert_eq!(shown, "NRestarts=0\nActiveState=active\n");
    let status = agent_status(vm);
    let has = |field: &str, value: &str| {
        let line = format!("{field}:\t{value}\n");
        assert!(status.contains(&line), "{field} is not {value}:\n{status}");
    };
    // CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF; mode 2 of seccomp is a filter.
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        has(set, "000000c000003400");
    }
    has("NoNewPrivs", "1");
    has("Seccomp", "2");
    // Of 10: "→ Overall exposure level for mesh-vm-agent.service: 3.6 OK :-)".
    let judged = vm.said("systemd-analyze --no-pager security mesh-vm-agent | tail -n1").unwrap();
    let exposure = judged.split(' ').find_map(|word| word.parse::<f32>().ok());
    assert!(exposure.is_some_and(|exposure| exposure <= 4.0), "{judged}");
    let log = vm.said("journalctl --boot --unit=mesh-vm-agent --output=cat").unwrap();
    assert!(!log.contains("not permitted") && !log.contains("denied"), "something was refused:\n{log}");
    let device = vm.said("ip -details link show dev mesh0; systemctl is-active mesh-tunnel || true").unwrap();
    assert!(device.contains("wireguard") && device.ends_with("inactive\n"), "the kernel's is used: {device}");
}

fn small(vm: &Machine<'_>) {
    let status = agent_status(vm);
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("the kernel tells it");
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let start = vm.said("curl -sS http://127.0.0.1:9878/metrics | grep ^mesh_agent_start_seconds").unwrap();
    println!("the agent holds {kilobytes} kB; {}", start.trim());
    assert!(kilobytes <= MEMORY_MAX_KB, "{status}");
}

/// What the kernel says about the agent's process.
fn agent_status(vm: &Machine<'_>) -> String {
    vm.said("cat /proc/$(systemctl show --property=MainPID --value mesh-vm-agent)/status").unwrap()
}

fn made(what: &str) -> PathBuf {
    std::env::var_os(what).unwrap_or_else(|| panic!("{what} is not set: run make test-vm")).into()
}
