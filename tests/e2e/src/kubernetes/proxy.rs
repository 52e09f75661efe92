//! kube-proxy on nodes.

use anyhow::Result;
use lab::ProcessId;

use super::{Kubernetes, end, program};
use crate::succeed;

/// How kube-proxy writes its rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyMode {
    /// Chains of iptables.
    Iptables,
    /// Tables of its own in nftables.
    Nftables,
}

/// A kube-proxy at work.
#[derive(Debug)]
pub struct KubeProxy {
    process: ProcessId,
}

impl Kubernetes<'_> {
    /// Starts a node's kube-proxy and waits until it has written its rules.
    pub fn proxy(&self, node: &str, mode: ProxyMode) -> Result<KubeProxy> {
        let program = program("kube-proxy")?;
        let mode = match mode {
            ProxyMode::Iptables => "iptables",
            ProxyMode::Nftables => "nftables",
        };
        let place = self.node(node);
        let process = self.spawn(
            &place,
            &format!("kube-proxy-{node}-{mode}"),
            &[
                &program,
                &format!("--kubeconfig={}", self.kubeconfig()),
                &format!("--hostname-override={node}"),
                &format!("--proxy-mode={mode}"),
                &format!("--cluster-cidr={}", self.cluster.pods),
                // The lab's namespaces share the machine's table of connections.
                "--conntrack-max-per-core=0",
                "--healthz-bind-address=127.0.0.1:10256",
                "--metrics-bind-address=127.0.0.1:10249",
            ],
        )?;
        let synced = || {
            let line = "curl -sf http://127.0.0.1:10256/healthz && \
                        curl -sf http://127.0.0.1:10249/metrics | grep -q '^kubeproxy_sync_proxy_rules_last_timestamp_seconds.* [1-9]'";
            succeed(self.lab().exec(&place, ["sh", "-c", line])?).map(drop)
        };
        self.await_ok("kube-proxy", synced)?;
        Ok(KubeProxy { process })
    }

    /// Removes every rule that a kube-proxy, of either mode, has written on a node; also the lab's imitation of them.
    pub fn clean(&self, node: &str) -> Result<()> {
        let argv = [&program("kube-proxy")?, "--cleanup"];
        succeed(self.lab().exec(&self.node(node), argv)?).map(drop)
    }
}

impl KubeProxy {
    /// Ends it; its rules stay, as they do on a node.
    pub fn stop(self) -> Result<()> {
        end(self.process, "kube-proxy")
    }
}
