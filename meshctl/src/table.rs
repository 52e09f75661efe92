//! Text tables and marks, without colour, a thought a line.

use crate::status::{ClusterStatus, PeerStatus};
use api::record::{Freshness, Phase, Way};
use std::fmt::Write as _;

/// Pads columns to their widest cell; the last one is not padded.
pub fn columns(rows: &[Vec<String>]) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..count).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let _ = write!(line, "{cell:<width$}  ", width = widths[at]);
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1.2 ms`, `340 µs`, `1.5 s`
pub fn duration(microseconds: u64) -> String {
    match microseconds {
        0..1_000 => format!("{microseconds} µs"),
        1_000..1_000_000 => format!("{:.1} ms", microseconds as f64 / 1e3),
        _ => format!("{:.1} s", microseconds as f64 / 1e6),
    }
}

/// How many carry something, and which of them not as usual.
fn tunnels(peer: &PeerStatus) -> String {
    let special = [(peer.tunnels_relayed, "relay"), (peer.tunnels_on_demand, "on demand")];
    let special = special.iter().filter(|(count, _)| *count > 0);
    let special = special.map(|(count, what)| format!("{count} {what}")).collect::<Vec<_>>().join(", ");
    let all = format!("{}/{}", peer.tunnels_up, peer.tunnels);
    if special.is_empty() { all } else { format!("{all} ({special})") }
}

/// What `meshctl status` prints.
pub fn status(clusters: &[ClusterStatus]) -> String {
    let cells = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mut rows = vec![cells(&[
        "CLUSTER", "PEER", "STATE", "NODES", "TUNNELS", "RTT", "MTU", "SERVICES", "BACKENDS", "REVISION",
        "REFUSED",
    ])];
    for cluster in clusters {
        for peer in &cluster.peers {
            let state = match (peer.phase, peer.freshness) {
                (Phase::Prepared, _) => "prepared",
                (Phase::Active, Freshness::Fresh) => "fresh",
                (Phase::Active, Freshness::Stale) => "stale",
            };
            rows.push(vec![
                cluster.cluster.to_string(),
                peer.peer.to_string(),
                match &peer.way {
                    Way::Dialled => state.to_owned(),
                    Way::DialledByIt => format!("{state}, dialled by it"),
                    Way::Relayed(through) => format!("{state}, relay {through}"),
                },
                format!("{}/{}", peer.nodes_programmed, peer.nodes),
                tunnels(peer),
                peer.rtt_max_us.map_or("-".to_owned(), duration),
                peer.mtu_bytes.map_or("-".to_owned(), |mtu| mtu.to_string()),
                peer.services.to_string(),
                peer.backends.to_string(),
                peer.revision.to_string(),
                peer.refused.to_string(),
            ]);
        }
        if cluster.peers.is_empty() {
            rows.push(vec![
                cluster.cluster.to_string(),
                "-".into(),
                "no peers".into(),
                format!("{0}/{0}", cluster.nodes),
            ]);
        }
    }
    let mut text = columns(&rows);
    for problem in clusters.iter().flat_map(ClusterStatus::all_problems) {
        let _ = writeln!(text, " ✗ {problem}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows =
            [vec!["a".to_owned(), "bb".to_owned()], vec!["ccc".to_owned(), "µ".to_owned(), "x".to_owned()]];
        assert_eq!(columns(&rows), "a    bb\nccc  µ   x\n");
    }

    #[test]
    fn durations_have_the_unit_that_reads_best() {
        assert_eq!([340, 1_250, 1_500_000].map(duration), ["340 µs", "1.2 ms", "1.5 s"]);
    }
}
