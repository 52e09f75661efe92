//! Programs of others that tests run, kept outside the checkout.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A program in `${MESH_CACHE:-~/.cache/mesh}`, as `etcd-3.5.1/etcd`; `by` is what puts it there.
///
/// # Errors
/// When it is not there, with what to run.
pub fn cached(program: &str, by: &str) -> Result<PathBuf> {
    let cache = match env::var_os("MESH_CACHE") {
        Some(cache) => PathBuf::from(cache),
        None => {
            Path::new(&env::var_os("HOME").context("neither MESH_CACHE nor HOME is set")?).join(".cache/mesh")
        }
    };
    let program = cache.join(program);
    if !program.is_file() {
        bail!("{} is missing: run {by}", program.display());
    }
    Ok(program)
}
