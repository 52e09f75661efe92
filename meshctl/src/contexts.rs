//! Which clusters we know: those of context files, and the contexts of a kubeconfig.

use crate::kubernetes::KubeContext;
use anyhow::{Context as _, bail};
use api::name::ClusterName;
use daemon::{
    args::Hint,
    context::{Context, Contexts},
};
use kube::config::Kubeconfig;
use std::{collections::BTreeMap, fs, path::PathBuf};

/// Where a cluster is, and how we prove who we are.
#[derive(Debug, Clone)]
pub enum Way {
    /// By a context file, with the certificate it names.
    File(Context),
    /// By the Kubernetes it runs in, as whoever the kubeconfig says we are.
    Kubernetes(KubeContext),
}

/// What the command line says of clusters.
#[derive(Debug, clap::Args)]
pub struct ContextArgs {
    /// Context files: where clusters are and how to prove who we are. Later files add clusters.
    #[arg(long, env = "MESHCONFIG", value_delimiter = ':', global = true, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// Contexts of the kubeconfig ($KUBECONFIG, ~/.kube/config) for commands that name no cluster; may be given several
    /// times. Commands that do name some take contexts, too.
    #[arg(long, global = true, value_name = "CONTEXT")]
    context: Vec<String>,
    /// The namespace of the chart, for contexts of the kubeconfig; else the context's own, else `clustermesh`.
    #[arg(long, short = 'n', env = "MESH_NAMESPACE", global = true, value_name = "NAMESPACE")]
    mesh_namespace: Option<String>,
}

/// The clusters that can be named.
#[derive(Debug)]
pub struct Known {
    files: BTreeMap<ClusterName, Context>,
    contexts: Vec<String>,
    namespace: Option<String>,
}

impl Known {
    /// Reads the files, or `~/.config/meshctl/config.yaml` when none is named and there is one. Paths in a file are
    /// relative to it. The kubeconfig is read when it is needed.
    pub fn load(args: &ContextArgs) -> anyhow::Result<Self> {
        let default;
        let files = if args.config.is_empty() {
            default = default_file();
            default.as_slice()
        } else {
            &args.config[..]
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
        let (contexts, namespace) = (args.context.clone(), args.mesh_namespace.clone());
        Ok(Self { files: Contexts::merge(all)?, contexts, namespace })
    }

    /// Where a command looks that names no cluster: at those of --context; else of the files; else of the kubeconfig's
    /// current context.
    pub fn all(&self) -> anyhow::Result<Vec<Way>> {
        if !self.contexts.is_empty() {
            return self.contexts.iter().map(|name| self.context(name)).collect();
        }
        if !self.files.is_empty() {
            return Ok(self.files.values().cloned().map(Way::File).collect());
        }
        let current = read_kubeconfig()?.current_context;
        match current.filter(|name| !name.is_empty()) {
            Some(name) => Ok(vec![self.context(&name)?]),
            None => bail!(Hint::new(
                "no cluster is known",
                "name a kubeconfig's context with --context, or a context file (`clustermesh-apiserver init` writes one) \
                 with --config",
            )),
        }
    }

    /// The clusters that a command names, or all.
    pub fn named(&self, names: &[String]) -> anyhow::Result<Vec<Way>> {
        if names.is_empty() { self.all() } else { names.iter().map(|name| self.find(name)).collect() }
    }

    /// A cluster of the files by its name, else a context of the kubeconfig.
    pub fn find(&self, name: &str) -> anyhow::Result<Way> {
        match self.files.get(name) {
            Some(context) => Ok(Way::File(context.clone())),
            None => self.context(name),
        }
    }

    /// The cluster that is named, or the only one.
    pub fn find_or_only(&self, name: Option<&str>) -> anyhow::Result<Way> {
        if let Some(name) = name {
            return self.find(name);
        }
        let mut all = self.all()?;
        match all.len() {
            1 => Ok(all.remove(0)),
            _ => {
                let names: Vec<&str> = all.iter().map(Way::name).collect();
                bail!("which cluster? Add --cluster with one of: {}", names.join(", "))
            }
        }
    }

    fn context(&self, name: &str) -> anyhow::Result<Way> {
        let config = read_kubeconfig()?;
        let Some(found) = config.contexts.iter().find(|it| it.name == name) else {
            let files = self.files.keys().map(ClusterName::as_str);
            let all: Vec<&str> = files.chain(config.contexts.iter().map(|it| it.name.as_str())).collect();
            bail!("no context is called {name}; there is: {}", all.join(", "));
        };
        let own = found.context.as_ref().and_then(|context| context.namespace.clone());
        Ok(Way::Kubernetes(KubeContext::new(name, self.namespace.clone().or(own), config)))
    }
}

impl Way {
    /// How the operator calls it.
    pub fn name(&self) -> &str {
        match self {
            Self::File(context) => context.name.as_str(),
            Self::Kubernetes(context) => context.name(),
        }
    }
}

/// `$KUBECONFIG`, or the file at its usual place; nothing in it where there is none.
fn read_kubeconfig() -> anyhow::Result<Kubeconfig> {
    match Kubeconfig::read() {
        Ok(config) => Ok(config),
        Err(kube::config::KubeconfigError::ReadConfig(error, _))
            if error.kind() == std::io::ErrorKind::NotFound && std::env::var_os("KUBECONFIG").is_none() =>
        {
            Ok(Kubeconfig::default())
        }
        Err(error) => Err(error).context("cannot read the kubeconfig"),
    }
}

fn default_file() -> Option<PathBuf> {
    let file = PathBuf::from(std::env::var_os("HOME")?).join(".config/meshctl/config.yaml");
    file.exists().then_some(file)
}
