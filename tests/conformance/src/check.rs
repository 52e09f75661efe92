//! Whether a history can be: is there an order of the operations, one after the other, in which each is answered as it
//! was, and none comes before one that was over when it began? And did each watcher see what was written?
//!
//! The order needs no search: each answer names its revision, so a write stands at its own, a read behind the write whose
//! revision it names. Any order that explains the answers agrees with that one but for reads of one revision, which are
//! taken in the order in which they were asked. (Herlihy and Wing 1990; the revision is the linearization point.)

use crate::{
    history::{Call, History, Operation},
    model::Model,
    watches::{self, Broken},
};
use rpc::etcdserverpb::{ResponseHeader, response_op::Response};
use std::{fmt, time::Duration};

/// Why a history cannot be.
#[derive(Debug, PartialEq)]
pub enum Wrong {
    /// No order of the operations has this answer where its revision puts it.
    Answer {
        /// As recorded.
        was: Box<Call>,
        /// As it had to be.
        expected: Box<Call>,
    },
    /// By its revision it comes before one that was answered before it was asked.
    Stale {
        /// The operation.
        call: Box<Call>,
        /// When it was asked.
        asked: Duration,
        /// When one with a later revision was answered already.
        answered: Duration,
    },
    /// A watcher did not get what it was promised.
    Watch {
        /// Which one, in the order of the history.
        watch: usize,
        /// What.
        broken: Broken,
    },
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer { was, expected } => write!(f, "answered {was:?}\ninstead of {expected:?}"),
            Self::Stale { call, asked, answered } => {
                write!(f, "asked at {asked:?}, when a later one had been answered at {answered:?}: {call:?}")
            }
            Self::Watch { watch, broken } => write!(f, "watch {watch}: {broken}"),
        }
    }
}

/// Judges a history that begins with an empty store and has all of its writes.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(history: &History) -> Result<(), Wrong> {
    let model = linearize(&history.operations)?;
    for (watch, watched) in history.watches.iter().enumerate() {
        watches::check(&model, watched).map_err(|broken| Wrong::Watch { watch, broken })?;
    }
    Ok(())
}

fn linearize(operations: &[Operation]) -> Result<Model, Wrong> {
    let mut ordered: Vec<&Operation> = operations.iter().collect();
    ordered.sort_by_key(|op| (op.call.revision(), !op.call.has_written(), op.asked));
    in_time(&ordered)?;
    let mut model = Model::default();
    for op in ordered {
        let was = without_server(&op.call);
        let expected = model.ask(&was);
        if was != expected {
            return Err(Wrong::Answer { was: Box::new(was), expected: Box::new(expected) });
        }
    }
    Ok(model)
}

/// Nothing was asked after something that comes later was answered.
fn in_time(ordered: &[&Operation]) -> Result<(), Wrong> {
    let mut earliest = Duration::MAX;
    for op in ordered.iter().rev() {
        if earliest < op.asked {
            let call = Box::new(op.call.clone());
            return Err(Wrong::Stale { call, asked: op.asked, answered: earliest });
        }
        earliest = earliest.min(op.answered);
    }
    Ok(())
}

/// A call with headers that carry their revision alone.
fn without_server(call: &Call) -> Call {
    let strip = |header: &mut Option<ResponseHeader>| {
        if let Some(header) = header {
            *header = ResponseHeader { revision: header.revision, ..Default::default() };
        }
    };
    let mut call = call.clone();
    match &mut call {
        Call::Range(_, answer) => strip(&mut answer.header),
        Call::Put(_, answer) => strip(&mut answer.header),
        Call::Delete(_, answer) => strip(&mut answer.header),
        Call::Txn(_, answer) => {
            strip(&mut answer.header);
            for response in &mut answer.responses {
                match &mut response.response {
                    Some(Response::ResponseRange(answer)) => strip(&mut answer.header),
                    Some(Response::ResponsePut(answer)) => strip(&mut answer.header),
                    Some(Response::ResponseDeleteRange(answer)) => strip(&mut answer.header),
                    Some(Response::ResponseTxn(answer)) => strip(&mut answer.header),
                    None => {}
                }
            }
        }
    }
    call
}
