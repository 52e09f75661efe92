use super::*;

const UUID: &str = "3f1c2a9e-5b7d-4c1e-8f20-0a1b2c3d4e5f";

#[test]
fn an_id_is_read_back_as_it_was_written() {
    for text in ["cluster/west", "node/w1.example.org", "vm/edge-7", "operator/admin", "reader/grafana"] {
        let text = format!("spiffe://{UUID}/{text}");
        assert_eq!(text.parse::<SpiffeId>().map(|id| id.to_string()), Ok(text));
    }
}

#[test]
fn what_is_not_exactly_one_of_our_ids_is_refused() {
    for text in [
        format!("https://{UUID}/node/w1"),
        format!("spiffe://{UUID}/node"),
        format!("spiffe://{UUID}/node/w1/"),
        format!("spiffe://{UUID}/node/w1/more"),
        format!("spiffe://{}/node/w1", UUID.to_uppercase()),
        format!("spiffe://{UUID}/admin/w1"),
        format!("spiffe://{UUID}/Node/w1"),
        format!("spiffe://{UUID}/node/"),
        format!("spiffe://{UUID}/node/W1"),
        format!("spiffe://{UUID}/cluster/two.labels"),
        "spiffe://west/cluster/west".to_owned(),
    ] {
        assert!(text.parse::<SpiffeId>().is_err(), "{text}");
    }
}
