//! docs/sites.md, followed from its first command to its last one: a site of plain machines beside a cluster that is there.
//!
//! Whoever reads the page has machines, programs that listen, and another cluster; the lab makes those. All else is the
//! page's, but for two programs that a lab's machines do not have: systemctl and scp.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use e2e::page::shell_blocks;
use e2e::{A, MANIFESTS, files};

use crate::story::{SHOWN, Story, eventually};

/// Who a block's first line says that it is for, and the machines of the lab that are it.
const PLACES: [(&str, &[&str]); 3] = [
    ("# on the server", &["cluster-b/host/control"]),
    ("# on each machine", &["cluster-b/node/b1", "cluster-b/node/b2"]),
    ("# on the operator's machine", &["host/admin"]),
];

/// The page's names of the machines.
const MACHINES: [(&str, &str); 2] = [("plant-1", "cluster-b/node/b1"), ("plant-2", "cluster-b/node/b2")];

/// What is ready a moment after its unit was started, and the port that says so.
const HEALTH: [(&str, u16); 2] = [("clustermesh-apiserver", 9879), ("mesh-node-agent", 9878)];

/// `enable --now UNIT…`: starts what the units say, as a systemd would; they end with the lab.
const SYSTEMCTL: &str = r#"#!/bin/bash
set -eu
[[ $1 == enable && $2 == --now ]]
for unit in "${@:3}"; do
    command=$(sed -n 's/^ExecStart=//p' "/etc/systemd/system/$unit.service")
    PATH=${PATH#*:} setsid $command </dev/null >"SENT/../$unit-$$.log" 2>&1 &
done
"#;

/// `FROM TO`, of which one is on another machine: that is a directory that all machines of a lab see.
const SCP: &str = r#"#!/bin/bash
set -eu
[[ $1 == -r ]] && shift
at() { [[ $1 == *:* ]] && echo "SENT/${1%%:*}${1#*:}" || echo "$1"; }
mkdir -p "$(dirname "$(at "$2")")"
cp -r "$(at "$1")" "$(at "$2")"
"#;

#[test]
fn a_site_of_plain_machines_is_made_by_its_page_and_is_a_cluster_like_any_other() {
    let page = fs::read_to_string(files().join("../../docs/sites.md")).unwrap();
    let story = Story::made("site");
    for file in MANIFESTS {
        story.apply(&A, file).unwrap();
    }
    story.start(&A).unwrap();

    let desk = story.dir().join("desk");
    let sent = desk.join("sent");
    fs::create_dir_all(&sent).unwrap();
    std::os::unix::fs::symlink(story.dir().join("cluster-a/data/admin"), desk.join("cluster-a")).unwrap();
    let bin = story.lab.state().unwrap().bin.display().to_string();
    install(&desk.join("tools/systemctl"), &SYSTEMCTL.replace("SENT", &sent.display().to_string()));
    install(&desk.join("tools/scp"), &SCP.replace("SENT", &sent.display().to_string()));

    for block in shell_blocks(&page).unwrap() {
        let places = PLACES.iter().find(|(line, _)| *line == block.first());
        let (_, places) = places.unwrap_or_else(|| panic!("line {}: for whom is it?", block.line));
        let commands = block.text.replace("/usr/local/bin", &bin);
        for place in *places {
            received(&story, place, &sent);
            let line = format!(
                "export PATH={tools}:{bin}:$PATH; cd {desk}; set -eux\n{commands}",
                tools = desk.join("tools").display(),
                desk = desk.display()
            );
            let (code, stdout, stderr) = story.sh(place, &line);
            assert_eq!(code, 0, "docs/sites.md, line {}, on {place}: {stdout}{stderr}", block.line);
        }
        for (unit, port) in HEALTH {
            if block.text.lines().any(|line| line.starts_with("systemctl") && line.ends_with(unit)) {
                places.iter().for_each(|place| until_ready(&story, place, port));
            }
        }
    }

    let mut serving = Vec::new();
    for (name, place) in MACHINES {
        serving.push(story.traffic(place, &["http-serve", "--name", name, "--port", "8080"]).unwrap());
        story.await_tcp(place, 8080, SHOWN).unwrap();
    }
    let all = ["cluster-a/cart-1", "cluster-a/cart-2", "plant-1", "plant-2"];
    for (client, cart) in [("cluster-a/pod/client", A.cart), ("cluster-b/node/b1", "10.109.0.10")] {
        story
            .ask_until(client, &format!("http://{cart}/"), SHOWN, |answers| {
                answers.keys().map(String::as_str).eq(all)
            })
            .unwrap();
    }
    drop(story);
    for mut served in serving {
        served.wait().unwrap();
    }
}

/// What others sent to this machine is where they sent it, and what others fetch from it is there to be fetched.
fn received(story: &Story, place: &str, sent: &Path) {
    let sent = sent.display();
    if let Some((name, _)) = MACHINES.iter().find(|(_, at)| *at == place) {
        story.said(place, &format!("cp -r {sent}/{name}/. /"));
    }
    if place == "host/admin" {
        let server = "mkdir -p SENT/server/var/lib && cp -r /var/lib/clustermesh SENT/server/var/lib/";
        story.said("cluster-b/host/control", &server.replace("SENT", &sent.to_string()));
    }
}

fn until_ready(story: &Story, place: &str, port: u16) {
    eventually(&format!("{place} is ready"), SHOWN, || {
        let (code, _, stderr) = story.sh(place, &format!("curl -sSf http://127.0.0.1:{port}/readyz"));
        if code == 0 { Ok(()) } else { Err(stderr) }
    });
}

fn install(path: &Path, script: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, script).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
