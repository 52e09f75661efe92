//! A node's agent, as far as it knows things: a follower of its own cluster's store, and the view.

use crate::{
    chance::Chance,
    disk::Durable,
    wire::{Trouble, Wire},
};
use api::name::ClusterName;
use replica::{
    Now,
    follower::{Follow, Follower},
    view::{Effect, View},
};

/// An agent.
#[derive(Debug)]
pub struct Agent {
    /// What it knows.
    pub view: View,
    /// Clusters that lost most of their backends with one list, as often as it happened.
    pub mass_removals: usize,
    /// Complete lists that it read.
    pub lists: usize,
    follower: Follower,
    wire: Wire,
}

impl Agent {
    /// One that has not heard anything yet.
    #[must_use]
    pub fn new(cluster: &ClusterName, seed: u64) -> Self {
        let prefixes = vec![api::key::MESH.to_owned(), api::key::LOCAL.to_owned()];
        let follower = Follower::new(Follow { cluster: cluster.clone(), prefixes }, seed);
        Self { view: View::new(cluster.clone()), mass_removals: 0, lists: 0, follower, wire: Wire::default() }
    }

    /// A tick.
    pub fn step(&mut self, server: Result<(&mut Durable, u8), Trouble>, chance: &mut Chance, now: Now) {
        self.wire.step(&mut self.follower, server, chance, now);
        while let Some(event) = self.follower.poll_event() {
            if let Effect::Relisted(relisted) = self.view.apply(event) {
                self.lists += 1;
                self.mass_removals += relisted.mass_removals.len();
            }
        }
    }
}
