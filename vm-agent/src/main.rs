//! The agent of one VM: see the library.

use std::process::ExitCode;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    mesh_vm_agent::main().await
}
