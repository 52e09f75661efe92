//! Compiles the BPF programs of `bpf/` with clang; the objects are embedded in the crate.
//!
//! They are built from source every time, so that what runs is what the repository says; `-fdebug-prefix-map` keeps
//! the build's directory out of them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

const PROGRAMS: [&str; 4] = ["socket", "packet", "tenant", "stub"];
/// Named first, newest last; a plain `clang` is asked for its version.
const CLANGS: [&str; 5] = ["clang-19", "clang-20", "clang-21", "clang-22", "clang"];
/// What this code was verified with. Older ones compile it, and the verifier may refuse what they make.
const CLANG_MAJOR_MIN: u32 = 19;

fn main() {
    let manifest = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR"));
    let sources = manifest.join("../bpf");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    println!("cargo::rerun-if-changed={}", sources.display());
    println!("cargo::rerun-if-env-changed=CLANG");

    let result = find_clang().and_then(|clang| {
        PROGRAMS.iter().try_for_each(|name| {
            compile(&clang, &sources, &format!("{name}.bpf.c"), &out.join(format!("{name}.bpf.o")))
        })
    });
    if let Err(reason) = result {
        println!("cargo::error={reason}");
        std::process::exit(1);
    }
}

fn find_clang() -> Result<String, String> {
    if let Ok(named) = env::var("CLANG") {
        return Ok(named);
    }
    CLANGS.iter().find(|c| major_version(c).is_some_and(|v| v >= CLANG_MAJOR_MIN)).map(ToString::to_string).ok_or(
        "no clang of version 19 or newer, which compiles the BPF programs: apt-get install clang-19 libbpf-dev, \
         or set CLANG"
            .into(),
    )
}

fn major_version(clang: &str) -> Option<u32> {
    let output = Command::new(clang).arg("-dumpversion").output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().split('.').next()?.parse().ok()
}

fn compile(clang: &str, sources: &Path, source: &str, object: &Path) -> Result<(), String> {
    if !Path::new("/usr/include/bpf/bpf_helpers.h").exists() {
        return Err("no bpf/bpf_helpers.h: apt-get install libbpf-dev".into());
    }
    let mut command = Command::new(clang);
    command
        .current_dir(sources)
        .args(["-O2", "-g", "-mcpu=v3", "-target", "bpf", "-Wall", "-Wextra", "-Werror"])
        .arg(format!("-fdebug-prefix-map={}=bpf", sources.display()))
        .arg("-fdebug-compilation-dir=bpf");
    // Debian keeps asm/types.h in the directory of the machine's own triple, which `-target bpf` does not look into.
    for machine in ["x86_64-linux-gnu", "aarch64-linux-gnu"] {
        let include = PathBuf::from("/usr/include").join(machine);
        if include.exists() {
            command.arg("-isystem").arg(include);
        }
    }
    let output = command
        .args(["-c", source, "-o"])
        .arg(object)
        .output()
        .map_err(|e| format!("cannot run {clang} for bpf/{source}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    // One line for cargo's error, the rest as the compiler wrote it.
    eprintln!("{}", String::from_utf8_lossy(&output.stderr));
    Err(format!("{clang} refused bpf/{source}"))
}
