//! Filters of `clsact`: how programs stand at a device's ingress and egress where the kernel has no TCX.
//!
//! `clsact` is a queueing discipline without a queue, one a device, that takes filters of everybody. Its
//! handle is `ffff:`, which it shares with the older `ingress`. (linux/pkt_sched.h, tc-bpf(8))

use super::{Error, Netlink};
use futures::{StreamExt, TryStreamExt};
use rtnetlink::{
    packet_core::{
        NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
    },
    packet_route::{
        RouteNetlinkMessage,
        tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
    },
};
use std::{
    collections::BTreeMap,
    os::fd::{AsRawFd, BorrowedFd},
};

const CLSACT: &str = "clsact";
/// Every protocol (linux/if_ether.h).
const ETH_P_ALL: u16 = 0x0003;

/// Which way packets pass a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Out of the device, to the host.
    Ingress,
    /// From the host, into the device.
    Egress,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// What takes filters at a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qdisc {
    /// Both directions.
    Clsact,
    /// Ingress only: a filter that is given for egress lands at ingress, too.
    Ingress,
}

impl Qdisc {
    /// Whether filters of this direction can be put there.
    pub(crate) fn takes(self, direction: Direction) -> bool {
        matches!((self, direction), (Self::Clsact, _) | (Self::Ingress, Direction::Ingress))
    }
}

/// A filter of a device and a direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Its classifier: `bpf`, `u32`, `flower` …
    pub(crate) kind: String,
    /// Its number among those of its priority.
    pub(crate) handle: u32,
    /// It is asked whatever the protocol.
    pub(crate) every_protocol: bool,
    /// As its maker called it; `bpf` only.
    pub(crate) name: String,
    /// Of its program; `bpf` only.
    pub(crate) program_id: u32,
}

/// Where a filter is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FilterPlace {
    pub(crate) ifindex: u32,
    pub(crate) direction: Direction,
    /// Filters of smaller numbers are asked first; 1 is the smallest.
    pub(crate) priority: u16,
}

impl Netlink {
    /// The devices that take filters.
    pub(crate) fn filtered_devices(&self) -> Result<BTreeMap<u32, Qdisc>, Error> {
        let request = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
        let mut found = BTreeMap::new();
        for answer in self.exchange("list queueing disciplines", request, NLM_F_DUMP)? {
            let RouteNetlinkMessage::NewQueueDiscipline(qdisc) = answer else { continue };
            let taker = match kind(&qdisc) {
                CLSACT => Qdisc::Clsact,
                "ingress" => Qdisc::Ingress,
                _ => continue,
            };
            found.insert(qdisc.header.index.cast_unsigned(), taker);
        }
        Ok(found)
    }

    /// Makes a device take filters; no error where it does.
    pub(crate) fn add_clsact(&self, ifindex: u32) -> Result<(), Error> {
        let mut message = TcMessage::with_index(ifindex.cast_signed());
        message.header.parent = TcHandle::CLSACT;
        message.header.handle = TcHandle { major: TcHandle::CLSACT.major, minor: 0 };
        message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
        let request = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.change(
            "add clsact (modules sch_ingress, cls_bpf)",
            request,
            NLM_F_CREATE | NLM_F_EXCL,
            &[libc::EEXIST],
        )
    }

    /// The filters of one priority in the order in which they are asked.
    pub(crate) fn filters(&self, at: FilterPlace) -> Result<Vec<Filter>, Error> {
        let mut message = filter_message(at, 0);
        // Of all protocols.
        message.header.info = u32::from(TcHandle { major: at.priority, minor: 0 });
        let request = RouteNetlinkMessage::GetTrafficFilter(message);
        let answers = self.exchange("list filters", request, NLM_F_DUMP)?;
        Ok(answers.iter().filter_map(filter).collect())
    }

    /// Puts a program that decides by itself ("direct action") before the other filters of its priority.
    ///
    /// A new filter of `cls_bpf` always gets to the head of its list. (linux, net/sched/cls_bpf.c)
    pub(crate) fn add_filter(
        &self,
        at: FilterPlace,
        handle: u32,
        name: &str,
        program: BorrowedFd<'_>,
    ) -> Result<(), Error> {
        let mut message = filter_message(at, handle);
        let fd = program.as_raw_fd().cast_unsigned();
        let options = [
            TcFilterBpfOption::ProgFd(fd),
            TcFilterBpfOption::ProgName(name.to_owned()),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ];
        message.attributes = vec![
            TcAttribute::Kind(TcFilterBpf::KIND.to_owned()),
            TcAttribute::Options(options.into_iter().map(TcOption::Bpf).collect()),
        ];
        let request = RouteNetlinkMessage::NewTrafficFilter(message);
        self.change("add a filter (module cls_bpf)", request, NLM_F_CREATE | NLM_F_EXCL, &[])
    }

    /// Takes a filter away; no error where it is gone, or its device.
    pub(crate) fn remove_filter(&self, at: FilterPlace, handle: u32) -> Result<(), Error> {
        let mut message = filter_message(at, handle);
        message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
        let request = RouteNetlinkMessage::DelTrafficFilter(message);
        self.change("remove a filter", request, 0, &[libc::ENOENT, libc::ENODEV])
    }

    fn change(
        &self,
        action: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
        tolerated: &[i32],
    ) -> Result<(), Error> {
        self.tolerate(tolerated, action, async { self.answers(request, NLM_F_ACK | flags).await.map(drop) })
    }

    fn exchange(
        &self,
        action: &'static str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        self.ask(action, self.answers(request, flags))
    }

    /// rtnetlink's own requests have no filters of BPF.
    async fn answers(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<RouteNetlinkMessage>, rtnetlink::Error> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        let answers = self.handle.clone().request(message)?;
        let payload = |answer: NetlinkMessage<RouteNetlinkMessage>| match answer.payload {
            NetlinkPayload::InnerMessage(message) => Ok(message),
            NetlinkPayload::Error(error) => Err(rtnetlink::Error::NetlinkError(error)),
            _ => Err(rtnetlink::Error::UnexpectedMessage(answer)),
        };
        answers.map(payload).try_collect().await
    }
}

fn filter_message(at: FilterPlace, handle: u32) -> TcMessage {
    let minor = match at.direction {
        Direction::Ingress => TcHandle::MIN_INGRESS,
        Direction::Egress => TcHandle::MIN_EGRESS,
    };
    let mut message = TcMessage::with_index(at.ifindex.cast_signed());
    message.header.parent = TcHandle { major: TcHandle::CLSACT.major, minor };
    message.header.handle = handle.into();
    message.header.info = u32::from(TcHandle { major: at.priority, minor: ETH_P_ALL.to_be() });
    message
}

fn kind(message: &TcMessage) -> &str {
    let kind = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    });
    kind.unwrap_or_default()
}

/// None: a list of filters tells of itself, too, without a handle; and what stands in another chain than the
/// first is asked only when a filter sends a packet there.
fn filter(answer: &RouteNetlinkMessage) -> Option<Filter> {
    let RouteNetlinkMessage::NewTrafficFilter(message) = answer else { return None };
    let elsewhere = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Chain(chain) if *chain != 0);
    let handle = u32::from(message.header.handle);
    if handle == 0 || message.attributes.iter().any(elsewhere) {
        return None;
    }
    let mut found = Filter {
        kind: kind(message).to_owned(),
        handle,
        every_protocol: TcHandle::from(message.header.info).minor == ETH_P_ALL.to_be(),
        name: String::new(),
        program_id: 0,
    };
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    for option in options.flatten() {
        match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => found.name.clone_from(name),
            TcOption::Bpf(TcFilterBpfOption::ProgId(id)) => found.program_id = *id,
            // Of another classifier, or nothing that ours differ by.
            _ => {}
        }
    }
    Some(found)
}
