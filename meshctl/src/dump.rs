//! `meshctl dump`: what whoever helps needs to see, in one archive, and nothing that is secret.
//!
//! ```text
//!  meshctl.json                     version, when
//!  CLUSTER/cluster.json             what it says of itself, and its peers' contracts
//!  CLUSTER/status.json              what is measured, as `meshctl status -o json`
//!  CLUSTER/records.json             every record, decoded
//!  CLUSTER/error.txt                instead of all this, of one that does not answer
//! ```
//!
//! Invariants
//! - what is written was decoded as something of ours, and encoded again: a value that is no record, or under another key,
//!   is counted and not shown;
//! - what looks like a private key or a token in a text that somebody wrote is removed;
//! - the file is new and only its owner's.

mod redact;

use crate::{
    contexts::Way,
    facts::Facts,
    preflight::{ClusterFacts, Range},
    session::Session,
    status,
};
use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use futures::future::join_all;
use redact::redact;
use serde_json::{Value, json};
use std::{fs, io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, time::SystemTime};

/// A file of the archive: its path, and its text.
type File = (String, String);

/// Asks every cluster, and writes the archive. Gives what it says to the operator.
pub async fn dump(ways: &[Way], to: &Path) -> Result<String> {
    let asked = join_all(ways.iter().map(look)).await;
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let about = json!({"version": env!("CARGO_PKG_VERSION"), "takenUnixS": now_s});
    let mut files = vec![("meshctl.json".to_owned(), pretty(&about)?)];
    let mut said = String::new();
    for (way, asked) in ways.iter().zip(asked) {
        let name = way.name();
        match asked {
            Ok((described, facts, others)) => {
                said += &format!(" ✓ {name}: {} records, revision {}\n", facts.records.len(), facts.head);
                files.extend(of_cluster(name, &described, &facts, others)?);
            }
            Err(error) => {
                said += &format!(" ✗ {name}: {error:#}\n");
                files.push((format!("{}/error.txt", safe(name)), redact(&format!("{error:#}\n"))));
            }
        }
    }
    let bytes = archive(&files, now_s).context("cannot make the archive")?;
    let writing = || format!("cannot write {}", to.display());
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(to);
    file.with_context(writing)?.write_all(&bytes).with_context(writing)?;
    said += &format!("{} ({} bytes): look through it before you send it\n", to.display(), bytes.len());
    Ok(said)
}

/// What a cluster says, and how many keys of its store hold no record of ours.
async fn look(way: &Way) -> Result<(ClusterFacts, Facts, usize)> {
    let session = Session::open(way).await?;
    let (described, (facts, others)) = tokio::try_join!(session.describe(), session.facts_of_all())?;
    Ok((described, facts, others))
}

fn of_cluster(name: &str, described: &ClusterFacts, facts: &Facts, others: usize) -> Result<Vec<File>> {
    let ranges = |wanted: Range| -> Vec<String> {
        let all = described.ranges.iter().filter(|(range, _)| *range == wanted);
        all.map(|(_, cidr)| cidr.to_string()).collect()
    };
    let cluster = json!({
        "name": described.name,
        "uuid": described.uuid.to_string(),
        "podCidrs": ranges(Range::Pods),
        "serviceCidrs": ranges(Range::Services),
        "meshCidrs": ranges(Range::Mesh),
        "nodeAddresses": described.node_addresses,
        "endpoints": described.endpoints,
        "peers": described.peers,
        "exported": described.counts,
        "revision": facts.head,
        "keysThatAreNoRecords": others,
    });
    let records: Vec<Value> = facts
        .records
        .iter()
        .map(|(key, (record, revision))| json!({"key": key.to_string(), "revision": revision, "record": record}))
        .collect();
    let status = serde_json::to_value(status::cluster(facts)).context("cannot print the status")?;
    let dir = safe(name);
    Ok(vec![
        (format!("{dir}/cluster.json"), redact(&pretty(&cluster)?)),
        (format!("{dir}/status.json"), redact(&pretty(&status)?)),
        (format!("{dir}/records.json"), redact(&pretty(&Value::from(records))?)),
    ])
}

/// A kubeconfig's contexts may be called anything; a path in an archive may not.
fn safe(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.@".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    if name.starts_with('.') { format!("_{name}") } else { name }
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn archive(files: &[File], now_s: u64) -> Result<Vec<u8>> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len())?);
        header.set_mode(0o600);
        header.set_mtime(now_s);
        builder.append_data(&mut header, format!("meshctl-dump/{path}"), text.as_bytes())?;
    }
    Ok(builder.into_inner()?.finish()?)
}

#[cfg(test)]
mod tests;
