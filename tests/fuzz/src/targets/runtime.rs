//! What runs beside us on a node.

use datapath::bindings::{Cached, attachment, bind};

/// A cached result of a CNI plugin.
pub(super) fn cni(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(Cached::Attached(attached)) = attachment(text) {
        assert!(!attached.addresses.is_empty(), "what attaches no address attaches nothing");
        assert!(attached.namespace.as_ref().is_none_or(|path| path.is_absolute()));
        let bound = bind(&[(String::from("fuzz"), attached)], &[]);
        assert!(bound.pods.is_empty(), "without devices nothing is bound");
    }
}
