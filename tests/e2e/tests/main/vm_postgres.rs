//! A legacy host behind a NAT box and a database in a cluster that nobody told it about: the real server, the real client.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
};

use e2e::{A, B, report};
use tempfile::TempDir;

use crate::{
    cold_start::reboot,
    nats::{Says, behind_a_box},
    story::{SHOWN, Story, eventually},
    vms::{VM, join},
};

/// The pod that the server runs in, and its address.
const DATABASE: (&str, &str) = ("cluster-a/pod/shell", "10.1.2.10");
/// Where it is for everybody, by a name that only the mesh has.
const HOST: &str = "db.shop.svc.clusterset.local";
/// `shop/db` in cluster-b, which has no backend for it.
const DB_OF_B: &str = "10.102.0.30";
/// A VM that moves is heard of at its next keepalive, of 5 s, or as soon as it has something to say.
const HEARD_WITHIN_MS: u64 = 8_000;
/// A client that waits for longer has lost its session. The server's answer may take a while on a busy machine.
const CLIENT_S: &str = "300";

#[test]
fn psql_on_a_vm_behind_a_box_reaches_a_postgres_of_another_cluster_whatever_moves_and_dies() {
    let story = behind_a_box("full-cone", Says::NothingAsItIsNoNode);
    let _server = Postgres::start(&story);
    story.write(&A, "db.yaml", &format!("{}---\n{}", service("10.101.0.30"), endpoints())).unwrap();
    story.write(&B, "db.yaml", &service(DB_OF_B)).unwrap();
    story.connect();
    let line = story.ctl(&["vm", "add", "web-1", "--cluster=cluster-b", "--namespace", "shop"]);
    let (code, stdout, stderr) = join(&story, &line);
    assert_eq!(code, 0, "{stdout}{stderr}");
    story.lab.start(&format!("{VM}/agent")).unwrap();

    eventually("the VM finds the database by its name", SHOWN, || once(&story, "select 1").map(drop));
    let seen = once(&story, "select inet_client_addr()").unwrap();
    assert!(seen.starts_with("100.64.2."), "the server sees the VM's mesh address, and this is {seen}");
    once(&story, "create table orders (what text)").unwrap();
    let mut session = Session::open(&story);
    assert_eq!(session.ask("insert into orders values ('before') returning what"), "before");

    moves_every_half_a_minute(&story);
    assert_eq!(session.ask("insert into orders values ('moved') returning what"), "moved");

    for cluster in [A, B] {
        story.kill_control(&cluster).unwrap();
    }
    assert_eq!(session.ask("insert into orders values ('alone') returning what"), "alone");
    story.kill9(&format!("{VM}/tunnel"));
    reboot(&story, VM);
    story.lab.start(&format!("{VM}/tunnel")).unwrap();
    story.lab.start(&format!("{VM}/agent")).unwrap();
    eventually("a VM that was switched off and on again finds it without any control plane", SHOWN, || {
        once(&story, "select 1").map(drop)
    });
    let all = once(&story, "select string_agg(what, ' ' order by ctid) from orders").unwrap();
    assert_eq!(all, "before moved alone");
}

/// The box is bound anew every 30 s. What the VM begins goes on; what others begin, as soon as the VM was heard.
fn moves_every_half_a_minute(story: &Story) {
    let vm = once(story, "select inet_client_addr()").unwrap();
    let mut served = story.traffic(VM, &["http-serve", "--name", "vm", "--port", "9000"]).unwrap();
    story.await_tcp(VM, 9000, SHOWN).unwrap();
    for _ in 0..2 {
        story.lab.rebind(&"home".parse().unwrap()).unwrap();
        let ask = |place: &str, target: &str| {
            let every = ["connect-loop", "--target", target, "--interval-ms", "250", "--seconds", "30"];
            story.traffic(place, &every).unwrap()
        };
        let (out, back) = (ask(VM, &format!("{DB_OF_B}:5432")), ask(DATABASE.0, &format!("{vm}:9000")));
        let (out, back) = (report(out).unwrap(), report(back).unwrap());
        assert_eq!(out["failures"], 0, "{out}");
        let longest = back["longest_failure_ms"].as_u64().unwrap();
        assert!(longest <= HEARD_WITHIN_MS, "{back}");
    }
    served.kill().unwrap();
    served.wait().unwrap();
}

/// A server in a pod, run by nobody in particular. It goes with the test.
struct Postgres {
    process: Child,
    _data: TempDir,
}

impl Postgres {
    fn start(story: &Story) -> Self {
        let data = tempfile::tempdir().unwrap();
        let dir = data.path().display();
        // The server refuses to be root, and a directory that others may read.
        let owner = "--reuid=postgres --regid=postgres --clear-groups";
        let bin = programs();
        let bin = bin.display();
        story.said(
            DATABASE.0,
            &format!(
                "chown postgres: {dir} && cd {dir} && \
                 setpriv {owner} {bin}/initdb --pgdata {dir} --auth trust --no-sync --username postgres >/dev/null && \
                 echo 'host all all all trust' >> {dir}/pg_hba.conf"
            ),
        );
        let serve = format!(
            "cd {dir} && exec setpriv {owner} {bin}/postgres -D {dir} -c listen_addresses='*' \
             -c unix_socket_directories= -c fsync=off"
        );
        let mut command = story.lab.command(DATABASE.0, ["bash", "-c", &serve]).unwrap();
        let process = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { process, _data: data };
        story.await_tcp(DATABASE.0, 5432, SHOWN).unwrap();
        server
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Debian keeps them apart by version, and puts none of the server's on the path.
fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("`ci/install` installs postgresql");
    versions.flatten().map(|entry| entry.path().join("bin")).max().expect("some version of postgresql")
}

/// A client on the VM.
fn psql(story: &Story, arguments: &[&str]) -> Command {
    let bin = programs().join("psql").display().to_string();
    let line = ["timeout", CLIENT_S, &bin, "-AtqX", "-h", HOST, "-U", "postgres"];
    let line = ["env", "PGCONNECT_TIMEOUT=4"].into_iter().chain(line).chain(arguments.iter().copied());
    story.lab.command(VM, line).unwrap()
}

/// One question on a connection of its own.
fn once(story: &Story, query: &str) -> Result<String, String> {
    let output = psql(story, &["-c", query]).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// A connection that stays.
struct Session {
    process: Child,
    questions: ChildStdin,
    answers: BufReader<std::process::ChildStdout>,
}

impl Session {
    fn open(story: &Story) -> Self {
        let mut command = psql(story, &[]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let questions = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { process, questions, answers }
    }

    /// The answer's first line; none when the connection is lost.
    fn ask(&mut self, query: &str) -> String {
        writeln!(self.questions, "{query};").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn service(address: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: db\n  namespace: shop\n  annotations:\n    \
         service.cilium.io/global: \"true\"\nspec:\n  clusterIP: {address}\n  ports: [{{name: sql, port: 5432}}]\n"
    )
}

fn endpoints() -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: db-v4, namespace: shop, labels: \
         {{kubernetes.io/service-name: db}}}}\naddressType: IPv4\nports: [{{name: sql, port: 5432}}]\nendpoints: \
         [{{addresses: [{}], nodeName: a2}}]\n",
        DATABASE.1
    )
}
