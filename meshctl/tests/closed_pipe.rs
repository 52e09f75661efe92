//! `meshctl … | head`: a reader that goes away is no error, and nothing panics.

use std::process::{Command, Stdio};

fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Nobody's contexts are found.
fn meshctl(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(args).env_clear().env("HOME", "/nonexistent");
    command
}

#[test]
fn data_that_nobody_reads_is_no_error() {
    for args in [&["completion", "bash"][..], &["completion", "zsh"], &["--help"], &["--version"]] {
        let output = meshctl(args).stdout(closed()).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn an_error_that_nobody_reads_has_its_exit_code_all_the_same() {
    let open = meshctl(&["status"]).output().expect("it runs");
    assert!(!open.status.success() && !open.stderr.is_empty(), "{open:?}");
    let unread = meshctl(&["status"]).stdout(closed()).stderr(closed()).status().expect("it runs");
    assert_eq!(unread.code(), open.status.code());
}
