//! What the modules render is taken by those it is for: cloud-init, and our own parsers.

use api::{external_workload::ExternalWorkload, peer::MeshPeer};
use clustermesh_apiserver::{
    init::{ClusterConfig, init},
    peers::check::{Surroundings, check},
    pki::Layout,
    publish::Own,
};
use lab::cached;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
    time::SystemTime,
};
use terraform::Tofu;

const MODULES: [&str; 2] = ["modules/vm-agent", "modules/peering"];

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn each_module_renders_what_its_own_tests_say_and_refuses_what_they_refuse() {
    let tofu = Tofu::new().unwrap();
    for module in MODULES {
        assert!(tofu.test(module).unwrap() > 10, "{module}");
    }
}

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn the_user_data_are_what_the_schema_of_cloud_init_allows() {
    let tofu = Tofu::new().unwrap();
    let least = json!({"name": "web-1", "cluster": "core", "token": "mesh-vm-CgV3ZWItMRI"});
    let most = json!({
        "name": "web-1", "cluster": "core", "token": "mesh-vm-CgV3ZWItMRI", "options": ["--no-dns"],
        "package": "https://packages.example/mesh-vm-agent_0.1.0-1_amd64.deb", "package_sha256": "0".repeat(64),
    });
    for variables in [least, most] {
        let text = text(&tofu.outputs("modules/vm-agent", &variables).unwrap()["user_data"]);
        let judged = cloud_init(&tofu, &text);
        assert!(judged.status.success(), "{judged:?}: {text}");
    }
    let judged = cloud_init(&tofu, "#cloud-config\nwrite_files: /etc/mesh-vm-agent/options\n");
    assert!(!judged.status.success(), "the schema refuses what is none: {judged:?}");
}

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn the_object_of_a_vm_is_one_that_an_apiserver_reads() {
    let tofu = Tofu::new().unwrap();
    let outputs = tofu.outputs(
        "modules/vm-agent",
        &json!({
            "name": "web-1", "cluster": "core", "namespace": "shop", "service_account": "legacy",
            "labels": {"app": "web"}, "read": ["db"], "serve": [{"service": "cart", "port": 8080, "port_name": "http"}],
            "programs": [
                {"name": "card", "unit": "card.service", "slice": "pay.slice", "labels": {"app": "card"}},
                {"name": "jobs", "user": "jobs", "service_account": "jobs", "serve": [{"service": "jobs", "port": 9001}]},
            ],
        }),
    );
    let outputs = outputs.unwrap();
    let object: ExternalWorkload = serde_saphyr::from_str(&text(&outputs["external_workload"])).unwrap();
    let told = serde_json::to_value(object).unwrap();
    assert_eq!(
        told,
        json!({
            "apiVersion": "clustermesh.io/v1alpha1", "kind": "ExternalWorkload",
            "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": {
                "labels": {"app": "web"}, "serviceAccount": "legacy", "namespaces": ["db"],
                "serve": [{"service": "cart", "portName": "http", "port": 8080}],
                "programs": [
                    {"name": "card", "unit": "card.service", "slice": "pay.slice", "labels": {"app": "card"}},
                    {"name": "jobs", "user": "jobs", "serviceAccount": "jobs", "serve": [{"service": "jobs", "port": 9001}]},
                ],
            },
        })
    );
}

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn both_peers_are_what_an_apiserver_accepts_of_the_clusters_that_were_made() {
    let (tofu, dir) = (Tofu::new().unwrap(), tempfile::tempdir().unwrap());
    let sides = [(1, "core"), (2, "edge-1")].map(|(nth, name)| made(&dir.path().join(name), nth, name));
    let more = json!({
        "namespaces": ["shop"], "limits": {"nodes": 5}, "stale": {"policy": "drop-after", "drop_after_s": 600},
    });
    let clusters = sides.each_ref().map(|config| {
        let mut said = as_said(&dir.path().join(config.name.as_str()));
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said
    });
    let outputs = tofu.outputs("modules/peering", &json!({"clusters": clusters})).unwrap();
    for (own, other) in [(&sides[0], &sides[1]), (&sides[1], &sides[0])] {
        let peer: MeshPeer = serde_saphyr::from_str(&text(&outputs["objects"][own.name.as_str()])).unwrap();
        assert_eq!((&peer.metadata.name, peer.spec.uuid), (&other.name, other.uuid));
        let (own, others) = (Own::from(own), BTreeMap::new());
        check(&peer, Surroundings { own: &own, node_addresses: &[], others: &others }).unwrap();
    }
}

#[test]
#[ignore = "needs OpenTofu: make test-terraform"]
fn every_example_is_written_as_tofu_fmt_writes_it() {
    let tofu = Tofu::new().unwrap();
    tofu.ok(".", &["fmt", "-check", "-recursive", "-diff"]).unwrap();
}

fn text(value: &Value) -> String {
    value.as_str().expect("the output is a text").to_owned()
}

/// What cloud-init of the distribution says of user data.
fn cloud_init(tofu: &Tofu, user_data: &str) -> Output {
    let file = tofu.path("user-data.yaml");
    fs::write(&file, user_data).unwrap();
    let mut command = Command::new(cached("cloud-init/cloud-init", "ci/cloud-init.sh").unwrap());
    command.args(["schema", "--config-file"]).arg(file).output().unwrap()
}

/// A cluster as `clustermesh-apiserver init` makes it.
fn made(data: &Path, nth: u8, name: &str) -> ClusterConfig {
    let range = |text: String| vec![text.parse().unwrap()];
    let config = ClusterConfig {
        name: name.parse().unwrap(),
        uuid: format!("0190a5c4-0000-4000-8000-00000000000{nth}").parse().unwrap(),
        pod_cidrs: range(format!("10.{nth}.0.0/16")),
        service_cidrs: range("10.96.0.0/16".to_owned()),
        mesh_cidrs: range(format!("100.64.{nth}.0/24")),
        encryption_scope: Default::default(),
        advertise: vec![format!("192.0.2.{nth}:2379")],
        dial_out: false,
    };
    init(data, &config, SystemTime::now()).unwrap();
    config
}

/// What modules/peering has to be told of the cluster of a data directory.
pub fn as_said(data: &Path) -> Value {
    let layout = Layout::new(data);
    let config = ClusterConfig::load(&layout).unwrap();
    json!({
        "name": config.name, "uuid": config.uuid, "endpoints": config.advertise,
        "trust_bundle": fs::read_to_string(layout.admin().bundle).unwrap(),
        "pod_cidrs": config.pod_cidrs, "service_cidrs": config.service_cidrs, "mesh_cidrs": config.mesh_cidrs,
    })
}
