//! Services by nftables, where the kernel has no socket programs: a table of its own, `inet mesh_services`, replaced whole
//! in one transaction.
//!
//! ```text
//!  output, -120 (filter): a new connection to a Service that has no such port, or no backend ─▶ refused at once
//!  output, -110 (nat):    address . protocol . port ─▶ chain of the set of backends ─▶ dnat, at random or by a hash
//! ```
//!
//! Both look once a connection; the rest of it is connection tracking's, so a table that is replaced moves none. What it
//! says is read from the rows of the maps, which hold the same as where socket programs read them.
//!
//! Whoever is refused hears it as from a host that has no such port. A datagram's sender is told EPERM first, which is what
//! the kernel says of every packet that a rule stops at output.
//!
//! With session affinity, this host as a whole is the client, and keeps its backend for as long as the set of backends
//! stays as it is: there is no memory beyond the connection, as the socket programs have it.

#[cfg(test)]
mod tests;

use super::{Error, accepted, run};
use crate::{
    backend::bpf::{BackendKey, Rows},
    image::Frontend,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
};

const TABLE: &str = "mesh_services";
/// Before every nat chain at output that others have, which are at -100 (`dstnat`): the first that translates wins.
const PRIORITY: i32 = -110;
/// Before that, while a packet still goes to the Service; behind connection tracking, which is at -200.
const REFUSE_PRIORITY: i32 = -120;

/// What the table holds, as far as this process knows: it wrote it, and nobody has changed it since.
#[derive(Debug, Default)]
pub struct Services {
    /// The script that made it, and how `nft` lists what came of that.
    written: Option<(String, String)>,
}

impl Services {
    /// Whether the table is what these rows say.
    ///
    /// # Errors
    /// When `nft` is missing.
    pub fn holds(&self, rows: &Rows) -> Result<bool, Error> {
        match &self.written {
            Some((script, listing)) if *script == self::script(rows) => Ok(list()?.as_ref() == Some(listing)),
            Some(_) | None => Ok(false),
        }
    }

    /// Makes the table what these rows say.
    ///
    /// # Errors
    /// When `nft` is missing or refuses; then nothing has changed.
    pub fn put(&mut self, rows: &Rows) -> Result<(), Error> {
        let script = script(rows);
        self.written = None;
        accepted(&run(&["--file", "-"], &script)?)?;
        self.written = list()?.map(|listing| (script, listing));
        Ok(())
    }
}

/// Takes the table away, where socket programs balance; succeeds when there is none.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn remove() -> Result<(), Error> {
    accepted(&run(&["--file", "-"], &absent())?)
}

/// The table as `nft` lists it; None: there is none.
fn list() -> Result<Option<String>, Error> {
    let output = run(&["--stateless", "list", "table", "inet", TABLE], "")?;
    Ok(output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// The first line makes "remove" of "remove if it is there".
fn absent() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

/// How the families differ here.
struct Family {
    number: u8,
    ip: &'static str,
}

const FAMILIES: [Family; 2] = [Family { number: 4, ip: "ip" }, Family { number: 6, ip: "ip6" }];

/// How the backends of a frontend are chosen: one chain for all frontends that do it alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    set: u32,
    is_v4: bool,
    is_sticky: bool,
}

impl Way {
    fn chain(self) -> String {
        let Self { set, is_v4, is_sticky } = self;
        format!("set{set}_v{}{}", if is_v4 { 4 } else { 6 }, if is_sticky { "_sticky" } else { "" })
    }
}

fn script(rows: &Rows) -> String {
    let (open, ways) = open(rows);
    let mut text = absent();
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes every write");
    line(format!("table inet {TABLE} {{"));
    for Family { number, .. } in &FAMILIES {
        let is_own = |is_v4: bool| is_v4 == (*number == 4);
        let addresses = rows.service_addresses.iter().filter(|own| is_own(own.is_ipv4()));
        line(block("set", &format!("services{number}"), &format!("ipv{number}_addr"), addresses));
        let open = || open.iter().filter(|(_, way)| is_own(way.is_v4));
        let ports = format!("ipv{number}_addr . inet_proto . inet_service");
        line(block("set", &format!("open{number}"), &ports, open().map(|(at, _)| element(at))));
        let to = open().map(|(at, way)| format!("{} : goto {}", element(at), way.chain()));
        line(block("map", &format!("to{number}"), &format!("{ports} : verdict"), to));
    }
    for (way, backends) in &ways {
        line(format!("chain {} {{\n{}\n}}", way.chain(), balance(*way, backends)));
    }
    line(format!("chain refuse {{\ntype filter hook output priority {REFUSE_PRIORITY}; policy accept;"));
    for Family { number, ip } in &FAMILIES {
        let refused = format!(
            "ct state new meta l4proto {{ tcp, udp }} {ip} daddr @services{number} \
             {ip} daddr . meta l4proto . th dport != @open{number}"
        );
        line(format!("{refused} meta l4proto tcp reject with tcp reset"));
        line(format!("{refused} reject with icmpx type port-unreachable"));
    }
    line(format!("}}\nchain balance {{\ntype nat hook output priority {PRIORITY}; policy accept;"));
    for Family { number, ip } in &FAMILIES {
        line(format!("{ip} daddr . meta l4proto . th dport vmap @to{number}"));
    }
    line("}\n}".to_owned());
    text
}

/// Frontends that have a backend, and of each way to choose the backends.
fn open(rows: &Rows) -> (BTreeMap<Frontend, Way>, BTreeMap<Way, BTreeSet<SocketAddr>>) {
    let (mut open, mut ways) = (BTreeMap::new(), BTreeMap::new());
    for (frontend, to) in &rows.services {
        let is_v4 = frontend.address.is_ipv4();
        let slots = (0..to.count).map(|slot| BackendKey { set: to.set, slot });
        let backends = slots.filter_map(|key| rows.backends.get(&key)).filter(|at| at.is_ipv4() == is_v4);
        let backends: BTreeSet<SocketAddr> = backends.copied().collect();
        if !backends.is_empty() {
            let way = Way { set: to.set, is_v4, is_sticky: rows.affinity.contains_key(frontend) };
            open.insert(*frontend, way);
            ways.insert(way, backends);
        }
    }
    (open, ways)
}

/// A set or a map. A list of no elements is no syntax.
fn block(kind: &str, name: &str, of: &str, elements: impl Iterator<Item = impl ToString>) -> String {
    let elements: Vec<String> = elements.map(|element| element.to_string()).collect();
    let elements = match elements.is_empty() {
        true => String::new(),
        false => format!("elements = {{ {} }}\n", elements.join(", ")),
    };
    format!("{kind} {name} {{\ntype {of}\n{elements}}}")
}

fn element(frontend: &Frontend) -> String {
    let protocol = frontend.protocol.to_string().to_lowercase();
    format!("{} . {protocol} . {}", frontend.address, frontend.port)
}

/// `nft` wants to hear once more of what protocol the port is.
fn balance(way: Way, backends: &BTreeSet<SocketAddr>) -> String {
    let family = if way.is_v4 { "ip" } else { "ip6" };
    let of = format!("meta nfproto ipv{} meta l4proto {{ tcp, udp }}", if way.is_v4 { 4 } else { 6 });
    let count = backends.len();
    let places: Vec<_> =
        (0..count).zip(backends).map(|(at, to)| format!("{at} : {} . {}", to.ip(), to.port())).collect();
    let choice = match way.is_sticky {
        true => format!("jhash {family} saddr . {family} daddr mod {count} seed 1"),
        false => format!("numgen random mod {count}"),
    };
    match backends.first() {
        Some(only) if count == 1 => format!("{of} dnat {family} to {only}"),
        Some(_) | None => {
            format!("{of} dnat {family} addr . port to {choice} map {{ {} }}", places.join(", "))
        }
    }
}
