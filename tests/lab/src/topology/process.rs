//! Processes that a topology declares.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::Spanned;

use crate::place::Name;

/// A program that runs in a place.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessSpec {
    /// Its name, unique in its place; its log is `{lab}/logs/<place>/<name>.log`.
    pub name: Spanned<Name>,
    /// What to run.
    pub command: CommandLine,
    /// Variables beside the ones inherited.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// How to know that it serves. Without it, it is ready when it was started.
    pub ready: Option<Spanned<Ready>>,
    /// Whether `up` starts it; else `start PLACE/NAME` does.
    #[serde(default = "yes")]
    pub autostart: bool,
}

/// A command line: a list, or a string that is split at white space (no quotes, no shell).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Words")]
pub struct CommandLine(Vec<String>);

/// When a process counts as ready. Exactly one of `tcp` and `command`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// A TCP port that accepts a connection in the process's place, at a loopback address.
    pub tcp: Option<u16>,
    /// A command that ends with 0 in the process's place.
    pub command: Option<CommandLine>,
    /// Seconds until `up` gives up.
    #[serde(default = "default_within_s")]
    pub within_s: u64,
}

/// What `{bin}`, `{lab}` and `{file}` stand for in command lines and environments. Other braces stay as they are.
#[derive(Debug, Clone, Copy)]
pub struct Templates<'a> {
    /// The directory of the binaries.
    pub bin: &'a Path,
    /// The lab's state directory.
    pub lab: &'a Path,
    /// The directory of the topology file.
    pub file: &'a Path,
}

/// Both spellings of a command line.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Split(String),
    Exact(Vec<String>),
}

impl CommandLine {
    /// The words, with the templates filled in. Never empty.
    #[must_use]
    pub fn words(&self, templates: Templates<'_>) -> Vec<String> {
        self.0.iter().map(|word| templates.fill(word)).collect()
    }
}

impl Ready {
    /// How long to wait.
    #[must_use]
    pub fn within(&self) -> Duration {
        crate::patience(Duration::from_secs(self.within_s))
    }
}

impl Templates<'_> {
    /// The text with the placeholders filled in.
    #[must_use]
    pub fn fill(&self, text: &str) -> String {
        text.replace("{bin}", &self.bin.to_string_lossy())
            .replace("{lab}", &self.lab.to_string_lossy())
            .replace("{file}", &self.file.to_string_lossy())
    }
}

impl TryFrom<Words> for CommandLine {
    type Error = String;

    fn try_from(words: Words) -> Result<Self, String> {
        let words = match words {
            Words::Split(line) => line.split_whitespace().map(str::to_owned).collect(),
            Words::Exact(words) => words,
        };
        if words.is_empty() {
            Err("a command line needs at least a program".to_owned())
        } else {
            Ok(Self(words))
        }
    }
}

/// `autostart` unless said otherwise.
fn yes() -> bool {
    true
}

/// Ten seconds: everything here starts in less than one.
fn default_within_s() -> u64 {
    10
}
