//! How the host's resolver is pointed at us, and put back.
//!
//! | what the host has | how we are put in its way | where everything else goes |
//! |---|---|---|
//! | systemd-resolved with its stub | as the server of `mesh0`, for the mesh's domains only | we never hear of it |
//! | resolvconf, openresolv | as a record of our own, before all others | through us, to the servers of the other records |
//! | a plain file, or a link that nobody above owns | the file is replaced, and kept beside | through us, to the servers of what is kept |
//!
//! Which one it is is looked at again and again, and so is whether we are still in its way: levels, not
//! events.

pub mod command;
pub mod conf;
pub mod file;
pub mod resolvconf;
pub mod resolved;

use crate::dns::zone::Domain;
use api::name::NamespaceName;
use conf::{Nameserver, ResolvConf, is_ours};
use daemon::args::Hint;
use file::Files;
use resolvconf::{Flavour, Records};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    path::Path,
};

/// Who resolves names for this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// systemd-resolved, by its stub.
    Resolved,
    /// Whoever asks resolvconf.
    Resolvconf(Flavour),
    /// libc, from a file.
    File,
}

impl std::fmt::Display for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Resolved => "systemd-resolved",
            Self::Resolvconf(Flavour::Debian) => "resolvconf",
            Self::Resolvconf(Flavour::Openresolv) => "openresolv",
            Self::File => "/etc/resolv.conf",
        })
    }
}

/// Where the host's resolver is to send what.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Our server.
    pub server: SocketAddr,
    /// The mesh's device: what systemd-resolved knows of us goes with it.
    pub interface: String,
    /// The domains of short names, the nearest first; all of them are the mesh's.
    pub search: Vec<String>,
    /// The mesh's other domains.
    pub domains: Vec<String>,
}

impl Wanted {
    /// For a VM of a namespace, as pods of that namespace have it; while its namespace is not known, without it.
    #[must_use]
    pub fn new(
        server: SocketAddr,
        interface: &str,
        namespace: Option<&NamespaceName>,
        cluster: &Domain,
    ) -> Self {
        let cluster = cluster.text();
        let nearest = namespace.map(|namespace| format!("{namespace}.svc.{cluster}"));
        Self {
            server,
            interface: interface.to_owned(),
            search: nearest.into_iter().chain([format!("svc.{cluster}"), cluster]).collect(),
            domains: vec![Domain::clusterset().text()],
        }
    }
}

/// What a look found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Looked {
    /// Who resolves names.
    pub resolver: Resolver,
    /// The servers for everything else; none where we are not asked for it.
    pub servers: Vec<SocketAddr>,
    /// Something was changed.
    pub changed: bool,
}

/// The parts of the host that matter here.
#[derive(Debug, Clone)]
pub struct Host {
    files: Files,
    records: Records,
    name: String,
}

impl Host {
    /// Of a root directory, and what the host is called.
    #[must_use]
    pub fn new(root: &Path, name: &str) -> Self {
        Self {
            files: Files::in_etc(&root.join("etc")),
            records: Records::in_run(&root.join("run")),
            name: name.to_owned(),
        }
    }

    /// This host.
    #[must_use]
    pub fn this() -> Self {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::new(Path::new("/"), name.trim_end())
    }

    /// Who resolves names now.
    #[must_use]
    pub fn resolver(&self) -> Resolver {
        let target = fs::read_link(self.files.conf()).ok();
        let text = fs::read(self.files.conf()).unwrap_or_default();
        which(target.as_deref(), &String::from_utf8_lossy(&text))
    }

    /// Puts us in the resolver's way, if we are not.
    ///
    /// # Errors
    /// What stands in the way, with a hint; the host resolves as before then.
    pub async fn look(&self, wanted: &Wanted) -> anyhow::Result<Looked> {
        let us = wanted.server.ip();
        let resolver = self.resolver();
        let (changed, hosts) = match resolver {
            Resolver::Resolved => (resolved::take(wanted).await?, None),
            Resolver::Resolvconf(flavour) => {
                needs_port_53(wanted)?;
                let hosts = self.records.hosts()?;
                let search = conf::search(&wanted.search, &hosts.search_list(&self.name));
                (self.records.take(flavour, us, &search).await?, Some(hosts))
            }
            Resolver::File => {
                needs_port_53(wanted)?;
                let hosts = self.files.hosts()?;
                let taken = self.files.take(us, &wanted.search, &self.name)?;
                (taken != file::Taken::AsItWas, Some(hosts))
            }
        };
        let servers = hosts.map(|hosts| servers(&hosts, us)).unwrap_or_default();
        Ok(Looked { resolver, servers, changed })
    }

    /// Puts back what was there before, whatever was found by whoever took it: also after a crash, and twice.
    ///
    /// # Errors
    /// What stands in the way, with a hint.
    pub async fn restore(&self, interface: &str) -> anyhow::Result<()> {
        match self.resolver() {
            Resolver::Resolved => resolved::restore(interface).await,
            Resolver::Resolvconf(_) => self.records.restore().await,
            Resolver::File => Ok(()),
        }
        // The file may have been taken before the host got another resolver.
        .and(self.files.restore().map(|_| ()))
    }
}

/// Decides from what `/etc/resolv.conf` is. A link to the servers that systemd-resolved only writes down for
/// others (`/run/systemd/resolve/resolv.conf`) is a file: programs then ask those servers, and not
/// systemd-resolved.
fn which(target: Option<&Path>, text: &str) -> Resolver {
    const STUBS: [&str; 2] = ["systemd/resolve/stub-resolv.conf", "systemd/resolv.conf"];
    const RESOLVCONFS: [&str; 2] = ["resolvconf/resolv.conf", "resolvconf/run/resolv.conf"];
    let leads_to = |ends: &[&str]| target.is_some_and(|target| ends.iter().any(|end| target.ends_with(end)));
    let asks_the_stub = || {
        let conf = ResolvConf::parse(text);
        !conf.nameservers.is_empty()
            && conf.nameservers.iter().all(|one| STUB_ADDRESSES.contains(&one.address))
    };
    if is_ours(text) {
        Resolver::File
    } else if leads_to(&STUBS) || asks_the_stub() {
        Resolver::Resolved
    } else if leads_to(&RESOLVCONFS) {
        Resolver::Resolvconf(Flavour::Debian)
    } else if text.starts_with(resolvconf::OPENRESOLV_HEADER) {
        Resolver::Resolvconf(Flavour::Openresolv)
    } else {
        Resolver::File
    }
}

/// Where systemd-resolved listens. (systemd-resolved.service(8))
const STUB_ADDRESSES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

fn needs_port_53(wanted: &Wanted) -> anyhow::Result<()> {
    match wanted.server.port() {
        53 => Ok(()),
        port => Err(Hint::new(
            format!("cannot point this host's resolver at port {port}"),
            "resolv.conf(5) names no ports: serve names on port 53",
        )
        .into()),
    }
}

/// Addresses to ask, in their order. We are none of them, or a query would go round in a circle.
fn servers(hosts: &ResolvConf, us: IpAddr) -> Vec<SocketAddr> {
    let others = hosts.servers().into_iter().filter(|server| server.address != us);
    others.filter_map(|server| socket_address(&server)).collect()
}

fn socket_address(server: &Nameserver) -> Option<SocketAddr> {
    let scope = match &server.interface {
        // As libc does with an interface that is not there: without it, nothing is reached.
        Some(interface) => nix::net::if_::if_nametoindex(interface.as_str()).ok()?,
        None => 0,
    };
    Some(match server.address {
        IpAddr::V4(address) => (address, 53).into(),
        IpAddr::V6(address) => SocketAddrV6::new(address, 53, 0, scope).into(),
    })
}

#[cfg(test)]
mod tests;
