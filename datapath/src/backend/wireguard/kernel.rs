//! A WireGuard device of the kernel, by generic netlink.
//!
//! A request is one attribute tree, which the kernel takes in its order and from whose middle it returns when something is
//! wrong: the shell sends what [`requests`] packed, one after the other, each answered before the next.
//! (linux/wireguard.h)

mod requests;
#[cfg(test)]
mod tests;

use super::{Error, Observed, Step};
use crate::backend::exchange::{ask, messages};
use anyhow::{Context, bail};
use api::bytes::PublicKey;
use ipnet::IpNet;
use netlink_packet_core::{ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NetlinkPayload};
use netlink_packet_generic::{
    GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_wireguard::{
    WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute, WireguardCmd, WireguardMessage,
    WireguardPeer, WireguardPeerAttribute, WireguardTimeSpec,
};
use netlink_sys::{Socket, protocols::NETLINK_GENERIC};
use requests::{Removal, Request};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::Mutex,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Reads of a device that changed meanwhile: the agent is its only writer, so one more is all but always enough.
const READS_MAX: usize = 8;

/// A device of the network namespace in which this was opened.
pub(super) struct Kernel {
    interface: String,
    state: Mutex<State>,
}

struct State {
    socket: Socket,
    /// Number of generic netlink's `wireguard` family in this boot.
    family: u16,
    sequence: u32,
    removal: Removal,
}

impl Kernel {
    pub(super) fn open(interface: &str) -> Result<Self, Error> {
        let failed = |error| Error::kernel("ask for WireGuard devices, for", interface, error);
        let state = State::open().map_err(failed)?;
        Ok(Self { interface: interface.to_owned(), state: Mutex::new(state) })
    }

    pub(super) fn get(&self) -> Result<Observed, Error> {
        self.with(|state| state.get(&self.interface)).map_err(|error| self.failed("read", error))
    }

    /// Applies steps in their order, in as few requests as their size allows.
    pub(super) fn set(&self, steps: &[Step]) -> Result<(), Error> {
        self.with(|state| {
            let is_removal = |step: &Step| matches!(step, Step::RemoveAllowedIp { .. });
            // Before Linux 6.16 a removal has to know whose an address is, which earlier steps may change.
            for steps in steps.chunk_by(|a, b| is_removal(a) == is_removal(b)) {
                if is_removal(&steps[0]) {
                    state.remove(&self.interface, steps)?;
                } else {
                    state.send_all(&self.interface, requests::pack(steps))?;
                }
            }
            Ok(())
        })
        .map_err(|error| self.failed("change", error))
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> anyhow::Result<T>) -> anyhow::Result<T> {
        f(&mut self.state.lock().expect("nobody panics with the socket in hand"))
    }

    fn failed(&self, action: &'static str, error: anyhow::Error) -> Error {
        Error::kernel(action, &self.interface, error)
    }
}

impl State {
    fn open() -> anyhow::Result<Self> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        // An error does not bring the request back, which may hold a key.
        socket.set_cap_ack(true)?;
        let family = family(&socket)?;
        Ok(Self { socket, family, sequence: 1, removal: Removal::Single })
    }

    fn get(&mut self, interface: &str) -> anyhow::Result<Observed> {
        for _ in 0..READS_MAX {
            if let Some(observed) = self.read(interface)? {
                return Ok(observed);
            }
        }
        bail!("it changed {READS_MAX} times while it was read")
    }

    /// None: the device changed between two parts of the answer.
    fn read(&mut self, interface: &str) -> anyhow::Result<Option<Observed>> {
        let attributes = vec![WireguardAttribute::IfName(interface.to_owned())];
        self.ask(NLM_F_DUMP, WireguardCmd::GetDevice, attributes)?;
        let mut observed = Observed {
            at: SystemTime::now(),
            public_key: None,
            port: None,
            fwmark: 0,
            peers: BTreeMap::new(),
        };
        let mut is_whole = true;
        loop {
            // The device's private key is in it.
            let bytes = Zeroizing::new(self.socket.recv_from_full()?.0);
            for message in messages::<GenlMessage<WireguardMessage>>(&bytes) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue; // the rest of an answer that was given up
                }
                is_whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(part) => take_device(&mut observed, part.payload.attributes),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code).into());
                    }
                    NetlinkPayload::Done(_) => return Ok(is_whole.then_some(observed)),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    other => bail!("the kernel answered {other:?}"),
                }
            }
        }
    }

    /// Takes addresses from peers that have them.
    fn remove(&mut self, interface: &str, steps: &[Step]) -> anyhow::Result<()> {
        if self.removal == Removal::Single {
            match self.send_all(interface, requests::remove(steps)) {
                // The kernel knows no flags of an address, and refused before it took one.
                Err(error) if is_invalid(&error) => self.removal = Removal::Parked,
                result => return result,
            }
        }
        let owners = owners(&self.get(interface)?);
        self.send_all(interface, requests::park(steps, |net, key| owners.get(net) == Some(key)))
    }

    fn send_all(&mut self, interface: &str, requests: Vec<Request>) -> anyhow::Result<()> {
        requests.into_iter().try_for_each(|request| self.send(interface, request))
    }

    fn send(&mut self, interface: &str, request: Request) -> anyhow::Result<()> {
        let mut attributes = vec![WireguardAttribute::IfName(interface.to_owned())];
        attributes.extend(request);
        self.ask(NLM_F_ACK, WireguardCmd::SetDevice, attributes)?;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            for message in messages::<GenlMessage<WireguardMessage>>(&bytes) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Error(ErrorMessage { code: None, .. }) => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                    other => bail!("the kernel answered {other:?}"),
                }
            }
        }
    }

    fn ask(
        &mut self,
        flags: u16,
        cmd: WireguardCmd,
        attributes: Vec<WireguardAttribute>,
    ) -> anyhow::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = GenlMessage::from_payload(WireguardMessage { cmd, attributes });
        message.set_resolved_family_id(self.family);
        let asked = ask(&self.socket, flags, self.sequence, message)?;
        for attribute in asked.payload.attributes {
            if let WireguardAttribute::PrivateKey(mut key) = attribute {
                key.zeroize();
            }
        }
        Ok(())
    }
}

/// Asks generic netlink's controller for the number of the `wireguard` family; it is there when the module is.
fn family(socket: &Socket) -> anyhow::Result<u16> {
    let name = GenlCtrlAttrs::FamilyName("wireguard".to_owned());
    let request = GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] };
    ask(socket, 0, 0, GenlMessage::from_payload(request))?;
    let (bytes, _) = socket.recv_from_full()?;
    let message =
        messages::<GenlMessage<GenlCtrl>>(&bytes).next().context("the kernel answered nothing")??;
    match message.payload {
        NetlinkPayload::InnerMessage(answer) => {
            let number = answer.payload.nlas.iter().find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(number) => Some(*number),
                _ => None,
            });
            number.context("the kernel names no number of its WireGuard family")
        }
        NetlinkPayload::Error(error) => Err(error.to_io().into()),
        other => bail!("the kernel answered {other:?}"),
    }
}

fn is_invalid(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

fn owners(observed: &Observed) -> BTreeMap<IpNet, PublicKey> {
    let peers = observed.peers.iter();
    peers.flat_map(|(key, peer)| peer.allowed_ips.iter().map(move |net| (*net, *key))).collect()
}

fn take_device(observed: &mut Observed, attributes: Vec<WireguardAttribute>) {
    for attribute in attributes {
        match attribute {
            WireguardAttribute::PrivateKey(mut key) => key.zeroize(),
            WireguardAttribute::PublicKey(key) => observed.public_key = Some(PublicKey(key)),
            WireguardAttribute::ListenPort(port) => observed.port = (port != 0).then_some(port),
            WireguardAttribute::Fwmark(mark) => observed.fwmark = mark,
            WireguardAttribute::Peers(peers) => peers.into_iter().for_each(|peer| take_peer(observed, peer)),
            // Its name and number, and what later kernels say.
            _ => {}
        }
    }
}

/// A peer, or more of the addresses of one that did not fit into one message.
fn take_peer(observed: &mut Observed, WireguardPeer(attributes): WireguardPeer) {
    let key = attributes.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(PublicKey(*key)),
        _ => None,
    });
    let Some(key) = key else { return };
    let peer = observed.peers.entry(key).or_default();
    for attribute in attributes {
        match attribute {
            WireguardPeerAttribute::PresharedKey(mut key) => key.zeroize(),
            WireguardPeerAttribute::Endpoint(endpoint) => peer.endpoint = Some(endpoint),
            WireguardPeerAttribute::PersistentKeepalive(seconds) => peer.keepalive_s = seconds,
            WireguardPeerAttribute::LastHandshake(at) => peer.last_handshake = moment(at),
            WireguardPeerAttribute::RxBytes(bytes) => peer.rx_bytes = bytes,
            WireguardPeerAttribute::TxBytes(bytes) => peer.tx_bytes = bytes,
            WireguardPeerAttribute::AllowedIps(nets) => peer.allowed_ips.extend(nets.iter().filter_map(net)),
            _ => {}
        }
    }
}

/// The kernel says 0 for a peer without a session.
fn moment(at: WireguardTimeSpec) -> Option<SystemTime> {
    let (seconds, nanos) = (u64::try_from(at.seconds).ok()?, u32::try_from(at.nano_seconds).ok()?);
    (seconds > 0).then(|| UNIX_EPOCH + Duration::new(seconds, nanos))
}

fn net(WireguardAllowedIp(attributes): &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut bits): (Option<IpAddr>, Option<u8>) = (None, None);
    for attribute in attributes {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(found) => address = Some(*found),
            WireguardAllowedIpAttr::Cidr(found) => bits = Some(*found),
            _ => {}
        }
    }
    IpNet::new(address?, bits?).ok()
}
