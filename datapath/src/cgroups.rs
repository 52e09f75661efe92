//! Where the processes of systemd's units are: the cgroups that it makes for them.
//!
//! A unit that starts anew has another cgroup. Cgroups are numbered in the order in which they are made (kernfs gives
//! out its inodes so, and every one is made under one lock), so a look can say up to where it has seen everything.

#[cfg(test)]
mod tests;

use api::name::{SliceName, UnitName};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirEntryExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

/// What a look found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Look {
    /// Units that run, by the path that was asked for.
    pub units: BTreeMap<PathBuf, u64>,
    /// What is above units, whether they run or not, from the root that was asked for.
    pub above: BTreeSet<u64>,
    /// Every cgroup up to this number was there when the units were looked for.
    pub newest: u64,
    /// Directories in which a unit, or the way to one, may appear or go.
    pub dirs: BTreeSet<PathBuf>,
}

/// Where systemd has a unit's cgroup, below the root of its tree: in its slice, which is `system.slice` for a service or
/// a scope, and a slice of the template's own for an instance. (systemd.slice(5), systemd.service(5))
#[must_use]
pub fn unit_path(unit: &UnitName, slice: Option<&SliceName>) -> PathBuf {
    let unit = unit.as_str();
    if unit.ends_with(".slice") {
        return slice_path(unit);
    }
    let slice = match (slice, unit.split_once('@')) {
        (Some(slice), _) => slice.to_string(),
        (None, None) => "system.slice".to_owned(),
        // A dash would be a way, so it is escaped. (systemd-escape(1))
        (None, Some((template, _))) => format!("system-{}.slice", template.replace('-', r"\x2d")),
    };
    slice_path(&slice).join(unit)
}

/// Each dash of a slice's name leads one slice further down.
fn slice_path(slice: &str) -> PathBuf {
    let stem = slice.strip_suffix(".slice").unwrap_or(slice);
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
}

/// Looks for units below `root`, a cgroup.
///
/// # Errors
/// The root cannot be read.
pub fn look(root: &Path, units: &BTreeSet<PathBuf>) -> io::Result<Look> {
    // First up to where everything is there, and only then what is there: what comes in between is newer.
    let mut newest = id(root)?;
    for dir in on_the_way(root, units) {
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(_) if dir != root => continue,
            Err(error) => return Err(error),
        };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            newest = newest.max(entry.ino());
        }
    }
    let dirs = on_the_way(root, units);
    let above = dirs.iter().filter_map(|dir| id(dir).ok()).chain([id(root)?]).collect();
    let running = units.iter().filter_map(|unit| Some((unit.clone(), id(&root.join(unit)).ok()?)));
    Ok(Look { units: running.collect(), above, newest, dirs })
}

/// The directories between the root and the units, as far as they are there.
fn on_the_way(root: &Path, units: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let parents = units.iter().flat_map(|unit| unit.ancestors().skip(1)).map(|dir| root.join(dir));
    parents.filter(|dir| dir.is_dir()).collect()
}

/// How deep a cgroup is; 0 is the root of all. A mount may show a part of the tree, so the path does not say.
///
/// # Errors
/// It is not of the cgroup file system.
pub fn level(cgroup: &Path) -> io::Result<u32> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    level_by(&mounts, &cgroup.canonicalize()?).ok_or_else(|| {
        let text = format!("{} is not of the cgroup file system", cgroup.display());
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// By the mounts of this process. (proc(5), /proc/pid/mountinfo)
fn level_by(mounts: &str, cgroup: &Path) -> Option<u32> {
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let [_, _, _, part, point, ..] = mount.split(' ').collect::<Vec<_>>()[..] else { return None };
        let below = cgroup.strip_prefix(point).ok()?.components().count();
        let part = Path::new(part).components().skip(1).count();
        Some((Path::new(point).components().count(), kind.starts_with("cgroup2 ").then_some(part + below)))
    };
    // The mount that is nearest; of several at one place the last one hides the others.
    let (_, depth) = mounts.lines().filter_map(parse).max_by_key(|(nearest, _)| *nearest)?;
    depth.and_then(|depth| u32::try_from(depth).ok())
}

/// A cgroup's number is the inode of its directory.
///
/// # Errors
/// It is not there.
pub fn id(cgroup: &Path) -> io::Result<u64> {
    fs::metadata(cgroup).map(|found| found.ino())
}
