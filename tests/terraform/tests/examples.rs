//! The Terraform examples: modules, clouds, and the one that is applied for real. `make test-terraform` builds what they need.

#[path = "examples/clouds.rs"]
mod clouds;
#[path = "examples/local.rs"]
mod local;
#[path = "examples/modules.rs"]
mod modules;
