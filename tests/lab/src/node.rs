//! What a real node carries: forwarding, a reverse path filter, kube-proxy's chains and a FORWARD policy of DROP.

use crate::topology::{Cluster, Nat, Node};

/// Sysctls of every place: addresses are static, and no address waits for duplicate detection.
const QUIET: [(&str, &str); 8] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/all/autoconf", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/default/disable_ipv6", "0"),
];

/// What makes a machine pass packets on.
const FORWARDING: [(&str, &str); 3] = [
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/default/forwarding", "1"),
];

/// Whether bridged packets pass iptables.
const BRIDGE_NF: [&str; 2] = ["net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"];

/// A family of `iptables-restore`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// `iptables`.
    V4,
    /// `ip6tables`.
    V6,
}

/// Sysctls of a host or a pod.
#[must_use]
pub fn quiet_sysctls() -> Vec<(String, String)> {
    owned(&QUIET)
}

/// Sysctls of the router. Its bridges are switches, which have no iptables.
#[must_use]
pub fn router_sysctls() -> Vec<(String, String)> {
    let mut sysctls = owned(&QUIET);
    sysctls.extend(owned(&FORWARDING));
    sysctls.extend(BRIDGE_NF.map(|name| (name.to_owned(), "0".to_owned())));
    sysctls
}

/// Sysctls of a NAT box: a router that forgets UDP soon.
#[must_use]
pub fn nat_sysctls(nat: &Nat) -> Vec<(String, String)> {
    let mut sysctls = router_sysctls();
    for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
        sysctls.push((format!("net/netfilter/{name}"), nat.udp_timeout_s.to_string()));
    }
    sysctls
}

/// Sysctls of a node.
#[must_use]
pub fn node_sysctls(node: &Node) -> Vec<(String, String)> {
    let mut sysctls = owned(&QUIET);
    sysctls.extend(owned(&FORWARDING));
    sysctls.extend(BRIDGE_NF.map(|name| (name.to_owned(), "1".to_owned())));
    // The kernel takes the larger of `all` and the device's own. (ip-sysctl: rp_filter)
    for scope in ["all", "default"] {
        sysctls.push((format!("net/ipv4/conf/{scope}/rp_filter"), node.rp_filter.value().to_string()));
    }
    sysctls
}

/// The rules of a node as `iptables-restore` reads them: kube-proxy's chains as its iptables mode writes them for a
/// cluster without Services (pkg/proxy/iptables/proxier.go), the accepts for the cluster's pods as flannel writes them,
/// and the FORWARD policy that Docker and hardened images leave behind.
#[must_use]
pub fn iptables(cluster: &Cluster, family: Family) -> String {
    let (pods, loopback) = match family {
        Family::V4 => (cluster.pod_cidrs.value.v4.to_string(), "127.0.0.0/8"),
        Family::V6 => (cluster.pod_cidrs.value.v6.to_string(), "::1/128"),
    };
    format!(
        r#"*mangle
:KUBE-IPTABLES-HINT - [0:0]
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [0:0]
:OUTPUT ACCEPT [0:0]
:FLANNEL-FWD - [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A INPUT -m comment --comment "kubernetes health check service ports" -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -m comment --comment "kubernetes externally-visible service portals" -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes load balancer firewall" -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A FLANNEL-FWD -s {pods} -m comment --comment "flanneld forward" -j ACCEPT
-A FLANNEL-FWD -d {pods} -m comment --comment "flanneld forward" -j ACCEPT
-A KUBE-FIREWALL ! -s {loopback} -d {loopback} -m comment --comment "block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding rules" -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m comment --comment "kubernetes forwarding conntrack rule" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-KUBELET-CANARY - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully
-A KUBE-SERVICES -m comment --comment "kubernetes service nodeports; NOTE: this must be the last rule in this chain" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"#
    )
}

fn owned(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}
