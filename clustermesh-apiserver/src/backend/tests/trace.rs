//! What a process asks of the kernel, in the order in which the kernel is asked: every thread is stopped at the entry
//! and the exit of each system call (ptrace), and one tracer sees them one after the other.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// One moment of one system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// A request was read from standard input.
    RequestRead,
    /// An answer is about to be written to standard output.
    AnswerWritten,
    /// Data was written to a file.
    DataWritten(PathBuf),
    /// A sync of a file begins.
    SyncBegins(PathBuf),
    /// A sync of a file has ended well.
    SyncEnded(PathBuf),
}

/// Traces a process from now on until it ends. Returns when every thread it has is held.
pub(super) fn trace(process: u32) -> JoinHandle<Vec<Moment>> {
    let (attached, is_attached) = mpsc::channel();
    let tracer = std::thread::spawn(move || {
        let process = Pid::from_raw(i32::try_from(process).expect("a pid"));
        attach(process);
        attached.send(()).expect("the test waits");
        follow(process)
    });
    is_attached.recv().expect("the tracer attaches");
    tracer
}

/// Takes hold of every thread; threads made later come by themselves.
fn attach(process: Pid) {
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_EXITKILL;
    let mut held = BTreeSet::new();
    loop {
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the process lives");
        let threads =
            threads.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let new: Vec<i32> =
            threads.map(|name| name.parse().expect("a thread's id")).filter(|id| held.insert(*id)).collect();
        if new.is_empty() {
            return;
        }
        for thread in new.into_iter().map(Pid::from_raw) {
            ptrace::seize(thread, options).expect("a child may be traced");
            ptrace::interrupt(thread).expect("a traced thread stops");
            // Until it has stopped, a call it is in may end unseen.
            waitpid(thread, Some(WaitPidFlag::__WALL)).expect("a traced thread stops");
            ptrace::syscall(thread, None).expect("a stopped thread goes on");
        }
    }
}

fn follow(process: Pid) -> Vec<Moment> {
    let mut moments = Vec::new();
    // Only this thread's tracees: other tests have children, too.
    let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
    loop {
        let (thread, signal) = match waitpid(None, Some(flags)) {
            Ok(WaitStatus::PtraceSyscall(thread)) => {
                moments.extend(look(process, thread));
                (thread, None)
            }
            Ok(WaitStatus::PtraceEvent(thread, _, _)) => (thread, None),
            Ok(WaitStatus::Stopped(thread, signal)) => (thread, Some(signal)),
            Ok(WaitStatus::Exited(ended, _) | WaitStatus::Signaled(ended, _, _)) if ended == process => {
                return moments;
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => continue,
            Ok(other @ (WaitStatus::Continued(_) | WaitStatus::StillAlive)) => {
                panic!("not asked for: {other:?}")
            }
            Err(Errno::EINTR) => continue,
            Err(Errno::ECHILD) => return moments,
            Err(error) => panic!("waiting for the traced process: {error}"),
        };
        match ptrace::syscall(thread, signal) {
            // It was killed meanwhile; its end is reported next.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("letting thread {thread} go on: {error}"),
        }
    }
}

/// What a thread that is stopped at a system call is doing, if it is of interest.
fn look(process: Pid, thread: Pid) -> Option<Moment> {
    let info = ptrace::syscall_info(thread).ok()?;
    let registers = ptrace::getregs(thread).ok()?;
    let (number, fd, result) = call(&registers);
    let path = || fs::read_link(format!("/proc/{process}/fd/{fd}")).unwrap_or_default();
    let entry = info.op == nix::libc::PTRACE_SYSCALL_INFO_ENTRY;
    match number {
        nix::libc::SYS_read if fd == 0 && !entry && result > 0 => Some(Moment::RequestRead),
        nix::libc::SYS_write if fd == 1 && entry => Some(Moment::AnswerWritten),
        nix::libc::SYS_pwrite64 if !entry => Some(Moment::DataWritten(path())),
        nix::libc::SYS_fdatasync | nix::libc::SYS_fsync if entry => Some(Moment::SyncBegins(path())),
        nix::libc::SYS_fdatasync | nix::libc::SYS_fsync if result == 0 => Some(Moment::SyncEnded(path())),
        _ => None,
    }
}

/// The number of a system call, its first argument, and its result (of meaning at the exit).
#[cfg(target_arch = "x86_64")]
fn call(registers: &nix::libc::user_regs_struct) -> (i64, u64, i64) {
    (registers.orig_rax.cast_signed(), registers.rdi, registers.rax.cast_signed())
}
