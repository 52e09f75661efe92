//! The three objects: their maps are pinned or taken over from pins of the same make, their programs are verified.

use super::{Balancing, Error};
use aya::{
    Ebpf, EbpfLoader, include_bytes_aligned,
    maps::MapData,
    programs::{Program as AyaProgram, ProgramFd},
};
use std::{
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};

static SOCKET: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/socket.bpf.o"));
static PACKET: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/packet.bpf.o"));
static TENANT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tenant.bpf.o"));
pub(super) static STUB: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stub.bpf.o"));

/// The loaded programs. They live while this or a link holds them.
#[derive(Debug)]
pub(super) struct Objects {
    socket: Ebpf,
    packet: Ebpf,
    tenant: Ebpf,
}

impl Objects {
    /// Loads them, with the maps that are pinned in `dir`, or new ones pinned there. Where nftables balances, the kernel
    /// may refuse the programs of sockets and tenants, and their maps alone are made.
    pub(super) fn load(dir: &Path, balancing: Balancing) -> Result<Self, Error> {
        check_geometry("socket.bpf.o", SOCKET, dir)?;
        check_geometry("packet.bpf.o", PACKET, dir)?;
        check_geometry("tenant.bpf.o", TENANT, dir)?;
        let at_sockets = match balancing {
            Balancing::Socket => load,
            Balancing::Nftables => load_maps,
        };
        Ok(Self {
            socket: at_sockets("socket.bpf.o", SOCKET, dir)?,
            packet: load("packet.bpf.o", PACKET, dir)?,
            tenant: at_sockets("tenant.bpf.o", TENANT, dir)?,
        })
    }

    pub(super) fn socket(&self, function: &str) -> BorrowedFd<'_> {
        program_fd(&self.socket, function).as_fd()
    }

    pub(super) fn tenant(&self, function: &str) -> BorrowedFd<'_> {
        program_fd(&self.tenant, function).as_fd()
    }

    pub(super) fn packet(&self, function: &str) -> BorrowedFd<'_> {
        self.packet_fd(function).as_fd()
    }

    pub(super) fn packet_fd(&self, function: &str) -> &ProgramFd {
        program_fd(&self.packet, function)
    }

    #[cfg(test)]
    pub(super) fn packet_program(&self, function: &str) -> &AyaProgram {
        self.packet.program(function).expect("the object has this program")
    }
}

#[cfg(test)]
pub(super) const OBJECTS: [&[u8]; 4] = [SOCKET, PACKET, TENANT, STUB];

fn load(name: &str, object: &[u8], dir: &Path) -> Result<Ebpf, Error> {
    let mut ebpf = load_maps(name, object, dir)?;
    for (function, program) in ebpf.programs_mut() {
        let loaded = match program {
            AyaProgram::CgroupSockAddr(p) => p.load(),
            AyaProgram::CgroupSkb(p) => p.load(),
            AyaProgram::SchedClassifier(p) => p.load(),
            _ => unreachable!("bpf/ has programs of cgroups and classifiers only"),
        };
        loaded.map_err(|source| failed(&format!("`{function}`"), source))?;
    }
    Ok(ebpf)
}

/// An object with the maps that are pinned in `dir`, or new ones pinned there; none of its programs is loaded.
pub(super) fn load_maps(name: &str, object: &[u8], dir: &Path) -> Result<Ebpf, Error> {
    EbpfLoader::new().default_map_pin_directory(dir).load(object).map_err(|source| failed(name, source))
}

pub(super) fn failed(what: &str, source: impl Into<aya::EbpfError>) -> Error {
    Error::Load { what: what.to_owned(), source: Box::new(source.into()) }
}

fn program_fd<'a>(ebpf: &'a Ebpf, function: &str) -> &'a ProgramFd {
    ebpf.program(function)
        .and_then(|p| p.fd().ok())
        .expect("every program of the object was loaded by `load`")
}

/// Refuses pinned maps of another make: the kernel and aya take any map behind a pin, and the programs would read it
/// with the wrong eyes.
pub(super) fn check_geometry(name: &str, object: &[u8], dir: &Path) -> Result<(), Error> {
    let object = aya_obj::Object::parse(object).map_err(|source| failed(name, source))?;
    let mut maps: Vec<_> = object.maps.iter().collect();
    maps.sort_by_key(|(name, _)| *name);
    for (name, needed) in maps {
        let path = dir.join(name);
        if !path.exists() {
            continue;
        }
        let found = MapData::from_pin(&path)
            .and_then(|map| map.info())
            .map_err(|source| failed(&format!("pin {}", path.display()), source))?;
        let kind = found.map_type().map_or(0, |kind| kind as u32);
        let found =
            geometry(kind, found.key_size(), found.value_size(), found.max_entries(), found.map_flags());
        let needed = geometry(
            needed.map_type(),
            needed.key_size(),
            needed.value_size(),
            needed.max_entries(),
            needed.map_flags(),
        );
        if found != needed {
            return Err(Error::Geometry { path, found, needed, dir: dir.to_owned() });
        }
    }
    Ok(())
}

fn geometry(kind: u32, key_bytes: u32, value_bytes: u32, max_entries: u32, flags: u32) -> String {
    format!(
        "type {kind}, keys of {key_bytes} and values of {value_bytes} bytes, {max_entries} entries, flags {flags:#x}"
    )
}
