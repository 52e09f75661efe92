//! What an agent does beside programming the data path: nothing on a node; on a VM, names and signs of life.

use crate::writer::Wishes;
use replica::{service::Silent, view::View};

/// See the module.
pub trait Beside: Send {
    /// What is followed of the private part of the store beside what every agent programs.
    const FOLLOWS: &'static [&'static str];

    /// The view has changed, and is complete.
    fn look(&mut self, view: &View) -> Then;

    /// The view is about to be programmed: also one from the disk, which is not complete, and again though nothing
    /// changed. Backends behind a silent tunnel are healthy only on paper.
    fn see(&mut self, view: &View, silent: &Silent);

    /// What does not hold, a sentence each.
    fn problems(&self) -> Vec<String>;

    /// Records that are written beside the agent's own two; asked every five seconds.
    fn wishes(&mut self) -> Wishes;
}

/// What is to be done after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    Go,
    /// All records are listed again: the store shows us others than before.
    Relist,
}

/// Nothing.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Beside for Nothing {
    const FOLLOWS: &'static [&'static str] = &[];

    fn look(&mut self, _view: &View) -> Then {
        Then::Go
    }

    fn see(&mut self, _view: &View, _silent: &Silent) {}

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }

    fn wishes(&mut self) -> Wishes {
        Wishes::new()
    }
}
