//! A txn changes a key at most once, whichever branches of what is nested in it run: else one revision would name two
//! versions of it. (etcd `checkIntervals`)
//!
//! The two branches of one nested txn may write the same key, because only one of them runs. In one point we are stricter
//! than etcd, whose answer depends on the order of the operations: it lets a delete follow the nested put of its key, and
//! does not see the reach of a delete with an open end.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::request::Op;
use crate::{Error, KeyRange};

/// What a list of operations may write.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a Bytes>,
    deletes: Vec<KeyRange>,
}

impl<'a> Writes<'a> {
    /// Whether both may run and a key be written by both; two deletes of a key are one.
    fn collides(&self, other: &Self) -> bool {
        let deleted = |puts: &BTreeSet<&Bytes>, deletes: &[KeyRange]| {
            puts.iter().any(|key| deletes.iter().any(|range| range.contains(key)))
        };
        !self.puts.is_disjoint(&other.puts)
            || deleted(&self.puts, &other.deletes)
            || deleted(&other.puts, &self.deletes)
    }

    fn extend(&mut self, other: Self) {
        self.puts.extend(other.puts);
        self.deletes.extend(other.deletes);
    }
}

/// Checks one branch and all that is nested in it.
///
/// # Errors
/// [`Error::DuplicateKey`].
pub(super) fn check(ops: &[Op]) -> Result<(), Error> {
    writes(ops).map(drop)
}

fn writes(ops: &[Op]) -> Result<Writes<'_>, Error> {
    let mut all = Writes::default();
    for op in ops {
        let mut own = Writes::default();
        match op {
            Op::Range(_) => {}
            Op::Put(put) => drop(own.puts.insert(&put.key)),
            Op::DeleteRange(delete) => own.deletes.push(KeyRange::parse(&delete.key, &delete.range_end)?),
            Op::Txn(nested) => {
                own = writes(&nested.success)?;
                own.extend(writes(&nested.failure)?);
            }
        }
        if all.collides(&own) {
            return Err(Error::DuplicateKey);
        }
        all.extend(own);
    }
    Ok(all)
}
