//! Helm, as an operator runs it.

use crate::{chart, values};
use anyhow::{Context, Result, bail};
use lab::cached;
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// What charts are rendered for: Helm asks no server then.
const KUBERNETES: &str = "--kube-version=1.37.2";

/// Helm, and whom it asks.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
    home: tempfile::TempDir,
}

/// What a run said.
#[derive(Debug)]
pub struct Ran {
    /// It ended with 0.
    pub ok: bool,
    /// On stdout.
    pub out: String,
    /// On stderr.
    pub err: String,
}

impl Helm {
    /// Without a cluster.
    ///
    /// # Errors
    /// When it is not built.
    pub fn new() -> Result<Self> {
        let program = cached("helm-3.22.0/helm", "ci/kubernetes.sh")?;
        Ok(Self { program, kubeconfig: None, home: tempfile::tempdir()? })
    }

    /// In the cluster of a kubeconfig.
    ///
    /// # Errors
    /// When it is not built.
    pub fn of(kubeconfig: &Path) -> Result<Self> {
        Ok(Self { kubeconfig: Some(kubeconfig.to_owned()), ..Self::new()? })
    }

    /// Runs it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn run(&self, args: &[&str]) -> Result<Ran> {
        let mut command = Command::new(&self.program);
        // Nothing of the caller's: neither plugins nor a cluster.
        command.args(args).env_clear().env("HOME", self.home.path()).env("PATH", "/usr/bin:/bin");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let output = command.output().with_context(|| format!("cannot run {}", self.program.display()))?;
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ran { ok: output.status.success(), out: text(&output.stdout), err: text(&output.stderr) })
    }

    /// Runs it, and it has to succeed.
    ///
    /// # Errors
    /// What it said.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let ran = self.run(args)?;
        if !ran.ok {
            bail!("helm {} failed: {}{}", args.join(" "), ran.out, ran.err);
        }
        Ok(ran.out)
    }

    /// The chart as text, with one of its values files and `--set`s.
    ///
    /// # Errors
    /// Why it cannot be rendered.
    pub fn template(&self, name: &str, set: &[&str]) -> Result<String> {
        self.template_of(&chart(), name, set)
    }

    /// The same of a copy of the chart.
    ///
    /// # Errors
    /// Why it cannot be rendered.
    pub fn template_of(&self, chart: &Path, name: &str, set: &[&str]) -> Result<String> {
        let (chart, values) = (chart.display().to_string(), values(name).display().to_string());
        let mut args =
            vec!["template", "mesh", &chart, "--namespace", "mesh", KUBERNETES, "--values", &values];
        args.extend(set.iter().flat_map(|set| ["--set", set]));
        self.ok(&args)
    }

    /// The chart's objects.
    ///
    /// # Errors
    /// Why it cannot be rendered.
    pub fn objects(&self, name: &str, set: &[&str]) -> Result<Vec<Value>> {
        documents(&self.template(name, set)?)
    }
}

/// Objects of a text with several.
///
/// # Errors
/// When one is not YAML.
pub(crate) fn documents(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---\n").map(|text| text.strip_prefix("---\n").unwrap_or(text));
    documents
        .filter(|text| !text.trim().is_empty())
        .map(|text| serde_saphyr::from_str(text).with_context(|| format!("not YAML: {text}")))
        .collect()
}
