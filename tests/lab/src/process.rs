//! A process of the lab, named so that a recycled pid is never mistaken for it.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// How often a wait looks again: short beside everything the lab waits for.
pub(crate) const POLL: Duration = Duration::from_millis(10);

/// A pid and the time it started, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// The pid.
    pub pid: i32,
    /// Clock ticks between boot and the start of the process.
    pub started_ticks: u64,
}

/// What a process does at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Activity {
    /// It runs or sleeps.
    Running,
    /// It was stopped by a signal (`pause`).
    Paused,
    /// It is no more.
    Gone,
}

impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Gone => "gone",
        })
    }
}

impl ProcessId {
    /// The identity of the process that has this pid now.
    ///
    /// # Errors
    /// There is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("a pid of Linux fits 22 bits")?;
        let Stat { started_ticks, .. } = stat(pid).with_context(|| format!("there is no process {pid}"))?;
        Ok(Self { pid, started_ticks })
    }

    /// Whether it runs, is paused, or is gone. A zombie is gone.
    #[must_use]
    pub fn activity(self) -> Activity {
        // When the lab is used as a library the process is our child: collect it, or it stays a zombie. ECHILD else.
        let _ = waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG));
        match stat(self.pid) {
            Some(stat) if stat.started_ticks == self.started_ticks => match stat.state {
                // Its first thread ended before the others, which hold its files and ports until they have.
                'Z' if stat.threads > 1 => Activity::Running,
                'Z' | 'X' => Activity::Gone,
                'T' | 't' => Activity::Paused,
                _running_or_sleeping => Activity::Running,
            },
            Some(_) | None => Activity::Gone,
        }
    }

    /// Sends a signal to the process and to the group it leads.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if self.activity() == Activity::Gone {
            bail!("process {} is gone", self.pid);
        }
        let pid = Pid::from_raw(self.pid);
        match killpg(pid, signal) {
            // It leads no group (a holder between fork and setsid): the process alone.
            Err(Errno::ESRCH) => kill(pid, signal),
            other => other,
        }
        .with_context(|| format!("cannot send {signal} to process {}", self.pid))
    }

    /// Waits until the process is gone; false when it is still there after `within`.
    #[must_use]
    pub fn wait_gone(self, within: Duration) -> bool {
        wait_until(within, || self.activity() == Activity::Gone)
    }
}

/// Looks every 10 ms whether `done`; false when it is not within the time.
pub(crate) fn wait_until(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// What the kernel says of a process.
struct Stat {
    state: char,
    threads: u32,
    started_ticks: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    // The first of these is field 3.
    let fields: Vec<&str> = rest.split(' ').collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        threads: fields.get(20 - 3)?.parse().ok()?,
        started_ticks: fields.get(22 - 3)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_whose_first_thread_has_ended_is_there_until_the_others_have() {
        // `exit` of the first thread alone, as when a signal ends the threads one after the other.
        let script = "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); \
                      ctypes.CDLL(None).pthread_exit(None)";
        let mut child = Command::new("python3").args(["-c", script]).spawn().expect("python3 runs");
        let process = ProcessId::of(child.id()).expect("it runs");
        let first_has_ended = || stat(process.pid).is_some_and(|stat| stat.state == 'Z');
        assert!(wait_until(Duration::from_secs(20), first_has_ended));
        assert_eq!(process.activity(), Activity::Running);
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).expect("a signal");
        assert!(process.wait_gone(Duration::from_secs(20)));
        // `activity` has collected it, or this does.
        drop(child.wait());
    }
}
