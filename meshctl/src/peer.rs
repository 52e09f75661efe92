//! `meshctl peer`: the contracts, as the objects that hold them.

use crate::{args::Output, session::Session, table};
use anyhow::{Context as _, bail};
use api::peer::MeshPeer;
use similar::{ChangeTag, TextDiff};
use std::{env, fmt::Write as _, fs, path::Path, process::Command};

/// Peers of several clusters, for people or programs.
pub fn list(clusters: &[(String, Vec<MeshPeer>)], output: Output) -> anyhow::Result<String> {
    if output != Output::Table {
        let peers: Vec<&MeshPeer> = clusters.iter().flat_map(|(_, peers)| peers).collect();
        return output.print(&peers);
    }
    let head = ["CLUSTER", "PEER", "PHASE", "ENDPOINTS", "CIDRS", "NAMESPACES", "STALE", "MAX BACKENDS"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    let joined = |all: Vec<String>| if all.is_empty() { "all".to_owned() } else { all.join(",") };
    for (cluster, peers) in clusters {
        for peer in peers {
            let spec = &peer.spec;
            let phase = match peer.phase() {
                api::record::Phase::Active => "active",
                api::record::Phase::Prepared => "prepared",
            };
            let stale = serde_json::to_value(spec.stale.policy)?;
            let stale = stale.as_str().unwrap_or_default().to_owned();
            let after = spec.stale.drop_after_s().map(|s| format!(" {s} s")).unwrap_or_default();
            rows.push(vec![
                cluster.clone(),
                peer.metadata.name.to_string(),
                phase.to_owned(),
                match &spec.through {
                    _ if !spec.endpoints.is_empty() => spec.endpoints.join(","),
                    Some(through) => format!("through {through}"),
                    None => "it dials us".to_owned(),
                },
                joined(spec.contract.cidrs.iter().map(ToString::to_string).collect()),
                joined(spec.contract.namespaces.iter().map(ToString::to_string).collect()),
                stale + &after,
                spec.contract.limits.backends.to_string(),
            ]);
        }
    }
    Ok(table::columns(&rows))
}

/// The object as YAML.
pub fn yaml(peer: &MeshPeer) -> anyhow::Result<String> {
    serde_saphyr::to_string(peer).context("cannot print the peer as YAML")
}

/// Reads an object that somebody wrote.
pub fn parse(text: &str) -> anyhow::Result<MeshPeer> {
    serde_saphyr::from_str(text).context("not a MeshPeer")
}

/// What would change, as lines; empty when nothing would.
pub fn diff(before: &str, after: &str) -> String {
    let mut text = String::new();
    for change in TextDiff::from_lines(before, after).iter_all_changes() {
        let mark = match change.tag() {
            ChangeTag::Delete => '-',
            ChangeTag::Insert => '+',
            ChangeTag::Equal => continue,
        };
        let _ = write!(text, "{mark} {change}");
    }
    text
}

/// Applies an object to the cluster and says what changed. What is shown as changed is what is changed: over an object that
/// is not `judged`, or not the one that is there now, nothing is written.
pub async fn apply(
    session: &Session,
    peer: &MeshPeer,
    judged: Option<&MeshPeer>,
    dry_run: bool,
) -> anyhow::Result<String> {
    let name = &peer.metadata.name;
    let held = session.describe().await?.peer(name).cloned();
    let judged = judged.or(held.as_ref());
    let before = judged.map(yaml).transpose()?.unwrap_or_default();
    let changes = diff(&before, &yaml(peer)?);
    // Checked by the apiserver also when it would change nothing: the answer is about the object.
    session.apply_peer(peer, judged, dry_run || changes.is_empty()).await?;
    Ok(match (changes.is_empty(), dry_run) {
        (true, _) => format!("{} holds its peer {name} to this already\n", session.name),
        (false, true) => format!("{changes}{} would hold its peer {name} to this\n", session.name),
        (false, false) => format!("{changes} ✓ {} holds its peer {name} to this now\n", session.name),
    })
}

/// Lets a person edit the object in an editor of his choice. `None` when nothing was changed.
pub fn edit(peer: &MeshPeer, dir: &Path) -> anyhow::Result<Option<MeshPeer>> {
    let editor = env::var_os("VISUAL").or_else(|| env::var_os("EDITOR")).unwrap_or_else(|| "vi".into());
    let file = dir.join(format!("meshpeer-{}.yaml", peer.metadata.name));
    let before = yaml(peer)?;
    fs::write(&file, &before).with_context(|| format!("cannot write {}", file.display()))?;
    // As git and kubectl do: what EDITOR says may have arguments.
    let run = Command::new("sh").arg("-c").arg("$0 \"$1\"").arg(&editor).arg(&file).status();
    let ended = run.with_context(|| format!("cannot start the editor {}", editor.display()))?;
    if !ended.success() {
        bail!("the editor {} ended with {ended}; nothing was changed", editor.display());
    }
    let after = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
    if after == before {
        return Ok(None);
    }
    let edited = parse(&after)?;
    if edited.metadata.name != peer.metadata.name {
        bail!("metadata.name says which peer this is and cannot be edited; nothing was changed");
    }
    Ok(Some(edited))
}

#[cfg(test)]
mod tests;
