//! A lab on one machine: clusters, nodes, pods and links as hostile as real ones, from one YAML file.
//!
//! ```text
//!   topology.yaml ──▶ up ──▶ holders ──▶ links ──▶ rules, pods (CNI) ──▶ processes
//!                     │         │
//!                     │         └ one a place: owns its namespaces, does nothing else
//!                     └ a cgroup  mesh-lab/<lab>/<cluster>/<node>/{host, pods/<pod>}
//!
//!          underlay (router, no route to a pod)
//!        ┌──────────────┴──────────────┐          a link: veth eth0 ⇄ a port of the segment's bridge
//!   segment of cluster-a          segment of cluster-b
//!    │      │       │              │      │      │
//!   a1     a2    control          b1   nat/home control
//!  (pods) (pods)                 (pods)   │
//!                                         b2
//!                                       (pods)
//! ```
//!
//! A **place** is where a program can run. Every place is a network namespace and a cgroup; nodes and hosts have a mount
//! namespace, too: own `/run`, `/sys`, bpffs, `/etc`, `/var/lib`, and their own cgroup as the root of
//! `/sys/fs/cgroup`, so that a product started with its defaults finds what it would find on a machine of its own.
//! Pods see through their node's eyes.
//!
//! What holds:
//!
//! - **A lab is one cgroup.** No namespace is bound to a file, no device or route is made outside the lab's namespaces.
//!   Writing to one `cgroup.kill` ends everything, and the kernel takes back the rest; that is all `down` does, so
//!   it works on the wreck of a lab as well as on a lab.
//! - **Only the lab's own processes are ever ended**: a cgroup's, or a pid whose start time is the one written down.
//! - **A program joins before it begins**: [`Entrance`] moves itself into the cgroup and the namespaces, then execs. The
//!   first socket of a program is already where BPF programs of the cgroup see it.
//! - **The lab does not know the products.** It starts command lines, with no variable of its own but `{bin}`, `{lab}`
//!   and `{file}` in the topology.
//! - Texts for `ip`, `nft`, `iptables-restore` and the CNI plugins come from pure functions of the [`Topology`]
//!   (`underlay`, `cut`, `delay`, `nat`, `node`, `cni`); `up` and `run` are the shell that feeds them.
//!
//! Tests use it as a library: [`Lab::up`] gives a handle whose drop takes the lab down, [`Lab::exec`] and
//! [`Lab::command`] run programs in places, [`Lab::inside`] opens sockets there, [`Lab::cut`], [`Lab::rebind`] and
//! [`Lab::kill`] break things, and a [`Sniffer`] tells what passed.

mod cached;
mod cgroup;
mod cni;
mod cut;
mod delay;
mod enter;
mod hold;
mod lab;
mod mounts;
mod nat;
mod netfilter;
mod node;
mod patience;
mod place;
mod port;
mod preflight;
mod process;
mod run;
mod shell;
mod sniffer;
mod state;
mod topology;
pub mod traffic;
mod underlay;
mod up;

pub use cached::cached;
pub use cut::{Cut, Side, Traffic};
pub use delay::relay;
pub use enter::Entrance;
pub use hold::{HoldSpec, hold};
pub use lab::{Lab, UpOptions};
pub use patience::patience;
pub use place::{BadName, Name, Place, Proc};
pub use port::free_port;
pub use process::{Activity, ProcessId};
pub use run::ProcessStatus;
pub use sniffer::{AllowList, Class, Report, Rule, Sniffer, Watch, Whom, parse_rules};
pub use state::{Paths, State};
pub use topology::{
    Cluster, Cni, CommandLine, DualAddr, DualNet, Guest, Host, Nat, NatKind, Node, Pod, ProcessSpec, Ready,
    RpFilter, Topology, TopologyFile, Underlay,
};
