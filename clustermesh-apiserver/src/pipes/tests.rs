use super::{
    offered::Offered,
    pipe::{chunk, output},
    relay::{NotRelayed, RELAYED_KIB_PER_S, Relays, agreed},
    *,
};
use api::{bytes::ClusterUuid, name::ClusterName};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, repeat, sink},
    time::Instant,
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

fn name(text: &str) -> ClusterName {
    text.parse().expect("a name")
}

fn route(relay: &[&str]) -> Route {
    let relay = relay.iter().map(|peer| name(peer)).collect();
    Route { uuid: ClusterUuid([1; 16]), endpoints: vec![], through: None, relay }
}

/// A pipe whose far end has said this, and goes on listening until the stream is dropped.
fn pipe(said: &'static str) -> (Pipe, ReceiverStream<Bytes>) {
    let (output, written) = output();
    let said = tokio_stream::iter([Ok(chunk(Bytes::from_static(said.as_bytes())))]);
    (Pipe::new(said, output), written)
}

#[test]
fn bytes_are_passed_on_only_between_peers_whose_contracts_name_each_other() {
    let mut routes = Routes::from([
        (name("a"), route(&["b", "c", "d", "x"])),
        (name("b"), route(&["a"])),
        (name("c"), route(&["b"])),
        (name("d"), Route { through: Some(name("b")), ..route(&["a"]) }),
    ]);
    let allowed = |routes: &Routes, from, to| agreed(routes, &name(from), &name(to)).is_ok();
    assert!(allowed(&routes, "a", "b") && allowed(&routes, "b", "a"));
    for (from, to) in [("a", "c"), ("c", "b"), ("b", "c"), ("a", "a"), ("a", "x"), ("x", "a")] {
        assert!(!allowed(&routes, from, to), "{from} to {to}");
    }
    assert!(!allowed(&routes, "a", "d"), "d is itself reached through another: once is enough");
    assert!(allowed(&routes, "d", "a"));
    routes.insert(name("b"), route(&[]));
    let (from, to) = (name("a"), name("b"));
    assert_eq!(
        agreed(&routes, &from, &to),
        Err(NotRelayed::NotAgreed { from: from.clone(), to: to.clone() })
    );
}

#[tokio::test]
async fn what_is_written_into_a_pipe_comes_out_in_chunks_that_are_not_too_large() {
    let (mut pipe, written) = pipe("hello");
    let wrote = async {
        pipe.write_all(&vec![7; 3 * CHUNK_BYTES_MAX / 2]).await.expect("room");
        pipe.shutdown().await.expect("ended");
        let mut read = String::new();
        pipe.read_to_string(&mut read).await.expect("what it said");
        read
    };
    let (read, chunks) = tokio::join!(wrote, written.map(|bytes| bytes.len()).collect::<Vec<_>>());
    assert_eq!((read.as_str(), chunks), ("hello", vec![CHUNK_BYTES_MAX, CHUNK_BYTES_MAX / 2]));
}

#[tokio::test(start_paused = true)]
async fn a_writer_waits_for_a_pipe_that_nobody_empties() {
    let (mut pipe, _written) = pipe("");
    let more = vec![0; (CHUNKS_MAX + 1) * CHUNK_BYTES_MAX];
    let wrote = tokio::time::timeout(Duration::from_secs(1), pipe.write_all(&more)).await;
    wrote.expect_err("its room is bounded");
}

#[tokio::test(start_paused = true)]
async fn the_newest_pipe_that_lives_is_taken_first_and_whoever_comes_early_waits_for_one() {
    let (offered, edge) = (Offered::default(), name("edge"));
    let (old, _old) = pipe("old");
    let (new, _new) = pipe("new");
    let (dead, gone) = pipe("dead");
    drop(gone);
    for pipe in [old, new, dead] {
        offered.put(&edge, pipe).expect("room");
    }
    assert_eq!(offered.idle(), 2);
    let mut said = String::new();
    for _ in 0..2 {
        let mut pipe = offered.take(&edge, TAKE_MAX).await.expect("a pipe");
        pipe.read_to_string(&mut said).await.expect("what it said");
    }
    assert_eq!(said, "newold");
    let began = Instant::now();
    assert!(offered.take(&edge, TAKE_MAX).await.is_none());
    assert_eq!(began.elapsed(), TAKE_MAX);
    let (late, _late) = pipe("late");
    let (taken, put) = tokio::join!(offered.take(&edge, TAKE_MAX), async { offered.put(&edge, late) });
    assert!(taken.is_some() && put.is_ok());
    let (other, _other) = pipe("");
    offered.put(&name("other"), other).expect("room");
    assert!(offered.take(&edge, TAKE_MAX).await.is_none(), "of another peer");
}

#[tokio::test]
async fn a_peer_has_a_bounded_number_of_pipes_and_its_oldest_idle_one_makes_room() {
    let (offered, edge) = (Offered::default(), name("edge"));
    let (mut taken, mut far) = (Vec::new(), Vec::new());
    for _ in 0..PIPES_PER_PEER_MAX {
        let (pipe, written) = pipe("");
        offered.put(&edge, pipe).expect("room");
        far.push(written);
        taken.push(offered.take(&edge, Duration::ZERO).await.expect("just offered"));
    }
    let (more, _more) = pipe("");
    assert_eq!(offered.put(&edge, more), Err(Full));
    taken.truncate(PIPES_PER_PEER_MAX - 2 * IDLE_MAX);
    for _ in 0..3 * IDLE_MAX {
        let (pipe, written) = pipe("");
        offered.put(&edge, pipe).expect("room: what waits goes first");
        far.push(written);
    }
    assert_eq!(offered.idle(), IDLE_MAX);
    offered.keep(|peer| *peer != edge);
    assert_eq!(offered.idle(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_peers_pipes_share_an_allowance_in_both_directions() {
    let (relays, began) = (Relays::default(), Instant::now());
    let opener = relays.opener(&name("a"));
    let burst = u64::from(RELAYED_KIB_PER_S) * 1_024 * replica::rate::BURST.as_secs();
    let half = burst / 2 + u64::from(RELAYED_KIB_PER_S) * 1_024;
    let carry = relays.carry(&opener);
    let one = carry.on(repeat(0).take(half), sink());
    let (there, back) = tokio::join!(one, carry.on(repeat(0).take(half), sink()));
    assert!(there.is_ok() && back.is_ok());
    assert_eq!(relays.bytes(), 2 * half);
    // Beyond the burst there were two seconds' worth.
    let took = began.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_millis(2_100)).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_relayed_pipe_on_which_nothing_moves_is_ended() {
    let relays = Relays::default();
    let opener = relays.opener(&name("a"));
    let (silent, _held) = tokio::io::duplex(1);
    let ended = relays.carry(&opener).on(silent, sink()).await.expect_err("silent");
    assert_eq!(ended.kind(), std::io::ErrorKind::TimedOut);
    // Nor when the far end takes nothing.
    let (full, _held) = tokio::io::duplex(1);
    let stuck = relays.carry(&opener).on(repeat(0), full).await.expect_err("stuck");
    assert_eq!(stuck.kind(), std::io::ErrorKind::TimedOut);
}
