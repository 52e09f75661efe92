//! Private keys: made, kept in a file, and never shown.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use api::bytes::PublicKey;
use wireguard_control::Key;
use zeroize::{Zeroize as _, Zeroizing};

/// A WireGuard private key: wiped when dropped, and not printed by `Debug`. Its text form is base64, as of `wg`.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Zeroizing<[u8; 32]>);

/// Why a private key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file holds something else. It is not overwritten: peers know the key that was in it.
    #[error("{} does not hold a WireGuard private key; restore it, or remove it to make a new one", .0.display())]
    Damaged(PathBuf),
    /// Anybody could have read it.
    #[error("{} can be read by others (mode {mode:03o}); make a new key, or chmod 600 it if nobody did", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file could not be read or written.
    #[error("cannot keep a private key in {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl PrivateKey {
    /// A new key from the system's random source.
    pub fn generate() -> Self {
        Self::wrap(Key::generate_private())
    }

    /// Reads the base64 text of a key; `None` for anything else.
    pub fn from_base64(text: &str) -> Option<Self> {
        Key::from_base64(text).ok().map(Self::wrap)
    }

    /// Reads the 64 hex digits of the UAPI; `None` for anything else.
    pub(super) fn from_hex(text: &str) -> Option<Self> {
        Key::from_hex(text).ok().map(Self::wrap)
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        let mut key = Key(*self.0);
        let public = PublicKey(key.get_public().0);
        key.0.zeroize();
        public
    }

    /// The text that [`PrivateKey::from_base64`] reads, in a buffer that wipes itself.
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut key = Key(*self.0);
        let text = Zeroizing::new(key.to_base64());
        key.0.zeroize();
        text
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    pub(super) fn to_hex(&self) -> Zeroizing<String> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
        Zeroizing::new(digits.map(|nibble| char::from(DIGITS[usize::from(nibble)])).collect())
    }

    fn wrap(mut key: Key) -> Self {
        let wrapped = Self(Zeroizing::new(key.0));
        key.0.zeroize();
        wrapped
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

/// The key in `path` (base64, mode 0600), or a new one that is there, on the disk, when this returns.
///
/// Two processes that start at once get the same key: the second finds the first one's file.
pub fn load_or_create_private_key(path: &Path) -> Result<PrivateKey, KeyError> {
    match load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        loaded => return loaded,
    }
    match create(path) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => load(path),
        Err(source) => Err(KeyError::File { path: path.to_owned(), source }),
        Ok(key) => Ok(key),
    }
}

fn load(path: &Path) -> Result<PrivateKey, KeyError> {
    let file_error = |source| KeyError::File { path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(file_error)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.to_owned(), mode });
    }
    let text = Zeroizing::new(fs::read_to_string(path).map_err(file_error)?);
    PrivateKey::from_base64(text.trim()).ok_or_else(|| KeyError::Damaged(path.to_owned()))
}

fn create(path: &Path) -> io::Result<PrivateKey> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let key = PrivateKey::generate();
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(key.to_base64().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        // A link does not replace a file that is there, which a rename would.
        fs::hard_link(&fresh, path)
    })();
    fs::remove_file(&fresh).or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })?;
    written?;
    File::open(dir)?.sync_all()?;
    Ok(key)
}
