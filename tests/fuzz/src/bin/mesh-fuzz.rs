//! `mesh-fuzz`: libFuzzer with one of our targets; `make fuzz TARGET=… SECONDS=…` starts it.
#![no_main]
#![allow(unsafe_code, reason = "libFuzzer calls us by names of C; the macro exports them")]

use std::sync::LazyLock;

static TARGET: LazyLock<&fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("MESH_FUZZ_TARGET").unwrap_or_default();
    fuzz::target(&name).unwrap_or_else(|| {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|target| target.name).collect();
        eprintln!("error: `{name}` is no target; MESH_FUZZ_TARGET is one of {}", names.join(", "));
        std::process::exit(2)
    })
});

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Err(error) = fuzz::measure(TARGET.run, input).check(input.len()) {
        panic!("{}: {error}", TARGET.name);
    }
});
