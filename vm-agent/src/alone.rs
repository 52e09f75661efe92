//! One agent on a host: two would point its resolver at themselves by turns, and program one data path twice.
//!
//! Whoever runs holds a name among the host's abstract sockets. It is the network namespace's, as `mesh0` is, it needs no
//! file that somebody could leave behind, and it is free in the moment in which its owner dies. (unix(7))

use anyhow::Context as _;
use daemon::args::Hint;
use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixListener},
    },
};

const NAME: &[u8] = b"mesh-vm-agent";

/// As long as it lives, no other agent runs here.
#[derive(Debug)]
pub struct Alone(#[expect(dead_code, reason = "it is held, and nobody is listened to")] UnixListener);

impl Alone {
    /// Takes the place of this host's agent.
    ///
    /// # Errors
    /// Another one has it; says how to find it.
    pub fn on_this_host() -> anyhow::Result<Self> {
        let name = SocketAddr::from_abstract_name(NAME).context("cannot name a socket")?;
        UnixListener::bind_addr(&name).map(Self).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => Hint::new(
                "another mesh-vm-agent runs on this host, and two would change its resolver and its data path by turns",
                "`systemctl stop mesh-vm-agent`; where no unit runs it, `pgrep -a mesh-vm-agent` shows it",
            )
            .into(),
            _ => anyhow::Error::from(error).context("cannot take the place of this host's agent"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sched::{CloneFlags, unshare};

    #[test]
    fn a_second_agent_is_refused_until_the_first_one_has_ended() {
        let host = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
            let first = Alone::on_this_host().expect("nobody is here");
            let refused = Alone::on_this_host().expect_err("somebody is").to_string();
            assert!(refused.contains("another mesh-vm-agent runs on this host"), "{refused}");
            drop(first);
            Alone::on_this_host().expect("nobody is here any more");
        });
        host.join().expect("it went well");
    }
}
