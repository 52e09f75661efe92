//! What is still missing, while somebody waits: on a terminal only, and gone when it is there.

use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// A line on stderr that says what is waited for.
#[derive(Debug)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Nothing is shown where stderr is no terminal.
    pub fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        bar.set_style(
            ProgressStyle::with_template(" {spinner} {wide_msg}").expect("a template that is ours"),
        );
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// What is waited for now.
    pub fn waits_for(&self, what: impl Into<String>) {
        self.0.set_message(what.into());
    }

    /// Writes to the terminal while the line is out of the way.
    pub fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
