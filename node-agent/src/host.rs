//! This host as the agent needs it: its devices and pods as facts, its data path on a thread where it may block.

use crate::cri;
use crate::{
    args::HostArgs,
    compose::{Families, HostFacts},
    programs::Programs,
    report::DatapathMeasured,
    worker::Worker,
};
use anyhow::Context as _;
use api::{bytes::PublicKey, name::NodeName};
use datapath::{
    backend::{
        bpf::{self, Balancer, Balancing, DropReason, Hook},
        wireguard,
    },
    bindings::{self, Bindings},
    host::{Datapath, Options, PIN_DIR, Report, TunnelState},
    image::Image,
    plan::Completeness,
    uplinks::{Link, uplinks},
};
use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use replica::view::View;
use std::os::fd::AsFd as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};
use tokio::sync::{mpsc, watch};

/// An uplink of this MTU is assumed while none is known.
const MTU_DEFAULT_BYTES: u16 = 1500;

/// The host.
pub struct Host {
    datapath: Worker,
    public_key: PublicKey,
    listen_port: u16,
    attached: mpsc::Receiver<io::Result<()>>,
    /// What the container runtime tells; nothing if it is not asked.
    runtime: watch::Receiver<cri::Told>,
    bindings: Bindings,
    programs: Programs,
    problems: Vec<String>,
}

impl Host {
    /// Checks what the host has, then takes over what an earlier agent left on it.
    pub fn open(args: &HostArgs, balancer: Balancer, state_dir: &Path) -> anyhow::Result<Self> {
        let cgroup_root = args.cgroup_root.clone().unwrap_or_else(bpf::default_cgroup_root);
        let pin_dir = Path::new(PIN_DIR);
        bpf::preflight(pin_dir, &cgroup_root, balancer)?;
        let key = state_dir.join("wireguard.key");
        let private_key = wireguard::load_or_create_private_key(&key)
            .with_context(|| format!("cannot keep the tunnel's private key in {}", key.display()))?;
        let public_key = private_key.public();
        let options = Options {
            pin_dir: pin_dir.to_owned(),
            cgroup_root: cgroup_root.clone(),
            private_key,
            tunnel_device: args.tunnel_device.into(),
            packet_hook: args.packet_hook.into(),
            balancer,
            clock_epochs: state_dir.join("clock-epochs.json"),
        };
        let watch = bindings::Watch::on(Path::new(bindings::RESULTS_DIR))
            .context("cannot watch the CNI's results")?;
        let (told, runtime) = watch::channel(cri::Told::default());
        if let Some(socket) = args.cri_socket.clone() {
            tokio::spawn(cri::follow(socket, told));
        }
        Ok(Self {
            datapath: Worker::start(options).context("cannot set up the data path")?,
            public_key,
            listen_port: args.listen_port,
            attached: watch_on_thread(watch),
            runtime,
            bindings: Bindings::default(),
            programs: Programs::below(&cgroup_root).context("cannot watch cgroups")?,
            problems: Vec::new(),
        })
    }

    /// What peers know this node by.
    pub fn public_key(&self) -> PublicKey {
        self.public_key
    }

    /// Whose WireGuard serves the tunnel's device.
    pub async fn tunnel_kind(&self) -> wireguard::Kind {
        self.datapath.run(|datapath| datapath.tunnel_kind()).await
    }

    /// What packet programs are attached to.
    pub async fn packet_hook(&self) -> Hook {
        self.datapath.run(|datapath| datapath.packet_hook()).await
    }

    /// What balances Services.
    pub async fn balancing(&self) -> Balancing {
        self.datapath.run(|datapath| datapath.balancing()).await
    }

    /// Nothing of an earlier agent was in the kernel, as after a reboot.
    pub async fn began_empty(&self) -> bool {
        self.datapath.run(|datapath| datapath.began_empty()).await
    }

    /// How large packets to each prefix may be, as an earlier agent left it.
    pub async fn path_mtus(&self) -> BTreeMap<IpNet, u16> {
        self.datapath.run(|datapath| datapath.path_mtus()).await
    }

    /// Waits until a pod was attached or went, or a program of this host started or ended.
    pub async fn changed(&mut self) -> io::Result<()> {
        tokio::select! {
            changed = self.attached.recv() => match changed {
                Some(changed) => changed,
                // The watch has failed and said so; every look reads the directory anyway.
                None => std::future::pending().await,
            },
            Ok(()) = self.runtime.changed() => Ok(()),
            () = self.programs.changed() => Ok(()),
        }
    }

    /// Reads devices and pods. What cannot be read stays as it was last.
    pub async fn facts(&mut self, view: &View, me: &NodeName) -> HostFacts {
        self.problems.clear();
        let links = match self.datapath.run(|datapath| datapath.links()).await {
            Ok(links) => links,
            Err(error) => {
                let error = anyhow::Error::from(error);
                self.problems.push(format!("cannot read this host's devices: {error:#}"));
                Vec::new()
            }
        };
        let told = self.runtime.borrow_and_update().clone();
        self.problems.extend(told.problems);
        match bindings::read(Path::new(bindings::RESULTS_DIR), &told.pods, &links) {
            Ok(bindings) => self.bindings = bindings,
            Err(error) => self.problems.push(format!("cannot list {}: {error}", bindings::RESULTS_DIR)),
        }
        self.problems.extend(self.bindings.problems.iter().cloned());
        let node = view.cluster(view.own()).and_then(|own| own.nodes.get(me));
        let endpoints = node.into_iter().flat_map(|node| node.endpoints.iter().copied()).collect();
        let told_apart = view.tables().local.vms.get(me).map(|vm| &vm.programs[..]).unwrap_or_default();
        let programs = self.programs.look(told_apart, &mut self.problems);
        let uplinks = uplinks(&links, &endpoints, &self.bindings.devices);
        HostFacts {
            bindings: self.bindings.pods.iter().map(|(address, binding)| (*address, binding.pod)).collect(),
            namespaces: self.bindings.namespaces.clone(),
            pod_devices: self.bindings.devices.clone(),
            families: families(&links),
            uplink_mtu_bytes: smallest_mtu(&links, &endpoints),
            uplinks,
            listen_port: self.listen_port,
            programs,
        }
    }

    /// What the last look found wrong.
    pub fn problems(&self) -> Vec<String> {
        self.problems.clone()
    }

    /// Replaces the programs of an earlier version, whose maps were of another make; true if there was one.
    pub async fn succeed(&self) -> Result<bool, bpf::Error> {
        self.datapath.run(Datapath::succeed).await
    }

    /// What the tunnel's device says of each peer now.
    pub async fn tunnels(&self) -> Result<BTreeMap<PublicKey, TunnelState>, wireguard::Error> {
        self.datapath.run(|datapath| datapath.tunnels()).await
    }

    /// Makes the host hold the image and looks at how things are.
    pub async fn program(&self, image: Image, completeness: Completeness) -> DatapathMeasured {
        measured(self.datapath.run(move |datapath| datapath.reconcile(&image, completeness)).await)
    }
}

/// Waits for the watch on a thread of its own, which lives as long as the process; one wake-up under way is enough.
fn watch_on_thread(mut watch: bindings::Watch) -> mpsc::Receiver<io::Result<()>> {
    let (wake, woken) = mpsc::channel(1);
    std::thread::spawn(move || {
        loop {
            let ready = poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE);
            let changed = match ready {
                Ok(_) => watch.changed(),
                Err(nix::errno::Errno::EINTR) => Ok(false),
                Err(error) => Err(error.into()),
            };
            match changed {
                Ok(false) => {}
                // Full: the loop has not yet looked since the last one, and will see this, too.
                Ok(true) => drop(wake.try_send(Ok(()))),
                Err(error) => {
                    drop(wake.blocking_send(Err(error)));
                    return;
                }
            }
        }
    });
    woken
}

/// The families of the addresses by which this host reaches the world.
fn families(links: &[Link]) -> Families {
    let leading = links.iter().filter(|link| link.has_default_route);
    let addresses = leading.flat_map(|link| &link.addresses).copied();
    addresses.filter(|address| !is_link_local(*address)).collect()
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn smallest_mtu(links: &[Link], endpoints: &BTreeSet<IpAddr>) -> u16 {
    let carries = |link: &&Link| link.has_default_route || !link.addresses.is_disjoint(endpoints);
    let mtus = links.iter().filter(carries).map(|link| link.mtu_bytes);
    mtus.min().map_or(MTU_DEFAULT_BYTES, |mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn measured(report: Report) -> DatapathMeasured {
    DatapathMeasured {
        tunnels: report.tunnels,
        relay: report.relay,
        problems: report.problems,
        drops_guard: report.drops.get(&DropReason::Plain).copied().unwrap_or(0),
        drops: report.drops.into_iter().map(|(reason, count)| (reason.to_string(), count)).collect(),
    }
}
