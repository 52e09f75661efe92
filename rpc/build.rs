//! Compiles the services' Protocol Buffers with a compiler in Rust: nobody needs `protoc`.

use prost::Message;
use std::{env, fs, path::Path};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "etcd/api/etcdserverpb/rpc.proto",
            "etcd/server/etcdserver/api/v3lock/v3lockpb/v3lock.proto",
            "etcd/server/etcdserver/api/v3election/v3electionpb/v3election.proto",
            "mesh/v1/admin.proto",
            "mesh/v1/enrolment.proto",
            "mesh/v1/pipe.proto",
            "mesh/v1/sync.proto",
        ],
        ["proto"],
    )?;
    let out = env::var("OUT_DIR")?;
    // The descriptors stay with the code, so that the authorization table can be compared with every method there is.
    fs::write(Path::new(&out).join("services.fds"), files.encode_to_vec())?;
    tonic_prost_build::configure()
        // Keys and values are taken from the receive buffer without a copy.
        .bytes(".")
        .btree_map(".")
        // etcd's comments are for its own generators: their indented parts would become doc tests.
        .disable_comments([".etcdserverpb", ".mvccpb", ".authpb", ".v3lockpb", ".v3electionpb"])
        // A service implements what it serves; the doorman answers the rest before it gets here.
        .generate_default_stubs(true)
        .compile_fds(files)?;
    // Not one of ours: the authorization table knows nothing of it.
    let runtime = protox::compile(["cri/runtime/v1/api.proto"], ["proto"])?;
    tonic_prost_build::configure().btree_map(".").generate_default_stubs(true).compile_fds(runtime)?;
    Ok(())
}
