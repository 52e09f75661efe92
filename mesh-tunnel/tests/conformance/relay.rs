//! The relay's process as an operator starts it: by its flags, and with no right that it does not need.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, UdpSocket},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::lab::Place;

/// What is not so by then does not become so.
const PATIENCE: Duration = Duration::from_secs(20);
/// The relay's port, in a network namespace of its own.
const PORT: u16 = 51872;

/// A relay without any capability and without a device. It ends with the test.
struct Relay {
    process: Child,
    dir: TempDir,
    place: Place,
}

impl Relay {
    /// Starts it at [`PORT`] with these flags, and waits until it says that it relays.
    fn start(flags: &[&str]) -> Self {
        let (dir, place) = (TempDir::new().expect("a directory"), Place::new());
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]);
        command.arg(env!("CARGO_BIN_EXE_mesh-tunnel")).args(["--relay", &PORT.to_string(), "--relay-only"]);
        command.arg("--state").arg(dir.path().join("state/mesh0.conf"));
        command.arg("--uapi-dir").arg(dir.path().join("uapi")).args(flags);
        command.stderr(Stdio::piped()).env("RUST_LOG", "info,gotatun=off");
        let process = place.run(|| command.spawn().expect("util-linux is installed"));
        let mut relay = Self { process, dir, place };
        let stderr = relay.process.stderr.take().expect("stderr is piped");
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let said: Vec<String> = lines.by_ref().take_while(|line| !line.contains(" Relaying ")).collect();
        assert!(relay.process.try_wait().expect("it is our child").is_none(), "it ended: {said:?}");
        // Whoever writes to a pipe that nobody reads any more ends.
        std::thread::spawn(move || lines.for_each(|line| eprintln!("{line}")));
        relay
    }

    /// What it says of itself as soon as it says this, too.
    fn says(&self, wanted: &str) -> String {
        let start = Instant::now();
        loop {
            let answer = self.answer().unwrap_or_default();
            if answer.lines().any(|line| line == wanted) {
                return answer;
            }
            assert!(start.elapsed() < PATIENCE, "the relay does not say {wanted}: {answer}");
        }
    }

    fn answer(&self) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.dir.path().join("uapi/mesh0.relay"))?;
        stream.write_all(b"get=1\n\n")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.process.kill().expect("it is our child");
        self.process.wait().expect("it is our child");
    }
}

#[test]
fn a_relay_without_a_device_needs_no_capability_and_keeps_to_the_rate_it_is_given() {
    let relay = Relay::start(&["--relay-rate", "2"]);
    let status = fs::read_to_string(format!("/proc/{}/status", relay.process.id())).expect("it runs");
    assert!(status.contains("CapPrm:\t0000000000000000\n"), "it has capabilities: {status}");
    let answer = relay.says("bytes_per_s=250000");
    assert!(answer.contains(&format!("listen_port={PORT}\n")), "{answer}");

    // It receives, and judges what it receives.
    let stranger = relay.place.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).expect("loopback is up");
    stranger.send_to(b"no message of WireGuard's", (Ipv4Addr::LOCALHOST, PORT)).expect("loopback carries it");
    relay.says("refused_malformed=1");

    assert!(!relay.place.ip("-o link show").contains("mesh0"), "it made a device");
}

#[test]
fn a_rate_that_is_none_and_one_without_a_relay_are_refused() {
    for (flags, why) in [
        (&["--relay", "51872", "--relay-only", "--relay-rate", "0"][..], "0 is not in 1..=100000"),
        (&["--relay-rate", "5"], "--relay <PORT>"),
    ] {
        let ran = Command::new(env!("CARGO_BIN_EXE_mesh-tunnel")).args(flags).output().expect("it was built");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.code() == Some(2) && said.contains(why), "{flags:?}: {said}");
    }
}
