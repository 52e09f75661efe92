//! `meshctl store`: what the records say, and a dump into a data directory.

use crate::{args::Output, session::Listed, table};
use anyhow::{Context as _, bail};
use api::{
    key::{Key, LOCAL, MESH},
    name::ClusterName,
    record::Record,
};
use daemon::durable;
use std::{fmt::Write as _, fs, path::Path};

/// Bytes of a value that is no record, as they are shown.
const SHOWN_BYTES_MAX: usize = 64;

/// Which keys are meant: a whole prefix, or the rest of one in the cluster's own part.
pub fn prefix(cluster: &ClusterName, asked: Option<&str>) -> Vec<String> {
    match asked {
        None => vec![MESH.to_owned(), LOCAL.to_owned()],
        Some(whole) if whole.starts_with("mesh/") || whole.starts_with("mesh-local/") => {
            vec![whole.to_owned()]
        }
        Some(rest) => vec![format!("{MESH}{cluster}/{rest}")],
    }
}

/// One key, read.
#[derive(Debug, serde::Serialize)]
struct Entry {
    key: String,
    revision: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Record>,
    /// Why it is no record.
    #[serde(skip_serializing_if = "Option::is_none")]
    unreadable: Option<String>,
}

fn read(listed: &Listed) -> Entry {
    let parsed = Key::parse(&listed.key)
        .map_err(|error| error.to_string())
        .and_then(|key| Record::decode(&key, &listed.value).map_err(|error| error.to_string()));
    let (record, unreadable) = match parsed {
        Ok(record) => (Some(record), None),
        Err(why) => {
            let shown = &listed.value[..listed.value.len().min(SHOWN_BYTES_MAX)];
            let shown = format!("{why}; {} bytes: {}", listed.value.len(), shown.escape_ascii());
            (None, Some(shown))
        }
    };
    let key = listed.key.escape_ascii().to_string();
    Entry { key, revision: listed.revision, record, unreadable }
}

/// What was listed, for people or programs.
pub fn show(listed: &[Listed], output: Output) -> anyhow::Result<String> {
    let entries: Vec<Entry> = listed.iter().map(read).collect();
    if output != Output::Table {
        return output.print(&entries);
    }
    let mut rows = vec![["REVISION", "KEY", "RECORD"].map(str::to_owned).to_vec()];
    for entry in entries {
        let record = match (&entry.record, entry.unreadable) {
            (Some(record), _) => serde_json::to_string(record)?,
            (None, why) => format!("✗ {}", why.unwrap_or_default()),
        };
        rows.push(vec![entry.revision.to_string(), entry.key, record]);
    }
    Ok(table::columns(&rows))
}

/// Lays a dump into an apiserver's data directory: the next start begins from it. What is there stays beside it.
pub fn restore(file: &Path, data_dir: &Path) -> anyhow::Result<String> {
    let cluster = data_dir.join("cluster.yaml");
    let text = fs::read_to_string(&cluster)
        .with_context(|| format!("{} is not the data directory of an apiserver", data_dir.display()))?;
    let reading = || format!("cannot read {}", cluster.display());
    let own: Own = serde_saphyr::from_str(&text).with_context(reading)?;
    let bytes = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let bytes = bytes::Bytes::from(bytes);
    let dump = store::Dump::read(&bytes).with_context(|| format!("cannot restore {}", file.display()))?;
    if dump.origin != own.uuid.0 {
        bail!(
            "{} was made of the store of {}, and {} is of {} ({})",
            file.display(),
            api::bytes::ClusterUuid(dump.origin),
            data_dir.display(),
            own.name,
            own.uuid
        );
    }
    let place = data_dir.join("restore.dump");
    durable::write(&place, &bytes).with_context(|| format!("cannot write {}", place.display()))?;
    let mut said = String::new();
    let _ = writeln!(
        said,
        " ✓ {} is whole: {} versions of keys, up to revision {}",
        file.display(),
        dump.rows(),
        dump.revision
    );
    let _ = writeln!(said, "   the next start of {}'s apiserver begins from it, as a new boot", own.name);
    let _ = writeln!(said, "   undo before that: rm {}", place.display());
    Ok(said)
}

/// The part of `cluster.yaml` that says whose it is.
#[derive(serde::Deserialize)]
struct Own {
    name: ClusterName,
    uuid: api::bytes::ClusterUuid,
}

#[cfg(test)]
mod tests;
