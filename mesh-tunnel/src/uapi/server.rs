//! The socket: who may connect, how much he may say, and the frame of a request and its answer.

use std::{
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use nix::errno::Errno;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use crate::{tunnel::Tunnel, uapi::request::Request};

/// A set of the largest mesh we promise fits: 5 000 peers, each with its keys, endpoint and keepalive (300 bytes)
/// and eight allowed-ips (60 bytes); next power of two.
const REQUEST_BYTES_MAX: usize = 4 << 20;
/// What a request starts with; it doubles when it is full.
const REQUEST_BYTES_FIRST: usize = 64 << 10;
/// One agent, an operator's tool or two and a metrics scraper; the others wait in the listen queue.
const CONNECTIONS_MAX: usize = 16;
/// A connection that says nothing for so long is closed, so that 16 forgotten ones lock nobody out.
const IDLE: Duration = Duration::from_secs(30);

/// What a socket is asked. Requests and answers end in an empty line.
pub trait Answers {
    /// The whole answer to a request, which comes without the empty line that ends it.
    async fn answer(&self, request: &[u8]) -> Zeroizing<Vec<u8>>;
}

/// The listening socket; its file goes when this is dropped.
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Takes `<dir>/<name>`, mode 0600. A socket that still answers belongs to a living process: an error.
    pub fn bind(dir: &Path, name: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join(name);
        match std::os::unix::net::UnixStream::connect(&path) {
            Ok(_) => anyhow::bail!("another process answers at {}; stop it first", path.display()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => {
                std::fs::remove_file(&path)
                    .with_context(|| format!("cannot remove the stale socket {}", path.display()))?;
            }
        }
        let listener =
            UnixListener::bind(&path).with_context(|| format!("cannot listen at {}", path.display()))?;
        // The process's umask made it so from the start; this holds when somebody changes that.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .with_context(|| format!("cannot close {} to others", path.display()))?;
        Ok(Self { listener, path })
    }

    /// Serves for ever. Runs inside a `LocalSet`.
    pub async fn serve(&self, answers: Rc<impl Answers + 'static>) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let slot = slots.clone().acquire_owned().await.expect("nobody closes the semaphore");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let answers = answers.clone();
                    tokio::task::spawn_local(async move {
                        if let Err(error) = talk(stream, &*answers).await {
                            debug!(%error, "Lost a UAPI connection");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(%error, "Cannot accept a UAPI connection");
                    // Out of descriptors: the condition is not over by asking again at once.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(std::fs::remove_file(&self.path));
    }
}

async fn talk(mut stream: UnixStream, answers: &impl Answers) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid != 0 && uid != nix::unistd::geteuid().as_raw() {
        warn!(uid, "Refused a UAPI connection");
        return stream.write_all(&errno(Errno::EPERM)).await;
    }
    let mut buffer = Buffer::new();
    loop {
        let request = match timeout(IDLE, buffer.next(&mut stream)).await {
            Ok(Ok(Some(request))) => request,
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(TooLong)) => return stream.write_all(&errno(Errno::E2BIG)).await,
        };
        let answer = answers.answer(&request).await;
        drop(request);
        match timeout(IDLE, stream.write_all(&answer)).await {
            Ok(written) => written?,
            Err(_) => return Ok(()),
        }
    }
}

impl Answers for Tunnel {
    async fn answer(&self, request: &[u8]) -> Zeroizing<Vec<u8>> {
        match Request::parse(request) {
            Ok(Request::Get) => got(&self.get().await),
            Ok(Request::Set(set)) => errno(match self.set(set).await {
                Ok(()) => Errno::from_raw(0),
                Err(error) => {
                    warn!(error = format!("{error:#}"), "A configuration did not apply whole");
                    error.errno()
                }
            }),
            Err(malformed) => {
                warn!(%malformed, "Refused a UAPI request");
                errno(Errno::EINVAL)
            }
        }
    }
}

/// The answer to a `get=1`.
pub fn got(text: &str) -> Zeroizing<Vec<u8>> {
    let mut answer = Zeroizing::new(Vec::with_capacity(text.len() + 16));
    answer.extend_from_slice(text.as_bytes());
    answer.extend_from_slice(b"errno=0\n\n");
    answer
}

/// The answer to a `set=1`, and to what is no request.
pub fn errno(code: Errno) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(format!("errno={}\n\n", code as i32).into_bytes())
}

struct TooLong;

/// Bytes that came and were not used yet; wiped, and never copied without wiping, as they may hold keys.
struct Buffer(Zeroizing<Vec<u8>>);

impl Buffer {
    fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(REQUEST_BYTES_FIRST)))
    }

    /// The next request without the empty line that ends it; `None` when the other side went.
    async fn next(&mut self, stream: &mut UnixStream) -> Result<Option<Zeroizing<Vec<u8>>>, TooLong> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.0[searched..].windows(2).position(|pair| pair == b"\n\n") {
                let end = searched + end;
                let request = Zeroizing::new(self.0[..end].to_vec());
                let mut rest = Self::new();
                rest.0.extend_from_slice(&self.0[end + 2..]);
                *self = rest;
                return Ok(Some(request));
            }
            searched = self.0.len().saturating_sub(1);
            if self.0.len() == REQUEST_BYTES_MAX {
                return Err(TooLong);
            }
            if self.0.len() == self.0.capacity() {
                let mut larger = Zeroizing::new(Vec::with_capacity(self.0.capacity() * 2));
                larger.extend_from_slice(&self.0);
                self.0 = larger;
            }
            let room = self.0.capacity().min(REQUEST_BYTES_MAX) - self.0.len();
            match (&mut *stream).take(room as u64).read_buf(&mut *self.0).await {
                Ok(0) | Err(_) => return Ok(None),
                Ok(_) => {}
            }
        }
    }
}
