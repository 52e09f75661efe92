//! Nothing is normalised that is not on the list, and what is planted is found.

use conformance::{api, script, server::Server, show::Show};
use expect_test::expect;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use std::collections::BTreeSet;

#[test]
fn a_difference_in_any_field_but_these_is_seen() {
    let mut same = BTreeSet::new();
    for message in answers() {
        for field in message.fields() {
            let [one, other] = [5, 4].map(|number| {
                let mut filled = filled(&message, 5);
                filled.set_field(&field, value(&field, number));
                Show::default().lines(&filled)
            });
            if one == other {
                same.insert(field.full_name().to_owned());
            }
        }
    }
    expect![[r#"
        etcdserverpb.LeaseTimeToLiveResponse.TTL
        etcdserverpb.ResponseHeader.cluster_id
        etcdserverpb.ResponseHeader.member_id
        etcdserverpb.ResponseHeader.raft_term"#]]
    .assert_eq(&same.into_iter().collect::<Vec<_>>().join("\n"));
}

#[tokio::test]
async fn a_server_that_is_one_revision_ahead_is_found_out() {
    let script = include_str!("../../scripts/watch_the_past.txt");
    let planted = format!("KV/Put key: \"planted\"\n{script}");
    let [right, wrong] = [
        script::run(script, &Server::ours().await.expect("ours")).await,
        script::run(&planted, &Server::ours().await.expect("ours")).await,
    ];
    assert!(!wrong.ends_with(&right), "every revision is one more");
}

/// Every message that an answer of the services that scripts ask is made of.
fn answers() -> Vec<MessageDescriptor> {
    let pool = api::pool();
    let asked = ["KV", "Watch", "Lease", "Lock", "Election"];
    let services = pool.services().filter(|service| asked.contains(&service.name()));
    let mut all: Vec<MessageDescriptor> =
        services.flat_map(|service| service.methods().map(|m| m.output()).collect::<Vec<_>>()).collect();
    let mut at = 0;
    while let Some(message) = all.get(at).cloned() {
        for field in message.fields() {
            if let Kind::Message(inner) = field.kind()
                && !all.contains(&inner)
            {
                all.push(inner);
            }
        }
        at += 1;
    }
    all
}

fn filled(message: &MessageDescriptor, number: u8) -> DynamicMessage {
    let mut filled = DynamicMessage::new(message.clone());
    for field in message.fields() {
        filled.set_field(&field, value(&field, number));
    }
    filled
}

/// A value of the field's kind: for 5 another one than for 4.
fn value(field: &FieldDescriptor, number: u8) -> Value {
    let one = match field.kind() {
        Kind::Int64 => Value::I64(number.into()),
        Kind::Uint64 => Value::U64(number.into()),
        Kind::Bool => Value::Bool(number % 2 == 1),
        Kind::String => Value::String(number.to_string()),
        Kind::Bytes => Value::Bytes(number.to_string().into_bytes().into()),
        Kind::Enum(_) => Value::EnumNumber(number.into()),
        Kind::Message(inner) => {
            let mut message = DynamicMessage::new(inner.clone());
            if number.is_multiple_of(2) {
                let first = inner.fields().next().expect("a message of an answer has fields");
                message.set_field(&first, value(&first, 5));
            }
            Value::Message(message)
        }
        other => panic!("no answer has a field of kind {other:?}"),
    };
    if field.is_list() { Value::List(vec![one]) } else { one }
}
