//! Bringing a lab up: cgroups, holders, links, rules, pods, processes; or, when a step fails, nothing.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tracing::info;

use crate::cgroup;
use crate::cni::{RESULT_DIR, attachment};
use crate::enter::Entrance;
use crate::hold::{HoldSpec, READY, View};
use crate::lab::{Interrupt, destroy};
use crate::mounts::MachineMounts;
use crate::nat::ruleset;
use crate::node::{Family, iptables, nat_sysctls, node_sysctls, quiet_sysctls, router_sysctls};
use crate::place::{Name, Place};
use crate::preflight;
use crate::process::ProcessId;
use crate::run;
use crate::shell::feed;
use crate::state::{Paths, State};
use crate::topology::{Topology, TopologyFile};
use crate::underlay::{links, machine_batch, nat_batch, router_batch};

/// Takes down what has the name, and brings the lab up.
pub(crate) fn bring_up(
    paths: &Paths,
    file: &TopologyFile,
    mesh_lab: &Path,
    interrupt: &Interrupt,
) -> Result<()> {
    preflight::check()?;
    let mut lock = paths.lock()?;
    if paths.cgroup.exists() || paths.state.join("topology.yaml").exists() {
        info!(lab = %paths.name, "Taking down the earlier lab of this name");
        destroy(paths)?;
        // The lock was on the directory that is gone now.
        lock = paths.lock()?;
    }
    let result = build(paths, file, mesh_lab, interrupt);
    if result.is_err() {
        let undone = destroy(paths);
        drop(lock);
        undone.context("cannot take down the lab that did not come up")?;
    }
    result
}

fn build(paths: &Paths, file: &TopologyFile, mesh_lab: &Path, interrupt: &Interrupt) -> Result<()> {
    let began = Instant::now();
    let topology = &file.topology;
    let bin = mesh_lab
        .parent()
        .context("a binary has a directory")?
        .canonicalize()
        .context("cannot resolve {bin}")?;
    fs::write(paths.state.join("topology.yaml"), &file.text).context("cannot keep a copy of the topology")?;
    let mut state = State {
        bin,
        file: file.dir.clone(),
        places: BTreeMap::new(),
        processes: BTreeMap::new(),
        cuts: Vec::new(),
        relays: BTreeMap::new(),
        rebinds: BTreeMap::new(),
    };
    let builder = Builder { paths, topology, mesh_lab, interrupt };

    builder.hold_all(&mut state)?;
    info!(places = state.places.len(), took = ?began.elapsed(), "Places are held");
    builder.link(&state)?;
    info!(took = ?began.elapsed(), "Machines are linked");
    builder.furnish_clusters(&state)?;
    info!(took = ?began.elapsed(), "Pods are attached");
    state.save(paths)?;
    run::autostart(paths, topology, mesh_lab, &mut state, interrupt)?;
    info!(lab = %paths.name, took = ?began.elapsed(), "The lab is up");
    Ok(())
}

/// What every step needs.
struct Builder<'a> {
    paths: &'a Paths,
    topology: &'a Topology,
    mesh_lab: &'a Path,
    interrupt: &'a Interrupt,
}

impl Builder<'_> {
    /// Makes the namespaces of all places: first the machines', then the pods', which look through their node's eyes.
    fn hold_all(&self, state: &mut State) -> Result<()> {
        let (pods, machines): (Vec<_>, Vec<_>) =
            self.topology.places().into_iter().partition(|place| matches!(place, Place::Pod { .. }));
        for stage in [machines, pods] {
            let mut holders = Vec::new();
            for place in stage {
                self.interrupt.check()?;
                let spec = self.hold_spec(&place, state)?;
                let child = self.spawn_holder(&place, &spec)?;
                holders.push((place, child, spec));
            }
            for (place, child, spec) in holders {
                let holder = self.await_holder(&place, child)?;
                let mnt = match spec.view {
                    View::Outside => None,
                    View::Machine(_) => Some(holder),
                    View::Of(node) => Some(node),
                };
                state.places.insert(place, Entrance { cgroup: spec.cgroup, net: holder, mnt });
            }
        }
        Ok(())
    }

    fn hold_spec(&self, place: &Place, state: &State) -> Result<HoldSpec> {
        let cgroup = self.paths.cgroup_of_programs(self.topology, place);
        cgroup::create(&cgroup)?;
        let view = match place {
            Place::Underlay | Place::Nat { .. } => View::Outside,
            Place::Host { .. } | Place::ClusterHost { .. } | Place::Node { .. } => {
                let var_lib_mesh = self.paths.place(place).join("var-lib-mesh");
                fs::create_dir_all(&var_lib_mesh)
                    .with_context(|| format!("cannot make {}", var_lib_mesh.display()))?;
                let root = self.paths.cgroup_root(self.topology, place);
                View::Machine(MachineMounts { cgroup: root, lab: self.paths.state.clone(), var_lib_mesh })
            }
            Place::Pod { cluster, pod } => {
                let node = self.topology.clusters[cluster].pods[pod].node.value.clone();
                View::Of(entrance(state, &Place::Node { cluster: cluster.clone(), node })?.net)
            }
        };
        let sysctls = match place {
            Place::Underlay => router_sysctls(),
            Place::Nat { nat } => nat_sysctls(&self.topology.nats[nat]),
            Place::Node { cluster, node } => node_sysctls(&self.topology.clusters[cluster].nodes[node]),
            Place::Host { .. } | Place::ClusterHost { .. } | Place::Pod { .. } => quiet_sysctls(),
        };
        Ok(HoldSpec { cgroup, view, sysctls })
    }

    fn spawn_holder(&self, place: &Place, spec: &HoldSpec) -> Result<Child> {
        let dir = self.paths.place(place);
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let log = File::create(dir.join("holder.log")).context("cannot make the holder's log")?;
        let spec = serde_json::to_string(spec).context("a holder's task is plain data")?;
        let mut holder = Command::new(self.mesh_lab);
        holder.arg("hold").arg(spec).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        holder.spawn().with_context(|| format!("cannot start the holder of {place}"))
    }

    fn await_holder(&self, place: &Place, mut child: Child) -> Result<ProcessId> {
        let stdout = child.stdout.take().expect("stdout was piped");
        let mut said = String::new();
        BufReader::new(stdout)
            .read_line(&mut said)
            .with_context(|| format!("cannot hear the holder of {place}"))?;
        if said.trim() != READY {
            let why = fs::read_to_string(self.paths.place(place).join("holder.log")).unwrap_or_default();
            bail!("cannot make the place {place}: {}", why.trim());
        }
        ProcessId::of(child.id())
    }

    /// Makes the router's bridges and links, then each machine's addresses and routes.
    fn link(&self, state: &State) -> Result<()> {
        let holders =
            state.places.iter().map(|(place, entrance)| (place.clone(), entrance.net.pid)).collect();
        self.ip_batch(state, &Place::Underlay, &router_batch(self.topology, &holders))?;
        for nat in self.topology.nats.keys() {
            self.ip_batch(state, &Place::Nat { nat: nat.clone() }, &nat_batch(self.topology, nat, &holders))?;
        }
        for link in links(self.topology) {
            self.interrupt.check()?;
            self.ip_batch(state, &link.place, &machine_batch(self.topology, &link))?;
        }
        for (name, nat) in &self.topology.nats {
            let place = Place::Nat { nat: name.clone() };
            let nft = entrance(state, &place)?.command(self.mesh_lab, ["nft", "-f", "-"]);
            feed(nft, &format!("cannot write the rules of {place}"), &ruleset(nat, 0))?;
        }
        Ok(())
    }

    fn ip_batch(&self, state: &State, place: &Place, batch: &str) -> Result<()> {
        let ip = entrance(state, place)?.command(self.mesh_lab, ["ip", "-batch", "-"]);
        feed(ip, &format!("cannot link {place}"), batch).map(drop)
    }

    /// Gives each node its rules and its pods; nodes at once, because each waits for its own tools.
    fn furnish_clusters(&self, state: &State) -> Result<()> {
        let nodes = self
            .topology
            .clusters
            .iter()
            .flat_map(|(name, cluster)| cluster.nodes.keys().map(move |node| (name, node)));
        std::thread::scope(|scope| {
            let threads: Vec<_> = nodes
                .map(|(cluster, node)| scope.spawn(move || self.furnish_node(state, cluster, node)))
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        })
    }

    fn furnish_node(&self, state: &State, cluster_name: &Name, node_name: &Name) -> Result<()> {
        let place = Place::Node { cluster: cluster_name.clone(), node: node_name.clone() };
        let (cluster, inside) = (&self.topology.clusters[cluster_name], entrance(state, &place)?);
        for (family, tool) in [(Family::V4, "iptables-restore"), (Family::V6, "ip6tables-restore")] {
            self.interrupt.check()?;
            let restore = inside.command(self.mesh_lab, [tool]);
            feed(restore, &format!("cannot write the rules of {place}"), &iptables(cluster, family))?;
        }
        for (pod, it) in cluster.pods.iter().filter(|(_, it)| it.node.value == *node_name) {
            self.interrupt.check()?;
            let what = format!("cannot attach the pod {cluster_name}/{pod}");
            let place = Place::Pod { cluster: cluster_name.clone(), pod: pod.clone() };
            let holder = entrance(state, &place)?.net.pid;
            let attachment =
                attachment(&self.paths.name, cluster_name, pod, it, &cluster.nodes[node_name], holder);
            let mut plugin = inside.command(self.mesh_lab, [&attachment.plugin]);
            plugin.envs(attachment.environment());
            let said = feed(plugin, &what, &attachment.config.to_string())?;
            let result: Value =
                serde_json::from_str(&said).with_context(|| format!("{what}: the plugin said {said}"))?;
            // As libcni: a directory of 0700 and files of 0600.
            let script = format!("umask 077 && mkdir -p {RESULT_DIR} && cat > {}", attachment.result_path());
            let keep = inside.command(self.mesh_lab, ["sh", "-c", &script]);
            feed(keep, &what, &attachment.cached(&result).to_string())?;
        }
        Ok(())
    }
}

/// How to enter a place that is held already.
fn entrance<'a>(state: &'a State, place: &Place) -> Result<&'a Entrance> {
    state.places.get(place).with_context(|| format!("the place {place} was not made yet"))
}
