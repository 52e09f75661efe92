//! The two programs, as typed.

use std::process::{Command, Output};

use serde_json::Value;

use crate::{MESH_LAB, said, sh, two_clusters};

#[test]
fn exec_ends_with_the_programs_code_and_hands_its_streams_through() {
    let _lab = two_clusters("exec");
    let exec = |line: &str| mesh_lab("exec", &["exec", "cluster-a/pod/client", "--", "sh", "-c", line]);
    let output = exec("echo to stdout; echo to stderr >&2; exit 42");
    assert_eq!(output.status.code(), Some(42));
    assert_eq!((&output.stdout[..], &output.stderr[..]), (&b"to stdout\n"[..], &b"to stderr\n"[..]));
    let nowhere = mesh_lab("exec", &["exec", "cluster-a/pod/nobody", "--", "true"]);
    assert!(
        !nowhere.status.success() && text(&nowhere.stderr).contains("there is no place cluster-a/pod/nobody")
    );
}

#[test]
fn places_and_processes_are_listed_for_people_and_programs() {
    let _lab = two_clusters("lists");
    let list = text(&mesh_lab("lists", &["places"]).stdout);
    assert!(list.contains("cluster-b/pod/cart-2         10.2.2.11 fd00:10:2:2::11\n"), "{list}");
    let places: Value = serde_json::from_slice(&mesh_lab("lists", &["places", "-o", "json"]).stdout).unwrap();
    assert_eq!(places.as_array().unwrap().len(), 16);
    let processes: Value = serde_json::from_slice(&mesh_lab("lists", &["ps", "-o", "json"]).stdout).unwrap();
    assert_eq!(processes[0]["activity"], "running");
}

#[test]
fn sniff_ends_with_1_when_it_saw_what_must_not_be_there() {
    let lab = two_clusters("sniff-command");
    let dir = tempfile::tempdir().unwrap();
    let (rules, over) = (dir.path().join("allow.yaml"), dir.path().join("over"));
    std::fs::write(&rules, "- arp\n- neighbour-discovery\n").unwrap();
    for (line, code) in [("true", 0), ("ping -c1 -W1 192.0.2.75", 1)] {
        let mut sniff = Command::new(MESH_LAB);
        sniff
            .args(["--name", "lab-test-sniff-command", "sniff", "underlay", "-o", "json", "--allow"])
            .arg(&rules);
        sniff
            .arg("--until-file")
            .arg(&over)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        let mut sniff = sniff.spawn().unwrap();
        // It says so when it watches.
        let mut watching = [0; 8];
        std::io::Read::read_exact(sniff.stderr.as_mut().unwrap(), &mut watching).unwrap();
        sh(&lab, "cluster-a/node/a1", line);
        std::fs::write(&over, "").unwrap();
        let output = sniff.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{line}: {}", text(&output.stdout));
        std::fs::remove_file(&over).unwrap();
    }
}

#[test]
fn streams_report_what_arrived_and_how_long_nothing_did() {
    let lab = two_clusters("traffic");
    let (client, server) = ("cluster-a/pod/client", "cluster-a/pod/shell");
    let traffic = |line: &str| format!("{}/mesh-traffic {line}", lab.state().unwrap().bin.display());

    let receive = traffic("udp-seq receive --port 9001 --seconds 20");
    let receiver = lab
        .command(server, receive.split(' '))
        .unwrap()
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut streams = lab.spawn(server, traffic("tcp-stream serve --port 9000").split(' ')).unwrap();
    crate::eventually("the receivers listen", || {
        said(&lab, server, "ss -Hlntu").matches(":900").count() == 2
    });

    let sent: Value =
        json(&said(&lab, client, &traffic("tcp-stream send --target 10.1.2.10:9000 --seconds 1")));
    assert_eq!(sent["error"], Value::Null);
    streams.kill().and_then(|()| streams.wait()).unwrap();
    assert!(sent["bytes"].as_u64() > Some(100_000) && sent["bytes"] == sent["acknowledged"], "{sent}");

    let sent = json(&said(
        &lab,
        client,
        &traffic("udp-seq send --target [fd00:10:1:2::10]:9001 --seconds 1 --rate 200"),
    ));
    let received = json(&text(&receiver.wait_with_output().unwrap().stdout));
    assert_eq!((&received["received"], &received["lost"]), (&sent["sent"], &0.into()), "{received}");
    assert_eq!(received["finished"], true);

    let seen = json(&said(
        &lab,
        client,
        &traffic("connect-loop --target 10.1.1.11:8080 --http --interval-ms 50 --seconds 1"),
    ));
    assert_eq!((&seen["failures"], seen["answers"].as_object().unwrap().len()), (&0.into(), 1), "{seen}");
    let seen = json(&said(
        &lab,
        client,
        &traffic("connect-loop --target 10.1.1.11:81 --interval-ms 50 --seconds 1"),
    ));
    assert_eq!(seen["failures"], seen["attempts"]);
    assert!(seen["longest_failure_ms"].as_u64() >= Some(900), "{seen}");
}

/// Runs `mesh-lab` on the lab of a test.
fn mesh_lab(test: &str, args: &[&str]) -> Output {
    Command::new(MESH_LAB).args(["--name", &format!("lab-test-{test}")]).args(args).output().unwrap()
}

fn json(line: &str) -> Value {
    serde_json::from_str(line).unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}
