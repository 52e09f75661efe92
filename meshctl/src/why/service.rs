//! Why a Service has the backends it has, as one cluster sees it.

use crate::facts::Facts;
use replica::{
    follower::{Event, Value},
    service::Silent,
    view::{ServiceKey, View},
};
use std::fmt::Write as _;

/// The view that an agent of this cluster would have.
fn view(facts: &Facts) -> View {
    let mut view = View::new(facts.cluster.clone());
    view.apply(Event::Init);
    for (key, (record, revision)) in &facts.records {
        let (key, value) = (key.to_string().into_bytes(), record.encode());
        view.apply(Event::InitApply(Value {
            key,
            value,
            mod_revision: u64::try_from(*revision).unwrap_or_default(),
        }));
    }
    view.apply(Event::InitDone { revision: u64::try_from(facts.head).unwrap_or_default() });
    view
}

/// Every frontend of the Service and every backend that anybody announced, with its verdict. `None`: no such Service here.
pub fn why(facts: &Facts, key: &ServiceKey) -> Option<String> {
    let view = view(facts);
    let situation = view.situation(key)?;
    let record = situation.service;
    let choice = replica::service::choose(&situation, &Silent::new());

    let kind = match (record.global, record.shared) {
        (true, true) => "global",
        (true, false) => "global, not shared: takes in other clusters' backends, gives none",
        (false, _) => "not global: own backends only",
    };
    let affinity = match record.affinity {
        api::record::Affinity::None => "",
        api::record::Affinity::Local => ", affinity local",
        api::record::Affinity::Remote => ", affinity remote",
    };
    let session = match record.session_affinity_s {
        0 => String::new(),
        seconds => format!(", a client keeps its backend for {seconds} s after it last connected"),
    };
    let mut text = format!("{key} in {}: {kind}{affinity}{session}\n", facts.cluster);
    for (frontend, backends) in &choice.frontends {
        let count = match backends.len() {
            0 => "no backend: connections are refused at once".to_owned(),
            1 => "1 backend".to_owned(),
            more => format!("{more} backends"),
        };
        let _ = writeln!(text, "  {frontend} → {count}");
    }
    if choice.frontends.is_empty() {
        text.push_str("  headless: no frontend\n");
    }
    for candidate in &choice.candidates {
        let port = candidate.service_port;
        let name = port.name.as_ref().map_or_else(|| port.port.to_string(), ToString::to_string);
        let address = match candidate.port {
            Some(number) => std::net::SocketAddr::new(candidate.address, number).to_string(),
            None => candidate.address.to_string(),
        };
        let node = candidate.node.map(|n| format!("/{n}")).unwrap_or_default();
        let mark = if candidate.verdict == replica::service::Verdict::Used { '✓' } else { '✗' };
        let _ =
            writeln!(text, "  {mark} {name} {address} in {}{node}: {}", candidate.cluster, candidate.verdict);
    }
    Some(text)
}
