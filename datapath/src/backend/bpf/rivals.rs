//! Other balancers at the sockets of this host. Two of them fight: the one that was attached first answers for a
//! Service's address, and the second sees a backend that it does not know. A global Service would then be a local one,
//! and nobody would say so.

use super::{
    Error,
    links::SOCKET_PROGRAMS,
    raw::{self, AttachType},
};
use aya::programs::loaded_programs;
use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

/// How the names of their programs begin, of which the kernel keeps 15 bytes; whose they are, and how to turn them off.
const BALANCERS: [(&str, &str, &str); 4] = [
    ("cil_sock", "Cilium's socket load balancer", CILIUM),
    // Before Cilium 1.12.
    ("sock4_", "Cilium's socket load balancer", CILIUM),
    ("sock6_", "Cilium's socket load balancer", CILIUM),
    ("calico_conn", "Calico's connect-time load balancer", "bpfConnectTimeLoadBalancing: Disabled"),
];
const CILIUM: &str = "socketLB.enabled=false, and kubeProxyReplacement=false, which brings it back";

/// A balancer of somebody else's at our cgroup.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{product} is attached at {cgroup} (program {program}) and would choose backends before the mesh does: turn it off ({off})"
)]
pub struct Rival {
    /// Whose it is.
    pub product: &'static str,
    /// As the kernel names it.
    pub program: String,
    /// Where it is attached.
    pub cgroup: PathBuf,
    /// How to turn it off.
    pub off: &'static str,
}

/// Looks for rivals at one cgroup.
#[derive(Debug)]
pub(super) struct Lookout {
    cgroup: PathBuf,
    /// Programs that are none, by id: their names are read once.
    harmless: BTreeSet<u32>,
}

impl Lookout {
    pub(super) fn at(cgroup: &Path) -> Self {
        Self { cgroup: cgroup.to_owned(), harmless: BTreeSet::new() }
    }

    /// The first balancer that chooses backends for sockets of this cgroup and is not ours. One whose programs have
    /// names that we do not know, or may not read, is not seen.
    pub(super) fn look(&mut self) -> Result<Option<Rival>, Error> {
        let attached = self.attached().map_err(|source| Error::Pins {
            action: "ask what is attached at",
            path: self.cgroup.clone(),
            source,
        })?;
        if attached.is_subset(&self.harmless) {
            return Ok(None);
        }
        // What went meanwhile is no rival any more.
        let programs = loaded_programs().flatten().filter(|program| attached.contains(&program.id()));
        let rival = programs.filter_map(|program| judge(program.name_as_str()?, &self.cgroup)).next();
        self.harmless = if rival.is_none() { attached } else { BTreeSet::new() };
        Ok(rival)
    }

    fn attached(&self) -> io::Result<BTreeSet<u32>> {
        let cgroup = fs::File::open(&self.cgroup)?;
        let choosing = SOCKET_PROGRAMS.iter().filter(|(_, at)| chooses(*at));
        let ids =
            choosing.map(|(_, at)| raw::attached(cgroup.as_fd(), *at)).collect::<io::Result<Vec<_>>>()?;
        Ok(ids.into_iter().flatten().collect())
    }
}

fn chooses(at: AttachType) -> bool {
    [AttachType::CONNECT4, AttachType::CONNECT6].contains(&at)
}

fn judge(program: &str, cgroup: &Path) -> Option<Rival> {
    let (_, product, off) = BALANCERS.into_iter().find(|(head, ..)| program.starts_with(head))?;
    Some(Rival { product, program: program.to_owned(), cgroup: cgroup.to_owned(), off })
}
