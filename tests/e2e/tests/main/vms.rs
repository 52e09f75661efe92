//! A host outside Kubernetes, behind a NAT box, with an `ExternalWorkload` of its own: it uses global Services and serves one.

use e2e::{A, B, both};

use crate::{
    nats::{Says, behind_a_box},
    story::{SHOWN, Story, eventually},
};

/// The VM's machine in the lab, and who asks it.
const VM: &str = "cluster-b/node/b2";
const POD: &str = "cluster-a/pod/client";

/// The address of the Service `shop/legacy` in cluster-a; nothing but the VM serves it.
const LEGACY: &str = "http://10.101.0.20/";

const ENROLMENT: &str = "\
apiVersion: clustermesh.io/v1alpha1
kind: ExternalWorkload
metadata: {name: b2, namespace: shop}
spec:
  labels: {app: legacy, env: old}
  serve: [{service: legacy, port: 9000}]
";

/// The cluster's own pods behind cart: those of the machine that is a VM here are no pods.
const CART: &str = "\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: cart-v4, namespace: shop, labels: {kubernetes.io/service-name: cart}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.2.1.11], nodeName: b1}]
";

#[test]
fn a_vm_behind_a_nat_box_uses_a_global_service_and_serves_one_also_without_any_control_plane() {
    let story = behind_a_box("symmetric", Says::NothingAsItIsNoNode);
    for (cluster, address) in [(A, "10.101.0.20"), (B, "10.102.0.20")] {
        story.write(&cluster, "legacy.yaml", &service(address)).unwrap();
    }
    story.write(&B, "cart-endpoints.yaml", CART).unwrap();
    story.write(&B, "vm.yaml", ENROLMENT).unwrap();
    let mut server = story.traffic(VM, &["http-serve", "--name", "cluster-b/vm", "--port", "9000"]).unwrap();
    story.await_tcp(VM, 9000, SHOWN).unwrap();
    story.connect();

    serves_and_uses(&story);
    let why = story.ctl(&["why", "shop/legacy", "--cluster", A.name]);
    assert!(why.contains(":9000 in cluster-b/b2: used"), "{why}");

    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    serves_and_uses(&story);
    story.lab.start(&format!("{VM}/agent")).unwrap();
    serves_and_uses(&story);
    server.kill().unwrap();
    server.wait().unwrap();
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
