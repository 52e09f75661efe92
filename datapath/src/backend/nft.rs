//! Our own nftables table, `inet mesh`, by the program `nft`: replaced whole, in one transaction. What balances Services
//! where no socket program does is another one, in [`services`].
//!
//! It has one chain at postrouting, before the CNI's and kube-proxy's (their nat chains are at priority 100, and the
//! first that translates a connection wins): what leaves by `mesh0` takes the host's mesh address as its source, so that
//! its replies come back to this host. What has it already is translated to itself: the AWS CNI would else give it the
//! address of an uplink. So is what comes from a tenant's address. The direct path never comes here: `bpf_redirect` puts a pod's packet at the device behind every
//! hook of the IP stack, which is also why the CNI's `ipMasq` does not touch it.

pub mod services;
#[cfg(test)]
mod tests;

use crate::{observe::Masquerade, uplinks::MESH_DEVICE};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::{Command, Output, Stdio},
};

const TABLE: &str = "mesh";
const CHAIN: &str = "postrouting";
/// Just before `srcnat`, which is 100.
const PRIORITY: i64 = 90;

/// `nft` could not be run, or refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such program.
    #[error("cannot run nft: install the package nftables")]
    Missing(#[source] io::Error),
    /// It could not be talked to.
    #[error("cannot talk to nft")]
    Io(#[source] io::Error),
    /// It refused; the text is its own.
    #[error("nft refused a table of ours: {0}")]
    Refused(String),
    /// Its answer is not what `nft --json` answers.
    #[error("cannot read what nft says of the table inet {TABLE}")]
    Answer(#[source] serde_json::Error),
}

/// Reads our table.
///
/// # Errors
/// When `nft` is missing or cannot be understood.
pub fn observe() -> Result<Masquerade, Error> {
    let output = run(&["--json", "list", "table", "inet", TABLE], "")?;
    if !output.status.success() {
        // The only reason for which listing a table fails without a word of ours: there is none.
        let said = String::from_utf8_lossy(&output.stderr);
        return match said.contains("No such file or directory") {
            true => Ok(Masquerade::Absent),
            false => Err(Error::Refused(said.trim().to_owned())),
        };
    }
    let answer: Value = serde_json::from_slice(&output.stdout).map_err(Error::Answer)?;
    Ok(read(&answer))
}

/// Makes our table be this.
///
/// # Errors
/// When `nft` is missing or refuses; then nothing has changed.
pub fn set(wanted: &Masquerade) -> Result<(), Error> {
    accepted(&run(&["--file", "-"], &script(wanted))?)
}

fn accepted(output: &Output) -> Result<(), Error> {
    match output.status.success() {
        true => Ok(()),
        false => Err(Error::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn run(arguments: &[&str], input: &str) -> Result<Output, Error> {
    let mut child = Command::new("nft")
        .args(arguments)
        // Its messages are compared.
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(Error::Missing)?;
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    stdin.write_all(input.as_bytes()).map_err(Error::Io)?;
    drop(stdin);
    child.wait_with_output().map_err(Error::Io)
}

/// The first two lines make "replace" of "add": a table that is not there cannot be deleted.
fn script(wanted: &Masquerade) -> String {
    let absent = format!("add table inet {TABLE}\ndelete table inet {TABLE}\n");
    let Masquerade::To { v4, v6, kept } = wanted else { return absent };
    let rule = |family: &str, protocol: &str, own: String| {
        format!(
            "add rule inet {TABLE} {CHAIN} oifname \"{MESH_DEVICE}\" meta nfproto {protocol} snat {family} to {own}\n"
        )
    };
    // Before the others: the first rule that translates a connection wins.
    let kept: String = kept
        .iter()
        .map(|own| {
            let family = if own.is_ipv4() { "ip" } else { "ip6" };
            format!(
                "add rule inet {TABLE} {CHAIN} oifname \"{MESH_DEVICE}\" {family} saddr {own} snat {family} to {own}\n"
            )
        })
        .collect();
    let v4 = v4.map(|own| rule("ip", "ipv4", own.to_string())).unwrap_or_default();
    let v6 = v6.map(|own| rule("ip6", "ipv6", own.to_string())).unwrap_or_default();
    format!(
        "{absent}add table inet {TABLE}\n\
         add chain inet {TABLE} {CHAIN} {{ type nat hook postrouting priority {PRIORITY}; policy accept; }}\n\
         {kept}{v4}{v6}"
    )
}

/// Reads the answer back into what we would have written; anything else is foreign.
fn read(answer: &Value) -> Masquerade {
    let items = answer["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let all = |name: &str| items.iter().filter_map(|item| item.get(name)).collect::<Vec<_>>();
    let chains = all("chain");
    let is_chain = chains.len() == 1
        && chains[0]["name"] == CHAIN
        && chains[0]["type"] == "nat"
        && chains[0]["hook"] == "postrouting"
        && chains[0]["prio"] == PRIORITY
        && chains[0]["policy"] == "accept";
    let (mut v4, mut v6): (Option<Ipv4Addr>, Option<Ipv6Addr>) = (None, None);
    let mut kept = BTreeSet::new();
    for rule in all("rule") {
        match (own_address(rule), kept_address(rule)) {
            (_, Some(own)) if v4.is_none() && v6.is_none() => drop(kept.insert(own)),
            (Some((false, own)), None) if v4.is_none() => v4 = own.parse().ok(),
            (Some((true, own)), None) if v6.is_none() => v6 = own.parse().ok(),
            (_, _) => return Masquerade::Foreign,
        }
    }
    let others = items.iter().any(|item| item.get("set").is_some() || item.get("map").is_some());
    match is_chain && !others && (v4.is_some() || v6.is_some()) {
        true => Masquerade::To { v4, v6, kept },
        false => Masquerade::Foreign,
    }
}

/// Whether it is IPv6, and the address to which a rule of ours translates.
fn own_address(rule: &Value) -> Option<(bool, &str)> {
    let [device, protocol, translate] = rule["expr"].as_array()?.as_slice() else { return None };
    let snat = &translate["snat"];
    let own = snat["addr"].as_str()?;
    let (is_v6, of) = match snat["family"].as_str()? {
        "ip" => (false, "ipv4"),
        "ip6" => (true, "ipv6"),
        _ => return None,
    };
    (is_meta(device, "oifname", MESH_DEVICE) && is_meta(protocol, "nfproto", of)).then_some((is_v6, own))
}

/// The address that a rule of ours leaves as it is.
fn kept_address(rule: &Value) -> Option<IpAddr> {
    let [device, source, translate] = rule["expr"].as_array()?.as_slice() else { return None };
    let (snat, test) = (&translate["snat"], &source["match"]);
    let (own, family) = (snat["addr"].as_str()?, snat["family"].as_str()?);
    let payload = &test["left"]["payload"];
    let is_source = test["op"] == "==" && payload["protocol"] == family && payload["field"] == "saddr";
    let own = (is_source && test["right"] == own).then(|| own.parse::<IpAddr>().ok())??;
    (is_meta(device, "oifname", MESH_DEVICE) && own.is_ipv4() == (family == "ip")).then_some(own)
}

fn is_meta(expression: &Value, key: &str, value: &str) -> bool {
    let test = &expression["match"];
    test["op"] == "==" && test["left"]["meta"]["key"] == key && test["right"] == value
}
