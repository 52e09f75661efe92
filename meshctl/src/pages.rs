//! Shell completions and manual pages, made from the command line itself.

use crate::args::Cli;
use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;
use std::{fs, path::Path};

/// The completion script of a shell.
pub fn completion(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "meshctl", &mut script);
    String::from_utf8(script).context("a completion script is text")
}

/// One page a command, `meshctl.1`, `meshctl-connect.1` and so on.
pub fn man(dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write manual pages into {}", dir.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_page_that_tells_the_exit_codes() {
        let dir = tempfile::tempdir().expect("a directory");
        man(dir.path()).expect("written");
        let read = |name: &str| fs::read_to_string(dir.path().join(name)).expect("a page");
        assert!(read("meshctl.1").contains("Exit codes: 0 all is well"));
        for command in Cli::command().get_subcommands() {
            assert!(read(&format!("meshctl-{}.1", command.get_name())).contains(".SH NAME"));
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = completion(shell).expect("a script");
            for command in Cli::command().get_subcommands() {
                assert!(script.contains(command.get_name()), "{shell} {}", command.get_name());
            }
        }
    }
}
