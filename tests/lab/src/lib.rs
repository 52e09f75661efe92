//! A lab on one machine: clusters, nodes, pods and links as hostile as real ones, from one YAML file.
mod cgroup;
mod cni;
mod cut;
mod enter;
mod hold;
mod lab;
mod mounts;
mod node;
mod place;
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

pub use cut::{Cut, Side, Traffic};
pub use enter::Entrance;
pub use hold::{HoldSpec, hold};
pub use lab::{Lab, UpOptions};
pub use place::{BadName, Name, Place, Proc};
pub use process::{Activity, ProcessId};
pub use run::ProcessStatus;
pub use sniffer::{AllowList, Class, Report, Rule, Sniffer, Watch, Whom, parse_rules};
pub use state::{Paths, State};
pub use topology::{
    Cluster, Cni, CommandLine, DualAddr, DualNet, Guest, Host, Node, Pod, ProcessSpec, Ready, RpFilter,
    Topology, TopologyFile, Underlay,
};
