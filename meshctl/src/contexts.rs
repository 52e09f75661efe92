//! Which clusters we know: context files, merged.

use anyhow::{Context as _, bail};
use api::name::ClusterName;
use daemon::context::{Context, Contexts};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// The clusters of all context files, by name.
#[derive(Debug)]
pub struct Known(BTreeMap<ClusterName, Context>);

impl Known {
    /// Reads the files, or `~/.config/meshctl/config.yaml` when none is named. Paths in a file are relative to it.
    pub fn load(files: &[PathBuf]) -> anyhow::Result<Self> {
        let default;
        let files = if files.is_empty() {
            default = [default_file()?];
            &default[..]
        } else {
            files
        };
        let mut all = Vec::new();
        for file in files {
            let doing = || format!("cannot read the context file {}", file.display());
            let text = fs::read_to_string(file).with_context(doing)?;
            let contexts: Contexts = serde_saphyr::from_str(&text).with_context(doing)?;
            let dir = file.parent().map(PathBuf::from).unwrap_or_default();
            all.push(Contexts {
                clusters: contexts.clusters.into_iter().map(|c| c.resolved(&dir)).collect(),
            });
        }
        Ok(Self(Contexts::merge(all)?))
    }

    /// Every cluster, by name.
    pub fn all(&self) -> impl Iterator<Item = &Context> {
        self.0.values()
    }

    /// A cluster by its name.
    pub fn find(&self, name: &str) -> anyhow::Result<&Context> {
        match self.0.get(name) {
            Some(context) => Ok(context),
            None => bail!("no context is called {name}; there is: {}", self.names()),
        }
    }

    /// The cluster that is named, or the only one.
    pub fn find_or_only(&self, name: Option<&str>) -> anyhow::Result<&Context> {
        match (name, self.0.len()) {
            (Some(name), _) => self.find(name),
            (None, 1) => Ok(self.0.values().next().expect("there is one")),
            (None, _) => bail!("which cluster? Add --cluster with one of: {}", self.names()),
        }
    }

    fn names(&self) -> String {
        self.0.keys().map(ClusterName::as_str).collect::<Vec<_>>().join(", ")
    }
}

fn default_file() -> anyhow::Result<PathBuf> {
    let home = std::env::var_os("HOME").context("name a context file with --config: HOME is not set")?;
    let file = PathBuf::from(home).join(".config/meshctl/config.yaml");
    if file.exists() {
        return Ok(file);
    }
    bail!(
        "no context file: name one with --config or MESHCONFIG, or merge those that `clustermesh-apiserver init` wrote into {}",
        file.display()
    )
}
