//! The file `lineage`: a line a boot, its name in hexadecimal and its first revision. Pure.

use store::{Boot, Lineage};

/// Reads the file; none when any line is damaged.
#[must_use]
pub fn read(text: &str) -> Option<Lineage> {
    text.lines().map(parse_boot).collect::<Option<Vec<_>>>().map(Lineage::new)
}

/// Writes what [`read`] reads.
#[must_use]
pub fn write(lineage: &Lineage) -> String {
    lineage.boots().iter().map(write_boot).collect()
}

fn write_boot(boot: &Boot) -> String {
    format!("{} {}\n", hex::encode(boot.id), boot.first_revision)
}

fn parse_boot(line: &str) -> Option<Boot> {
    let (id, first_revision) = line.split_once(' ')?;
    let id = hex::decode(id).ok()?.try_into().ok()?;
    // No revision is below 1, and a boot begins above what it found.
    let first_revision = first_revision.parse().ok().filter(|revision| *revision >= 1)?;
    Some(Boot { id, first_revision })
}
