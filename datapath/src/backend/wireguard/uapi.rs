//! The UAPI of a user-space device: steps → text, text → what is.

use std::{
    fmt::Write as _,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use api::bytes::PublicKey;
use zeroize::Zeroizing;

use super::{Error, Observed, PeerObserved, PrivateKey, Step};

/// A process that takes longer than this is stopped or stuck; its data path may run on.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// A request is sent when it has grown to this: a quarter of what `mesh-tunnel` takes.
const REQUEST_BYTES: usize = 1 << 20;
/// Steps in a request. In the largest mesh `mesh-tunnel` takes 15 ms for one, most of it left to packets: 4 s, within
/// our patience.
const REQUEST_STEPS: usize = 256;
/// 5 000 peers with a hundred addresses each, and their counters.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// Where a user-space device is configured.
pub struct Socket {
    interface: String,
    path: PathBuf,
}

impl Socket {
    /// The socket of `interface` in `dir`. Nothing is opened yet.
    pub fn new(dir: &Path, interface: &str) -> Self {
        Self { interface: interface.to_owned(), path: dir.join(format!("{interface}.sock")) }
    }

    /// Asks what is.
    pub fn get(&self) -> Result<Observed, Error> {
        let answer = self.ask("get=1\n\n")?;
        let (observed, errno) = parse(&answer, SystemTime::now())
            .map_err(|what| Error::Garbled { interface: self.interface.clone(), what })?;
        self.accepted(errno).map(|()| observed)
    }

    /// Applies steps in their order, in as few requests as their size allows.
    pub fn set(&self, steps: &[Step]) -> Result<(), Error> {
        let mut rest = steps;
        while !rest.is_empty() {
            let last = rest.len().saturating_sub(REQUEST_STEPS);
            let mut request = Zeroizing::new(String::with_capacity(REQUEST_BYTES));
            request.push_str("set=1\n");
            while let Some((step, others)) = rest.split_first()
                && request.len() < REQUEST_BYTES
                && rest.len() > last
                // The device's own keys come before the first peer: a later one starts a new request.
                && (request.len() == "set=1\n".len() || !matches!(step, Step::SetDevice { .. }))
            {
                write_step(&mut request, step);
                rest = others;
            }
            request.push('\n');
            let answer = self.ask(&request)?;
            let (_, errno) = parse(&answer, UNIX_EPOCH)
                .map_err(|what| Error::Garbled { interface: self.interface.clone(), what })?;
            self.accepted(errno)?;
        }
        Ok(())
    }

    fn accepted(&self, errno: i32) -> Result<(), Error> {
        match errno {
            0 => Ok(()),
            errno => Err(Error::Refused {
                interface: self.interface.clone(),
                source: io::Error::from_raw_os_error(errno),
            }),
        }
    }

    fn ask(&self, request: &str) -> Result<Zeroizing<String>, Error> {
        exchange(&self.path, request).map_err(|source| Error::Silent {
            interface: self.interface.clone(),
            socket: self.path.clone(),
            source,
        })
    }
}

/// One request and its answer, at a socket that frames them as the UAPI does.
pub fn exchange(socket: &Path, request: &str) -> io::Result<Zeroizing<String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    // Nothing more comes from us, so the other side ends after its answer.
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = Zeroizing::new(String::new());
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    Ok(answer)
}

fn write_step(text: &mut String, step: &Step) {
    let written = match step {
        Step::SetDevice { private_key, port, fwmark } => {
            write!(
                text,
                "private_key={}\nlisten_port={port}\nfwmark={fwmark}\n",
                private_key.to_hex().as_str()
            )
        }
        Step::AddPeer { key, peer } => {
            let keepalive_s = peer.keepalive_s;
            let mut lines = writeln!(text, "public_key={key}\npersistent_keepalive_interval={keepalive_s}");
            if let Some(endpoint) = peer.endpoint {
                lines = lines.and(writeln!(text, "endpoint={endpoint}"));
            }
            for net in &peer.allowed_ips {
                lines = lines.and(writeln!(text, "allowed_ip={net}"));
            }
            lines
        }
        // A peer that went meanwhile is not to come back as a husk: update only.
        Step::SetEndpoint { key, endpoint } => {
            write!(text, "public_key={key}\nupdate_only=true\nendpoint={endpoint}\n")
        }
        Step::AddAllowedIp { key, net } => {
            write!(text, "public_key={key}\nupdate_only=true\nallowed_ip={net}\n")
        }
        Step::RemoveAllowedIp { key, net } => {
            write!(text, "public_key={key}\nupdate_only=true\nallowed_ip=-{net}\n")
        }
        Step::SetKeepalive { key, keepalive_s } => {
            write!(text, "public_key={key}\nupdate_only=true\npersistent_keepalive_interval={keepalive_s}\n")
        }
        Step::RemovePeer { key } => write!(text, "public_key={key}\nremove=true\n"),
        Step::RenewPeer { .. } => unreachable!("a renewal comes as its requests"),
    };
    written.expect("a String takes every write");
}

/// Reads an answer and its error number. Keys that we do not know are somebody's extension: passed over.
pub(super) fn parse(answer: &str, at: SystemTime) -> Result<(Observed, i32), &'static str> {
    let mut observed =
        Observed { at, public_key: None, port: None, fwmark: 0, peers: std::collections::BTreeMap::new() };
    let mut current: Option<PublicKey> = None;
    for line in answer.lines().take_while(|line| !line.is_empty()) {
        let (key, value) = line.split_once('=').ok_or("a line without `=`")?;
        match (key, current.and_then(|key| observed.peers.get_mut(&key))) {
            ("errno", _) => return read(value, "errno").map(|errno| (observed, errno)),
            ("public_key", _) => {
                let key = read(value, "public_key")?;
                observed.peers.insert(key, PeerObserved::default());
                current = Some(key);
            }
            ("private_key", None) => {
                let private = PrivateKey::from_hex(value).ok_or("private_key")?;
                observed.public_key = Some(private.public());
            }
            ("listen_port", None) => observed.port = Some(read(value, "listen_port")?),
            ("fwmark", None) => observed.fwmark = read(value, "fwmark")?,
            (key, Some(peer)) => read_peer(peer, key, value)?,
            (_, None) => {}
        }
    }
    Err("it ends before errno")
}

fn read_peer(peer: &mut PeerObserved, key: &str, value: &str) -> Result<(), &'static str> {
    match key {
        "endpoint" => peer.endpoint = Some(read::<SocketAddr>(value, "endpoint")?),
        "allowed_ip" => {
            peer.allowed_ips.insert(read(value, "allowed_ip")?);
        }
        "persistent_keepalive_interval" => {
            peer.keepalive_s = read(value, "persistent_keepalive_interval")?;
        }
        "last_handshake_time_sec" => {
            let seconds = read(value, "last_handshake_time_sec")?;
            peer.last_handshake = (seconds > 0).then(|| UNIX_EPOCH + Duration::from_secs(seconds));
        }
        "last_handshake_time_nsec" => {
            let nanos = read(value, "last_handshake_time_nsec")?;
            peer.last_handshake = peer.last_handshake.map(|then| then + Duration::from_nanos(nanos));
        }
        "rx_bytes" => peer.rx_bytes = read(value, "rx_bytes")?,
        "tx_bytes" => peer.tx_bytes = read(value, "tx_bytes")?,
        _ => {}
    }
    Ok(())
}

fn read<T: FromStr>(value: &str, key: &'static str) -> Result<T, &'static str> {
    value.parse().map_err(|_| key)
}
