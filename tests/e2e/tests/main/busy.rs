//! A cluster in which something changes all the time can be connected, and is green while it is well.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
};

use e2e::B;

use crate::{
    cost::service,
    story::{SHOWN, Story, eventually},
};

/// One look after the other, while so much changes: some fall between a change and its place in the maps.
const CHANGES: usize = 20;

#[test]
fn a_cluster_that_changes_all_the_time_is_connected_and_its_status_is_green() {
    let story = Story::running("busy");
    let change = Change::default();
    thread::scope(|scope| {
        scope.spawn(|| change.go_on(&story));
        // However this ends, the changes do.
        let _end = End(&change);
        story.connect();
        story.well();
        let before = change.made.load(Ordering::Relaxed);
        eventually("a change after the other", SHOWN, || {
            story.ctl(&["status"]);
            let made = change.made.load(Ordering::Relaxed) - before;
            if made >= CHANGES { Ok(()) } else { Err(format!("{made} changes")) }
        });
    });
}

/// One backend of a global Service of cluster-b comes and goes, as fast as the cluster takes it.
#[derive(Default)]
struct Change {
    made: AtomicUsize,
    ended: AtomicBool,
}

impl Change {
    fn go_on(&self, story: &Story) {
        let revision = || story.apiserver_metric(&B, "mesh_apiserver_store_revision");
        while !self.ended.load(Ordering::Relaxed) {
            let before = revision();
            let there = self.made.fetch_add(1, Ordering::Relaxed) % 2;
            let backends = (0..=there).map(|at| ([9, at], true));
            story.write(&B, "busy.yaml", &service("busy", "10.102.0.99", backends)).unwrap();
            eventually("the cluster takes the change", SHOWN, || {
                let is_over = revision() != before || self.ended.load(Ordering::Relaxed);
                if is_over { Ok(()) } else { Err(format!("revision {before}")) }
            });
        }
    }
}

struct End<'a>(&'a Change);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Relaxed);
    }
}
