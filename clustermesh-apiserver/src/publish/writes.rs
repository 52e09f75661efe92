//! Our operations and lists in the store's words.

use super::Op;
use crate::backend::Engine;
use api::key::Key;
use bytes::Bytes;
use store::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, TxnRequest};

/// Keys of one page: at 300 bytes each a page copies 300 KB.
const PAGE: i64 = 1_000;

/// Why the store did not take or give records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The store said no.
    #[error("the store refused")]
    Store(#[from] store::Error),
}

/// Writes one txn; when it returns, it is on disk.
///
/// # Errors
/// As the store.
pub async fn write(engine: &Engine, ops: &[Op]) -> Result<(), WriteError> {
    let success = ops.iter().map(|op| match op {
        Op::Put { key, value } => store::Op::Put(PutRequest {
            key: key.to_string().into(),
            value: Bytes::copy_from_slice(value),
            ..PutRequest::default()
        }),
        Op::Delete { key } => store::Op::DeleteRange(DeleteRangeRequest {
            key: key.to_string().into(),
            ..DeleteRangeRequest::default()
        }),
    });
    engine.txn(TxnRequest { success: success.collect(), ..TxnRequest::default() }).await?;
    Ok(())
}

/// Hands every key under `prefix` that parses to `take`, at one revision.
///
/// # Errors
/// As the store.
pub async fn list(
    engine: &Engine,
    prefix: &str,
    mut take: impl FnMut(Key, Vec<u8>),
) -> Result<(), WriteError> {
    let range = KeyRange::prefix(prefix.to_owned());
    let mut from = range.key().clone();
    let mut revision = 0;
    loop {
        let request = RangeRequest {
            key: from.clone(),
            range_end: range.range_end(),
            limit: PAGE,
            revision,
            ..RangeRequest::default()
        };
        let page = engine.range(&request).await?;
        revision = if revision == 0 { page.revision } else { revision };
        for kv in &page.kvs {
            if let Ok(key) = Key::parse(&kv.key) {
                take(key, kv.value.to_vec());
            }
        }
        match page.kvs.last() {
            Some(last) if page.more => {
                let mut next = last.key.to_vec();
                next.push(0);
                from = next.into();
            }
            Some(_) | None => return Ok(()),
        }
    }
}
