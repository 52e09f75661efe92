use super::*;

#[test]
fn every_key_reads_back_as_itself() {
    for text in [
        "mesh/v1/west/cluster",
        "mesh/v1/west/heartbeat",
        "mesh/v1/west/lineage",
        "mesh/v1/west/synced/backends",
        "mesh/v1/west/peerings/east",
        "mesh/v1/west/nodes/w1.example.com",
        "mesh/v1/west/keys/w1",
        "mesh/v1/west/namespaces/shop",
        "mesh/v1/west/identities/shop/000102030405060708090a0b0c0d0e0f",
        "mesh/v1/west/endpoints/shop/10.2.0.7",
        "mesh/v1/west/endpoints/shop/fd00:2::7",
        "mesh/v1/west/services/shop/cart",
        "mesh/v1/west/backends/shop/cart/10.2.0.7",
        "mesh-local/v1/services/shop/cart",
        "mesh-local/v1/backends/shop/cart/fd00:2::7",
        "mesh-local/v1/applied/w1",
        "mesh-local/v1/peers/east",
        "mesh-local/v1/imports/east",
        "mesh-local/v1/closed/east",
        "mesh-local/v1/vms/web-1",
        "mesh-local/v1/presence/web-1",
    ] {
        let key = Key::parse(text.as_bytes()).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(key.to_string(), text);
    }
}

#[test]
fn a_fact_has_one_key_and_other_spellings_are_refused() {
    for text in [
        "mesh/v1/West/cluster",
        "mesh/v1/west/endpoints/shop/::ffff:10.2.0.7",
        "mesh/v1/west/endpoints/shop/FD00:2::7",
        "mesh/v1/west/endpoints/shop/fd00:0002::7",
        "mesh/v1/west/endpoints/shop/10.2.0.07",
        "mesh/v1/west/identities/shop/000102030405060708090A0B0C0D0E0F",
        "mesh/v1/west/services/shop/cart/extra",
        "mesh/v1/west/services/shop/",
        "mesh/v1/west/cluster/",
        "mesh/v1//cluster",
        "mesh/v1/-west/cluster",
        "mesh/v1/../cluster",
        "mesh/v2/west/cluster",
        "mesh-local/v1/applied/w1/x",
        "",
    ] {
        assert!(Key::parse(text.as_bytes()).is_err(), "{text} was accepted");
    }
    assert_eq!(Key::parse(&[0xff, 0xfe]), Err(KeyError::NotText));
    assert_eq!(Key::parse("x".repeat(2_000).as_bytes()), Err(KeyError::NotText));
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic_and_what_parses_prints_the_same(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
        if let Ok(key) = Key::parse(&bytes) {
            proptest::prop_assert_eq!(key.to_string().into_bytes(), bytes);
        }
    }
}
