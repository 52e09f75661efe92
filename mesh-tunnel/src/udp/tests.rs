use super::*;
use bytes::BytesMut;

/// How packets of these sizes are grouped; a size with a `!` goes to another peer.
fn groups(sizes: &str) -> Vec<usize> {
    let packets: Vec<_> = sizes
        .split(' ')
        .map(|size| {
            let port = if size.ends_with('!') { 2 } else { 1 };
            let bytes = size.trim_end_matches('!').parse().expect("a size");
            (Packet::from_bytes(BytesMut::zeroed(bytes)), SocketAddr::from(([192, 0, 2, 1], port)))
        })
        .collect();
    let mut rest = packets.as_slice();
    std::iter::from_fn(|| {
        let length = group_len(rest);
        rest = &rest[length..];
        (length > 0).then_some(length)
    })
    .collect()
}

#[test]
fn packets_go_together_while_the_kernel_can_tell_them_apart() {
    for (sizes, wanted) in [
        ("1452", vec![1]),
        ("1452 1452 1452", vec![3]),
        // A shorter one is the last of its group, a longer one starts the next.
        ("1452 1452 100 1452 1452", vec![3, 2]),
        ("100 1452 1452", vec![1, 2]),
        ("100 100 50 50", vec![3, 1]),
        // Order is kept: another destination ends a group.
        ("1452 1452 1452! 1452", vec![2, 1, 1]),
        // 65 000 bytes.
        ("30000 30000 30000", vec![2, 1]),
    ] {
        assert_eq!(groups(sizes), wanted, "{sizes}");
    }
    assert_eq!(groups(&["100"; 130].join(" ")), [64, 64, 2]);
}
