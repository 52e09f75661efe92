//! Two programs of one VM are two identities: each has an address of its own, sends from no other and answers at no other.

use e2e::{A, B};
use std::process::{Child, Stdio};

use crate::{
    nats::{Says, behind_a_box},
    story::{SHOWN, Story, eventually},
};

/// The VM's machine in the lab, and who it speaks to.
const VM: &str = "cluster-b/node/b2";
const POD: (&str, &str) = ("cluster-a/pod/client", "10.1.1.11");
/// The cgroup root of the VM.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Whom the operator adds.
const PROGRAMS: [&str; 2] = [
    "billing=unit:billing.service,label=app=billing,serve=billing:9001",
    "card=unit:card.service,slice=pay.slice,label=app=card",
];

/// A unit as systemd would start it: its cgroup, and its addresses in the mesh.
struct Unit {
    name: &'static str,
    cgroup: &'static str,
    port: u16,
}

const BILLING: Unit = Unit { name: "billing", cgroup: "system.slice/billing.service", port: 9001 };
const CARD: Unit = Unit { name: "card", cgroup: "pay.slice/card.service", port: 9002 };

/// A unit's process; it ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended by itself was ended by the lab.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Unit {
    /// A server at all addresses of the host.
    fn start(&self, story: &Story) -> Running {
        let bin = story.lab.state().unwrap().bin;
        let line = format!(
            "mkdir -p {CGROUPS}/{0} && echo 0 > {CGROUPS}/{0}/cgroup.procs && exec {1}/mesh-traffic http-serve --name {2} --port {3}",
            self.cgroup,
            bin.display(),
            self.name,
            self.port
        );
        let mut command = story.lab.command(VM, ["bash", "-c", &line]).unwrap();
        let running = Running(command.stdin(Stdio::null()).spawn().unwrap());
        story.await_tcp(VM, self.port, SHOWN).unwrap();
        running
    }

    /// Runs a line as one of the unit's processes.
    fn runs(&self, story: &Story, line: &str) -> (i32, String, String) {
        story.sh(VM, &format!("echo 0 > {CGROUPS}/{}/cgroup.procs && {line}", self.cgroup))
    }

    /// Its address, as the operator sees it.
    fn address(&self, story: &Story) -> String {
        let (_, said, _) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        let line =
            said.lines().find_map(|line| line.trim().strip_prefix("program    ")?.strip_prefix(self.name));
        line.and_then(|line| line.split(' ').nth(2)).unwrap_or_else(|| panic!("{said}")).to_owned()
    }

    /// The pod sees who speaks by the address.
    fn speaks(&self, story: &Story, address: &str) {
        eventually("the pod sees the program's own address", SHOWN, || {
            let (code, said, stderr) =
                self.runs(story, &format!("curl -gsS --max-time 2 http://{}:8080/from", POD.1));
            if code == 0 && said.trim() == address { Ok(()) } else { Err(format!("{said}{stderr}")) }
        });
    }

    /// A pod is answered by it at this address.
    fn answers(&self, story: &Story, address: &str) {
        eventually("the program answers at its address", SHOWN, || {
            match story.curl(POD.0, &format!("http://{address}:{}/", self.port))? {
                who if who == self.name => Ok(()),
                other => Err(format!("{other} answered")),
            }
        });
    }
}

#[test]
fn two_programs_of_one_vm_are_two_identities_each_at_an_address_that_nobody_else_can_use() {
    let story = behind_a_box("port-restricted", Says::NothingAsItIsNoNode);
    for (cluster, address) in [(A, "10.101.0.21"), (B, "10.102.0.21")] {
        story.write(&cluster, "billing.yaml", &service(address)).unwrap();
    }
    story.connect();
    let vm = ["vm", "add", "web-1", "--cluster", B.name, "--namespace", "shop", "--labels", "app=legacy"];
    let programs = PROGRAMS.map(|program| ["--program", program]);
    let line = story.ctl(&[&vm[..], programs.as_flattened()].concat());
    let bin = story.lab.state().unwrap().bin;
    story.said(VM, &format!("{}/{}", bin.display(), line.trim()));
    let billing = BILLING.start(&story);
    let _card = CARD.start(&story);
    story.lab.start(&format!("{VM}/agent")).unwrap();
    eventually("the operator finds the VM and both programs well", SHOWN, || {
        let (code, said, stderr) = story.try_ctl(&["vm", "status", "web-1", "--cluster", B.name]);
        let well = code == 0
            && said.contains("(unit billing.service)")
            && said.contains("(unit card.service in pay.slice)")
            && said.contains("serves     billing");
        if well { Ok(()) } else { Err(said + &stderr) }
    });

    let own = story.said(VM, &format!("curl -gsS --max-time 5 http://{}:8080/from", POD.1)).trim().to_owned();
    let (at_billing, at_card) = (BILLING.address(&story), CARD.address(&story));
    assert!(own != at_billing && own != at_card && at_billing != at_card, "{own} {at_billing} {at_card}");
    BILLING.speaks(&story, &at_billing);
    CARD.speaks(&story, &at_card);
    BILLING.answers(&story, &at_billing);
    CARD.answers(&story, &at_card);
    assert_eq!(story.curl(POD.0, "http://10.101.0.21/").as_deref(), Ok("billing"));
    let records = story.ctl(&["store", "get", "endpoints/shop/", "--cluster", B.name]);
    assert!(records.contains(&at_billing) && records.contains(&at_card), "{records}");

    // Neither answers at an address of another, though it listens at all of them.
    for (unit, elsewhere) in [(&BILLING, &at_card), (&BILLING, &own), (&CARD, &at_billing), (&CARD, &own)] {
        let refused = story.curl(POD.0, &format!("http://{elsewhere}:{}/", unit.port)).unwrap_err();
        assert!(refused.contains("(28)"), "{} at {elsewhere}: {refused}", unit.name);
    }
    // Neither speaks from one: not by binding to it, and not by a raw socket.
    for elsewhere in [&at_card, &own] {
        let bound = format!("curl -gsS --max-time 2 --interface {elsewhere} http://{}:8080/from", POD.1);
        let (code, said, stderr) = BILLING.runs(&story, &bound);
        assert!(code == 45 && stderr.contains("bind failed"), "as {elsewhere}: {said}{stderr}");
        let (code, said, stderr) = BILLING.runs(&story, &format!("ping -c1 -W1 -I {elsewhere} {}", POD.1));
        assert_ne!(code, 0, "as {elsewhere}: {said}{stderr}");
    }
    let (code, said, stderr) = BILLING.runs(&story, &format!("ping -c1 -W2 -I {at_billing} {}", POD.1));
    assert_eq!(code, 0, "{said}{stderr}");
    eventually("what was refused is counted", SHOWN, || {
        let refused = ["wrong_source", "wrong_listener"]
            .map(|reason| story.agent_metric(VM, &format!("mesh_agent_drops{{reason=\"{reason}\"}}")));
        if refused.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{refused:?}")) }
    });

    // One starts anew, in another cgroup; the other goes on.
    drop(billing);
    eventually("systemd removes the cgroup", SHOWN, || {
        let (code, said, stderr) = story.sh(VM, &format!("rmdir {CGROUPS}/{}", BILLING.cgroup));
        if code == 0 { Ok(()) } else { Err(said + &stderr) }
    });
    let _billing = BILLING.start(&story);
    BILLING.speaks(&story, &at_billing);
    BILLING.answers(&story, &at_billing);
    CARD.speaks(&story, &at_card);

    // Without an agent, what is told apart stays so; a unit that starts now is kept off the mesh.
    story.kill9(&format!("{VM}/agent"));
    BILLING.speaks(&story, &at_billing);
    CARD.answers(&story, &at_card);
    let new = Unit { name: "new", cgroup: "system.slice/new.service", port: 9003 };
    story.said(VM, &format!("mkdir {CGROUPS}/{}", new.cgroup));
    let (code, said, stderr) =
        new.runs(&story, &format!("curl -gsS --max-time 2 http://{}:8080/from", POD.1));
    assert!(code == 7, "nobody knows yet whose it is: {said}{stderr}");
    story.lab.start(&format!("{VM}/agent")).unwrap();
    new.speaks(&story, &own);
}

/// What `shop/billing` is in a cluster where it has this address.
fn service(address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: billing\n  namespace: shop\n  annotations:\n    \
         service.cilium.io/global: \"true\"\nspec:\n  clusterIP: {address}\n  ports: [{{name: http, port: 80}}]\n"
    )
}
