//! What only TCX has; the tests of the kernels without it leave this module out by its name.

use super::{
    super::{Attachment, Hook, Program, abi::PIN_VERSION, raw, raw::LinkPlace},
    rig::{ifindex, ip, on_a_host_by, place},
};
use std::collections::BTreeSet;

#[test]
fn the_pin_of_a_device_that_is_gone_is_swept() {
    on_a_host_by(Hook::Tcx, |host| {
        ip("link add up0 type veth peer name up1");
        let at = Attachment { program: Program::UplinkIn, ifindex: ifindex("up0") };
        let mut bpf = host.open();
        bpf.attach(at).expect("attached");
        let pin = host.pins.join(PIN_VERSION).join(format!("links/uplink-in-{}", at.ifindex));
        assert_eq!(place(&pin), LinkPlace::Device(at.ifindex));
        ip("link del up0");
        assert_eq!(place(&pin), LinkPlace::Device(0));
        assert_eq!(bpf.attachments().expect("links"), BTreeSet::new());
        assert!(!pin.exists());
    });
}

#[test]
fn the_kernel_is_believed_when_it_says_that_it_has_tcx() {
    on_a_host_by(Hook::Clsact, |host| {
        let bpf = host.open();
        let linked =
            raw::link_tcx(bpf.objects.packet("mesh_uplink_in"), ifindex("lo"), raw::AttachType::TCX_INGRESS);
        assert!(linked.is_ok() && raw::has_tcx().expect("an answer"), "{linked:?}");
    });
}
