//! The tunnel of one host: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    mesh_tunnel::main()
}
