//! The command line.

use api::{bytes::ClusterUuid, name::ClusterName};
use clap::{Args, Parser, Subcommand};
use daemon::{args::LogArgs, spiffe::Role};
use ipnet::IpNet;
use std::{net::SocketAddr, path::PathBuf, str::FromStr};

use crate::{
    init::{ClusterConfig, EncryptionScope},
    pki::CERTIFICATE_DAYS,
};

/// Where an apiserver is reached that advertises nothing: on its own machine.
const HERE: &str = "localhost:2379";

/// The control plane of one cluster of the mesh: store, source, peers.
#[derive(Debug, Parser)]
#[command(name = "clustermesh-apiserver", version)]
pub struct Cli {
    /// Logs.
    #[command(flatten)]
    pub log: LogArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster: UUID, CA, own certificate, first operator.
    Init(InitArgs),
    /// Certificates of this cluster's CA.
    #[command(subcommand)]
    Cert(CertCommand),
    /// Serve.
    Run(RunArgs),
}

/// What to do with certificates.
#[derive(Debug, Subcommand)]
pub enum CertCommand {
    /// Issue a certificate with a fresh key.
    Issue(IssueArgs),
}

/// `init`
#[derive(Debug, Args)]
pub struct InitArgs {
    /// Where everything is kept.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The cluster's name, unique among its peers.
    #[arg(long, value_name = "NAME")]
    pub cluster_name: ClusterName,
    /// Where pods' addresses come from; may be given several times (IPv4 and IPv6).
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub pod_cidr: Vec<IpNet>,
    /// Where ClusterIPs come from; may be given several times.
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub service_cidr: Vec<IpNet>,
    /// Where mesh addresses of nodes and VMs come from; may be given several times.
    #[arg(long, value_name = "CIDR", required = true, value_delimiter = ',')]
    pub mesh_cidr: Vec<IpNet>,
    /// By which address agents, operators and peers reach this apiserver; may be given several times. Without it only this
    /// machine does, at localhost:2379, and peers as with --dial-out.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub advertise: Vec<String>,
    /// Peers cannot dial this apiserver: it stands behind NAT, and opens the connections. Agents and operators still
    /// reach it by --advertise.
    #[arg(long)]
    pub dial_out: bool,
    /// What is encrypted, or dropped.
    #[arg(long, value_enum, default_value_t)]
    pub encryption_scope: EncryptionScope,
    /// A Secret of the pod's namespace that keeps what no source can rebuild. When it holds this cluster already, the
    /// directory becomes this cluster's; else the cluster and the Secret are made.
    #[arg(long, value_name = "NAME")]
    pub state_secret: Option<String>,
}

impl InitArgs {
    /// As a cluster's configuration.
    #[must_use]
    pub fn config(&self, uuid: ClusterUuid) -> ClusterConfig {
        ClusterConfig {
            name: self.cluster_name.clone(),
            uuid,
            pod_cidrs: self.pod_cidr.clone(),
            service_cidrs: self.service_cidr.clone(),
            mesh_cidrs: self.mesh_cidr.clone(),
            encryption_scope: self.encryption_scope,
            advertise: match self.advertise.as_slice() {
                [] => vec![HERE.to_owned()],
                advertise => advertise.to_vec(),
            },
            dial_out: self.dial_out || self.advertise.is_empty(),
        }
    }
}

/// `cert issue`
#[derive(Debug, Args)]
pub struct IssueArgs {
    /// cluster, node, vm, operator or reader.
    pub role: Role,
    /// Which one: the node's name, the operator's name.
    pub name: String,
    /// The cluster's data directory.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where cert.pem, key.pem and bundle.pem go.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// How long it is valid.
    #[arg(long, value_name = "DAYS", default_value_t = CERTIFICATE_DAYS, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub days: u32,
}

/// `run`
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The cluster's data directory, made by `init`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Where the objects to announce are, and the home of MeshPeer objects.
    #[command(flatten)]
    pub source: SourceArgs,
    /// The Secret that `init --state-secret` made: what no source can rebuild is kept there, too.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub state_secret: Option<String>,
    /// A ConfigMap of the pod's namespace into which the CA's certificate is written, as `bundle.pem`.
    #[arg(long, value_name = "NAME", requires = "kubernetes")]
    pub bundle_configmap: Option<String>,
    /// Pods of this service account are given the certificate of the node they run on (see `mesh-node-agent
    /// --enrol-token`).
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "kubernetes")]
    pub enrol_service_account: Option<ServiceAccount>,
    /// Whoever holds a token of this service account is given an operator's certificate of an hour (see `meshctl
    /// --context`).
    #[arg(long, value_name = "NAMESPACE/NAME", requires = "kubernetes")]
    pub operator_service_account: Option<ServiceAccount>,
    /// Takes the taint `clustermesh.io/agent-not-ready` off a node when its agent has programmed its maps.
    #[arg(long, requires = "kubernetes")]
    pub readiness_gate: bool,
    /// Where to serve gRPC: the etcd v3 API and our admin service, with mutual TLS.
    #[arg(long, value_name = "ADDR:PORT", default_value = "0.0.0.0:2379")]
    pub listen: SocketAddr,
    /// Where to serve /healthz, /readyz and /metrics, in plain.
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9879")]
    pub health: SocketAddr,
}

/// Where the objects are: one of the two.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub struct SourceArgs {
    /// A directory of Kubernetes manifests.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// The Kubernetes API: of the pod this runs in, or of the kubeconfig in $KUBECONFIG.
    #[arg(long)]
    pub kubernetes: bool,
}

/// A service account of the Kubernetes API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceAccount {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceAccount {
    /// As the API server calls whoever holds its token.
    #[must_use]
    pub fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceAccount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("NAMESPACE/NAME is expected, such as clustermesh/node-agent".to_owned()),
        }
    }
}
