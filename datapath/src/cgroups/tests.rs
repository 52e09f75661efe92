use super::*;
use crate::backend::bpf::default_cgroup_root;

#[test]
fn a_unit_is_where_systemd_puts_it() {
    for (unit, slice, path) in [
        ("billing.service", None, "system.slice/billing.service"),
        ("billing.service", Some("pay.slice"), "pay.slice/billing.service"),
        ("billing.service", Some("pay-card.slice"), "pay.slice/pay-card.slice/billing.service"),
        ("getty@tty1.service", None, "system.slice/system-getty.slice/getty@tty1.service"),
        ("web-app@1.service", None, r"system.slice/system-web\x2dapp.slice/web-app@1.service"),
        ("web@1.service", Some("web.slice"), "web.slice/web@1.service"),
        ("batch.scope", None, "system.slice/batch.scope"),
        ("pay-card.slice", None, "pay.slice/pay-card.slice"),
    ] {
        let slice = slice.map(|slice| slice.parse().unwrap());
        assert_eq!(unit_path(&unit.parse().unwrap(), slice.as_ref()), Path::new(path), "{unit} in {slice:?}");
    }
}

/// A cgroup of this test's own, gone with all that is below it.
struct Root(PathBuf);

impl Root {
    fn new(name: &str) -> Self {
        let dir = default_cgroup_root().join(format!("mesh-cgroups-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("root makes cgroups");
        Self(dir)
    }

    fn make(&self, path: &str) -> u64 {
        fs::create_dir_all(self.0.join(path)).expect("a cgroup");
        id(&self.0.join(path)).expect("it is there")
    }

    fn look(&self, units: &[&str]) -> Look {
        look(&self.0, &units.iter().map(PathBuf::from).collect()).expect("a look")
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        fn remove(dir: &Path) {
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            fs::remove_dir(dir).expect("nobody is in it");
        }
        remove(&self.0);
    }
}

#[test]
fn a_unit_that_starts_anew_is_another_cgroup_and_what_came_before_a_look_is_seen() {
    const UNIT: &str = "system.slice/billing.service";
    let root = Root::new("anew");
    let nothing = root.look(&[UNIT]);
    assert!(nothing.units.is_empty());
    assert_eq!(nothing.dirs, [root.0.clone()].into());

    let slice = root.make("system.slice");
    assert!(slice > nothing.newest, "what is made later is newer than the look");
    let first = root.make(UNIT);
    let other = root.make("system.slice/other.service");
    let look = root.look(&[UNIT]);
    assert_eq!(look.units, [(PathBuf::from(UNIT), first)].into());
    assert!(
        look.above.contains(&id(&root.0).unwrap())
            && look.above.contains(&slice)
            && !look.above.contains(&first)
    );
    assert!(look.newest >= other && look.newest >= first);
    assert_eq!(look.dirs.len(), 2);

    fs::remove_dir(root.0.join(UNIT)).expect("nobody is in it");
    assert!(root.look(&[UNIT]).units.is_empty());
    let second = root.make(UNIT);
    assert!(second > look.newest);
    assert_eq!(root.look(&[UNIT]).units, [(PathBuf::from(UNIT), second)].into());
}

#[test]
fn how_deep_a_cgroup_is_does_not_depend_on_what_a_mount_shows() {
    const MOUNTS: &str = "\
21 1 0:20 / /sys rw - sysfs sysfs rw
30 21 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw
31 21 0:26 /lab/b/b2 /host/cgroup rw - cgroup2 none rw
32 21 0:40 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
";
    for (cgroup, level) in [
        ("/sys/fs/cgroup", Some(0)),
        ("/sys/fs/cgroup/system.slice", Some(1)),
        ("/host/cgroup", Some(3)),
        ("/host/cgroup/system.slice", Some(4)),
        ("/sys/fs/cgroup/pids/x", None),
        ("/sys/fs", None),
        ("/tmp", None),
    ] {
        assert_eq!(level_by(MOUNTS, Path::new(cgroup)), level, "{cgroup}");
    }
    let root = Root::new("level");
    root.make("a/b");
    assert_eq!(level(&root.0.join("a/b")).unwrap(), level(&root.0).unwrap() + 2);
    let directory = tempfile::tempdir().unwrap();
    let error = level(directory.path()).expect_err("it is none");
    assert!(error.to_string().contains("is not of the cgroup file system"), "{error}");
}
