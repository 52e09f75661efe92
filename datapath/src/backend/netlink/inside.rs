//! A look into another network namespace: the device of a pod, and which namespace the host's own devices call it.

use super::{Error, Netlink};
use crate::bindings::{Inside, POD_INTERFACE};
use futures::StreamExt;
use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use nix::sched::{CloneFlags, setns};
use rtnetlink::packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

/// A namespace cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum InsideError {
    /// It is gone, or not ours to open.
    #[error("cannot enter the network namespace {}", path.display())]
    Enter {
        /// Where it is.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel could not be asked.
    #[error(transparent)]
    Netlink(#[from] Error),
    /// No Ethernet pair of this name.
    #[error("{} has no {POD_INTERFACE} that is one end of a pair", .0.display())]
    NoInterface(PathBuf),
    /// No device of the host leads there.
    #[error("no device of this host leads into {}", .0.display())]
    Unknown(PathBuf),
}

/// Looks at a pod's device. Blocks, on a thread of its own: a namespace is a thread's, and this one ends with it.
///
/// # Errors
/// When there is none, or it cannot be looked at.
pub fn inside(path: &Path) -> Result<Inside, InsideError> {
    thread::scope(|scope| scope.spawn(|| look(path)).join().expect("a look into a namespace does not panic"))
}

fn look(path: &Path) -> Result<Inside, InsideError> {
    let enter = |source| InsideError::Enter { path: path.to_owned(), source };
    let namespace = File::open(path).map_err(enter)?;
    let host = Netlink::open()?;
    // Listing the devices gives every namespace a number that the host's pairs lead to.
    host.devices()?;
    let nsid = host.nsid(namespace.as_fd())?.ok_or_else(|| InsideError::Unknown(path.to_owned()))?;
    setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(|error| enter(error.into()))?;
    let devices = Netlink::open()?.devices()?;
    let device = devices.into_iter().find(|device| device.name == POD_INTERFACE);
    device
        .and_then(|device| {
            let (_, peer) = device.peer?;
            Some(Inside { ifindex: device.ifindex, peer, mac: device.mac?, nsid })
        })
        .ok_or_else(|| InsideError::NoInterface(path.to_owned()))
}

impl Netlink {
    /// The number of another namespace in this one, if it has one. (RTM_GETNSID)
    fn nsid(&self, namespace: BorrowedFd<'_>) -> Result<Option<i32>, Error> {
        let mut question = NsidMessage::default();
        question.attributes = vec![NsidAttribute::Fd(namespace.as_raw_fd().cast_unsigned())];
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        let mut handle = self.handle.clone();
        self.ask("tell a namespace's number", async move {
            let mut answers = handle.request(request).map_err(|_| rtnetlink::Error::RequestFailed)?;
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                        let id = answer.attributes.iter().find_map(|attribute| match attribute {
                            NsidAttribute::Id(id) => Some(*id),
                            _ => None,
                        });
                        return Ok(id.filter(|id| *id >= 0));
                    }
                    NetlinkPayload::Error(error) => return Err(rtnetlink::Error::NetlinkError(error)),
                    _ => {}
                }
            }
            Ok(None)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bindings::{Sandbox, sandboxed};
    use nix::{sched::unshare, unistd::gettid};
    use std::{collections::BTreeSet, process::Command, sync::mpsc};

    fn ip(arguments: &str) {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.expect("iproute2").success(), "ip {arguments}");
    }

    /// A host and a pod, each a thread in a namespace of its own, which ends with the thread.
    #[test]
    fn a_pods_device_is_found_through_its_namespace_and_a_pair_that_a_pod_made_itself_is_none() {
        let host = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
            let (ask, asked) = mpsc::channel::<mpsc::Sender<()>>();
            let (tell, told) = mpsc::channel();
            let pod = thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
                tell.send(gettid()).expect("heard");
                for done in asked {
                    // The pod renames the device that it was given, and puts a pair of its own in its place.
                    ip("link set eth0 name eth1");
                    ip("link add eth0 type veth peer name inner");
                    done.send(()).expect("heard");
                }
            });
            let pid = told.recv().expect("a namespace");
            let namespace = PathBuf::from(format!("/proc/{}/task/{pid}/ns/net", std::process::id()));
            assert!(matches!(inside(&namespace), Err(InsideError::Unknown(_))), "nothing leads there");
            ip("link add veth1 type veth peer name eth0 address 0a:58:0a:01:01:05");
            ip(&format!("link set eth0 netns {pid}"));

            let links = || Netlink::open().expect("netlink").links().expect("devices");
            let found = inside(&namespace).expect("a device");
            let sandbox = Sandbox {
                id: "c1".to_owned(),
                addresses: BTreeSet::from(["10.1.1.5".parse().expect("an address")]),
                namespace: namespace.clone(),
            };
            let attached = sandboxed(&sandbox, &found, &links()).expect("bound");
            assert_eq!(attached.host_devices, ["veth1"]);
            assert_eq!(found.mac, [0x0a, 0x58, 0x0a, 1, 1, 5]);

            let (done, finished) = mpsc::channel();
            ask.send(done).expect("heard");
            finished.recv().expect("changed");
            // Both ends of its own pair are in its namespace, so it is not even one that leads out.
            assert!(matches!(inside(&namespace), Err(InsideError::NoInterface(_))));
            drop(ask);
            pod.join().expect("it went well");
        });
        host.join().expect("it went well");
        assert!(matches!(inside(Path::new("/proc/0/ns/net")), Err(InsideError::Enter { .. })));
    }
}
