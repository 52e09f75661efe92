//! Where packet programs stand at a device: at TCX, which Linux has from 6.6 on, or else in filters of
//! `clsact`.
//!
//! Chosen once, when the agent starts, by asking the kernel: distributions bring features back, and a version
//! does not say which.

use super::{Error, Missing, raw};
use std::fmt;

/// What packet programs are attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    /// Links of TCX: pinned, nobody else's to remove, before every filter.
    Tcx,
    /// Filters of the `clsact` queueing discipline, each a stub that jumps to its program.
    Clsact,
}

impl Hook {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tcx, Self::Clsact];

    /// Its name in flags, logs and status.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What may be chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PacketHook {
    /// TCX where the kernel has it, else `clsact`.
    #[default]
    Auto,
    /// This one only.
    Only(Hook),
}

/// Asks the kernel, and chooses.
pub(super) fn choose(wanted: PacketHook) -> Result<Hook, Error> {
    Ok(judge(wanted, raw::has_tcx().map_err(Error::Probe)?)?)
}

fn judge(wanted: PacketHook, has_tcx: bool) -> Result<Hook, Missing> {
    match wanted {
        PacketHook::Auto if has_tcx => Ok(Hook::Tcx),
        PacketHook::Only(Hook::Tcx) if !has_tcx => Err(Missing::Tcx),
        PacketHook::Auto => Ok(Hook::Clsact),
        PacketHook::Only(hook) => Ok(hook),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcx_is_chosen_where_the_kernel_has_it_and_nothing_else_was_asked_for() {
        use PacketHook::{Auto, Only};
        let cases = [
            (Auto, true, Ok(Hook::Tcx)),
            (Auto, false, Ok(Hook::Clsact)),
            (Only(Hook::Clsact), true, Ok(Hook::Clsact)),
            (Only(Hook::Clsact), false, Ok(Hook::Clsact)),
            (Only(Hook::Tcx), true, Ok(Hook::Tcx)),
            (Only(Hook::Tcx), false, Err(Missing::Tcx)),
        ];
        for (wanted, has_tcx, expected) in cases {
            assert_eq!(judge(wanted, has_tcx), expected, "{wanted:?}, TCX: {has_tcx}");
        }
    }
}
