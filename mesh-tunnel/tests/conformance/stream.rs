//! A one-way stream of numbered UDP packets, from host one to host two through the tunnel.
//!
//! The sender is at most a window ahead of the receiver, which it knows by memory and not by the network: nothing is
//! lost by overflow and nothing waits for a clock, so that every packet that is missing was lost by the tunnel.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::lab::Lab;

/// In every packet; a sniffer looks for it.
pub const CANARY: &[u8; 11] = b"MESH-CANARY";
/// Packets in flight: far below every queue on the way (500 of the TUN).
const WINDOW: u64 = 64;
/// How long the oldest packet may take before it is lost. WireGuard's own repair of a lost session takes 15 s.
const LOST_AFTER: Duration = Duration::from_secs(10);

/// The stream, while it runs.
pub struct Stream {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    received: u64,
    /// The first thing that went wrong.
    broken: Option<String>,
    ended: bool,
}

impl Shared {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nobody panics while counting")
    }

    fn change(&self, change: impl FnOnce(&mut Progress)) {
        change(&mut self.progress());
        self.changed.notify_all();
    }
}

impl Stream {
    pub fn start(lab: &Lab) -> Self {
        let (sender, receiver, to) = sockets(lab);
        let shared = Arc::new(Shared::default());
        let threads = vec![
            std::thread::spawn({
                let shared = shared.clone();
                move || send(&sender, to, &shared)
            }),
            std::thread::spawn({
                let shared = shared.clone();
                move || receive(&receiver, &shared)
            }),
        ];
        Self { shared, threads }
    }

    /// Waits until so many more packets have arrived, each in its order; says which call broke it when not.
    pub fn advance(&self, packets: u64, call: &str) {
        let mut progress = self.shared.progress();
        let until = progress.received + packets;
        while progress.received < until {
            assert_eq!(progress.broken, None, "{call}");
            progress = self.shared.changed.wait(progress).expect("nobody panics while counting");
        }
    }

    /// Ends the stream; all that was sent has arrived.
    pub fn end(self) {
        self.shared.change(|progress| progress.ended = true);
        for thread in self.threads {
            thread.join().expect("both ends of the stream end well");
        }
        assert_eq!(self.shared.progress().broken, None);
    }
}

/// The ends of a stream: bound inside, and with a receiver that does not wait for ever.
pub fn sockets(lab: &Lab) -> (UdpSocket, UdpSocket, SocketAddr) {
    let sender = lab.one.place.run(|| UdpSocket::bind("10.77.0.1:0")).expect("the tunnel's address is there");
    let receiver =
        lab.two.place.run(|| UdpSocket::bind("10.77.0.2:0")).expect("the tunnel's address is there");
    receiver.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let to = receiver.local_addr().expect("it is bound");
    (sender, receiver, to)
}

pub fn packet(number: u64) -> Vec<u8> {
    [CANARY.as_slice(), &number.to_be_bytes()].concat()
}

fn number(packet: &[u8]) -> Option<u64> {
    packet.strip_prefix(CANARY)?.try_into().ok().map(u64::from_be_bytes)
}

fn send(socket: &UdpSocket, to: SocketAddr, shared: &Shared) {
    for sent in 0.. {
        let mut progress = shared.progress();
        while progress.received + WINDOW <= sent && !progress.ended && progress.broken.is_none() {
            progress = shared.changed.wait(progress).expect("nobody panics while counting");
        }
        if progress.ended || progress.broken.is_some() {
            return;
        }
        drop(progress);
        if let Err(error) = socket.send_to(&packet(sent), to) {
            shared.change(|progress| {
                progress.broken = Some(format!("packet {sent} could not be sent: {error}"));
            });
        }
    }
}

fn receive(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 2048];
    let mut last = Instant::now();
    loop {
        let expected = {
            let progress = shared.progress();
            if progress.broken.is_some() {
                return;
            }
            progress.received
        };
        match socket.recv(&mut buffer) {
            Ok(bytes) => match number(&buffer[..bytes]) {
                Some(number) if number == expected => {
                    last = Instant::now();
                    shared.change(|progress| progress.received += 1);
                }
                other => shared.change(|progress| {
                    progress.broken = Some(format!("packet {other:?} came where {expected} was next"));
                }),
            },
            // Nothing for a while: the end, if it was asked for.
            Err(_) if shared.progress().ended => return,
            Err(_) if last.elapsed() < LOST_AFTER => {}
            Err(_) => shared.change(|progress| {
                progress.broken = Some(format!("packet {expected} did not come in {LOST_AFTER:?}"));
            }),
        }
    }
}
