//! What an operator asks and changes on a running mesh: records, reasons, contracts, dry runs, exit codes, a dead peer, a dump.

use std::fs;

use e2e::{A, B, both, only};

use crate::story::{SHOWN, Story, eventually};

#[test]
fn an_operator_reads_records_edits_contracts_restores_a_dump_and_leaves_a_dead_peer() {
    let story = Story::running("operator");
    a_check_says_what_stands_in_the_way(&story);
    dry_runs_change_nothing(&story);
    a_reader_that_goes_away_ends_nothing(&story);
    story.carts("cluster-a/pod/client", &A, both);
    a_test_is_a_new_round_trip_on_every_pair(&story);
    records_are_decoded_and_read_as_of_a_revision(&story);
    reasons_name_pods_addresses_identities_and_pairs(&story);
    contracts_are_listed_checked_edited_and_in_force(&story);
    a_saved_dump_is_the_store_of_the_next_start(&story);
    an_archive_for_whoever_helps_has_no_secret_in_it(&story);
    a_dead_peer_is_left_by_force(&story);
}

fn a_check_says_what_stands_in_the_way(story: &Story) {
    let check = || story.try_ctl(&["check", A.name, B.name]);
    eventually("nothing does", SHOWN, || match check() {
        (0, said, _) if said.ends_with("nothing stands in the way\n") && said.contains(" ✓ cluster-b") => {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    });
    story.kill9("cluster-b/host/control/apiserver");
    let (code, said, _) = check();
    assert!(
        code == 1 && said.contains(" ✗ MESH101: cluster-b: cannot connect to cluster-b"),
        "{code}: {said}"
    );
    assert!(said.contains(" ✓ cluster-a"), "one that is down hides no other: {said}");
    story.lab.start("cluster-b/host/control/apiserver").unwrap();
    let (_, json, _) = story.try_ctl(&["check", A.name, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["findings"], serde_json::json!([]));
    let (_, list, _) = story.try_ctl(&["peer", "list"]);
    assert_eq!(list.lines().count(), 1, "a check changes nothing: {list}");
}

fn dry_runs_change_nothing(story: &Story) {
    let (code, yaml, stderr) = story.try_ctl(&["connect", A.name, B.name, "--dry-run", "-o", "yaml"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("✓ addresses") && yaml.starts_with("---\n# on cluster-a\n"), "{yaml}");
    assert!(!yaml.contains("nonce"), "a GitOps tool's object is active from the start: {yaml}");
    let (_, list, _) = story.try_ctl(&["peer", "list"]);
    assert_eq!(list.lines().count(), 1, "a head and no peer: {list}");

    // What was printed, applied by hand on both sides, is the whole connect.
    for document in yaml.split("---\n# on ").filter(|document| !document.is_empty()) {
        let (cluster, document) = document.split_once('\n').unwrap();
        let file = story.dir().join("declared.yaml");
        fs::write(&file, document).unwrap();
        let said = story.ctl(&["peer", "apply", "-f", file.to_str().unwrap(), "--cluster", cluster]);
        assert!(said.contains("holds its peer"), "{said}");
    }
    story.well();
    let (code, json, _) = story.try_ctl(&["disconnect", A.name, B.name, "--dry-run", "-o", "json"]);
    assert!(code == 0 && json.matches("\"on\"").count() == 2, "{json}");
    story.ctl(&["status"]);
    story.ctl(&["disconnect", A.name, B.name]);
}

fn a_reader_that_goes_away_ends_nothing(story: &Story) {
    for args in [
        &["connect", A.name, B.name][..],
        &["status", "--wait", "--timeout", "60"],
        &["why", "shop/cart", "--cluster", A.name],
    ] {
        let argv = story.meshctl_argv(args.iter().copied()).join(" ");
        let (code, _, stderr) = story.sh("host/admin", &format!("set -o pipefail; {argv} | true"));
        assert_eq!((code, &*stderr), (0, ""), "{args:?}");
    }
    story.ctl(&["status"]);
}

fn a_test_is_a_new_round_trip_on_every_pair(story: &Story) {
    let junit = story.dir().join("junit.xml");
    let said = story.ctl(&["test", "--junit", junit.to_str().unwrap()]);
    assert!(said.ends_with("8 of 8 pairs had a round trip since the test began\n"), "{said}");
    let xml = fs::read_to_string(&junit).unwrap();
    assert!(xml.matches("<testcase ").count() == 8 && !xml.contains("<failure"), "{xml}");

    // Without its agent a node's packets flow on, and nobody measures them.
    story.kill9("cluster-a/node/a1/agent");
    let (code, said, _) =
        story.try_ctl(&["test", A.name, "--timeout", "1", "--junit", junit.to_str().unwrap()]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("✗ cluster-a → cluster-b  a1 → b2  no probe was answered since"), "{said}");
    assert!(fs::read_to_string(&junit).unwrap().contains("<failure"), "{said}");
    story.lab.start("cluster-a/node/a1/agent").unwrap();
    story.ctl(&["test"]);
}

fn records_are_decoded_and_read_as_of_a_revision(story: &Story) {
    let get = |args: &[&str]| story.ctl(&[&["store", "get", "--cluster", A.name], args].concat());
    let services = get(&["services/shop"]);
    assert!(
        services.contains("mesh/v1/cluster-a/services/shop/cart") && services.contains("10.101.0.10"),
        "{services}"
    );
    let theirs = get(&["mesh/v1/cluster-b/backends/", "-o", "json"]);
    let theirs: serde_json::Value = serde_json::from_str(&theirs).unwrap();
    assert_eq!(theirs.as_array().unwrap().len(), 4, "two pods, two families: {theirs}");
    assert_eq!(theirs[0]["record"]["ready"], true);
    let first = get(&["--rev", "2", "-o", "json"]);
    assert!(first.len() < get(&["-o", "json"]).len(), "the store was smaller then");
    let (code, _, stderr) = story.try_ctl(&["store", "get", "--cluster", A.name, "--rev", "999999999"]);
    assert!(code == 4 && stderr.contains("future revision"), "{code}: {stderr}");
}

fn reasons_name_pods_addresses_identities_and_pairs(story: &Story) {
    let why = |args: &[&str]| story.ctl(&[&["why", "--cluster", A.name], args].concat());
    assert!(why(&["shop/cart"]).contains("global"));
    let pod = why(&["10.2.1.11"]);
    assert!(
        pod.contains("pod shop/cart-1 of cluster-b, on b1") && pod.contains("encrypted: cluster-b carries"),
        "{pod}"
    );
    let identity = pod.split("identity ").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    assert!(why(&[&identity]).contains("10.2.1.11 shop/cart-1 on b1 of cluster-b"));
    let pair = why(&["10.1.1.10", "shop/cart-2"]);
    assert!(pair.contains("→ shop/cart-2 of cluster-a") && pair.contains("by the CNI's own way"), "{pair}");
    let pair = why(&["10.1.1.10", "10.2.2.11"]);
    assert!(pair.contains("✓ encrypted: a1 → b2") && pair.contains("MTU 1420"), "{pair}");
    let (code, _, stderr) = story.try_ctl(&["why", "--cluster", A.name, "shop/nothing"]);
    assert!(code == 1 && stderr.contains("has no Service shop/nothing"), "{code}: {stderr}");
}

fn contracts_are_listed_checked_edited_and_in_force(story: &Story) {
    let list = story.ctl(&["peer", "list", A.name]);
    assert!(list.contains("cluster-b") && list.contains("10.2.0.0/16") && list.contains("demote"), "{list}");
    let held = story.ctl(&["peer", "get", B.name, "--cluster", A.name]);
    let file = story.dir().join("peer.yaml");
    let file = file.to_str().unwrap();

    let wrong = held.replace("10.2.0.0/16", "0.0.0.0/0");
    fs::write(file, wrong).unwrap();
    let (code, _, stderr) = story.try_ctl(&["peer", "apply", "-f", file, "--cluster", A.name]);
    assert!(code == 4 && stderr.contains("0.0.0.0/0"), "{code}: {stderr}");

    // One service is all that cluster-a takes from now on; the rest is refused and named.
    fs::write(file, held.replace("namespaces: []", "namespaces: [elsewhere]")).unwrap();
    let (code, diff, stderr) =
        story.try_ctl(&["peer", "apply", "-f", file, "--cluster", A.name, "--dry-run"]);
    assert!(code == 0 && diff.contains("elsewhere") && diff.contains("would hold"), "{code}: {diff}{stderr}");
    story.carts("cluster-a/pod/client", &A, both);
    story.ctl(&["peer", "apply", "-f", file, "--cluster", A.name]);
    story.carts("cluster-a/pod/client", &A, |all| only(all, &A));
    eventually("what is refused is a problem", SHOWN, || match story.try_ctl(&["status"]) {
        (1, ..) => Ok(()),
        other => Err(format!("{other:?}")),
    });

    // And back, with an editor.
    let editor = "sed -i s/elsewhere/shop/";
    let args = ["peer", "edit", B.name, "--cluster", A.name];
    let argv = story.meshctl_argv(args).join(" ");
    let said = story.said("host/admin", &format!("VISUAL='{editor}' {argv}"));
    assert!(said.contains("holds its peer cluster-b to this now"), "{said}");
    story.carts("cluster-a/pod/client", &A, both);
    let said = story.said("host/admin", &format!("VISUAL=true {argv}"));
    assert_eq!(said, "nothing was changed\n");
}

fn a_saved_dump_is_the_store_of_the_next_start(story: &Story) {
    let data = story.dir().join(A.name).join("data");
    let (data, dump) = (data.display(), story.dir().join("saved.dump"));
    let etcdctl = format!(
        "${{MESH_CACHE:-$HOME/.cache/mesh}}/etcd-3.5.1/etcdctl --endpoints {} --cacert {data}/admin/bundle.pem --cert {data}/admin/cert.pem --key {data}/admin/key.pem",
        A.apiserver
    );
    story.said("host/admin", &format!("ETCDCTL_API=3 {etcdctl} put note-to-self 'of no source'"));
    story.said("host/admin", &format!("ETCDCTL_API=3 {etcdctl} snapshot save {} 2>&1", dump.display()));
    story.said("host/admin", &format!("ETCDCTL_API=3 {etcdctl} del note-to-self"));
    let said = story.ctl(&["store", "restore", dump.to_str().unwrap(), "--data-dir", &data.to_string()]);
    assert!(said.contains("is whole") && said.contains("as a new boot"), "{said}");
    story.kill9("cluster-a/host/control/apiserver");
    story.lab.start("cluster-a/host/control/apiserver").unwrap();
    story.well();
    let note =
        story.said("host/admin", &format!("ETCDCTL_API=3 {etcdctl} get note-to-self --print-value-only"));
    assert_eq!(note, "of no source\n");
    story.carts("cluster-a/pod/client", &A, both);
}

fn an_archive_for_whoever_helps_has_no_secret_in_it(story: &Story) {
    let data = story.dir().join(A.name).join("data");
    // `note-to-self` is in the store, and is nobody's to see.
    let mut secrets = vec!["of no source".to_owned(), "note-to-self".to_owned()];
    for key in ["ca/key.pem", "admin/key.pem", "server/key.pem"] {
        let pem = fs::read_to_string(data.join(key)).unwrap();
        // PKCS #8 of P-256: the private number is in the first two lines; the third is the public key, as in certificates.
        secrets.extend(pem.lines().skip(1).take(2).map(str::to_owned));
    }
    assert_eq!(secrets.iter().filter(|line| line.len() == 64).count(), 6, "{secrets:?}");
    let archive = story.dir().join("dump.tar.gz");
    let archive = archive.to_str().unwrap();
    let said = story.ctl(&["dump", "--file", archive]);
    assert!(said.contains(" ✓ cluster-a: ") && said.contains(" ✓ cluster-b: "), "{said}");
    let text = story.said("host/admin", &format!("tar -xzOf {archive}"));
    for there in [
        "mesh/v1/cluster-b/backends/shop/cart/10.2.1.11",
        "\"freshness\": \"fresh\"",
        "BEGIN CERTIFICATE",
        "\"keysThatAreNoRecords\": 1",
    ] {
        assert!(text.contains(there), "{there} is missing in {text}");
    }
    for secret in &secrets {
        assert!(!text.contains(secret.as_str()), "the archive tells a secret: {secret}");
    }
    assert_eq!(story.said("host/admin", &format!("stat -c %a {archive}")), "600\n");
    let (code, _, stderr) = story.try_ctl(&["dump", "--file", archive]);
    assert!(code == 1 && stderr.contains("exists"), "nothing is overwritten: {code} {stderr}");
}

fn a_dead_peer_is_left_by_force(story: &Story) {
    story.kill9("cluster-b/host/control/apiserver");
    let (code, _, stderr) = story.try_ctl(&["disconnect", A.name, B.name]);
    assert!(code == 3 && stderr.contains("cannot connect to cluster-b"), "{code}: {stderr}");
    let said = story.ctl(&["disconnect", A.name, B.name, "--force"]);
    assert!(said.contains("still closed: 10.2.0.0/16") && said.contains("cluster-b was not asked"), "{said}");
    story.carts("cluster-a/pod/client", &A, |all| only(all, &A));
    let why = story.ctl(&["why", "--cluster", A.name, "10.2.1.11"]);
    assert!(why.contains("closed: 10.2.0.0/16 was cluster-b's"), "{why}");
    let said = story.ctl(&["forget", B.name, "--cluster", A.name]);
    assert!(said.contains("no longer drops what goes to"), "{said}");
    assert_eq!(story.try_ctl(&["connect", A.name]).0, 2, "two clusters make a pair");
}
