//! The processes of a topology: started, watched until ready, signalled, started again.

use std::fs::{self, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde::Serialize;
use tracing::info;

use crate::enter::in_network;
use crate::lab::{Interrupt, Lab};
use crate::place::{Place, Proc};
use crate::process::{Activity, ProcessId, wait_until};
use crate::state::{Paths, State};
use crate::topology::{ProcessSpec, Ready, Templates, Topology};

/// How long a process has to end by itself when it is restarted.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// How long a signal that cannot be refused takes.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// How often readiness is asked for.
const READY_POLL: Duration = Duration::from_millis(50);

/// How long one connection may take when readiness is asked for: it goes over loopback.
const CONNECT_DEADLINE: Duration = Duration::from_millis(500);

/// What `ps` shows of a process.
#[derive(Debug, Clone, Serialize)]
pub struct ProcessStatus {
    /// Its name.
    pub proc: Proc,
    /// Its pid, or the last it had. None: it was never started.
    pub pid: Option<i32>,
    /// What it does.
    pub activity: Activity,
}

impl Lab {
    /// Every declared process.
    ///
    /// # Errors
    /// The lab is down.
    pub fn ps(&self) -> Result<Vec<ProcessStatus>> {
        let state = self.state()?;
        let mut all = Vec::new();
        for place in self.topology.places() {
            for spec in self.topology.processes(&place)? {
                let proc = Proc { place: place.clone(), name: spec.name.value.clone() };
                let process = state.processes.get(&proc);
                let activity = process.map_or(Activity::Gone, |process| process.activity());
                all.push(ProcessStatus { proc, pid: process.map(|process| process.pid), activity });
            }
        }
        Ok(all)
    }

    /// Starts a declared process that does not run, with the command line of the topology, and waits until it is ready.
    ///
    /// # Errors
    /// There is none, it runs already, or it does not become ready.
    pub fn start(&self, proc: &str) -> Result<()> {
        let proc: Proc = proc.parse()?;
        let starter = Starter { paths: &self.paths, topology: &self.topology, mesh_lab: &self.mesh_lab };
        let spec = starter.spec(&proc)?;
        self.change(|state| {
            if state.processes.get(&proc).is_some_and(|process| process.activity() != Activity::Gone) {
                bail!("{proc} runs already");
            }
            starter.start(state, &proc, spec)
        })?;
        starter.await_ready(&self.state()?, &proc, spec, || Ok(()))
    }

    /// Sends a signal to a process and its group, and after SIGKILL waits until it is gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self, proc: &str, signal: Signal) -> Result<()> {
        let process = self.process(proc)?;
        process.signal(signal).with_context(|| format!("cannot signal {proc}"))?;
        if signal == Signal::SIGKILL && !process.wait_gone(KILL_DEADLINE) {
            bail!("{proc} did not die of SIGKILL within {KILL_DEADLINE:?}");
        }
        Ok(())
    }

    /// Stops a process where it is: its sockets stay open, and it does nothing.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, proc: &str) -> Result<()> {
        self.kill(proc, Signal::SIGSTOP)
    }

    /// Lets a paused process go on.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, proc: &str) -> Result<()> {
        self.kill(proc, Signal::SIGCONT)
    }

    /// Asks a process to end, insists after 5 s, and starts it again.
    ///
    /// # Errors
    /// There is none, or it does not become ready.
    pub fn restart(&self, proc: &str) -> Result<()> {
        if let Ok(process) = self.process(proc)
            && process.activity() != Activity::Gone
        {
            process.signal(Signal::SIGTERM)?;
            if !process.wait_gone(STOP_DEADLINE) {
                self.kill(proc, Signal::SIGKILL)?;
            }
        }
        self.start(proc)
    }

    fn process(&self, proc: &str) -> Result<ProcessId> {
        let proc: Proc = proc.parse()?;
        let state = self.state()?;
        state
            .processes
            .get(&proc)
            .copied()
            .with_context(|| format!("{proc} was never started: `mesh-lab ps` lists all"))
    }
}

/// Starts what the topology says: hosts, then nodes, then pods; within a place one after the other, each when the one
/// before it is ready.
pub(crate) fn autostart(
    paths: &Paths,
    topology: &Topology,
    mesh_lab: &Path,
    state: &mut State,
    interrupt: &Interrupt,
) -> Result<()> {
    let starter = Starter { paths, topology, mesh_lab };
    let mut places = topology.places();
    places.sort_by_key(stage);
    for in_stage in places.chunk_by(|a, b| stage(a) == stage(b)) {
        let longest = in_stage.iter().map(|place| autostarted(topology, place).count()).max().unwrap_or(0);
        for round in 0..longest {
            let starting: Vec<_> = in_stage
                .iter()
                .filter_map(|place| {
                    let spec = autostarted(topology, place).nth(round)?;
                    Some((Proc { place: place.clone(), name: spec.name.value.clone() }, spec))
                })
                .collect();
            for (proc, spec) in &starting {
                interrupt.check()?;
                starter.start(state, proc, spec)?;
            }
            state.save(paths)?;
            for (proc, spec) in &starting {
                starter.await_ready(state, proc, spec, || interrupt.check())?;
                info!(%proc, "Started");
            }
        }
    }
    Ok(())
}

/// Which processes start before which.
fn stage(place: &Place) -> u8 {
    match place {
        Place::Underlay | Place::Nat { .. } => 0,
        Place::Host { .. } | Place::ClusterHost { .. } => 1,
        Place::Node { .. } => 2,
        Place::Pod { .. } => 3,
    }
}

fn autostarted<'a>(topology: &'a Topology, place: &Place) -> impl Iterator<Item = &'a ProcessSpec> {
    topology.processes(place).unwrap_or_default().iter().filter(|spec| spec.autostart)
}

/// Starts processes of one lab.
struct Starter<'a> {
    paths: &'a Paths,
    topology: &'a Topology,
    mesh_lab: &'a Path,
}

impl<'a> Starter<'a> {
    fn spec(&self, proc: &Proc) -> Result<&'a ProcessSpec> {
        let specs = self.topology.processes(&proc.place)?;
        let found = specs.iter().find(|spec| spec.name.value == proc.name);
        found.with_context(|| format!("the topology declares no process {proc}: `mesh-lab ps` lists all"))
    }

    /// Starts a process with its output appended to its log.
    fn start(&self, state: &mut State, proc: &Proc, spec: &ProcessSpec) -> Result<()> {
        let entrance =
            state.places.get(&proc.place).with_context(|| format!("there is no place {}", proc.place))?;
        let templates = Templates { bin: &state.bin, lab: &self.paths.state, file: &state.file };
        let log = self.paths.log(proc);
        fs::create_dir_all(log.parent().context("a log has a directory")?)
            .context("cannot make the logs' directory")?;
        let output = OpenOptions::new().create(true).append(true).open(&log);
        let output = output.with_context(|| format!("cannot open {}", log.display()))?;
        let mut command = entrance.daemon(self.mesh_lab, spec.command.words(templates));
        command.envs(spec_env(spec, templates));
        command
            .stdin(Stdio::null())
            .stderr(output.try_clone().context("cannot share the log")?)
            .stdout(output);
        let child = command.spawn().with_context(|| format!("cannot start {proc}"))?;
        state.processes.insert(proc.clone(), ProcessId::of(child.id())?);
        Ok(())
    }

    /// Waits until a process is ready; it must not end before.
    fn await_ready(
        &self,
        state: &State,
        proc: &Proc,
        spec: &ProcessSpec,
        check: impl Fn() -> Result<()>,
    ) -> Result<()> {
        let Some(ready) = spec.ready.as_ref().map(|ready| &ready.value) else { return Ok(()) };
        let process = *state.processes.get(proc).context("it was just started")?;
        let deadline = Instant::now() + ready.within();
        loop {
            check()?;
            if process.activity() == Activity::Gone {
                bail!("{proc} ended before it was ready; its log says: {}", self.end_of_log(proc));
            }
            if self.is_ready(state, proc, ready)? {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "{proc} was not ready within {} s; its log says: {}",
                    ready.within().as_secs(),
                    self.end_of_log(proc)
                );
            }
            // The pause ends early when the process does.
            let _ended = wait_until(READY_POLL, || process.activity() == Activity::Gone);
        }
    }

    fn is_ready(&self, state: &State, proc: &Proc, ready: &Ready) -> Result<bool> {
        let entrance =
            state.places.get(&proc.place).with_context(|| format!("there is no place {}", proc.place))?;
        if let Some(port) = ready.tcp {
            let mut targets: Vec<IpAddr> = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            targets.extend(self.topology.addresses(&proc.place));
            let answers = |target: &IpAddr| {
                TcpStream::connect_timeout(&SocketAddr::new(*target, port), CONNECT_DEADLINE).is_ok()
            };
            return in_network(entrance.net, || targets.iter().any(answers));
        }
        let Some(command) = &ready.command else { return Ok(true) };
        let templates = Templates { bin: &state.bin, lab: &self.paths.state, file: &state.file };
        let mut probe = entrance.command(self.mesh_lab, command.words(templates));
        probe.envs(spec_env(self.spec(proc)?, templates));
        probe.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(probe.status().with_context(|| format!("cannot ask whether {proc} is ready"))?.success())
    }

    fn end_of_log(&self, proc: &Proc) -> String {
        let log = fs::read_to_string(self.paths.log(proc)).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

fn spec_env<'a>(
    spec: &'a ProcessSpec,
    templates: Templates<'a>,
) -> impl Iterator<Item = (&'a String, String)> {
    spec.env.iter().map(move |(key, value)| (key, templates.fill(value)))
}
