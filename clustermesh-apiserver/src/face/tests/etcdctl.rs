//! Stock etcdctl 3.5.1, as a user has it.

use super::home::{Cluster, WEST, text};
use daemon::{spiffe::Role, tls::IdentityPaths};
use std::{
    env,
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
    time::timeout,
};

/// No command of these needs more than a second; a hanging one fails the test instead of the machine.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn etcdctl_puts_gets_deletes_and_looks_at_the_server() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    assert_eq!(ctl.ok(&["put", "foo", "bar"]).await, "OK\n");
    assert_eq!(ctl.ok(&["put", "--prev-kv", "foo", "baz"]).await, "OK\nfoo\nbar\n");
    assert_eq!(ctl.ok(&["get", "foo"]).await, "foo\nbaz\n");
    assert_eq!(ctl.ok(&["get", "--prefix", "fo", "--keys-only"]).await, "foo\n\n");
    assert_eq!(ctl.ok(&["get", "foo", "--rev", "2", "--print-value-only"]).await, "bar\n");
    assert_eq!(ctl.ok(&["del", "--prev-kv", "foo"]).await, "1\nfoo\nbaz\n");
    assert_eq!(ctl.ok(&["get", "foo"]).await, "");
    // Health goes to stderr as etcdctl 3.5.1 writes it to either, by version.
    let health = ctl.run(&["endpoint", "health"], "").await;
    let said = String::from_utf8_lossy(&health.stdout) + String::from_utf8_lossy(&health.stderr);
    assert!(health.status.success() && said.contains("is healthy"), "{said}");
    assert!(ctl.ok(&["endpoint", "status"]).await.contains("3.5.0-mesh."), "its version says who it is");
    assert!(ctl.ok(&["member", "list"]).await.contains(", started, west, "));
}

#[tokio::test]
async fn etcdctl_runs_flat_txns() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    let script = "mod(\"foo\") = \"0\"\n\nput foo new\nget foo\n\nget foo\n\n";
    let said = ctl.run(&["txn"], script).await;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "SUCCESS\n\nOK\n\nfoo\nnew\n");
    let said = ctl.run(&["txn"], script).await;
    assert_eq!(String::from_utf8_lossy(&said.stdout), "FAILURE\n\nfoo\nnew\n");
}

#[tokio::test]
async fn etcdctl_grants_keeps_shows_and_revokes_leases() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    // "lease 1234abcd granted with TTL(60s)"
    let said = ctl.ok(&["lease", "grant", "60"]).await;
    let id = said.split(' ').nth(1).expect("an id");
    assert_eq!(said, format!("lease {id} granted with TTL(60s)\n"));
    ctl.ok(&["put", "foo", "bar", "--lease", id]).await;
    assert_eq!(
        ctl.ok(&["lease", "keep-alive", "--once", id]).await,
        format!("lease {id} keepalived with TTL(60)\n")
    );
    let shown = ctl.ok(&["lease", "timetolive", id, "--keys"]).await;
    assert!(shown.starts_with(&format!("lease {id} granted with TTL(60s), remaining(")), "{shown}");
    assert!(shown.ends_with("attached keys([foo])\n"), "{shown}");
    assert_eq!(ctl.ok(&["lease", "list"]).await, format!("found 1 leases\n{id}\n"));
    assert_eq!(ctl.ok(&["lease", "revoke", id]).await, format!("lease {id} revoked\n"));
    assert_eq!(ctl.ok(&["get", "foo"]).await, "", "it went with its lease");
    assert_eq!(ctl.ok(&["lease", "timetolive", id]).await, format!("lease {id} already expired\n"));
    let refused = ctl.run(&["put", "foo", "bar", "--lease", id], "").await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("requested lease not found"));
}

#[tokio::test]
async fn etcdctl_locks_and_elects() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    // It runs the program while it has the lock, and gives the lock back.
    assert_eq!(ctl.ok(&["lock", "deploy", "echo", "mine"]).await, "mine\n");
    assert_eq!(ctl.ok(&["lock", "deploy", "echo", "mine again"]).await, "mine again\n");

    let mut leading = ctl.command(&["elect", "chief", "alice"]).spawn().expect("started");
    let mut lines = BufReader::new(leading.stdout.take().expect("piped")).lines();
    let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("read").expect("a line");
    assert!(line.starts_with("chief/"), "its key: {line}");
    let mut listening = ctl.command(&["elect", "--listen", "chief"]).spawn().expect("started");
    let mut heard = BufReader::new(listening.stdout.take().expect("piped")).lines();
    let key = timeout(PATIENCE, heard.next_line()).await.expect("in time").expect("read").expect("a line");
    let value = timeout(PATIENCE, heard.next_line()).await.expect("in time").expect("read").expect("a line");
    assert_eq!((key, value.as_str()), (line, "alice"));
    leading.kill().await.expect("ended");
    listening.kill().await.expect("ended");
}

#[tokio::test]
async fn etcdctl_saves_a_snapshot_which_is_our_own_dump_and_hashes_what_is_there() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    // More than a chunk of the stream.
    for n in 0..4 {
        ctl.ok(&["put", &format!("foo/{n}"), &"x".repeat(60_000)]).await;
    }
    let file = west.dir.path().join("saved.dump");
    let said = ctl.ok(&["snapshot", "save", text(&file)]).await;
    assert!(said.contains("Snapshot saved at"), "{said}");
    let dump = store::Dump::read(&std::fs::read(&file).expect("saved").into()).expect("whole");
    assert_eq!((dump.origin, dump.revision, dump.rows()), (WEST.0, 5, 4));

    let hash = ctl.ok(&["endpoint", "hashkv"]).await;
    ctl.ok(&["put", "foo/0", "y"]).await;
    assert_ne!(ctl.ok(&["endpoint", "hashkv"]).await, hash);
    assert_eq!(ctl.ok(&["endpoint", "hashkv", "--rev", "5"]).await, hash);
}

#[tokio::test]
async fn etcdctl_watches_what_was_and_what_comes_until_compaction() {
    let west = Cluster::start().await;
    let kim = west.issue(Role::Operator, "kim");
    let ctl = Etcdctl { at: &west.at, as_whom: &kim };
    ctl.ok(&["put", "foo", "one"]).await;
    let mut watching = ctl.command(&["watch", "foo", "--rev", "1"]).spawn().expect("started");
    let mut lines = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let mut said = Vec::new();
    while said.len() < 9 {
        let line = timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("read").expect("more");
        said.push(line);
        // The first event was history; these come while it watches.
        if said.len() == 3 {
            ctl.ok(&["put", "foo", "two"]).await;
            ctl.ok(&["del", "foo"]).await;
        }
    }
    assert_eq!(said, ["PUT", "foo", "one", "PUT", "foo", "two", "DELETE", "foo", ""]);
    watching.kill().await.expect("ended");

    assert_eq!(ctl.ok(&["compaction", "3"]).await, "compacted revision 3\n");
    let late = ctl.run(&["watch", "foo", "--rev", "1"], "").await;
    let error = String::from_utf8_lossy(&late.stderr);
    assert!(
        error.contains("watch was canceled (etcdserver: mvcc: required revision has been compacted)"),
        "{error}"
    );
    let late = ctl.run(&["get", "foo", "--rev", "2"], "").await;
    assert!(!late.status.success() && String::from_utf8_lossy(&late.stderr).contains("has been compacted"));
}

#[tokio::test]
async fn etcdctl_with_a_nodes_certificate_is_told_what_it_may_not_do() {
    let west = Cluster::start().await;
    let node = west.issue(Role::Node, "w1");
    let ctl = Etcdctl { at: &west.at, as_whom: &node };
    ctl.ok(&["get", "--prefix", "mesh/v1/"]).await;
    for args in [&["put", "mesh/v1/west/nodes/w1", "x"][..], &["get", "--prefix", ""], &["compaction", "1"]] {
        let refused = ctl.run(args, "").await;
        let error = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && error.contains("node/w1 may not"), "{args:?}: {error}");
    }
}

#[tokio::test]
async fn etcdctl_of_another_cluster_does_not_get_in() {
    let west = Cluster::start().await;
    let other = Cluster::start().await;
    let stranger =
        IdentityPaths { bundle: west.issue(Role::Reader, "r").bundle, ..other.issue(Role::Operator, "kim") };
    let refused =
        Etcdctl { at: &west.at, as_whom: &stranger }.run(&["get", "foo", "--command-timeout=2s"], "").await;
    assert!(!refused.status.success());
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(
        error.contains("unknown certificate authority") || error.contains("deadline exceeded"),
        "{error}"
    );
}

// ── helpers ──────────────────────────────────────────────────────────────────────────────────────────────────────

struct Etcdctl<'a> {
    at: &'a str,
    as_whom: &'a IdentityPaths,
}

impl Etcdctl<'_> {
    fn command(&self, args: &[&str]) -> Command {
        let IdentityPaths { cert, key, bundle } = self.as_whom;
        let mut command = Command::new(binary());
        command
            .env("ETCDCTL_API", "3")
            .args([
                "--endpoints",
                self.at,
                "--cacert",
                text(bundle),
                "--cert",
                text(cert),
                "--key",
                text(key),
            ])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self.command(args).spawn().expect("etcdctl starts");
        let mut input = child.stdin.take().expect("piped");
        // A command that reads nothing may be gone before we write.
        input.write_all(stdin.as_bytes()).await.ok();
        drop(input);
        timeout(PATIENCE, child.wait_with_output()).await.expect("in time").expect("ended")
    }

    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args, "").await;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }
}

fn binary() -> PathBuf {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/mesh"));
    let cache =
        env::var_os("MESH_CACHE").map(PathBuf::from).or_else(home).expect("MESH_CACHE or HOME is set");
    let binary = cache.join("etcd-3.5.1/etcdctl");
    assert!(binary.is_file(), "{} is missing: run ci/etcd.sh", binary.display());
    binary
}
