//! Real sockets, in a network namespace of their own.

use super::close_udp;
use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    path::PathBuf,
    sync::mpsc,
    thread,
};

fn connected(from: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((from, 0)).expect("a port");
    socket.connect(to).expect("connected");
    socket
}

#[test]
fn udp_sockets_that_are_connected_to_a_backend_that_is_gone_are_closed_and_no_others() {
    let gone: SocketAddr = "127.0.0.1:5353".parse().expect("an address");
    let gone_v6: SocketAddr = "[::1]:5353".parse().expect("an address");
    let mapped: SocketAddr = "[::ffff:127.0.0.1]:5353".parse().expect("an address");
    let other: SocketAddr = "127.0.0.1:5354".parse().expect("an address");
    let backends = BTreeSet::from([gone, gone_v6]);
    let (tell, told) = mpsc::channel();
    let (close, closing) = mpsc::channel::<usize>();
    let pod = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: root is needed");
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip runs").success());
        let to_close = [connected("127.0.0.1", gone), connected("::1", gone_v6), connected("::", mapped)];
        let to_keep =
            [connected("127.0.0.1", other), UdpSocket::bind("127.0.0.1:5353").expect("the server itself")];
        tell.send(PathBuf::from(format!("/proc/{}/task/{}/ns/net", std::process::id(), gettid())))
            .expect("heard");
        assert_eq!(closing.recv().expect("closed"), 3);
        for socket in to_close {
            let error = socket.recv(&mut [0; 8]).expect_err("closed");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
            let error = socket.send(b"x").expect_err("closed");
            assert_eq!(error.raw_os_error(), Some(libc::EDESTADDRREQ), "{error}");
            // It is a socket like any other again.
            let again = socket.local_addr().expect("its own address");
            socket.connect(again).expect("connected anew");
        }
        for socket in to_keep {
            socket.set_nonblocking(true).expect("asked, not waited for");
            assert_eq!(socket.recv(&mut [0; 8]).expect_err("nothing came").kind(), ErrorKind::WouldBlock);
        }
    });
    let namespace = told.recv().expect("a namespace");
    let untouched = connected("127.0.0.1", other);
    let closed = close_udp(&BTreeSet::from([namespace, PathBuf::from("/proc/0/ns/net")]), &backends);
    close.send(closed.expect("closed, and what is gone has no sockets")).expect("heard");
    pod.join().expect("it went well");
    untouched.send(b"x").ok();
    assert_eq!(close_udp(&BTreeSet::new(), &BTreeSet::new()).expect("nothing to do"), 0);
}

#[test]
fn what_is_no_network_namespace_is_named() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_owned();
    let error = close_udp(&BTreeSet::from([path.clone()]), &BTreeSet::new()).expect_err("refused");
    assert!(
        format!("{error:#}").starts_with(&format!("cannot close sockets in {}", path.display())),
        "{error:#}"
    );
}
