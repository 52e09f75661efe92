//! bpf(2) by hand, for what aya 0.14 does not do: it cannot update a cgroup link, and makes TCX links by a device's
//! name only. Safe functions over one unsafe call each.
#![allow(unsafe_code)]

use std::{
    ffi::CString,
    io,
    mem::size_of,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

// linux/bpf.h
const BPF_OBJ_PIN: i32 = 6;
const BPF_OBJ_GET: i32 = 7;
const BPF_OBJ_GET_INFO_BY_FD: i32 = 15;
const BPF_PROG_QUERY: i32 = 16;
const BPF_LINK_CREATE: i32 = 28;
const BPF_LINK_UPDATE: i32 = 29;
const BPF_LINK_DETACH: i32 = 34;
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// How many programs one cgroup takes of a kind (`BPF_CGROUP_MAX_PROGS` of linux/bpf-cgroup-defs.h).
const CGROUP_PROGRAMS_MAX: usize = 64;
const BPF_LINK_TYPE_CGROUP: u32 = 3;
const BPF_LINK_TYPE_TCX: u32 = 11;

/// An attach type, as `enum bpf_attach_type` numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AttachType(pub u32);

impl AttachType {
    pub(super) const INGRESS: Self = Self(0);
    pub(super) const EGRESS: Self = Self(1);
    pub(super) const BIND4: Self = Self(8);
    pub(super) const BIND6: Self = Self(9);
    pub(super) const CONNECT4: Self = Self(10);
    pub(super) const CONNECT6: Self = Self(11);
    pub(super) const SENDMSG4: Self = Self(14);
    pub(super) const SENDMSG6: Self = Self(15);
    pub(super) const RECVMSG4: Self = Self(19);
    pub(super) const RECVMSG6: Self = Self(20);
    pub(super) const PEERNAME4: Self = Self(29);
    pub(super) const PEERNAME6: Self = Self(30);
    pub(super) const TCX_INGRESS: Self = Self(46);
    pub(super) const TCX_EGRESS: Self = Self(47);
}

/// What holds a pinned link in place now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPlace {
    /// A cgroup, by its id (the inode of its directory).
    Cgroup(u64),
    /// A device. 0: it is gone.
    Device(u32),
    /// A link of another kind than we make.
    Other,
}

/// Attaches to a cgroup, beside what others attached there.
pub(super) fn link_cgroup(
    prog: BorrowedFd<'_>,
    cgroup: BorrowedFd<'_>,
    at: AttachType,
) -> io::Result<OwnedFd> {
    link_create(prog, fd_number(cgroup), at, 0)
}

/// Attaches to a device, before what others attached there: nobody's verdict can go round ours.
pub(super) fn link_tcx(prog: BorrowedFd<'_>, ifindex: u32, at: AttachType) -> io::Result<OwnedFd> {
    link_create(prog, ifindex, at, BPF_F_BEFORE)
}

/// Whether this kernel has TCX: asked what stands at the loopback, which every network namespace has, only a
/// kernel without it does not know the question.
pub(super) fn has_tcx() -> io::Result<bool> {
    /// `bpf_attr.query` whole, as the kernel also writes what is behind the fields that were asked for.
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        ifindex: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_count: u32,
        pad: u32,
        prog_attach_flags: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const LOOPBACK: u32 = 1;
    let mut attr = Attr { ifindex: LOOPBACK, attach_type: AttachType::TCX_INGRESS.0, ..Attr::default() };
    // SAFETY: `Attr` is all of `bpf_attr.query`, which the kernel reads and fills; it asks for no list, so there is
    // no pointer in it.
    match unsafe { bpf(BPF_PROG_QUERY, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(true), // nothing stands there
            Some(libc::EINVAL) => Ok(false),
            _ => Err(error),
        },
    }
}

fn link_create(prog: BorrowedFd<'_>, target: u32, at: AttachType, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        prog_fd: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        pad: u32,
        expected_revision: u64,
    }
    let mut attr = Attr { prog_fd: fd_number(prog), target, attach_type: at.0, flags, ..Attr::default() };
    // SAFETY: `Attr` is the head of `bpf_attr.link_create`; BPF_LINK_CREATE reads it and answers with a new
    // descriptor that nobody else owns.
    unsafe {
        let fd = bpf(BPF_LINK_CREATE, &mut attr)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Replaces the program of a link; no packet and no call in between sees none.
pub(super) fn link_update(link: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        link_fd: u32,
        new_prog_fd: u32,
        flags: u32,
        old_prog_fd: u32,
    }
    let mut attr = Attr { link_fd: fd_number(link), new_prog_fd: fd_number(new), ..Attr::default() };
    // SAFETY: `Attr` is `bpf_attr.link_update`; the kernel only reads it.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr) }.map(drop)
}

/// Takes a link off its place at once. Without this the program runs on until the kernel gets round to the last
/// reference, which it does in a work queue.
pub(super) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = fd_number(link);
    // SAFETY: `bpf_attr.link_detach` is one descriptor; the kernel only reads it.
    unsafe { bpf(BPF_LINK_DETACH, &mut attr) }.map(drop)
}

/// Where a link is attached now.
pub(super) fn link_place(link: BorrowedFd<'_>) -> io::Result<LinkPlace> {
    /// The head of `struct bpf_link_info`, as cgroup and TCX links fill it.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        prog_id: u32,
        pad: u32,
        /// cgroup: its id. TCX: the ifindex, then the attach type.
        target: [u32; 2],
        rest: [u32; 2],
    }
    #[repr(C)]
    struct Attr {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = Info::default();
    let mut attr =
        Attr { fd: fd_number(link), len: size_of::<Info>() as u32, info: &raw mut info as usize as u64 };
    // SAFETY: `Attr` is `bpf_attr.info`; it points to `len` writable bytes that live through the call, and the
    // kernel cuts its answer to `len`.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)? };
    let [low, high] = info.target;
    Ok(match info.kind {
        BPF_LINK_TYPE_CGROUP if cfg!(target_endian = "little") => {
            LinkPlace::Cgroup(u64::from(low) | u64::from(high) << 32)
        }
        BPF_LINK_TYPE_CGROUP => LinkPlace::Cgroup(u64::from(high) | u64::from(low) << 32),
        BPF_LINK_TYPE_TCX => LinkPlace::Device(low),
        _ => LinkPlace::Other,
    })
}

/// The ids of the programs that run for a cgroup's sockets, those of the cgroups above it, too.
pub(super) fn attached(cgroup: BorrowedFd<'_>, at: AttachType) -> io::Result<Vec<u32>> {
    #[repr(C)]
    #[derive(Default)]
    struct Attr {
        target_fd: u32,
        attach_type: u32,
        query_flags: u32,
        attach_flags: u32,
        prog_ids: u64,
        prog_cnt: u32,
        pad: u32,
    }
    let mut ids = [0; CGROUP_PROGRAMS_MAX];
    let mut attr = Attr {
        target_fd: fd_number(cgroup),
        attach_type: at.0,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        prog_ids: ids.as_mut_ptr() as usize as u64,
        prog_cnt: CGROUP_PROGRAMS_MAX as u32,
        ..Attr::default()
    };
    // SAFETY: `Attr` is the head of `bpf_attr.query`; the kernel writes at most `prog_cnt` ids to `prog_ids`, which
    // lives through the call, and how many it wrote to `prog_cnt`.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr)? };
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

/// Opens a pin.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { path: path.as_ptr() as usize as u64, ..ObjAttr::default() };
    // SAFETY: `ObjAttr` is the head of the attributes of BPF_OBJ_GET; `path` is a C string that lives through the
    // call, and the answer is a new descriptor that nobody else owns.
    unsafe {
        let fd = bpf(BPF_OBJ_GET, &mut attr)?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Pins an object; the path must not exist.
pub(super) fn pin(fd: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = ObjAttr { path: path.as_ptr() as usize as u64, fd: fd_number(fd), flags: 0 };
    // SAFETY: as in `open_pin`; the kernel only reads.
    unsafe { bpf(BPF_OBJ_PIN, &mut attr) }.map(drop)
}

/// What a device says of itself.
#[derive(Debug)]
pub(super) struct Device {
    /// `ARPHRD_*` of linux/if_arp.h
    pub hardware_type: u16,
    /// Name of its driver; empty where it has none.
    pub driver: String,
}

/// Asks a device of this thread's network namespace.
pub(super) fn device(ifindex: u32) -> io::Result<Device> {
    /// `struct ethtool_drvinfo` of linux/ethtool.h
    #[repr(C)]
    struct DriverInfo {
        command: u32,
        driver: [u8; 32],
        rest: [u8; 160],
    }
    const ETHTOOL_GDRVINFO: u32 = 3;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;

    let name = nix::net::if_::if_indextoname(ifindex)?;
    let socket = nix::sys::socket::socket(
        nix::sys::socket::AddressFamily::Inet,
        nix::sys::socket::SockType::Datagram,
        nix::sys::socket::SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero bytes are a valid `ifreq`: integers, addresses and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // Shorter than the array, so that the string ends: IFNAMSIZ counts its last byte.
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    // SAFETY: SIOCGIFHWADDR reads and writes one `ifreq`, which lives through the call; when it succeeds, it has
    // filled `ifru_hwaddr`.
    let hardware_type = unsafe {
        if libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) < 0 {
            return Err(io::Error::last_os_error());
        }
        request.ifr_ifru.ifru_hwaddr.sa_family
    };
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    // SAFETY: SIOCETHTOOL reads the command and writes one `ethtool_drvinfo` through `ifru_data`; both live through
    // the call. A device without a driver answers EOPNOTSUPP and writes nothing.
    unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    let driver = info.driver.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Device { hardware_type, driver: String::from_utf8_lossy(driver).into_owned() })
}

fn fd_number(fd: BorrowedFd<'_>) -> u32 {
    u32::try_from(fd.as_raw_fd()).expect("an open descriptor is not negative")
}

/// # Safety
///
/// `T` must be what `command` expects at the head of `bpf_attr`, and pointers in it must be valid for the call.
unsafe fn bpf<T>(command: i32, attr: &mut T) -> io::Result<i32> {
    // SAFETY: the caller vouches for `attr`; its size goes along, and the kernel reads and writes no more.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<T>()) };
    match i32::try_from(result) {
        Ok(value) if value >= 0 => Ok(value),
        _ => Err(io::Error::last_os_error()),
    }
}
