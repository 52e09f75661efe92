//! The Terraform examples: modules, clouds, and the one that is applied for real. `make test-terraform` builds what they need.

#[path = "main/clouds.rs"]
mod clouds;
#[path = "main/local.rs"]
mod local;
#[path = "main/modules.rs"]
mod modules;
