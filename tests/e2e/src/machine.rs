//! A machine with a kernel and an init of its own, in a place of a lab: a Debian under qemu, without KVM.
//!
//! Its only line to the world is qemu's user network, which is sockets of qemu in the place's network namespace: the
//! machine dials out as from behind one more NAT box, and nobody can dial it. What it writes to its disk outlives its
//! reboots, and is gone with qemu. The image is made by `tests/vm/image`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use lab::patience;

use crate::{Mesh, succeed};

/// What an agent, sshd and systemd need, and Debian's initramfs when it is unpacked.
const MEMORY_MB: &str = "1024";

/// Where the place reaches the machine's sshd: on the place's own loopback.
const SSH_PORT: &str = "2222";

/// The kernel's. A busy host is late for its check of the timer's interrupt, and then it gives up: it is not to check.
const COMMAND_LINE: &str = "root=/dev/vda rw console=ttyS0 quiet mitigations=off no_timer_check";

/// A Debian's boot, until its sshd answers.
const BOOT: Duration = Duration::from_secs(60);

/// A machine that runs; dropping it is pulling its plug.
#[derive(Debug)]
pub struct Machine<'a> {
    mesh: &'a Mesh,
    place: &'a str,
    image: PathBuf,
    qemu: Child,
}

impl<'a> Machine<'a> {
    /// Switches a machine on; [`Machine::await_boot`] waits for it.
    ///
    /// # Errors
    /// There is no such place, or no qemu.
    pub fn boot(mesh: &'a Mesh, place: &'a str, image: PathBuf) -> Result<Self> {
        let file = |name: &str| image.join(name).display().to_string();
        let (disk, kernel, initrd) = (file("disk"), file("vmlinuz"), file("initrd"));
        let drive = format!("file={disk},format=raw,if=virtio,snapshot=on");
        let network = format!("user,id=line,hostfwd=tcp:127.0.0.1:{SSH_PORT}-:22");
        let console = format!("file:{}", console(mesh).display());
        let machine = ["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"];
        let devices = ["-nodefaults", "-display", "none", "-device", "virtio-net-pci,netdev=line"];
        let argv = ["qemu-system-x86_64", "-m", MEMORY_MB, "-drive", &drive, "-netdev", &network]
            .into_iter()
            .chain(machine)
            .chain(devices)
            .chain(["-serial", &console, "-kernel", &kernel, "-initrd", &initrd])
            .chain(["-append", COMMAND_LINE]);
        let mut command = mesh.lab.command(place, argv)?;
        // The disk's layer is too large for a /tmp in memory.
        command.env("TMPDIR", "/var/tmp").stdin(Stdio::null());
        let qemu = command.spawn().context("cannot start qemu")?;
        Ok(Self { mesh, place, image, qemu })
    }

    /// Waits until the machine runs as another boot than `before`, and says which.
    ///
    /// # Errors
    /// qemu ended, or nobody answers in time; the end of the console says what it did.
    pub fn await_boot(&mut self, before: Option<&str>) -> Result<String> {
        let deadline = Instant::now() + patience(BOOT);
        loop {
            let output = self.sh("cat /proc/sys/kernel/random/boot_id")?;
            let boot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if output.status.success() && Some(boot.as_str()) != before {
                return Ok(boot);
            }
            if let Some(status) = self.qemu.try_wait().context("cannot look after qemu")? {
                bail!("qemu ended: {status}; {}", self.said_last());
            }
            if Instant::now() > deadline {
                bail!(
                    "the machine does not answer: {}; {}",
                    String::from_utf8_lossy(&output.stderr),
                    self.said_last()
                );
            }
        }
    }

    /// Runs a shell line on the machine, as root.
    ///
    /// # Errors
    /// ssh cannot be run; a line that fails is seen in the status, and a machine that does not answer as 255.
    pub fn sh(&self, line: &str) -> Result<Output> {
        self.mesh.lab.exec(self.place, self.ssh(line))
    }

    /// What a shell line that must go well prints.
    ///
    /// # Errors
    /// It did not.
    pub fn said(&self, line: &str) -> Result<String> {
        succeed(self.sh(line)?).with_context(|| format!("on the machine: {line}"))
    }

    /// Copies a file to the machine.
    ///
    /// # Errors
    /// It cannot be read, or the machine does not take it.
    pub fn put(&self, file: &Path, to: &str) -> Result<()> {
        let open = fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut command = self.mesh.lab.command(self.place, self.ssh(&format!("cat >{to}")))?;
        let output = command.stdin(open).output().context("cannot run ssh")?;
        succeed(output).with_context(|| format!("cannot copy {} to the machine", file.display()))?;
        Ok(())
    }

    fn ssh(&self, line: &str) -> Vec<String> {
        let key = self.image.join("key").display().to_string();
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "ConnectTimeout=20",
            "ServerAliveInterval=10",
        ];
        let mut argv = vec!["ssh".to_owned(), "-i".to_owned(), key, "-p".to_owned(), SSH_PORT.to_owned()];
        argv.extend(options.iter().flat_map(|option| ["-o".to_owned(), (*option).to_owned()]));
        argv.extend(["root@127.0.0.1".to_owned(), line.to_owned()]);
        argv
    }

    fn said_last(&self) -> String {
        let text = fs::read(console(self.mesh)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        format!("its console says:\n{}", lines[lines.len().saturating_sub(15)..].join("\n"))
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let journal =
                self.sh("journalctl --boot --no-pager --output=short-precise --lines=60 --unit='mesh-*'");
            let text = journal.map(|output| output.stdout).unwrap_or_default();
            eprintln!("── the machine's units\n{}", String::from_utf8_lossy(&text));
        }
        // It may have ended by itself.
        let _ended = self.qemu.kill();
        let _reaped = self.qemu.wait();
    }
}

/// Where what the machine prints is kept, as long as the lab is up.
fn console(mesh: &Mesh) -> PathBuf {
    mesh.dir().join("console.log")
}
