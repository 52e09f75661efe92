//! A store whose owner wants us harm: what it answers is well-formed, and otherwise anything.

use crate::chance::Chance;
use replica::follower::{Answer, Change, Value};

/// One answer in so many is spoilt.
const ONE_IN: u64 = 3;

/// Keys that are not his to write, broken ones, and one that no version knows.
const KEYS: [&str; 8] = [
    "mesh/v1/east/nodes/e1",
    "mesh/v1/west/keys/w1",
    "mesh-local/v1/peers/north",
    "mesh/v1/north/nodes/UPPER",
    "mesh/v1/north/starships/enterprise",
    "mesh/v1/north/backends/shop/cart/not-an-address",
    "mesh/v1/north/lineage",
    "",
];

/// What he sends in the place of an honest answer.
pub(crate) fn spoil(mut answer: Answer, chance: &mut Chance) -> Answer {
    if !chance.one_in(ONE_IN) {
        return answer;
    }
    match &mut answer {
        Answer::Page { revision, values, more, .. } => match chance.below(5) {
            0 => *revision = number(chance),
            1 => *more = !*more,
            2 => values.reverse(),
            3 => values.clear(),
            _ => values.iter_mut().for_each(|value| twist(value, chance)),
        },
        Answer::Changes { changes, more, .. } => match chance.below(4) {
            0 => changes.reverse(),
            1 => *more = true,
            2 => changes.push(Change::Delete { key: key(chance), mod_revision: number(chance) }),
            _ => {
                for change in changes {
                    match change {
                        Change::Put(value) => twist(value, chance),
                        Change::Delete { mod_revision, .. } => *mod_revision = number(chance),
                    }
                }
            }
        },
        Answer::Watching { revision, watch, .. } => match chance.below(2) {
            0 => *revision = number(chance),
            _ => *watch = 7,
        },
        Answer::Progress { revision, watch, .. } => {
            *revision = number(chance);
            *watch = *chance.pick(&[None, Some(0), Some(9)]);
        }
        Answer::Buckets { buckets, .. } => buckets.truncate(1),
        Answer::Entries { entries, .. } => entries.reverse(),
        Answer::Compacted { compact_revision, .. } => *compact_revision = number(chance),
        Answer::Connected { .. }
        | Answer::Unserved { .. }
        | Answer::Refused { .. }
        | Answer::Failed { .. } => {}
    }
    answer
}

fn twist(value: &mut Value, chance: &mut Chance) {
    match chance.below(4) {
        0 => value.key = key(chance),
        1 => value.value.truncate(value.value.len() / 2),
        2 => value.mod_revision = number(chance),
        _ => value.value.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(7)),
    }
}

fn key(chance: &mut Chance) -> Vec<u8> {
    chance.pick(&KEYS).as_bytes().to_vec()
}

/// A revision is an `i64` on the wire, and `follow` makes a negative one zero.
fn number(chance: &mut Chance) -> u64 {
    *chance.pick(&[0, 1, 17, 1_000, i64::MAX as u64])
}
