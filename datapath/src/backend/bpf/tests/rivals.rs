//! Beside another balancer at the sockets.

use super::{
    super::{Balancer, Bpf, Error, PacketHook, objects::OBJECTS},
    rig::{Host, on_a_host},
};
use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, CgroupSockAddr},
};
use std::fs::{self, File};

/// Our own connect4 program under a name of another product's, attached at the cgroup for as long as the object lives.
fn balancer_named(name: &str, host: &Host) -> Ebpf {
    const OURS: &str = "mesh_connect4";
    assert_eq!(name.len(), OURS.len(), "it takes our name's place in the object");
    let [mut object, ..] = OBJECTS.map(<[u8]>::to_vec);
    for at in 0..object.len() - name.len() {
        if object[at..].starts_with(OURS.as_bytes()) {
            object[at..at + name.len()].copy_from_slice(name.as_bytes());
        }
    }
    // Its maps are not ours.
    let pins = host.pins.with_file_name(name);
    fs::create_dir(&pins).expect("a directory");
    let mut ebpf = EbpfLoader::new().default_map_pin_directory(&pins).load(&object).expect("the object");
    let program: &mut CgroupSockAddr =
        ebpf.program_mut(name).expect("renamed").try_into().expect("a socket program");
    program.load().expect("loaded");
    program.attach(File::open(&host.cgroup).expect("a cgroup"), CgroupAttachMode::Single).expect("attached");
    ebpf
}

#[test]
fn a_balancer_that_has_the_sockets_is_refused_by_name_and_nothing_is_pinned() {
    on_a_host(|host| {
        let balancers =
            [("cil_sock4_con", "Cilium"), ("sock4_connect", "Cilium"), ("calico_conn_4", "Calico")];
        for (name, product) in balancers {
            let rival = balancer_named(name, host);
            let Err(error) = Bpf::open(&host.pins, &host.cgroup, PacketHook::Auto, Balancer::Auto) else {
                panic!("beside {name}")
            };
            assert!(matches!(error, Error::Rival(_)), "{error}");
            let text = error.to_string();
            assert!(
                text.starts_with(product) && text.contains(name) && text.contains("turn it off ("),
                "{text}"
            );
            assert!(!host.pins.exists());
            drop(rival);
        }
    });
}

#[test]
fn a_balancer_that_comes_later_is_seen_and_one_that_went_is_not() {
    on_a_host(|host| {
        let mut bpf = host.open();
        assert_eq!(bpf.rival().expect("asked"), None, "we are no rival of ours");
        let stranger = balancer_named("audit_connect", host);
        assert_eq!(bpf.rival().expect("asked"), None, "whoever else looks at connections may stay");
        let rival = balancer_named("cil_sock4_con", host);
        let seen = bpf.rival().expect("asked").expect("it is there");
        assert_eq!((seen.program.as_str(), seen.cgroup), ("cil_sock4_con", host.cgroup.clone()));
        drop((rival, stranger));
        assert_eq!(bpf.rival().expect("asked"), None);
    });
}
