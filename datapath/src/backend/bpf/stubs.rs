//! The stubs that stand at devices where there is no TCX, and the array by which they find their programs.
//!
//! Array and stubs are pinned and outlive the agent. A later one points the slots at its own programs, which
//! replaces them at all devices and touches none.

use super::{
    Error,
    abi::SLOTS,
    objects::{Objects, STUB, check_geometry, failed, load_maps},
};
use aya::{
    maps::ProgramArray,
    programs::{ProgramError, SchedClassifier},
};
use std::{
    collections::BTreeMap,
    fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

const OBJECT: &str = "stub.bpf.o";
const JUMPS: &str = "mesh_jumps";

/// The loaded stubs, by the function that each jumps to.
pub(super) struct Stubs {
    by_function: BTreeMap<&'static str, Stub>,
}

/// One of them.
pub(super) struct Stub {
    program: SchedClassifier,
    /// The kernel's number of it: a filter tells whose it is.
    pub(super) id: u32,
}

impl Stub {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.program.fd().expect("it is loaded").as_fd()
    }

    #[cfg(test)]
    pub(super) fn program(&self) -> &SchedClassifier {
        &self.program
    }
}

impl Stubs {
    /// Takes over what is pinned in `dir`, or pins new ones, and lets all of them jump to these programs.
    pub(super) fn open(dir: &Path, objects: &Objects) -> Result<Self, Error> {
        check_geometry(OBJECT, STUB, dir)?;
        if !dir.join(JUMPS).exists() {
            // They would jump by an array that nobody fills any more.
            remove_dir(&stubs_dir(dir))?;
        }
        super::create_dir(&stubs_dir(dir))?;
        let mut object = load_maps(OBJECT, STUB, dir)?;
        let jumps = object.take_map(JUMPS).expect("the object has this map");
        let map_failed =
            |source| Error::Map { action: "point the stubs at their programs in", map: JUMPS, source };
        let mut jumps = ProgramArray::try_from(jumps).map_err(map_failed)?;
        // First the slots, then the stubs: none of them ever finds nothing.
        for (slot, function) in (0..).zip(SLOTS) {
            jumps.set(slot, objects.packet_fd(function), 0).map_err(map_failed)?;
        }
        let mut by_function = BTreeMap::new();
        for function in SLOTS {
            let name = function.replacen("mesh_", "mesh_stub_", 1);
            let stub = object.program_mut(&name).expect("the object has a stub for every slot");
            let stub: &mut SchedClassifier = stub.try_into().expect("stubs are classifiers");
            let stub = take_over_or_load(&stubs_dir(dir).join(&name), stub)
                .map_err(|source| failed(&format!("`{name}`"), source))?;
            by_function.insert(function, stub);
        }
        Ok(Self { by_function })
    }

    /// The stub that jumps to a function of the packet object.
    pub(super) fn of(&self, function: &str) -> &Stub {
        self.by_function.get(function).expect("every packet function has a slot")
    }

    /// Removes the pins; filters that are still there hand everything on from then on.
    pub(super) fn remove(dir: &Path) -> Result<(), Error> {
        remove_dir(&stubs_dir(dir))?;
        let path = dir.join(JUMPS);
        gone(fs::remove_file(&path)).map_err(|source| Error::Pins { action: "remove", path, source })
    }
}

fn take_over_or_load(pin: &Path, new: &mut SchedClassifier) -> Result<Stub, aya::EbpfError> {
    if !pin.exists() {
        new.load()?;
        new.pin(pin).map_err(|source| ProgramError::IOError(io::Error::other(source)))?;
    }
    let program = SchedClassifier::from_pin(pin)?;
    let id = program.info()?.id();
    Ok(Stub { program, id })
}

fn stubs_dir(dir: &Path) -> PathBuf {
    dir.join("stubs")
}

fn remove_dir(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Pins { action: "remove", path: path.to_owned(), source };
    gone(fs::remove_dir_all(path)).map_err(failed)
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
