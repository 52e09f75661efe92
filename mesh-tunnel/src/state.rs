//! The configuration on disk, so that a restarted process goes on by itself.
//!
//! The file is a `set=1` request: the UAPI's own words, read by the UAPI's own parser.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use zeroize::Zeroizing;

use crate::{
    config::Config,
    uapi::{
        reply,
        request::{Request, Set},
    },
};

/// Where the configuration is kept.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Keeps the configuration at `path`. Nothing is opened yet.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// What was kept; an empty configuration when there is no file.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what we write: somebody has to look, as guessing could open or
    /// close tunnels.
    pub fn load(&self) -> anyhow::Result<Config> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => Zeroizing::new(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        let set: Set = match Request::parse(&bytes) {
            Ok(Request::Set(set)) => set,
            Ok(Request::Get) => anyhow::bail!("{} is not a tunnel configuration", self.path.display()),
            Err(malformed) => {
                return Err(malformed).with_context(|| {
                    format!("{} is damaged; remove it to start empty", self.path.display())
                });
            }
        };
        Ok(Config::default().with(set))
    }

    /// Replaces what was kept, whole or not at all, and on the disk when this returns.
    pub fn save(&self, config: &Config) -> io::Result<()> {
        replace(&self.path, &reply::as_set(config))
    }
}

/// Replaces a file that nobody else may read, whole or not at all, and on the disk when this returns.
pub fn replace(path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    // The whole name stays: files beside each other may differ in their extension only.
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(dir)?.sync_all()
}
