//! How a peer is reached that we cannot dial: by pipes of bytes, which somebody else's connections carry.
//!
//! ```text
//!  edge ──Offer──▶ core        the core's follower takes the pipe, and speaks to the edge's doors through it
//!  edge ──Open(to another edge)──▶ core ◀──Offer── the other edge        the core splices the two
//! ```
//!
//! Invariants
//! - what goes through a pipe is an ordinary connection to a cluster's port: TLS from end to end, in which both show who
//!   they are, and the doors judge every request as ever;
//! - a peer offers pipes to itself and to nobody else: their name is the one in its certificate;
//! - bytes are passed on only between two peers whose contracts name each other, and only for as long as they do;
//! - pipes, the bytes in them, the bytes passed on in a second, and every wait are bounded.

pub mod offer;
mod offered;
mod pipe;
mod reach;
pub mod relay;
#[cfg(test)]
mod tests;

pub use offered::Full;
pub use pipe::{Pipe, chunk, output};
pub use reach::{Arrivals, Arrived, Reach, Route, Routes, way};

use std::time::Duration;

/// A chunk's bytes: a TLS record's, so that a record need not wait for a second chunk. (RFC 8446, 5.1)
pub const CHUNK_BYTES_MAX: usize = 16 * 1024;
/// Chunks of a pipe that wait for its connection, in each direction.
const CHUNKS_MAX: usize = 4;
/// A message: a chunk, and what protobuf and a name add.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX + 1024;

/// Pipes that a peer may have at once, idle ones included: its follower's, what it replaces, and as many of sites that
/// reach it through us. As many HTTP/2 streams of one connection are half of what a connection may have.
pub const PIPES_PER_PEER_MAX: usize = 32;
/// Pipes that wait to be used. The one that offers keeps two; the others are of a connection that has broken unseen.
const IDLE_MAX: usize = 4;

/// How long we wait for a pipe of a peer that has none: it comes back within seconds, or it is away.
const TAKE_MAX: Duration = Duration::from_secs(5);
/// To reach a peer through a pipe: to wait for it, and to shake hands over two links of half a second each.
const REACH_MAX: Duration = Duration::from_secs(15);
