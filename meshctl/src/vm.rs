//! VMs: added, invited, listed, removed; and how one is.

use crate::{
    args::{ClusterArg, Output},
    facts::Facts,
    output::note,
    session::Session,
    status::round_trip_works,
    table::{columns, duration},
};
use anyhow::{Context as _, bail};
use api::{
    external_workload::{ExternalWorkload, ExternalWorkloadSpec, KIND, Metadata, Serve},
    key::LocalKey,
    name::{NamespaceName, NodeName, ObjectName, PortName, ServiceName},
    peer::API_VERSION,
    record::{self, Applied, AppliedProgram, Record, Tunnel},
};
use clap::{Args, Subcommand};
use rpc::mesh::admin::v1::{Presence, Vm};
use std::{
    fmt::Write as _,
    num::NonZeroU16,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

mod program;

use program::Program;

/// What to do with VMs.
#[derive(Debug, Subcommand)]
pub enum VmCommand {
    /// Adds a VM, and prints the line that joins it: paste it there within 15 minutes.
    Add(AddArgs),
    /// Makes another token for a VM that is there: it was not joined in time, or was installed anew.
    Token(NameArgs),
    /// The VMs of a cluster.
    List {
        #[command(flatten)]
        cluster: ClusterArg,
        /// How to print them.
        #[arg(short, long, default_value = "table")]
        output: Output,
    },
    /// How one VM is. The exit code is 0 only when it is there and all its tunnels carry.
    Status(NameArgs),
    /// Removes a VM: its connections, its key and its tunnels end at once.
    Remove(NameArgs),
}

#[derive(Debug, Args)]
pub struct NameArgs {
    /// The VM.
    #[arg(value_name = "NAME")]
    pub name: ObjectName,
    #[command(flatten)]
    pub cluster: ClusterArg,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// Its name: unique among the nodes and VMs of the cluster.
    #[arg(value_name = "NAME")]
    pub name: ObjectName,
    #[command(flatten)]
    pub cluster: ClusterArg,
    /// The namespace of its identity, and of the Services it serves.
    #[arg(long, value_name = "NAMESPACE", default_value = "default")]
    pub namespace: NamespaceName,
    /// Labels of its identity, as a pod's.
    #[arg(long, value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// The service account of its identity.
    #[arg(long, value_name = "NAME")]
    pub service_account: Option<ObjectName>,
    /// Namespaces whose Services it may read, beside its own.
    #[arg(long, value_name = "NAMESPACE", value_delimiter = ',', conflicts_with = "read_all")]
    pub read: Vec<NamespaceName>,
    /// It may read the Services of all namespaces.
    #[arg(long)]
    pub read_all: bool,
    /// A Service of its namespace that it serves, and where its program listens; with the name of the Service's port where it
    /// has several.
    #[arg(long, value_name = "SERVICE[:PORTNAME]:PORT", value_delimiter = ',')]
    pub serve: Vec<Served>,
    /// A program of it with an identity and mesh addresses of its own; once for each. `billing=unit:billing.service` or
    /// `jobs=user:jobs`, and after commas what else is said of it: `serve=SERVICE[:PORTNAME]:PORT` and `label=KEY=VALUE`, each as
    /// often as needed, `service-account=NAME`, and `slice=SLICE` where the unit is not in systemd's default one.
    #[arg(long = "program", value_name = "NAME=unit:UNIT|user:USER[,...]")]
    pub programs: Vec<Program>,
}

/// `cart:8080` or `cart:http:8080`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served(Serve);

impl FromStr for Served {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let (service, name, port) = match parts[..] {
            [service, port] => (service, None, port),
            [service, name, port] => (service, Some(name), port),
            _ => return Err("it is of the form SERVICE:PORT or SERVICE:PORTNAME:PORT".to_owned()),
        };
        let service: ServiceName = service.parse().map_err(|error| format!("{error}"))?;
        let port_name: Option<PortName> =
            name.map(str::parse).transpose().map_err(|error| format!("{error}"))?;
        let port: NonZeroU16 = port.parse().map_err(|_| format!("`{port}` is not a port (1 to 65535)"))?;
        Ok(Self(Serve { service, port_name, port }))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The object that `add` writes.
pub fn workload(args: &AddArgs) -> ExternalWorkload {
    ExternalWorkload {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        metadata: Metadata { name: args.name.clone(), namespace: Some(args.namespace.clone()) },
        spec: ExternalWorkloadSpec {
            labels: args.labels.iter().cloned().collect(),
            service_account: args.service_account.clone(),
            namespaces: args.read.clone(),
            all_namespaces: args.read_all,
            serve: args.serve.iter().map(|Served(serve)| serve.clone()).collect(),
            programs: args.programs.iter().map(|Program(program)| program.clone()).collect(),
        },
    }
}

/// Does it. What is to be pasted goes to stdout, what is only to be read to stderr.
pub async fn run(session: &Session, command: VmCommand) -> anyhow::Result<(String, bool)> {
    match command {
        VmCommand::Add(args) => {
            session.add_vm(&workload(&args)).await?;
            note(&format!("{} is a VM of {}; on the machine, as root:", args.name, session.name));
            Ok((invite(session, &args.name).await?, true))
        }
        VmCommand::Token(NameArgs { name, .. }) => {
            let line = invite(session, &name).await?;
            note(&format!("a token of {name} of before counts no more; on the machine, as root:"));
            Ok((line, true))
        }
        VmCommand::List { output, .. } => {
            let vms = session.list_vms().await?;
            let told = session.facts_below(&format!("{}vms/", api::key::LOCAL)).await?;
            Ok((list(&vms, &told, output, now_s())?, true))
        }
        VmCommand::Status(NameArgs { name, .. }) => {
            let vm = session.list_vms().await?.into_iter().find(|vm| vm.name == name.as_str());
            let vm =
                vm.with_context(|| format!("{} has no VM {name}; there is: meshctl vm list", session.name))?;
            let facts = session.facts().await?;
            Ok(status(&vm, &facts))
        }
        VmCommand::Remove(NameArgs { name, .. }) => {
            if !session.remove_vm(&name).await? {
                bail!("{} has no VM {name}; there is: meshctl vm list", session.name);
            }
            Ok((
                format!(
                    "{name} is no VM of {} any more: its connections and tunnels have ended\n",
                    session.name
                ),
                true,
            ))
        }
    }
}

async fn invite(session: &Session, name: &ObjectName) -> anyhow::Result<String> {
    let (token, _) = session.invite_vm(name).await?;
    Ok(format!("mesh-vm-agent join {token}\n"))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A VM, for programs.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Listed<'a> {
    name: &'a str,
    namespace: &'a str,
    addresses: &'a [String],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    programs: Vec<ListedProgram>,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    silent_ms: Option<u64>,
    #[serde(skip_serializing_if = "str::is_empty")]
    problem: &'a str,
}

/// A program of a VM that has an identity of its own, for programs.
#[derive(serde::Serialize)]
struct ListedProgram {
    name: String,
    processes: String,
    addresses: Vec<String>,
}

impl From<&record::Program> for ListedProgram {
    fn from(program: &record::Program) -> Self {
        Self {
            name: program.name.to_string(),
            processes: program.processes.to_string(),
            addresses: program.addresses.iter().map(ToString::to_string).collect(),
        }
    }
}

impl<'a> Listed<'a> {
    fn new(vm: &'a Vm, facts: &Facts, now_s: u64) -> Self {
        Self {
            name: &vm.name,
            namespace: &vm.namespace,
            addresses: &vm.addresses,
            programs: programs_of(&vm.name, facts).iter().map(Into::into).collect(),
            key: &vm.key,
            state: state(vm, now_s),
            silent_ms: vm.silent_ms,
            problem: &vm.problem,
        }
    }
}

/// What of a VM has an identity of its own, as the VM is told it.
fn programs_of<'a>(vm: &str, facts: &'a Facts) -> &'a [record::Program] {
    match vm.parse().ok().and_then(|name| facts.get(LocalKey::Vm(name))) {
        Some(Record::Vm(told)) => &told.programs,
        _ => &[],
    }
}

fn list(vms: &[Vm], facts: &Facts, output: Output, now_s: u64) -> anyhow::Result<String> {
    if output != Output::Table {
        return output.print(&vms.iter().map(|vm| Listed::new(vm, facts, now_s)).collect::<Vec<_>>());
    }
    let head = ["NAME", "NAMESPACE", "STATE", "SEEN", "PROGRAMS", "ADDRESSES"].map(str::to_owned).to_vec();
    let row = |vm: &Vm| {
        let seen =
            vm.silent_ms.map_or("-".to_owned(), |ms| format!("{} ago", duration(ms.saturating_mul(1_000))));
        let programs: Vec<&str> =
            programs_of(&vm.name, facts).iter().map(|program| program.name.as_str()).collect();
        let programs = if programs.is_empty() { "-".to_owned() } else { programs.join(" ") };
        let state = state(vm, now_s).to_owned();
        vec![vm.name.clone(), vm.namespace.clone(), state, seen, programs, vm.addresses.join(" ")]
    };
    let mut text = columns(&[head].into_iter().chain(vms.iter().map(row)).collect::<Vec<_>>());
    for vm in vms.iter().filter(|vm| !vm.problem.is_empty()) {
        let _ = writeln!(text, " ✗ {}: {}", vm.name, vm.problem);
    }
    Ok(text)
}

/// How far it has come, in a word.
fn state(vm: &Vm, now_s: u64) -> &'static str {
    match (vm.key.is_empty(), vm.presence()) {
        (true, _) if vm.token_until_s > now_s => "invited",
        (true, _) => "not joined",
        (false, Presence::Present) => "present",
        (false, Presence::Lapsed) => "lapsed",
        (false, Presence::Unknown) => "joined",
    }
}

/// What `vm status` prints, and whether all is well.
fn status(vm: &Vm, facts: &Facts) -> (String, bool) {
    let mut text = format!("{} in {} of {}\n", vm.name, vm.namespace, facts.cluster);
    let _ = writeln!(text, "  addresses  {}", vm.addresses.join(" "));
    let seen = vm.silent_ms.map(Duration::from_millis);
    let (mut well, mut problems) = (true, Vec::new());
    let mut bad = |problem: String| {
        well = false;
        problems.push(problem);
    };
    match (state(vm, now_s()), seen) {
        ("present", Some(seen)) => {
            let _ = writeln!(text, "  present    seen {:.1} s ago", seen.as_secs_f64());
        }
        ("lapsed", Some(seen)) => bad(format!("it has not been heard of for {:.0} s", seen.as_secs_f64())),
        ("joined", _) => bad("it has joined, and was not heard of since the apiserver started".to_owned()),
        ("invited", _) => bad("it has not joined yet; its token counts".to_owned()),
        _ => bad(format!("it has not joined, and has no token: meshctl vm token {}", vm.name)),
    }
    if !vm.problem.is_empty() {
        bad(vm.problem.clone());
    }
    let name: Option<NodeName> = vm.name.parse().ok();
    let record = |key: fn(NodeName) -> LocalKey| facts.get(key(name.clone()?));
    if let Some(Record::Presence(presence)) = record(LocalKey::Presence) {
        for served in &presence.serve {
            let at = std::net::SocketAddr::new(served.address, served.port);
            if served.healthy {
                let _ = writeln!(text, "  serves     {} at {at}", served.service);
            } else {
                bad(format!("nobody answers at {at}, which is to serve {}", served.service));
            }
        }
    }
    let applied = match record(LocalKey::Applied) {
        Some(Record::Applied(applied)) => Some(applied),
        _ => None,
    };
    programs(programs_of(&vm.name, facts), applied, &mut text, &mut bad);
    if let Some(applied) = applied {
        tunnels(applied, &mut text, &mut bad);
    }
    for problem in problems {
        let _ = writeln!(text, " ✗ {problem}");
    }
    (text, well)
}

/// What of it has an identity of its own. One that is not told apart is the VM itself to everybody.
fn programs(
    told: &[record::Program],
    applied: Option<&Applied>,
    text: &mut String,
    bad: &mut impl FnMut(String),
) {
    for program in told {
        let found = applied.and_then(|it| it.programs.iter().find(|found| found.name == program.name));
        let addresses: Vec<String> = program.addresses.iter().map(ToString::to_string).collect();
        let how = match found {
            Some(AppliedProgram { running: true, .. }) => "",
            Some(AppliedProgram { running: false, .. }) => ", not running",
            None => ", not told apart yet",
        };
        let _ = writeln!(
            text,
            "  program    {} at {} ({}{how})",
            program.name,
            addresses.join(" "),
            program.processes
        );
        if found.is_none() && applied.is_some() {
            bad(format!(
                "its agent does not tell the program {} apart: is it of this version, and has it read its record?",
                program.name
            ));
        }
    }
}

fn tunnels(applied: &Applied, text: &mut String, bad: &mut impl FnMut(String)) {
    let carries = |tunnel: &&Tunnel| round_trip_works(tunnel);
    let (up, all) = (applied.tunnels.iter().filter(carries).count(), applied.tunnels.len());
    let steady = applied.tunnels.iter().filter(|tunnel| !tunnel.on_demand);
    let slowest = steady.filter_map(|tunnel| tunnel.rtt_us).max();
    let slowest = slowest.map_or(String::new(), |us| format!(", rtt at most {}", duration(us)));
    let _ = writeln!(
        text,
        "  tunnels    {up}/{all} carry{slowest} ({}, {})",
        applied.datapath, applied.packet_hook
    );
    if !applied.balancer.is_empty() {
        let _ = writeln!(text, "  balancer   {}", applied.balancer);
    }
    for tunnel in applied.tunnels.iter().filter(|tunnel| !carries(tunnel)) {
        bad(format!("the tunnel to {}/{} is silent", tunnel.cluster, tunnel.node));
    }
    applied.problems.iter().for_each(|problem| bad(problem.clone()));
}

#[cfg(test)]
mod tests;
