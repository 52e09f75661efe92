//! Runs the script of a seed under the laws, and shortens one that breaks them.

use crate::{
    bug::{Bug, Planted},
    laws::{self, Broken, Laws},
    node::LOOK_EVERY,
    random,
    script::Runner,
};
use datapath::apply::model::Sizes;
use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// After peace: longer than the longest wait of a follower, a connect's deadline and a lease together.
const QUIET_S: u64 = 100;

/// A seed that breaks a law, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The law that was broken, and how; or the panic.
    pub broken: Broken,
    /// What is left of its script after every line that is not needed was left out.
    pub script: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Broken { law, how } = &self.broken;
        writeln!(f, "seed {}: {law}: {how}", self.seed)?;
        writeln!(f, "a shortened script:")?;
        self.script.iter().try_for_each(|line| writeln!(f, "    {line}"))
    }
}

/// Runs one seed, with a bug planted or none.
///
/// # Errors
/// [`Failure`], with the whole script: see [`shorten`].
pub fn explore(seed: u64, bug: Option<Bug>) -> Result<(), Failure> {
    let script = random::script(seed);
    run(&script, Planted(bug)).map_err(|broken| Failure { seed, broken, script })
}

/// Leaves out lines of a failing script, larger pieces first, as long as the same law is broken.
#[must_use]
pub fn shorten(failure: Failure, bug: Option<Bug>) -> Failure {
    let Failure { seed, mut broken, mut script } = failure;
    let mut piece = script.len() / 2;
    while piece > 0 {
        let mut from = 0;
        while from < script.len() {
            let until = (from + piece).min(script.len());
            let shorter: Vec<String> = [&script[..from], &script[until..]].concat();
            match run(&shorter, Planted(bug)) {
                Err(other) if other.law == broken.law => (broken, script) = (other, shorter),
                Err(_) | Ok(()) => from = until,
            }
        }
        piece /= 2;
    }
    Failure { seed, broken, script }
}

/// Does what each line says, looks at the laws whenever time has passed, and makes peace at the end.
fn run(script: &[String], planted: Planted) -> Result<(), Broken> {
    let mut day = Day { runner: Runner::new(0, planted), laws: Laws::default() };
    let outcome = catch_unwind(AssertUnwindSafe(|| day.live(script)));
    outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let how =
            text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word").to_owned();
        // A shortened script may speak of what was left out of it; a script's typing error is no law.
        let typing = how.starts_with("no cluster") || how.starts_with("no node");
        Err(Broken { law: if typing { "scripts make sense" } else { "nothing panics" }, how })
    })
}

struct Day {
    runner: Runner,
    laws: Laws,
}

impl Day {
    fn live(&mut self, script: &[String]) -> Result<(), Broken> {
        self.lines(script)?;
        let peace = self.peace();
        self.lines(&peace)?;
        // Whose peer disconnected holds what it knew: it disconnects, too.
        let one_sided = self.one_sided();
        self.lines(&one_sided)?;
        self.lines(&["wait 10".to_owned()])?;
        if self.runner.world.nodes.values().any(|node| node.sizes != Sizes::AMPLE) {
            laws::full_maps(&self.runner.world)?;
            self.lines(&["room".to_owned(), format!("wait {}", LOOK_EVERY.as_secs() + 1)])?;
        }
        laws::at_the_end(&self.runner.world)
    }

    fn lines(&mut self, script: &[String]) -> Result<(), Broken> {
        for line in script {
            self.runner.line(line);
            self.laws.note(&self.runner.world);
            if line.starts_with("wait") {
                self.laws
                    .always(&self.runner.world)
                    .map_err(|broken| Broken { how: format!("after `{line}`: {}", broken.how), ..broken })?;
            }
        }
        Ok(())
    }

    /// Everything works again, a peer whose owner wanted harm has another one, and time passes.
    fn peace(&self) -> Vec<String> {
        let world = &self.runner.world;
        let mut lines = vec!["heal-all".to_owned()];
        for name in world.sites.keys() {
            lines.extend([
                format!("honest {name}"),
                format!("version {name} same"),
                format!("clock {name} 0"),
                format!("source {name} on"),
                format!("restart {name}"),
            ]);
        }
        for (cluster, node) in world.nodes.keys() {
            lines.extend([format!("clock {cluster} {node} 0"), format!("agent-start {cluster} {node}")]);
        }
        lines.push(format!("wait {QUIET_S}"));
        lines
    }

    fn one_sided(&self) -> Vec<String> {
        let world = &self.runner.world;
        let mut lines = Vec::new();
        for (name, site) in &world.sites {
            for peer in crate::reference::objects(site).keys() {
                let both = crate::reference::peers(world, name).any(|(other, _)| other == peer);
                if !both {
                    lines.push(format!("disconnect {name} {peer}"));
                }
            }
        }
        lines
    }
}
