//! Who is a tenant, and who is one no more, not yet, or again.

use super::*;

/// A user of no meaning.
const UID: u32 = 54_321;
/// Long enough for a busy machine; nothing waits for it when all is well.
const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn a_cgroup_that_nobody_has_looked_at_is_kept_off_the_mesh_until_somebody_has() {
    world(|mut world| {
        let new = world.cgroups.make("new");
        enter(&new);
        type Try = fn() -> io::Result<()>;
        let attempts: [(&str, Try); 3] = [
            ("TCP", || connect("10.2.0.7:80", None).map(drop)),
            ("UDP", || loose("0.0.0.0:0", "10.2.0.7:53").map(drop)),
            ("UDP, IPv6", || loose("[::]:0", "[fd02::7]:53").map(drop)),
        ];
        for (what, attempt) in attempts {
            let (result, reason) = world.reason(attempt);
            assert_eq!(result.expect_err(what).kind(), ErrorKind::NetworkUnreachable, "{what}");
            assert_eq!(reason, "new_cgroup", "{what}");
        }
        let raw = raw();
        let (_, reason) = world.reason(|| {
            let to = sys::SockaddrStorage::from(SocketAddr::new(at(OUTSIDE[0]), 0));
            let packet = &udp(HOST[0], OUTSIDE[0], 9)[ETHERNET..];
            sys::sendto(raw.as_raw_fd(), packet, &to, sys::MsgFlags::empty()).ok();
        });
        assert_eq!(reason, "new_cgroup");
        assert_eq!(world.tunnel.try_receive(), None);
        let listener = TcpListener::bind("127.0.0.1:0").expect("what is not of the mesh is free");
        TcpStream::connect(listener.local_addr().expect("its address")).expect("free");

        let seen = TenancyRow { newest_cgroup: id(&new), ..world.bpf.observe().expect("rows").tenancy };
        world.bpf.apply(&MapStep::PutTenancy(seen)).expect("a row");
        attempts.iter().for_each(|(what, attempt)| attempt().expect(what));
        for _ in attempts {
            let source = ends(&world.tunnel.receive()).0;
            assert!(HOST.map(at).contains(&source), "{source}");
        }
    });
}

/// This thread is another user, but for what it may do; until this is dropped.
struct As;

impl As {
    fn user(uid: u32) -> Self {
        // SAFETY: both system calls take numbers, and change this thread alone.
        unsafe {
            assert_eq!(libc::syscall(libc::SYS_setresuid, uid, -1, -1), 0, "setresuid");
            libc::syscall(libc::SYS_setfsuid, uid);
        }
        Self
    }
}

impl Drop for As {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe {
            libc::syscall(libc::SYS_setresuid, 0, -1, -1);
            libc::syscall(libc::SYS_setfsuid, 0);
        }
    }
}

#[test]
fn a_user_is_a_tenant_wherever_its_processes_are_but_in_the_cgroup_of_another() {
    world(|mut world| {
        let user = TenantRow { v4: "10.1.255.4".parse().ok(), v6: None };
        ip("address add 10.1.255.4/32 dev mesh0");
        world.bpf.apply(&MapStep::PutLocal(at("10.1.255.4"), LocalRow::Tenant)).expect("a row");
        world.bpf.apply(&MapStep::PutUser(UID, user)).expect("a row");
        for (cgroup, source) in [(&world.other, "10.1.255.4"), (&world.a, A[0])] {
            enter(cgroup);
            let _as = As::user(UID);
            let _tcp = connect("10.2.0.7:80", None).expect("under way");
            assert_eq!(ends(&world.tunnel.receive()).0, at(source));
            let _udp = loose("0.0.0.0:0", "10.2.0.7:53").expect("sent");
            assert_eq!(ends(&world.tunnel.receive()).0, at(source));
        }
        enter(&world.other);
        let _as = As::user(UID);
        let (refused, reason) = world.reason(|| connect("[fd02::7]:80", None).map(drop));
        assert_eq!(refused.expect_err("it has no such address").kind(), ErrorKind::PermissionDenied);
        assert_eq!(reason, "wrong_source");
    });
}

#[test]
fn where_nobody_is_told_apart_everybody_is_the_host() {
    world(|mut world| {
        world.bpf.apply(&MapStep::PutTenancy(TenancyRow::default())).expect("a row");
        world.bpf.let_together().expect("taken away");
        assert!(!world.bpf.holds_apart());
        enter(&world.a);
        let _tcp = connect("10.2.0.7:80", None).expect("under way");
        assert_eq!(ends(&world.tunnel.receive()).0, at(HOST[0]));
        UdpSocket::bind((B[0], 0)).expect("nobody's");
        world.bpf.let_together().expect("they are away");
    });
}

#[test]
fn a_restarted_agent_holds_apart_what_the_one_before_it_held_apart() {
    on_a_host(|host| {
        let world = World::of(host);
        let World { bpf, tunnel, cgroups, a, .. } = world;
        drop(bpf);
        enter(&a);
        let refused = UdpSocket::bind((B[0], 0)).expect_err("no agent is needed for it");
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied);
        enter(&cgroups.root);
        let bpf = host.open();
        assert!(bpf.holds_apart());
        assert_eq!(bpf.observe().expect("rows").tenancy.tenants, 2);
        enter(&a);
        let before = bpf.drops().expect("counters")[&DropReason::WrongSource];
        UdpSocket::bind((B[0], 0)).expect_err("it is held apart");
        let counted = until("a count", || Some(bpf.drops().expect("counters")[&DropReason::WrongSource]));
        assert_eq!(counted, before + 1);
        let socket = loose("0.0.0.0:0", "10.2.0.7:53").expect("sent");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        assert_eq!(ends(&tunnel.receive()).0, at(A[0]));
    });
}
