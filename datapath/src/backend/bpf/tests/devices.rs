//! Devices with two ends in the test's hands: a TUN, and a veth whose other end is a pod's.
#![allow(unsafe_code)]

use super::rig::{ifindex, ip};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sched::{CloneFlags, setns, unshare},
    unistd::{read, write},
};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    panic::resume_unwind,
    thread,
    time::{Duration, Instant},
};

/// Ends a test that would wait for ever; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST_PACKET: usize = 65_535;

/// The far end of a device: what the device sends is received here, what is sent here the device receives.
pub struct End {
    fd: OwnedFd,
}

impl End {
    pub fn send(&self, packet: &[u8]) {
        assert_eq!(write(&self.fd, packet).expect("sent"), packet.len());
    }

    /// The next packet; waits for it.
    pub fn receive(&self) -> Vec<u8> {
        until("a packet", || self.try_receive())
    }

    /// The next packet, if it is there.
    pub fn try_receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; LARGEST_PACKET];
        match read(&self.fd, &mut buffer) {
            Ok(bytes) => {
                buffer.truncate(bytes);
                Some(buffer)
            }
            Err(Errno::EAGAIN) => None,
            Err(e) => panic!("cannot read: {e}"),
        }
    }
}

impl End {
    /// Sends a bare IP packet through a device of this namespace, as the host's stack would.
    pub fn send_as(&self, packet: &[u8], device: &str) {
        let protocol: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
        let address = link_address(device, protocol.to_be());
        let bytes = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("20");
        // SAFETY: sendto(2) reads `packet` and one `sockaddr_ll`; both live through the call.
        let sent = unsafe {
            let (data, to) = (packet.as_ptr().cast(), (&raw const address).cast());
            libc::sendto(self.fd.as_raw_fd(), data, packet.len(), 0, to, bytes)
        };
        // What a program drops on the way out is an error of the call's.
        assert!(
            sent == packet.len().cast_signed() || Errno::last() == Errno::ENOBUFS,
            "sent: {}",
            Errno::last()
        );
    }

    /// The next frame with this source; an end also sees what it sent itself.
    pub fn receive_from(&self, mac: [u8; 6]) -> Vec<u8> {
        self.receive_where(|frame| frame[6..12] == mac)
    }

    /// The next frame with this destination.
    pub fn receive_to(&self, mac: [u8; 6]) -> Vec<u8> {
        self.receive_where(|frame| frame[..6] == mac)
    }

    fn receive_where(&self, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let frame = self.receive();
            if wanted(&frame) {
                return frame;
            }
        }
    }
}

fn link_address(device: &str, protocol_be: u16) -> libc::sockaddr_ll {
    // SAFETY: all-zero bytes are a valid `sockaddr_ll`.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET).expect("17");
    address.sll_protocol = protocol_be;
    address.sll_ifindex = ifindex(device).cast_signed();
    address
}

/// Waits for what a softirq may still be doing.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(started.elapsed() < PATIENCE, "{what} did not come");
        thread::yield_now();
    }
}

/// The stack of this namespace sends nothing by itself: no solicitations, reports or redirects.
pub fn silence() {
    for family in ["default", "all"] {
        fs::write(format!("/proc/sys/net/ipv6/conf/{family}/disable_ipv6"), "1").expect("a setting");
        fs::write(format!("/proc/sys/net/ipv4/conf/{family}/send_redirects"), "0").expect("a setting");
    }
}

/// Makes a TUN that is up, and returns the end of its owner: bare IP packets.
pub fn tun(name: &str) -> End {
    ip(&format!("tuntap add {name} mode tun"));
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("/dev/net/tun");
    // SAFETY: all-zero bytes are a valid `ifreq`: integers, addresses and null pointers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = i16::try_from(libc::IFF_TUN | libc::IFF_NO_PI).expect("two small flags");
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives through the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "TUNSETIFF: {}", io::Error::last_os_error());
    let end = End { fd: file.into() };
    fcntl(&end.fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("asked, not waited for");
    ip(&format!("link set {name} up"));
    end
}

/// A pod: a network namespace with one device.
pub struct Pod {
    /// Frames as the pod's device sends and receives them.
    pub end: End,
    namespace: File,
}

impl Pod {
    /// Runs something among the pod's own sockets and addresses.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            setns(&self.namespace, CloneFlags::CLONE_NEWNET).expect("the pod's namespace");
            body()
        };
        thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }
}

/// Makes a veth with this name on the host's side, and a pod at its other side, whose device has the name and `-p`.
pub fn pod(name: &str, mac: [u8; 6]) -> Pod {
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    let device = format!("{name}-p");
    let namespace = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        silence();
        File::open("/proc/thread-self/ns/net").expect("the namespace")
    });
    let namespace = namespace.join().expect("a namespace");
    ip(&format!("link add {name} type veth peer name {device} address {mac}"));
    ip(&format!("link set {device} netns /proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd()));
    ip(&format!("link set {name} up"));
    let inside = || {
        setns(&namespace, CloneFlags::CLONE_NEWNET).expect("the pod's namespace");
        ip(&format!("link set {device} up"));
        packet_socket(&device)
    };
    let end = thread::scope(|scope| scope.spawn(inside).join()).expect("a socket");
    Pod { end, namespace }
}

/// What passes a device of this namespace, in both directions of the stack: frames, or bare packets where the device
/// has no link layer.
pub fn packet_socket(device: &str) -> End {
    const EVERYTHING: u16 = 0x0003_u16.to_be(); // ETH_P_ALL
    // SAFETY: socket(2) takes three numbers; what it returns belongs to nobody else.
    let fd = unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        let fd = libc::socket(libc::AF_PACKET, kind, i32::from(EVERYTHING));
        assert!(fd >= 0, "a packet socket: {}", io::Error::last_os_error());
        OwnedFd::from_raw_fd(fd)
    };
    let address = link_address(device, EVERYTHING);
    let bytes = u32::try_from(size_of::<libc::sockaddr_ll>()).expect("20");
    // SAFETY: bind(2) reads one `sockaddr_ll`, which lives through the call.
    let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), bytes) };
    assert_eq!(result, 0, "bind to {device}: {}", io::Error::last_os_error());
    End { fd }
}

/// A socket option that the standard library has no name for.
pub fn option(socket: &impl AsRawFd, level: i32, name: i32) -> i32 {
    let mut value = 0_i32;
    let mut bytes = u32::try_from(size_of::<i32>()).expect("4");
    // SAFETY: getsockopt(2) writes at most `bytes` to `value`; both live through the call.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut bytes) };
    assert_eq!(result, 0, "option {level}/{name}: {}", io::Error::last_os_error());
    value
}

/// Sets such an option.
pub fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: i32) {
    let bytes = u32::try_from(size_of::<i32>()).expect("4");
    // SAFETY: setsockopt(2) reads `bytes` from `value`, which lives through the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), bytes) };
    assert_eq!(result, 0, "option {level}/{name}: {}", io::Error::last_os_error());
}
