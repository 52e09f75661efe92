//! `meshctl test`: a new round trip on every pair of nodes of every peering.
//!
//! The agents probe each pair all the time, through the tunnel and back. What counts here is a probe that was answered after the
//! test began, by the clock of the node that sent it: what its first report says is the line that has to be crossed, so that no two
//! clocks are compared. Pure, but for [`junit`]'s text.

use crate::{facts::Facts, status, table};
use anyhow::{Context as _, Result};
use api::{
    name::{ClusterName, NodeName},
    record::{Phase, Tunnel},
};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    time::Duration,
};

/// A pair of nodes, in one direction; or a peering that has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// The cluster whose node asks.
    pub from: ClusterName,
    /// The cluster whose node answers.
    pub to: ClusterName,
    /// `node → node`.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A round trip since the test began.
    Passed {
        /// How long it took, in microseconds.
        rtt_us: u64,
        /// The path MTU, in bytes.
        mtu_bytes: u32,
    },
    /// The tunnel is silent while it is not used, and is left so; it is known to carry from a probe before the test.
    OnDemand {
        /// How long ago that was, in milliseconds.
        age_ms: u64,
    },
    /// None yet, and why.
    Missing(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed { rtt_us, mtu_bytes } => {
                write!(f, "{}, MTU {mtu_bytes}", table::duration(*rtt_us))
            }
            Self::OnDemand { age_ms } => {
                write!(f, "on demand: its last probe was answered {} s ago", age_ms / 1_000)
            }
            Self::Missing(why) => f.write_str(why),
        }
    }
}

/// When each node of a cluster had last reported, by its own clock, as the test began.
#[derive(Debug, Clone)]
pub struct Begun(BTreeMap<NodeName, u64>);

impl Begun {
    /// A node that has not reported has to do so for the first time.
    pub fn new(facts: &Facts) -> Self {
        let nodes = facts.nodes(&facts.cluster);
        let written = nodes.filter_map(|(node, _)| Some((node.clone(), facts.applied(node)?.written_ms)));
        Self(written.collect())
    }

    fn crossed_by(&self, node: &NodeName, probed_ms: u64) -> bool {
        self.0.get(node).is_none_or(|written_ms| probed_ms > *written_ms)
    }
}

/// Every pair that a cluster's nodes have to reach, as its store says now.
pub fn cases(begun: &Begun, facts: &Facts) -> Vec<Case> {
    let from = &facts.cluster;
    let mut cases = Vec::new();
    for (to, state) in facts.peers() {
        let case = |name: String, outcome| Case { from: from.clone(), to: to.clone(), name, outcome };
        let missing = |why: &str| case("peering".to_owned(), Outcome::Missing(why.to_owned()));
        if state.phase != Phase::Active {
            cases.push(missing("the connect is not complete"));
            continue;
        }
        let before = cases.len();
        for (node, _) in facts.nodes(from) {
            for (other, _) in facts.nodes(to) {
                cases.push(case(format!("{node} → {other}"), pair(begun, facts, node, to, other)));
            }
        }
        if cases.len() == before {
            cases.push(missing("one of the two has no node"));
        }
    }
    cases
}

fn pair(begun: &Begun, facts: &Facts, node: &NodeName, to: &ClusterName, other: &NodeName) -> Outcome {
    let missing = |why: &str| Outcome::Missing(why.to_owned());
    let Some(applied) = facts.applied(node) else { return missing("no agent has reported yet") };
    let Some(tunnel) = applied.tunnels.iter().find(|it| it.cluster == *to && it.node == *other) else {
        return missing("there is no tunnel yet");
    };
    let Tunnel { rtt_us, probe_age_ms, probe_failed, mtu_bytes, .. } = *tunnel;
    match (rtt_us, probe_age_ms) {
        (Some(rtt_us), Some(age_ms))
            if !probe_failed && begun.crossed_by(node, applied.written_ms.saturating_sub(age_ms)) =>
        {
            Outcome::Passed { rtt_us, mtu_bytes }
        }
        (Some(_), Some(age_ms)) if tunnel.on_demand && status::round_trip_works(tunnel) => {
            Outcome::OnDemand { age_ms }
        }
        _ if probe_failed => Outcome::Missing(status::silent_pair(facts, node, to, tunnel)),
        _ => missing("no probe was answered since the test began"),
    }
}

/// For people: a line a pair, and what came of all.
pub fn text(cases: &[Case]) -> String {
    let mut text = String::new();
    for Case { from, to, name, outcome } in cases {
        let mark = match outcome {
            Outcome::Passed { .. } => '✓',
            Outcome::OnDemand { .. } => '-',
            Outcome::Missing(_) => '✗',
        };
        let _ = writeln!(text, " {mark} {from} → {to}  {name}  {outcome}");
    }
    let on_demand = cases.iter().filter(|case| matches!(case.outcome, Outcome::OnDemand { .. })).count();
    let passed = cases.iter().filter(|case| case.passed()).count() - on_demand;
    let _ = write!(text, "{passed} of {} pairs had a round trip since the test began", cases.len());
    text.push_str(&if on_demand > 0 { format!(", {on_demand} are on demand\n") } else { "\n".to_owned() });
    text
}

/// For machines that collect tests: JUnit's XML, a suite a direction of a peering.
pub fn junit(cases: &[Case]) -> Result<String> {
    let mut suites: BTreeMap<String, TestSuite> = BTreeMap::new();
    for case in cases {
        let suite = format!("{} → {}", case.from, case.to);
        let (status, time) = match &case.outcome {
            Outcome::Passed { rtt_us, .. } => (TestCaseStatus::success(), Duration::from_micros(*rtt_us)),
            Outcome::OnDemand { .. } => {
                let mut status = TestCaseStatus::skipped();
                status.set_message(case.outcome.to_string());
                (status, Duration::ZERO)
            }
            Outcome::Missing(why) => {
                let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
                status.set_message(why);
                (status, Duration::ZERO)
            }
        };
        let mut test = TestCase::new(case.name.clone(), status);
        test.set_classname(suite.clone()).set_time(time);
        suites.entry(suite.clone()).or_insert_with(|| TestSuite::new(suite)).add_test_case(test);
    }
    let mut report = Report::new("meshctl test");
    report.add_test_suites(suites.into_values());
    report.to_string().context("cannot print the report as JUnit's XML")
}

impl Case {
    /// A round trip was there, or is not to be made for a test.
    pub fn passed(&self) -> bool {
        !matches!(self.outcome, Outcome::Missing(_))
    }
}

#[cfg(test)]
mod tests;
