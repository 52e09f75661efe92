//! What the crates may reach, as Cargo itself resolves it: the pure ones stay pure.

use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Command,
};

/// Which crate a program or library of ours may not reach, by any path of normal dependencies.
const NEVER: [(&str, &[&str]); 4] = [
    ("api", &["tokio", "tonic", "kube", "aya", "mio", "socket2"]),
    ("store", &["tokio", "tonic", "kube", "aya", "mio", "socket2"]),
    ("replica", &["tokio", "tonic", "kube", "aya", "mio", "socket2"]),
    ("mesh-tunnel", &["tonic", "kube", "aya", "sled"]),
];
/// Who may reach `kube`: two programs, and of the tests' own crates the one that asks a real API server and those that call
/// the apiserver's code: its doors, its decoders, its cores.
const KUBE: [&str; 6] = ["clustermesh-apiserver", "meshctl", "chart", "conformance", "fuzz", "sim"];

#[test]
fn the_cores_reach_no_runtime_and_no_kernel_and_only_two_programs_reach_kubernetes() {
    let reach = reach();
    for (crate_name, forbidden) in NEVER {
        let reached = &reach[crate_name];
        for name in forbidden {
            assert!(
                !reached.contains(*name),
                "{crate_name} reaches {name}: see `cargo tree -p {crate_name} -e normal -i {name}`"
            );
        }
    }
    for (crate_name, reached) in &reach {
        assert!(
            KUBE.contains(&crate_name.as_str()) || !reached.contains("kube"),
            "{crate_name} reaches kube"
        );
        for provider in ["aws-lc-rs", "openssl"] {
            assert!(!reached.contains(provider), "{crate_name} reaches {provider}: one TLS provider, ring");
        }
    }
    assert!(reach["clustermesh-apiserver"].contains("tonic"), "the walk finds what is there");
}

#[test]
fn every_test_that_a_page_names_is_there() {
    for (page, heading, tests) in [
        ("docs/annotations.md", "# Annotations and what they do, each with its test", 20),
        ("docs/cnis.md", "# Beside other networks", 8),
        ("docs/operations.md", "## What happens when…", 15),
    ] {
        let named = tests_of_the_table(page, heading);
        assert!(named > tests, "{page} names the tests: {named}");
    }
}

/// Looks for each test in the last column of the first table below a heading, `FILE::TEST`. How many there are.
fn tests_of_the_table(page: &str, heading: &str) -> usize {
    let root = e2e::files().join("../..");
    let text = fs::read_to_string(root.join(page)).expect("the page is there");
    let below = text.lines().skip_while(|line| *line != heading).skip_while(|line| !line.starts_with('|'));
    let mut named = 0;
    for row in below.take_while(|line| line.starts_with('|')).skip(2) {
        let tests = row.rsplit('|').nth(1).expect("a last column");
        assert!(tests.contains("::"), "a row of {page} names no test: {row}");
        for test in tests.split('`').skip(1).step_by(2) {
            let (file, name) = test.split_once("::").expect("FILE::TEST");
            let text = fs::read_to_string(root.join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
            assert!(text.contains(&format!("fn {name}(")), "{file} has no test {name}");
            named += 1;
        }
    }
    named
}

/// For each crate of the workspace, every crate it reaches by normal dependencies.
fn reach() -> BTreeMap<String, BTreeSet<String>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform"]);
    command.arg("x86_64-unknown-linux-gnu").current_dir(e2e::files());
    let output = command.output().expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");

    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let names: BTreeMap<String, String> = list(&metadata["packages"])
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let is_normal = |kind: &Value| kind["kind"].is_null();
    let normal = |node: &Value| {
        let dependencies =
            list(&node["deps"]).into_iter().filter(|dep| list(&dep["dep_kinds"]).iter().any(is_normal));
        dependencies.map(|dep| text(&dep["pkg"])).collect::<Vec<_>>()
    };
    let edges: BTreeMap<String, Vec<String>> =
        list(&metadata["resolve"]["nodes"]).iter().map(|node| (text(&node["id"]), normal(node))).collect();

    let members = list(&metadata["workspace_members"]);
    let walk = |start: String| {
        let mut seen = BTreeSet::from([start.clone()]);
        let mut next = vec![start];
        while let Some(id) = next.pop() {
            next.extend(edges[&id].iter().filter(|id| seen.insert((*id).clone())).cloned());
        }
        seen.iter().map(|id| names[id].clone()).collect()
    };
    members.iter().map(|id| (names[&text(id)].clone(), walk(text(id)))).collect()
}
