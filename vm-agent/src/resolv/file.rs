//! `/etc/resolv.conf` as a plain file, or a link that some manager of the host's network made.
//!
//! ```text
//!  resolv.conf                 the host's ──take──▶ ours ──restore──▶ the host's
//!  resolv.conf.mesh-vm-agent      –                the host's            –
//! ```
//!
//! Either file is there whole or not at all, at every moment: files are written beside, and renamed. Where
//! `resolv.conf` is a link, the link is what is kept, and so what its target says is followed.

use super::conf::{ResolvConf, is_ours};
use anyhow::Context as _;
use daemon::{args::Hint, durable};
use nix::errno::Errno;
use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

/// Larger than any file that a person or a program means; libc would read it, and nobody waits for it.
const FILE_MAX_BYTES: u64 = 64 * 1024;

/// libc reads the file as whoever asks it.
const READABLE: u32 = 0o644;

/// Both files.
#[derive(Debug, Clone)]
pub struct Files {
    conf: PathBuf,
    kept: PathBuf,
}

/// What a look did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Taken {
    /// Ours was in place.
    AsItWas,
    /// It is now, for the first time.
    First,
    /// Somebody else had written the file; what he said is what is kept now.
    Again,
}

/// What [`Files::restore`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restored {
    /// What was there before is back.
    Back,
    /// The file is somebody else's.
    NotOurs,
}

impl Files {
    /// Of an `etc` directory.
    #[must_use]
    pub fn in_etc(etc: &Path) -> Self {
        Self { conf: etc.join("resolv.conf"), kept: etc.join("resolv.conf.mesh-vm-agent") }
    }

    /// The file that libc reads.
    #[must_use]
    pub fn conf(&self) -> &Path {
        &self.conf
    }

    /// What the host's resolver says, wherever it is now. A file that is not there says nothing.
    ///
    /// # Errors
    /// It cannot be read, or ours is in place and what was there before is gone.
    pub fn hosts(&self) -> anyhow::Result<ResolvConf> {
        self.hosts_beside(&read(&self.conf)?.unwrap_or_default())
    }

    /// What the host's resolver says, while the file that libc reads says this.
    fn hosts_beside(&self, now: &str) -> anyhow::Result<ResolvConf> {
        if !is_ours(now) {
            return Ok(ResolvConf::parse(now));
        }
        if !is_there(&self.kept) {
            return Err(self.lost());
        }
        // A link whose manager has not written its target yet: the host has no servers at this moment.
        Ok(ResolvConf::parse(&read(&self.kept)?.unwrap_or_default()))
    }

    /// Puts our file in place, whatever is there.
    ///
    /// # Errors
    /// What stands in the way, with a hint; then the file is as it was.
    pub fn take(&self, us: IpAddr, search: &[String], host_name: &str) -> anyhow::Result<Taken> {
        let now = read(&self.conf)?.unwrap_or_default();
        let ours = self.hosts_beside(&now)?.with_us(us, search, host_name, &self.kept.to_string_lossy());
        if now == ours {
            return Ok(Taken::AsItWas);
        }
        let taken = match (is_ours(&now), is_there(&self.kept)) {
            (true, _) => Taken::AsItWas,
            (false, false) => Taken::First,
            (false, true) => Taken::Again,
        };
        if taken != Taken::AsItWas {
            self.keep().map_err(|error| self.explain("keep a copy of", error))?;
        }
        put(&self.conf, ours.as_bytes()).map_err(|error| {
            // The kept copy says that ours is in place, and it is not.
            if taken == Taken::First {
                let _ = durable::remove(&self.kept);
            }
            self.explain("replace", error)
        })?;
        Ok(taken)
    }

    /// Puts back what was there before. Nothing to do where our file is not in place.
    ///
    /// # Errors
    /// What stands in the way, with a hint.
    pub fn restore(&self) -> anyhow::Result<Restored> {
        if !read(&self.conf)?.is_some_and(|text| is_ours(&text)) {
            // Whoever wrote the file knows better than what we kept.
            durable::remove(&self.kept).with_context(|| format!("cannot remove {}", self.kept.display()))?;
            return Ok(Restored::NotOurs);
        }
        if !is_there(&self.kept) {
            return Err(self.lost());
        }
        fs::rename(&self.kept, &self.conf).map_err(|error| self.explain("put back", error))?;
        Ok(Restored::Back)
    }

    /// Lays a copy of what is there beside it: of a link the link itself, with the same target from the same
    /// directory. Where nothing is, an empty file: libc takes both for the same.
    fn keep(&self) -> io::Result<()> {
        match fs::read_link(&self.conf) {
            Ok(target) => {
                durable::remove(&self.kept)?;
                symlink(target, &self.kept)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => put(&self.kept, b""),
            // It is no link. (readlink(2), EINVAL)
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                put(&self.kept, &fs::read(&self.conf)?)
            }
            Err(error) => Err(error),
        }
    }

    fn lost(&self) -> anyhow::Error {
        Hint::new(
            format!("{} is ours, and {} is gone", self.conf.display(), self.kept.display()),
            format!("write the host's own servers to {}", self.conf.display()),
        )
        .into()
    }

    /// What a person can do about it.
    fn explain(&self, verb: &str, error: io::Error) -> anyhow::Error {
        let conf = self.conf.display();
        let hint = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => {
                format!(
                    "`lsattr {conf}` shows whether it is immutable: `chattr -i {conf}`, or go without names"
                )
            }
            Some(Errno::EBUSY) => format!(
                "{conf} is a mount of its own, as in a container: whoever mounts it has to name our address in it, or \
                 leave it out"
            ),
            Some(Errno::EROFS) => format!("{conf} is on a read-only file system: mount it writable"),
            Some(Errno::ENOSPC | Errno::EDQUOT) => "make room on its file system".to_owned(),
            _ => format!("see {conf} and its directory"),
        };
        anyhow::Error::from(error).context(Hint::new(format!("cannot {verb} {conf}"), hint))
    }
}

/// Writes a file that every program of the host may read, whatever the mask of this process.
fn put(path: &Path, text: &[u8]) -> io::Result<()> {
    durable::write_as(path, text, READABLE)?;
    fs::set_permissions(path, fs::Permissions::from_mode(READABLE))
}

fn is_there(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// None when nothing is there, also behind a link.
fn read(path: &Path) -> anyhow::Result<Option<String>> {
    let bytes = match fs::metadata(path).map(|meta| meta.len()) {
        Ok(length) if length > FILE_MAX_BYTES => {
            anyhow::bail!("{} has {length} bytes: it is no resolver's configuration", path.display())
        }
        Ok(_) => fs::read(path),
        Err(error) => Err(error),
    };
    match bytes {
        // A comment may be in any encoding.
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

#[cfg(test)]
mod tests;
