use super::*;
use crate::resolv::conf::HEADER;
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};
use std::process::Command;
use tempfile::TempDir;

const HOSTS: &str = "nameserver 192.0.2.1\nsearch corp.example\n";
const US: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 153));

#[test]
fn the_file_is_taken_once_and_what_was_there_comes_back_as_it_was() {
    let etc = Etc::with(HOSTS);
    assert_eq!(etc.take().unwrap(), Taken::First);
    assert!(etc.conf().starts_with(HEADER));
    for name in ["resolv.conf", "resolv.conf.mesh-vm-agent"] {
        let mode = fs::metadata(etc.path(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o644, "everybody reads {name}");
    }
    assert_eq!(etc.take().unwrap(), Taken::AsItWas);
    assert_eq!(etc.files.hosts().unwrap(), ResolvConf::parse(HOSTS));
    assert_eq!(etc.files.restore().unwrap(), Restored::Back);
    assert_eq!(etc.listed(), [("resolv.conf".to_owned(), HOSTS.to_owned())]);
    assert_eq!(etc.files.restore().unwrap(), Restored::NotOurs, "twice does nothing");
    assert_eq!(etc.conf(), HOSTS);
}

#[test]
fn what_somebody_else_writes_meanwhile_is_followed_and_is_what_comes_back() {
    let etc = Etc::with(HOSTS);
    etc.take().unwrap();
    let dhcp = "nameserver 192.0.2.77\n";
    etc.write("resolv.conf", dhcp);
    assert_eq!(etc.take().unwrap(), Taken::Again);
    assert_eq!(etc.files.hosts().unwrap(), ResolvConf::parse(dhcp));
    etc.files.restore().unwrap();
    assert_eq!(etc.listed(), [("resolv.conf".to_owned(), dhcp.to_owned())]);

    etc.take().unwrap();
    etc.write("resolv.conf", HOSTS);
    assert_eq!(etc.files.restore().unwrap(), Restored::NotOurs);
    assert_eq!(
        etc.listed(),
        [("resolv.conf".to_owned(), HOSTS.to_owned())],
        "he knows better than what we kept"
    );
}

#[test]
fn an_agent_that_was_killed_leaves_what_the_next_one_takes_over_or_puts_back() {
    let etc = Etc::with(HOSTS);
    etc.take().unwrap();
    let again = Files::in_etc(etc.dir.path());
    assert_eq!(again.take(US, &["svc.cluster.local".to_owned()], "vm").unwrap(), Taken::AsItWas);
    assert!(etc.conf().contains("search svc.cluster.local corp.example"), "it says what is wanted now");
    again.restore().unwrap();
    assert_eq!(etc.conf(), HOSTS);

    // Killed between the two steps: what was kept is a copy of what is there.
    etc.write("resolv.conf.mesh-vm-agent", HOSTS);
    assert_eq!(etc.take().unwrap(), Taken::Again);
    etc.files.restore().unwrap();
    assert_eq!(etc.listed(), [("resolv.conf".to_owned(), HOSTS.to_owned())]);
}

#[test]
fn a_link_comes_back_as_a_link_and_its_target_is_followed_until_then() {
    let etc = Etc::with(HOSTS);
    fs::rename(etc.path("resolv.conf"), etc.path("managed")).unwrap();
    symlink("managed", etc.path("resolv.conf")).unwrap();
    assert_eq!(etc.take().unwrap(), Taken::First);
    let new = "nameserver 192.0.2.55\n";
    etc.write("managed", new);
    assert_eq!(etc.files.hosts().unwrap(), ResolvConf::parse(new));
    assert_eq!(etc.take().unwrap(), Taken::AsItWas);
    assert!(!etc.conf().contains("corp.example"), "it no longer searches what the target no longer names");
    fs::remove_file(etc.path("managed")).unwrap();
    assert_eq!(etc.files.hosts().unwrap(), ResolvConf::default(), "a target that is not there says nothing");
    etc.write("managed", new);
    etc.files.restore().unwrap();
    assert_eq!(fs::read_link(etc.path("resolv.conf")).unwrap(), Path::new("managed"));
    assert_eq!(etc.conf(), new);
}

#[test]
fn a_host_without_the_file_gets_one_and_then_one_that_says_nothing() {
    let etc = Etc { dir: tempfile::tempdir().unwrap(), files: Files::in_etc(Path::new("")) };
    let etc = Etc { files: Files::in_etc(etc.dir.path()), ..etc };
    assert_eq!(etc.take().unwrap(), Taken::First);
    etc.files.restore().unwrap();
    assert_eq!(etc.listed(), [("resolv.conf".to_owned(), String::new())]);
}

#[test]
fn ours_without_what_was_kept_is_an_error_that_says_what_to_do() {
    let etc = Etc::with(HOSTS);
    etc.take().unwrap();
    fs::remove_file(etc.path("resolv.conf.mesh-vm-agent")).unwrap();
    for error in [etc.take().unwrap_err(), etc.files.restore().unwrap_err()] {
        assert!(hint(&error).starts_with("write the host's own servers to "), "{error:#}");
    }
}

#[test]
fn an_immutable_file_stays_as_it_is_and_the_error_says_how_to_make_it_mutable() {
    let etc = Etc::with(HOSTS);
    let _mutable_again = Immutable::make(&etc.path("resolv.conf"));
    let error = etc.take().unwrap_err();
    assert!(hint(&error).contains("chattr -i"), "{error:#}: {}", hint(&error));
    assert_eq!(etc.listed(), [("resolv.conf".to_owned(), HOSTS.to_owned())]);
}

#[test]
fn a_bind_mount_and_a_read_only_file_system_stay_as_they_are_and_have_hints_of_their_own() {
    let etc = Etc::with(HOSTS);
    etc.write("elsewhere", HOSTS);
    in_own_mounts(|| {
        let (conf, elsewhere) = (etc.path("resolv.conf"), etc.path("elsewhere"));
        let none = None::<&str>;
        mount(Some(&elsewhere), &conf, none, MsFlags::MS_BIND, none).unwrap();
        let error = etc.take().unwrap_err();
        assert!(hint(&error).contains("is a mount of its own"), "{error:#}: {}", hint(&error));
        nix::mount::umount(&conf).unwrap();

        let dir = etc.dir.path();
        mount(Some(dir), dir, none, MsFlags::MS_BIND, none).unwrap();
        mount(Some(dir), dir, none, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, none)
            .unwrap();
        let error = etc.files.clone().take(US, &[], "vm").unwrap_err();
        assert!(hint(&error).contains("mount it writable"), "{error:#}: {}", hint(&error));
    });
    let left = ["elsewhere", "resolv.conf"].map(|name| (name.to_owned(), HOSTS.to_owned()));
    assert_eq!(etc.listed(), left);
}

/// An `/etc` of the test's own.
struct Etc {
    dir: TempDir,
    files: Files,
}

impl Etc {
    fn with(conf: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let etc = Self { files: Files::in_etc(dir.path()), dir };
        etc.write("resolv.conf", conf);
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        // As most programs do: beside, and renamed.
        fs::write(self.path("new"), text).unwrap();
        fs::rename(self.path("new"), self.path(name)).unwrap();
    }

    fn conf(&self) -> String {
        fs::read_to_string(self.path("resolv.conf")).unwrap()
    }

    fn take(&self) -> anyhow::Result<Taken> {
        self.files.take(US, &["shop.svc.cluster.local".to_owned()], "vm")
    }

    /// All files, with what they say.
    fn listed(&self) -> Vec<(String, String)> {
        let mut all: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                (name, fs::read_to_string(path).unwrap())
            })
            .collect();
        all.sort();
        all
    }
}

/// `chattr +i`, until the test ends.
struct Immutable(PathBuf);

impl Immutable {
    fn make(path: &Path) -> Self {
        chattr("+i", path);
        Self(path.to_owned())
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        chattr("-i", &self.0);
    }
}

fn chattr(flag: &str, path: &Path) {
    let status = Command::new("chattr").arg(flag).arg(path).status().expect("e2fsprogs is installed");
    assert!(status.success(), "the file system of {} knows the flag, and we are root", path.display());
}

/// Runs this in a thread with mounts of its own, which go with it.
fn in_own_mounts(f: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("these tests mount: run them as root");
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
            f();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

fn hint(error: &anyhow::Error) -> &str {
    &error.downcast_ref::<Hint>().unwrap_or_else(|| panic!("no hint: {error:#}")).hint
}
