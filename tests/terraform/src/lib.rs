//! OpenTofu, as a user of terraform-examples runs it.
//!
//! ```text
//!  terraform-examples ─▶ copy ─▶ tofu test               modules: what they render and refuse, by their own tests
//!                          │ └─▶ user data, objects ─▶ cloud-init's schema, our own parsers
//!                          ├───▶ clouds: what needs no provider is validated, the rest is parsed
//!                          └───▶ edge-to-core-local/README.md, command by command, on the lab
//! ```
//!
//! Invariants
//! - the checkout stays as it is: state and downloads are in the copy;
//! - a program that is missing fails the test, with the way to get it.

mod copy;

use anyhow::{Context, Result, bail};
use lab::cached;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::TempDir;

/// The examples.
#[must_use]
pub fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../terraform-examples")
}

/// OpenTofu, and a copy of the examples for it to work in.
#[derive(Debug)]
pub struct Tofu {
    program: PathBuf,
    dir: TempDir,
}

impl Tofu {
    /// With a fresh copy.
    ///
    /// # Errors
    /// When OpenTofu is not built.
    pub fn new() -> Result<Self> {
        let program = cached("tofu-1.12.6/tofu", "ci/tofu.sh")?;
        let dir = tempfile::tempdir().context("cannot make a directory for a copy of the examples")?;
        copy::tree(&examples(), dir.path())?;
        Ok(Self { program, dir })
    }

    /// The copy of an example or a module.
    #[must_use]
    pub fn path(&self, example: &str) -> PathBuf {
        self.dir.path().join(example)
    }

    /// The directory of the program, for a user's `PATH`.
    ///
    /// # Errors
    /// Never: a program is in a directory.
    pub fn bin(&self) -> Result<&Path> {
        self.program.parent().context("a program is in a directory")
    }

    /// Runs it in the copy of an example; what it says is for a program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, example: &str, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.program);
        // Nothing of the caller's: neither settings nor plugins.
        command.args(args).current_dir(self.path(example)).env_clear();
        command.env("HOME", self.dir.path()).env("PATH", "/usr/bin:/bin").envs(QUIET);
        command.output().with_context(|| format!("cannot run {}", self.program.display()))
    }

    /// Runs it, and it has to succeed.
    ///
    /// # Errors
    /// What it said.
    pub fn ok(&self, example: &str, args: &[&str]) -> Result<String> {
        let output = self.run(example, args)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if !output.status.success() {
            bail!("tofu {} in {example}: {}{}", args.join(" "), text(&output.stdout), text(&output.stderr));
        }
        Ok(text(&output.stdout))
    }

    /// Runs the tests that a module has of its own; how many there were.
    ///
    /// # Errors
    /// What failed, or that OpenTofu did not find each of them.
    pub fn test(&self, module: &str) -> Result<usize> {
        self.ok(module, &["init", "-input=false"])?;
        let said = self.ok(module, &["test"])?;
        let mut runs = 0;
        let files = std::fs::read_dir(self.path(module).join("tests")).context("the module has no tests")?;
        for path in files.flatten().map(|entry| entry.path()).filter(|path| path.is_file()) {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            runs += text.lines().filter(|line| line.starts_with("run \"")).count();
        }
        if !said.contains(&format!("Success! {runs} passed, 0 failed.")) {
            bail!("{module} has {runs} tests, and tofu test says: {said}");
        }
        Ok(runs)
    }

    /// Applies a module that needs no provider with these variables; its outputs.
    ///
    /// # Errors
    /// What OpenTofu said.
    pub fn outputs(&self, module: &str, variables: &Value) -> Result<BTreeMap<String, Value>> {
        let file = self.path(module).join("test.tfvars.json");
        std::fs::write(&file, variables.to_string())
            .with_context(|| format!("cannot write {}", file.display()))?;
        self.ok(module, &["init", "-input=false"])?;
        self.ok(module, &["apply", "-auto-approve", "-input=false", "-var-file=test.tfvars.json"])?;
        let outputs: BTreeMap<String, BTreeMap<String, Value>> =
            serde_json::from_str(&self.ok(module, &["output", "-json"])?)
                .context("cannot read the outputs")?;
        let value = |(name, mut output): (String, BTreeMap<String, Value>)| {
            let value = output.remove("value").with_context(|| format!("output {name} has no value"))?;
            Ok((name, value))
        };
        outputs.into_iter().map(value).collect()
    }
}

/// It asks nobody outside for news, and writes no colours.
pub const QUIET: [(&str, &str); 2] = [("CHECKPOINT_DISABLE", "1"), ("TF_CLI_ARGS", "-no-color")];
