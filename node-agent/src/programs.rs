//! Where the processes of a VM's programs are: the cgroups of their units, the numbers of their users.

use api::{
    name::UserName,
    record::{Processes, Program},
};
use datapath::cgroups::{self, Look, unit_path};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::inotify::{AddWatchFlags, InitFlags, Inotify},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fs, io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};
use tokio::sync::mpsc;

/// Where users have their numbers. A name service that is not this file is not asked: it may ask the mesh itself.
const PASSWD: &str = "/etc/passwd";
/// Cgroups that a unit had before its last starts, and whose sockets may still say goodbye. No number comes twice.
const EARLIER_MAX: usize = 4;
/// Looks until the directories that are watched are those that were looked into: each level of slices may appear late.
const LOOKS_MAX: usize = 8;

/// What was found. It stays as it was last while it cannot be read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProgramFacts {
    /// The cgroups of units: those they have and had lately.
    pub cgroups: BTreeMap<Processes, BTreeSet<u64>>,
    /// What runs: of users, those that the host knows.
    pub running: BTreeSet<Processes>,
    /// The numbers of users.
    pub users: BTreeMap<Processes, u32>,
    /// What is above units.
    pub above: BTreeSet<u64>,
    /// Up to which cgroup everything was seen.
    pub newest_cgroup: u64,
    /// How deep the cgroup is below which all this is.
    pub level: u32,
}

/// Looks for them, and wakes who has to look again.
pub struct Programs {
    root: PathBuf,
    root_id: u64,
    inotify: Arc<Inotify>,
    changed: mpsc::Receiver<()>,
    earlier: BTreeMap<PathBuf, VecDeque<u64>>,
    last: ProgramFacts,
}

impl Programs {
    /// Below this cgroup.
    ///
    /// # Errors
    /// When it is none, or the kernel has no inotify instances left (`fs.inotify.max_user_instances`).
    pub fn below(root: &Path) -> io::Result<Self> {
        let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?);
        let changed = wake_on_thread(Arc::clone(&inotify));
        let (earlier, last) = (BTreeMap::new(), ProgramFacts::default());
        let root_id = cgroups::id(root)?;
        Ok(Self { root: root.to_owned(), root_id, inotify, changed, earlier, last })
    }

    /// Waits until a unit, or the way to one, appeared or went.
    pub async fn changed(&mut self) {
        if self.changed.recv().await.is_none() {
            // The watch has ended; units are looked for at every look anyway.
            std::future::pending::<()>().await;
        }
    }

    /// Looks for the processes of these programs.
    pub fn look(&mut self, programs: &[Program], problems: &mut Vec<String>) -> ProgramFacts {
        let unit = |processes: &Processes| match processes {
            Processes::Unit { unit, slice } => Some(unit_path(unit, slice.as_ref())),
            Processes::User(_) => None,
        };
        let paths: BTreeMap<&Processes, PathBuf> =
            programs.iter().filter_map(|it| Some((&it.processes, unit(&it.processes)?))).collect();
        let mut facts = ProgramFacts::default();
        if !paths.is_empty() {
            match self.look_and_watch(&paths.values().cloned().collect()) {
                Ok(found) => self.units(&paths, found, &mut facts),
                Err(error) => {
                    problems.push(format!(
                        "cannot look for the units of programs below {}: {error}; what starts now is kept off the mesh",
                        self.root.display()
                    ));
                    let ProgramFacts { cgroups, above, newest_cgroup, level, .. } = self.last.clone();
                    // The root is above all: where nothing was ever seen, everything is newer.
                    let above = above.into_iter().chain([self.root_id]).collect();
                    facts = ProgramFacts { cgroups, above, newest_cgroup, level, ..facts };
                }
            }
        }
        let users = programs.iter().filter_map(|it| match &it.processes {
            Processes::User(user) => Some((&it.processes, user)),
            Processes::Unit { .. } => None,
        });
        let mut users = users.peekable();
        if users.peek().is_some() {
            let passwd = fs::read_to_string(PASSWD).unwrap_or_default();
            for (processes, user) in users {
                match uid(&passwd, user) {
                    Some(uid) => drop(facts.users.insert(processes.clone(), uid)),
                    None => problems.push(format!(
                        "{PASSWD} has no user {user}: a program of this user is taken for the VM itself; name it by its \
                         number if another service knows it"
                    )),
                }
            }
            facts.running.extend(facts.users.keys().cloned());
        }
        self.last = facts.clone();
        facts
    }

    /// Until what was looked into is watched: what changes after that is reported. And how deep all this is.
    fn look_and_watch(&self, units: &BTreeSet<PathBuf>) -> io::Result<(Look, u32)> {
        let level = cgroups::level(&self.root)?;
        let mut look = cgroups::look(&self.root, units)?;
        for _ in 0..LOOKS_MAX {
            for dir in &look.dirs {
                let flags = AddWatchFlags::IN_CREATE
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_ONLYDIR
                    | AddWatchFlags::IN_MOVED_TO;
                match self.inotify.add_watch(dir, flags) {
                    // Gone between the look and the watch.
                    Ok(_) | Err(Errno::ENOENT) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            let watched = look.dirs;
            look = cgroups::look(&self.root, units)?;
            if look.dirs == watched {
                break;
            }
        }
        Ok((look, level))
    }

    fn units(
        &mut self,
        paths: &BTreeMap<&Processes, PathBuf>,
        (look, level): (Look, u32),
        facts: &mut ProgramFacts,
    ) {
        self.earlier.retain(|path, _| paths.values().any(|wanted| wanted == path));
        for (processes, path) in paths {
            let known = self.earlier.entry(path.clone()).or_default();
            if let Some(id) = look.units.get(path) {
                if !known.contains(id) {
                    known.push_back(*id);
                }
                facts.running.insert((*processes).clone());
            }
            while known.len() > EARLIER_MAX {
                known.pop_front();
            }
            facts.cgroups.insert((*processes).clone(), known.iter().copied().collect());
        }
        (facts.above, facts.newest_cgroup, facts.level) = (look.above, look.newest, level);
    }
}

/// Waits on a thread of its own, which lives as long as the process; one wake-up under way is enough.
fn wake_on_thread(inotify: Arc<Inotify>) -> mpsc::Receiver<()> {
    let (wake, woken) = mpsc::channel(1);
    thread::spawn(move || {
        loop {
            match poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return,
            }
            let mut changed = false;
            loop {
                match inotify.read_events() {
                    Ok(events) => changed |= !events.is_empty(),
                    Err(Errno::EAGAIN) => break,
                    Err(_) => return,
                }
            }
            if changed {
                // Full: the loop has not yet looked since the last one, and will see this, too.
                let _ = wake.try_send(());
            }
        }
    });
    woken
}

/// A user's number: as it is named, or as the file says. (passwd(5))
fn uid(passwd: &str, user: &UserName) -> Option<u32> {
    user.as_str().parse().ok().or_else(|| {
        let line = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        line.filter(|fields| fields[0] == user.as_str()).find_map(|fields| fields.get(2)?.parse().ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_the_number_that_the_file_says_or_is_one() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nbilling:x:998:998::/:/bin/false\n";
        for (user, expected) in
            [("billing", Some(998)), ("1000", Some(1000)), ("bill", None), ("broken", None)]
        {
            assert_eq!(uid(passwd, &user.parse().unwrap()), expected, "{user}");
        }
    }
}
