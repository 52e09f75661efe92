//! edge-to-core-local/README.md, command by command: applied for real, used, and destroyed without remains.

use e2e::page::{Block, shell_blocks};
use lab::{Lab, Name, Paths, Sniffer, Watch, patience};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};
use terraform::{QUIET, Tofu, examples};

use crate::modules::as_said;

const EXAMPLE: &str = "edge-to-core-local";

/// As its topology is called.
const LAB: &str = "edge-to-core";

/// A till tries again every three seconds at most, and the machine may be busy.
const SHOWN: Duration = Duration::from_secs(30);

/// Lines of each log that a failure prints: the end is what matters, and there are fifteen logs.
const TAIL: usize = 15;

/// What a till says to the database: seen on the underlay, it was not encrypted.
const ORDER: &str = "INSERT INTO orders";

#[test]
#[ignore = "needs OpenTofu and PostgreSQL: make test-terraform"]
fn a_reader_applies_the_example_uses_a_database_across_two_edges_and_destroys_it_without_remains() {
    let reader = Reader::new();
    let page = fs::read_to_string(examples().join(EXAMPLE).join("README.md")).unwrap();
    let blocks = shell_blocks(&page).unwrap();
    let [up, orders, vm, operator, cut, down] = &blocks[..] else { panic!("other blocks: {blocks:?}") };

    reader.follow(up);
    let again = reader.sh("tofu plan -detailed-exitcode");
    assert_eq!(again.status.code(), Some(0), "nothing is left to do: {again:?}");

    let lab = Lab::attach(Some(&reader.name)).unwrap();
    let watch = Watch::underlay().canary(ORDER);
    let sniffer = Sniffer::start(&lab, watch).unwrap();
    eventually("both edges' orders are in the core's database", || {
        let said = reader.follow(orders);
        if ["edge-1", "edge-2"].iter().all(|site| said.contains(site)) { Ok(()) } else { Err(said) }
    });
    eventually("the VM and the core use each other", || {
        let said = reader.follow(vm);
        if said.contains("INSERT 0 1") && said.ends_with("legacy\n") { Ok(()) } else { Err(said) }
    });
    let seen = sniffer.stop().unwrap();
    assert!(
        seen.total() > 0 && seen.canary_hits == 0 && seen.missed == 0,
        "the orders are readable outside: {seen}"
    );
    let said = reader.follow(operator);
    assert!(said.contains("in core/c1: used"), "{said}");

    the_peering_is_rendered_as_connect_has_written_it(&reader, &lab);

    let before = reader.orders("edge-1");
    reader.follow(cut);
    eventually("the edge's orders come again", || match reader.orders("edge-1") {
        now if now > before => Ok(()),
        now => Err(now.to_string()),
    });
    a_machine_joins_by_its_user_data(&reader, &lab);

    let namespaces = namespaces(&lab);
    assert!(namespaces.len() > 10, "there is something to leave: {namespaces:?}");
    reader.follow(down);
    nothing_is_left(&reader, &lab, &namespaces);
}

/// Whoever reads the page, at its directory. However he ends, the lab goes.
struct Reader {
    tofu: Tofu,
    name: Name,
    bin: PathBuf,
}

impl Reader {
    fn new() -> Self {
        // Of an earlier run that died.
        let name = LAB.parse().unwrap();
        Lab::down(Some(&name)).unwrap();
        let exe = env::current_exe().unwrap();
        let bin = exe.parent().and_then(Path::parent).expect("a test is in target/<profile>/deps").to_owned();
        Self { tofu: Tofu::new().unwrap(), name, bin }
    }

    /// Runs a block of the page; it must go well.
    fn follow(&self, block: &Block) -> String {
        let Output { status, stdout, stderr } = self.sh(&block.text);
        let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        assert!(status.success(), "{EXAMPLE}/README.md, line {}: {stdout}{stderr}", block.line);
        stdout
    }

    /// Runs commands in the example's directory, in the reader's shell.
    fn sh(&self, commands: &str) -> Output {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", commands]).current_dir(self.tofu.path(EXAMPLE)).envs(QUIET);
        let path = [self.tofu.bin().unwrap(), &self.bin].map(|dir| dir.display().to_string()).join(":");
        bash.env("PATH", format!("{path}:{}", env::var("PATH").unwrap()));
        // The page says where `make release` leaves the programs; a test has those that it was built with.
        bash.env("TF_VAR_bin", &self.bin).env_remove("TF_CLI_CONFIG_FILE");
        bash.output().unwrap()
    }

    /// How many orders of a site the database has.
    fn orders(&self, site: &str) -> u64 {
        let count = format!("SELECT count(*) FROM orders WHERE site = '{site}'");
        let ask = format!(
            "mesh-lab --name {LAB} exec core/pod/db -- psql -h 127.0.0.1 -U shop shop --tuples-only -c \"{count}\""
        );
        let said = self.sh(&ask);
        String::from_utf8_lossy(&said.stdout).trim().parse().unwrap_or_else(|_| panic!("no count: {said:?}"))
    }

    /// `meshctl` on the operator's machine.
    fn meshctl(&self, args: &str) -> String {
        let line = format!(
            "MESHCONFIG=$(tofu output -raw MESHCONFIG) mesh-lab --name {LAB} exec host/admin -- meshctl {args}"
        );
        let said = self.sh(&line);
        assert!(said.status.success(), "meshctl {args}: {said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Ok(paths) = Paths::of(&self.name)
        {
            print_ends(&paths.state.join("logs"));
        }
        if let Err(error) = Lab::down(Some(&self.name)) {
            eprintln!("cannot take the lab {LAB} down: {error:#}");
        }
    }
}

/// Of what modules/peering renders of two of the clusters, the core's apiserver would change nothing but the connect's trace.
fn the_peering_is_rendered_as_connect_has_written_it(reader: &Reader, lab: &Lab) {
    let state = &lab.paths().state;
    let sides = ["core", "edge-1"].map(|cluster| as_said(&state.join(cluster).join("data")));
    let outputs = reader.tofu.outputs("modules/peering", &json!({"clusters": sides})).unwrap();
    let file = state.join("peer.yaml");
    fs::write(&file, outputs["objects"]["core"].as_str().unwrap()).unwrap();
    let said = reader.meshctl(&format!("peer apply --cluster core --dry-run --file {}", file.display()));
    let changes: Vec<&str> = said.lines().filter(|line| line.starts_with(['-', '+'])).collect();
    let [connect, nonce] = changes[..] else { panic!("{said}") };
    assert!(connect.trim_end() == "-   connect:" && nonce.starts_with("-     nonce: "), "{said}");
}

/// The user data of a real token do on a machine what cloud-init would have them do.
fn a_machine_joins_by_its_user_data(reader: &Reader, lab: &Lab) {
    const MACHINE: &str = "host/admin";
    let line = reader.meshctl("vm add kiosk --cluster core");
    let token = line.trim().strip_prefix("mesh-vm-agent join ").expect("the line that joins");
    let variables = json!({"name": "kiosk", "cluster": "core", "token": token, "options": ["--no-dns"]});
    let outputs = reader.tofu.outputs("modules/vm-agent", &variables).unwrap();
    let user_data: Value = serde_saphyr::from_str(outputs["user_data"].as_str().unwrap()).unwrap();

    for file in user_data["write_files"].as_array().unwrap() {
        let [path, content, permissions] =
            ["path", "content", "permissions"].map(|field| file[field].as_str().unwrap());
        let write = "mkdir -p \"$(dirname \"$1\")\" && printf %s \"$2\" >\"$1\" && chmod \"$3\" \"$1\"";
        let written = lab.exec(MACHINE, ["sh", "-c", write, "sh", path, content, permissions]).unwrap();
        assert!(written.status.success(), "{path}: {written:?}");
    }
    for command in user_data["runcmd"].as_array().unwrap() {
        let path = format!("PATH={}:/usr/sbin:/usr/bin:/sbin:/bin", reader.bin.display());
        let words = command.as_array().unwrap().iter().map(|word| word.as_str().unwrap());
        let ran = lab.exec(MACHINE, ["env", &path].into_iter().chain(words)).unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success() && said.contains("this machine is kiosk of core now"), "{ran:?}");
    }
    let left = lab.exec(MACHINE, ["cat", "/etc/mesh-vm-agent/options", "/run/mesh-vm-agent-token"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "OPTIONS=--no-dns\n");
    assert!(!left.status.success(), "the token is still there");
    reader.meshctl("vm remove kiosk --cluster core");
}

/// The network namespaces of a lab, by their inodes.
fn namespaces(lab: &Lab) -> BTreeSet<u64> {
    let places = lab.state().unwrap().places;
    places.values().map(|it| inode(&Path::new("/proc").join(it.net.pid.to_string())).unwrap()).collect()
}

/// Of a process's network namespace; none when the process is gone.
fn inode(process: &Path) -> Option<u64> {
    fs::metadata(process.join("ns/net")).ok().map(|it| it.ino())
}

fn nothing_is_left(reader: &Reader, lab: &Lab, namespaces: &BTreeSet<u64>) {
    let paths = lab.paths();
    assert!(!paths.exist(), "{} or {} is still there", paths.state.display(), paths.cgroup.display());
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|it| it.path());
    let left: Vec<_> =
        processes.filter(|it| inode(it).is_some_and(|net| namespaces.contains(&net))).collect();
    assert_eq!(left, Vec::<PathBuf>::new(), "processes in the lab's namespaces");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.lines().any(|mount| mount.contains(LAB)), "a mount is left: {mounts}");
    for of_machines in ["/var/lib/postgresql/shop", "/var/lib/mesh-vm-agent", "/sys/fs/bpf/mesh"] {
        assert!(!Path::new(of_machines).exists(), "{of_machines} is on the machine that the lab ran on");
    }
    let state = reader.sh("tofu state list");
    assert!(state.status.success() && state.stdout.is_empty(), "{state:?}");
}

fn eventually(what: &str, mut look: impl FnMut() -> Result<(), String>) {
    let deadline = Instant::now() + patience(SHOWN);
    while let Err(seen) = look() {
        assert!(Instant::now() < deadline, "{what}: not within {SHOWN:?}; seen last: {seen}");
    }
}

fn print_ends(dir: &Path) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            print_ends(&path);
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        eprintln!("── {}\n{}", path.display(), lines[lines.len().saturating_sub(TAIL)..].join("\n"));
    }
}
