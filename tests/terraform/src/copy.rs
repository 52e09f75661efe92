//! A copy of the examples as they are committed.

use anyhow::{Context, Result};
use std::{fs, path::Path};

/// What OpenTofu leaves where somebody ran it by hand: a copy of it would act on what he made.
const LEFT: [&str; 2] = [".terraform", "terraform.tfstate"];

/// Copies a directory with all that is in it, but for what OpenTofu left.
pub(crate) fn tree(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", from.display()))?;
        let name = entry.file_name();
        if LEFT.iter().any(|left| name.to_string_lossy().starts_with(left)) {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if source.is_dir() {
            tree(&source, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("cannot copy {}", source.display()))?;
        }
    }
    Ok(())
}
