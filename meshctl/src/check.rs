//! `meshctl check`: whether clusters could be connected, before anybody tries. It changes nothing.
//!
//! ```text
//!  contexts ─▶ each cluster: reached, its description, its nodes ─┐
//!                                                                 ├─▶ findings, each with a code ─▶ text, exit code
//!                         each pair of those that answered ───────┘
//! ```

mod code;

pub use code::Code;

use crate::{
    contexts::Way,
    ended::{Ended, kind},
    facts::Facts,
    preflight::{self, ClusterFacts},
    session::Session,
    status, table,
};
use futures::future::join_all;
use std::fmt;

/// Something that stands in the way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// What it is, for scripts and for `docs/checks.md`.
    pub code: Code,
    /// What was found, with its nouns.
    pub text: String,
}

impl Finding {
    /// With its text.
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.text)
    }
}

/// What a check found, and what it could look at.
#[derive(Debug, Default, serde::Serialize)]
pub struct Checked {
    /// The clusters that answered, with where and how fast.
    pub reached: Vec<String>,
    /// What stands in the way; nothing does when it is empty.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// For people.
    pub fn text(&self) -> String {
        let mut text: String = self.reached.iter().map(|line| format!(" ✓ {line}\n")).collect();
        text.extend(self.findings.iter().map(|finding| format!(" ✗ {finding}\n")));
        text += &match self.findings.len() {
            0 => "nothing stands in the way\n".to_owned(),
            count => format!("{count} found; what each is and what to do: docs/checks.md\n"),
        };
        text
    }
}

/// Looks at clusters, and at every pair of those that answer.
pub async fn check(ways: &[Way]) -> Checked {
    let mut checked = Checked::default();
    let mut answered = Vec::new();
    for (way, looked) in ways.iter().zip(join_all(ways.iter().map(look)).await) {
        match looked {
            Ok((session, described, facts)) => {
                let Session { name, endpoint, took, .. } = &session;
                let took = table::duration(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
                checked.reached.push(format!("{name} {endpoint} ({took})"));
                checked.findings.extend(alone(&described, &facts));
                answered.push(described);
            }
            Err(error) => checked.findings.push(unanswered(way, &error)),
        }
    }
    for (at, a) in answered.iter().enumerate() {
        for b in &answered[at + 1..] {
            checked.findings.extend(preflight::conflicts(a, b, None));
        }
    }
    checked.findings.sort();
    checked.findings.dedup();
    checked
}

async fn look(way: &Way) -> anyhow::Result<(Session, ClusterFacts, Facts)> {
    let session = Session::open(way).await?;
    let (described, facts) = tokio::try_join!(session.describe(), session.facts())?;
    Ok((session, described, facts))
}

fn unanswered(way: &Way, error: &anyhow::Error) -> Finding {
    let code = match kind(error) {
        Some(Ended::Refused(_)) => Code::Refuses,
        Some(Ended::Unreachable(_) | Ended::Lost(_)) | None => Code::Unreachable,
    };
    Finding::new(code, format!("{}: {error:#}", way.name()))
}

/// What stands in a cluster's own way, whomever it is to be connected with.
fn alone(described: &ClusterFacts, facts: &Facts) -> Vec<Finding> {
    let name = &described.name;
    let mut found = Vec::new();
    if described.endpoints.is_empty() {
        found.push(Finding::new(Code::NoAddress, format!("{name} advertises no address of its apiserver")));
    }
    if facts.nodes(name).next().is_none() {
        found.push(Finding::new(Code::NoNodes, format!("{name} has no node")));
    }
    found
        .extend(status::cluster(facts).problems.into_iter().map(|problem| Finding::new(Code::Node, problem)));
    found
}

#[cfg(test)]
mod tests;
