//! Everything that flows between two clusters while something is done to them, and the proof that nobody noticed.

use crate::story::{SHOWN, Story};
use e2e::{A, report};
use std::process::Child;

/// Where the streams come from, and go to.
pub const FROM: &str = "cluster-a/pod/client";
const TO: &str = "cluster-b/pod/shell";

/// Long enough to kill and to start ten processes while everything flows; the demo shows thirty.
const SECONDS: &str = "14";

/// A gap that a person would call one. The machine has two cores, and twenty processes start on them meanwhile.
const GAP_MAX_MS: u64 = 1_000;

/// A TCP transfer, a one-way UDP stream, and new connections to a global service all the while.
pub struct Streams {
    server: Child,
    receiver: Child,
    tcp: Child,
    udp: Child,
    connections: Child,
}

impl Streams {
    /// They flow from now on.
    pub fn start(story: &Story) -> Self {
        let server =
            story.traffic(TO, &["tcp-stream", "serve", "--port", "9000", "--seconds", "60"]).unwrap();
        let receiver =
            story.traffic(TO, &["udp-seq", "receive", "--port", "9001", "--seconds", "60"]).unwrap();
        story.await_tcp(TO, 9000, SHOWN).unwrap();
        let stream = |args: &[&str]| {
            let args = [args, &["--seconds", SECONDS]].concat();
            story.traffic(FROM, &args).unwrap()
        };
        let cart = format!("{}:80", A.cart);
        Self {
            server,
            receiver,
            tcp: stream(&["tcp-stream", "send", "--target", "10.2.2.10:9000"]),
            udp: stream(&["udp-seq", "send", "--target", "10.2.2.10:9001", "--rate", "200"]),
            connections: stream(&["connect-loop", "--target", &cart, "--http", "--interval-ms", "100"]),
        }
    }

    /// True until the first of them ends: what was done so far was done under load.
    pub fn still_flow(&mut self) -> bool {
        [&mut self.tcp, &mut self.udp, &mut self.connections]
            .into_iter()
            .all(|stream| stream.try_wait().unwrap().is_none())
    }

    /// Waits for their end: nothing was lost, refused, or late.
    pub fn flowed(mut self) {
        let tcp = report(self.tcp).unwrap();
        assert!(tcp["error"].is_null() && tcp["bytes"] == tcp["acknowledged"], "the TCP transfer: {tcp}");
        assert!(tcp["longest_gap_ms"].as_u64() < Some(GAP_MAX_MS), "the TCP transfer: {tcp}");
        assert_eq!(report(self.udp).unwrap()["refused"], 0);
        let udp = report(self.receiver).unwrap();
        assert!(udp["lost"] == 0 && udp["finished"] == true, "the UDP stream: {udp}");
        assert!(udp["longest_gap_ms"].as_u64() < Some(GAP_MAX_MS), "the UDP stream: {udp}");
        let connections = report(self.connections).unwrap();
        assert!(connections["failures"] == 0, "new connections: {connections}");
        let who = connections["answers"].as_object().map(|who| who.len());
        assert_eq!(who, Some(4), "all backends: {connections}");
        self.server.kill().unwrap();
        self.server.wait().unwrap();
    }
}
