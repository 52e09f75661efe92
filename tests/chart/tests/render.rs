//! What Helm makes of the chart without any cluster. `UPDATE_EXPECT=1` rewrites golden files; read the diff.

use chart::{Helm, Ran, chart, ours, values};
use expect_test::{expect, expect_file};
use serde_json::{Value, json};
use std::{fs, path::Path, process::Command};

fn lint(helm: &Helm, name: &str) -> Ran {
    let (chart, values) = (chart().display().to_string(), values(name).display().to_string());
    helm.run(&["lint", "--strict", "--kube-version=1.37.2", &chart, "--values", &values]).expect("helm runs")
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn the_chart_passes_the_strict_lint() {
    let helm = Helm::new().unwrap();
    for name in ["minimal", "everything"] {
        let ran = lint(&helm, name);
        assert!(
            ran.ok && ran.out.contains("1 chart(s) linted, 0 chart(s) failed"),
            "{name}: {}{}",
            ran.out,
            ran.err
        );
    }
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn it_says_this_to_kubernetes() {
    let helm = Helm::new().unwrap();
    expect_file!["../golden/minimal.yaml"].assert_eq(&helm.template("minimal", &[]).unwrap());
    expect_file!["../golden/everything.yaml"].assert_eq(&helm.template("everything", &[]).unwrap());
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn nodes_with_the_kernels_wireguard_have_no_tunnel_process() {
    let helm = Helm::new().unwrap();
    let kernel = helm.template("minimal", &["tunnel.device=kernel"]).unwrap();
    assert!(kernel.contains("--tunnel-device=kernel") && !kernel.contains("-tunnel\n"), "{kernel}");
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn a_relay_is_there_when_it_is_asked_for_whoever_serves_the_device_and_may_nothing() {
    let helm = Helm::new().unwrap();
    let relay = |objects: Vec<Value>| {
        let is = |it: &Value| it["kind"] == "DaemonSet" && it["metadata"]["name"] == "mesh-clustermesh-relay";
        objects.into_iter().find(is)
    };
    assert_eq!(relay(helm.objects("minimal", &[]).unwrap()), None);
    let one = relay(helm.objects("minimal", &["relay.enabled=true"]).unwrap()).expect("a relay");
    let kernel = helm.objects("minimal", &["relay.enabled=true", "tunnel.device=kernel"]).unwrap();
    assert_eq!(relay(kernel).as_ref(), Some(&one));

    // An upgrade ends no tunnel that goes through it.
    assert_eq!(one["spec"]["updateStrategy"]["type"], "OnDelete");
    let pod = &one["spec"]["template"]["spec"];
    assert_eq!(pod["nodeSelector"]["clustermesh.io/relay"], "true");
    assert_eq!(pod["automountServiceAccountToken"], false);
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
            "runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}})
    );
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        assert_eq!(container.get(probe), None, "what may end it is for a person to say");
    }
    assert_eq!(container["resources"].get("limits"), None);

    let one_port =
        helm.template("minimal", &["relay.enabled=true", "relay.port=51871"]).unwrap_err().to_string();
    assert!(one_port.contains("relay.port and agent.wireguardPort are both 51871"), "{one_port}");
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn the_schema_refuses_what_cannot_work() {
    let helm = Helm::new().unwrap();
    let (chart, values) = (chart().display().to_string(), values("minimal").display().to_string());
    let sets: [&[&str]; 20] = [
        &["apiserver.replicas=2"],
        &[r#"apiserver.strategy="RollingUpdate""#],
        &[r#"cluster.name="Cluster_A""#],
        &[r#"cluster.podCIDRs=["10.1.0.0"]"#],
        &["cluster.meshCIDRs=[]"],
        &[r#"cluster.encryptionScope="none""#],
        &[r#"apiserver.advertise=["mesh.example"]"#],
        &[r#"apiserver.service.type="ExternalName""#],
        &["apiserver.service.nodePort=32379"],
        &[
            r#"apiserver.service.type="NodePort""#,
            r#"apiserver.service.loadBalancerSourceRanges=["192.0.2.0/24"]"#,
        ],
        &[r#"apiserver.persistence.accessModes=["ReadWriteMany"]"#],
        &[r#"apiserver.image.digest="latest""#],
        &["tunnel.mtu=100"],
        &["tunnel.updateStrategy={}"],
        &["relay.updateStrategy={}"],
        &["relay.port=1023"],
        &["relay.mbitPerSecond=0"],
        &["relay.mbitPerSecond=0.5"],
        &["metrics.serviceMonitor.enabled=true"],
        &["nodeAgent={}"],
    ];
    let mut said = String::new();
    for set in sets {
        let mut args = vec!["template", "mesh", &chart, "--kube-version=1.37.2", "--values", &values];
        args.extend(set.iter().flat_map(|set| ["--set-json", set]));
        let ran = helm.run(&args).unwrap();
        assert!(!ran.ok, "{set:?} was taken");
        said += &format!("{}\n", set.join(" "));
        for line in ran.err.lines().filter(|line| line.trim_start().starts_with("- at")) {
            said += &format!("  {line}\n");
        }
    }
    expect![[r#"
        apiserver.replicas=2
          - at '/apiserver/replicas': value must be 1
        apiserver.strategy="RollingUpdate"
          - at '/apiserver/strategy': value must be 'Recreate'
        cluster.name="Cluster_A"
          - at '/cluster/name': 'Cluster_A' does not match pattern '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'
        cluster.podCIDRs=["10.1.0.0"]
          - at '/cluster/podCIDRs/0': '10.1.0.0' does not match pattern '^[0-9a-fA-F.:]+/[0-9]{1,3}$'
        cluster.meshCIDRs=[]
          - at '/cluster/meshCIDRs': minItems: got 0, want 1
        cluster.encryptionScope="none"
          - at '/cluster/encryptionScope': value must be one of 'between-clusters', 'all'
        apiserver.advertise=["mesh.example"]
          - at '/apiserver/advertise/0': 'mesh.example' does not match pattern '^.+:[0-9]{1,5}$'
        apiserver.service.type="ExternalName"
          - at '/apiserver/service/type': value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'
        apiserver.service.nodePort=32379
          - at '/apiserver/service': 'allOf' failed
            - at '/apiserver/service/nodePort': value must be <nil>
        apiserver.service.type="NodePort" apiserver.service.loadBalancerSourceRanges=["192.0.2.0/24"]
          - at '/apiserver/service': 'allOf' failed
            - at '/apiserver/service/loadBalancerSourceRanges': maxItems: got 1, want 0
        apiserver.persistence.accessModes=["ReadWriteMany"]
          - at '/apiserver/persistence/accessModes/0': value must be one of 'ReadWriteOnce', 'ReadWriteOncePod'
        apiserver.image.digest="latest"
          - at '/apiserver/image/digest': 'latest' does not match pattern '^(sha256:[0-9a-f]{64})?$'
        tunnel.mtu=100
          - at '/tunnel/mtu': minimum: got 100, want 576
        tunnel.updateStrategy={}
          - at '/tunnel': additional properties 'updateStrategy' not allowed
        relay.updateStrategy={}
          - at '/relay': additional properties 'updateStrategy' not allowed
        relay.port=1023
          - at '/relay/port': minimum: got 1,023, want 1,024
        relay.mbitPerSecond=0
          - at '/relay/mbitPerSecond': minimum: got 0, want 1
        relay.mbitPerSecond=0.5
          - at '/relay/mbitPerSecond': got number, want integer
        metrics.serviceMonitor.enabled=true
          - at '/metrics/enabled': value must be true
        nodeAgent={}
          - at '': additional properties 'nodeAgent' not allowed
    "#]].assert_eq(&said);
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn a_cluster_that_is_too_old_is_refused_by_version() {
    let helm = Helm::new().unwrap();
    let (chart, values) = (chart().display().to_string(), values("minimal").display().to_string());
    let ran = helm.run(&["template", "mesh", &chart, "--kube-version=1.29.9", "--values", &values]).unwrap();
    assert!(!ran.ok && ran.err.contains("chart requires kubeVersion: >=1.30.0-0"), "{}", ran.err);
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn a_new_chart_with_the_same_programs_changes_no_pod() {
    let helm = Helm::new().unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_all(&chart(), copy.path());
    let meta = fs::read_to_string(copy.path().join("Chart.yaml")).unwrap();
    fs::write(copy.path().join("Chart.yaml"), meta.replace("\nversion: 0.1.0", "\nversion: 0.1.1")).unwrap();
    let before = helm.template("minimal", &[]).unwrap();
    let after = helm.template_of(copy.path(), "minimal", &[]).unwrap();
    assert_ne!(before, after, "the version is a label of objects");
    assert_eq!(templates(&before), templates(&after));
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn every_argument_is_one_of_the_programs() {
    let helm = Helm::new().unwrap();
    let objects = helm.objects("everything", &[]).unwrap();
    let pods = objects.iter().filter_map(|it| match it["kind"] == "Pod" {
        true => Some(&it["spec"]),
        false => it.pointer("/spec/template/spec"),
    });
    let containers = pods.flat_map(|spec| ["initContainers", "containers"].map(|of| &spec[of]));
    let mut asked = Vec::new();
    for container in containers.filter_map(Value::as_array).flatten() {
        let program = match container["name"].as_str().unwrap() {
            "init" | "apiserver" => "clustermesh-apiserver",
            "agent" => "mesh-node-agent",
            "tunnel" | "relay" => "mesh-tunnel",
            "meshctl" => "meshctl",
            other => panic!("{other} runs what?"),
        };
        let args: Vec<&str> =
            container["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
        let command: Vec<&str> = args.iter().copied().filter(|arg| !arg.starts_with('-')).collect();
        let help = Command::new(ours(program).unwrap()).args(&command).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let known: Vec<&str> = help.split(|c: char| c.is_whitespace() || ",=<".contains(c)).collect();
        for arg in args.iter().filter(|arg| arg.starts_with('-')) {
            let flag = arg.split('=').next().unwrap();
            assert!(known.contains(&flag), "{program} {}: there is no {flag}", command.join(" "));
        }
        asked.push(format!("{program} {}", command.join(" ")).trim_end().to_owned());
    }
    asked.sort();
    let programs =
        ["clustermesh-apiserver init", "clustermesh-apiserver run", "mesh-node-agent", "mesh-tunnel"];
    assert_eq!(asked, [&programs[..], &["mesh-tunnel", "meshctl status"]].concat());
}

/// The pod templates of a rendered chart.
fn templates(text: &str) -> Vec<Value> {
    let documents = text.split("\n---\n").map(|it| it.strip_prefix("---\n").unwrap_or(it));
    let objects = documents.map(|text| serde_saphyr::from_str::<Value>(text).expect("YAML"));
    let templates: Vec<_> = objects.filter_map(|it| it.pointer("/spec/template").cloned()).collect();
    assert_eq!(templates.len(), 3);
    templates
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        match entry.file_type().unwrap().is_dir() {
            true => copy_all(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
#[ignore = "needs Helm: make test-kubernetes"]
fn names_fit_whatever_the_release_is_called() {
    let helm = Helm::new().unwrap();
    let (chart, values) = (chart().display().to_string(), values("everything").display().to_string());
    let release = "a-release-with-a-name-as-long-as-helm-allows-it-53-ch";
    let text = helm.ok(&["template", release, &chart, "--kube-version=1.37.2", "--values", &values]).unwrap();
    for document in text.split("\n---\n") {
        let object: Value =
            serde_saphyr::from_str(document.strip_prefix("---\n").unwrap_or(document)).unwrap();
        let name = object["metadata"]["name"].as_str().unwrap();
        assert!(name.len() <= 63, "{name}");
    }
    assert!(!helm.template("minimal", &[]).unwrap().contains("clustermesh-clustermesh"));
}
