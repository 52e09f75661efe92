//! What the programs and the agent share is laid out alike on both sides, field by field. Enums are numbers to the
//! compiler and stand in no BTF: `pins` holds how many reasons there are, and packets hold which.

use super::super::{abi, objects::OBJECTS};
use super::btf::{Struct, types};

/// A struct as Rust has it.
type Layout = (&'static str, usize, Vec<(&'static str, usize, usize)>);

fn ours() -> Vec<Layout> {
    vec![
        abi::Route::layout(),
        abi::Local::layout(),
        abi::FrontendKey::layout(),
        abi::SetRefValue::layout(),
        abi::BackendKeyRow::layout(),
        abi::Endpoint::layout(),
        abi::Config::layout(),
        abi::Tenant::layout(),
        abi::Cgroup::layout(),
        abi::Tenancy::layout(),
    ]
}

#[test]
fn every_field_has_its_place_and_size_in_c_and_in_rust() {
    let objects = OBJECTS.map(types);
    for layout in ours() {
        let found: Vec<&Struct> = objects.iter().filter_map(|types| types.get(layout.0)).collect();
        assert!(!found.is_empty(), "no object knows struct {}", layout.0);
        for theirs in found {
            assert_eq!(differences(&layout, theirs), Vec::<String>::new());
        }
    }
    let mesh_addr = objects.iter().find_map(|types| types.get("mesh_addr")).expect("an address");
    assert_eq!(mesh_addr.0, size_of::<abi::Addr>());
}

#[test]
fn a_field_that_is_moved_renamed_resized_or_left_out_is_noticed() {
    let objects = OBJECTS.map(types);
    let theirs = objects.iter().find_map(|types| types.get("mesh_local")).expect("mesh_local");
    let (name, size, fields) = abi::Local::layout();
    let changed = |change: fn(&mut Vec<(&'static str, usize, usize)>)| {
        let mut fields = fields.clone();
        change(&mut fields);
        differences(&(name, size, fields), theirs)
    };
    assert_eq!(changed(|_| {}), Vec::<String>::new());
    // The whole struct keeps its size in each of these, so nothing but the fields tells.
    assert_eq!(
        changed(|fields| fields[2].1 = 11),
        ["mesh_local: `kind` at 11 of 1 bytes, and in C `kind` at 10 of 1 bytes"]
    );
    assert_eq!(changed(|fields| fields.swap(2, 3)).len(), 2);
    assert_eq!(changed(|fields| fields[1].0 = "address").len(), 1);
    assert_eq!(changed(|fields| fields[1].2 = 5).len(), 1);
    assert_eq!(
        changed(|fields| fields.truncate(3)),
        ["mesh_local: 12 bytes in 3 fields, and in C 12 bytes in 4"]
    );
    assert_eq!(differences(&(name, 16, fields.clone()), theirs).len(), 1);
}

fn differences((name, size, fields): &Layout, (c_size, c_fields): &Struct) -> Vec<String> {
    let mut found = Vec::new();
    if (size, fields.len()) != (c_size, c_fields.len()) {
        let (n, c_n) = (fields.len(), c_fields.len());
        found.push(format!("{name}: {size} bytes in {n} fields, and in C {c_size} bytes in {c_n}"));
    }
    for ((field, at, bytes), (c_field, c_at, c_bytes)) in fields.iter().zip(c_fields) {
        if (*field, at, bytes) != (c_field.as_str(), c_at, c_bytes) {
            found.push(format!(
                "{name}: `{field}` at {at} of {bytes} bytes, and in C `{c_field}` at {c_at} of {c_bytes} bytes"
            ));
        }
    }
    found
}
