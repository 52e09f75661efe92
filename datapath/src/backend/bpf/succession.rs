//! From one make of maps to the next without a moment in between: the links of the earlier version stay where they are,
//! with its programs and its maps, and get the new programs when the new maps are full.

use super::{
    Error,
    links::{Links, is_link, pins_in},
};
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
};

/// Where other versions beside `dir` have their links: what an older agent left, or a newer one that was taken back.
pub(super) fn earlier(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let parent = dir.parent().map(Path::to_owned);
    let versions = pins_in(&parent)?.into_iter().filter(|path| path.file_name().is_some_and(is_version));
    Ok(versions.filter(|version| version != dir).map(|version| version.join("links")).collect())
}

/// `v` and a number.
fn is_version(name: &OsStr) -> bool {
    let number = name.to_str().and_then(|name| name.strip_prefix('v'));
    number.is_some_and(|number| number.parse::<u32>().is_ok())
}

impl Links {
    /// The earlier versions' pins become ours; the programs behind them are still theirs. What we have a link of our own
    /// for (at another cgroup root), and what we make no link of, stays theirs and goes with them.
    pub(super) fn take_over(&self) -> Result<(), Error> {
        for pin in pins_in(&self.earlier)? {
            let Some(name) = pin.file_name().filter(|name| is_link(name)) else { continue };
            let ours = self.dir.join(name);
            if !ours.exists() {
                fs::rename(&pin, ours).map_err(|source| Error::Pins {
                    action: "take over",
                    path: pin,
                    source,
                })?;
            }
        }
        Ok(())
    }

    /// Removes everything that earlier versions had pinned and that is not ours by now.
    pub(super) fn forget_earlier(&mut self) -> Result<(), Error> {
        while let Some(links) = self.earlier.last() {
            let version = links.parent().unwrap_or(links);
            match fs::remove_dir_all(version) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(Error::Pins { action: "remove", path: version.to_owned(), source });
                }
                Ok(()) | Err(_) => self.earlier.pop(),
            };
        }
        Ok(())
    }
}
