//! Each claim of the demo and more, held by the real binaries and real packets: needs root, and says so.
//!
//! `cargo test -p e2e` runs what `cargo build --workspace --bins` built before.

#[path = "main/bad_input.rs"]
mod bad_input;
#[path = "main/bad_links.rs"]
mod bad_links;
#[path = "main/busy.rs"]
mod busy;
#[path = "main/certificates.rs"]
mod certificates;
#[path = "main/choice.rs"]
mod choice;
#[path = "main/cnis.rs"]
mod cnis;
#[path = "main/cold_start.rs"]
mod cold_start;
#[path = "main/cost.rs"]
mod cost;
#[path = "main/dead_backend.rs"]
mod dead_backend;
#[path = "main/edge.rs"]
mod edge;
#[path = "main/gateways.rs"]
mod gateways;
#[path = "main/global_service.rs"]
mod global_service;
#[path = "main/headless.rs"]
mod headless;
#[path = "main/hostile_peer.rs"]
mod hostile_peer;
#[path = "main/kernels.rs"]
mod kernels;
#[path = "main/kubernetes.rs"]
mod kubernetes;
#[path = "main/leftovers.rs"]
mod leftovers;
#[path = "main/machine.rs"]
mod machine;
#[path = "main/nats.rs"]
mod nats;
#[path = "main/newcomer.rs"]
mod newcomer;
#[path = "main/on_kubernetes.rs"]
mod on_kubernetes;
#[path = "main/operator.rs"]
mod operator;
#[path = "main/other_kernel.rs"]
mod other_kernel;
#[path = "main/path_mtu.rs"]
mod path_mtu;
#[path = "main/programs.rs"]
mod programs;
#[path = "main/relays.rs"]
mod relays;
#[path = "main/roll_out.rs"]
mod roll_out;
#[path = "main/scope_all.rs"]
mod scope_all;
#[path = "main/site.rs"]
mod site;
#[path = "main/sizes.rs"]
mod sizes;
#[path = "main/sniffer.rs"]
mod sniffer;
#[path = "main/story.rs"]
mod story;
#[path = "main/streams.rs"]
mod streams;
#[path = "main/thin_links.rs"]
mod thin_links;
#[path = "main/three.rs"]
mod three;
#[path = "main/tokens.rs"]
mod tokens;
#[path = "main/udp_cut.rs"]
mod udp_cut;
#[path = "main/upgrade.rs"]
mod upgrade;
#[path = "main/vm_clock.rs"]
mod vm_clock;
#[path = "main/vm_nftables.rs"]
mod vm_nftables;
#[path = "main/vm_postgres.rs"]
mod vm_postgres;
#[path = "main/vms.rs"]
mod vms;
#[path = "main/workspace.rs"]
mod workspace;
