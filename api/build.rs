//! Compiles the records' Protocol Buffers with a compiler in Rust: nobody needs `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["mesh/v1/records.proto", "mesh/v1/token.proto"], ["proto"])?;
    // Maps are BTreeMaps, so that the same record always has the same bytes.
    prost_build::Config::new().btree_map(["."]).compile_fds(files)?;
    Ok(())
}
