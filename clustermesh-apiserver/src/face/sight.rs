//! What a VM is shown of what it lists and watches.

use crate::{authz::vm_sees, backend::Engine};
use api::{name::NodeName, record::Vm};
use store::{Event, RangeRequest, RangeResponse, SortOrder};
use tonic::Status;

/// Keys that are looked at for one page of a VM at a time: most of a store is Services of other namespaces.
const LOOK_AT: i64 = 1_000;

/// One VM's eyes.
#[derive(Debug, Clone)]
pub(super) struct Sight {
    pub(super) me: NodeName,
    pub(super) grant: Vm,
}

impl Sight {
    fn sees(&self, key: &[u8]) -> bool {
        vm_sees(&self.me, &self.grant, key)
    }

    /// Leaves of a watch's events those that it sees.
    pub(super) fn events(&self, events: &mut Vec<Event>) {
        events.retain(|event| self.sees(&event.kv.key));
    }

    /// Reads a range as if there were nothing else in it. A page is never empty while there is more.
    pub(super) async fn range(
        &self,
        engine: &Engine,
        mut request: RangeRequest,
    ) -> Result<RangeResponse, Status> {
        if request.count_only || request.sort_order != SortOrder::None {
            return Err(Status::invalid_argument(
                "a VM lists keys in their order, and does not count others'",
            ));
        }
        let wanted = if request.limit > 0 { request.limit } else { i64::MAX };
        request.limit = LOOK_AT;
        let mut seen = RangeResponse::default();
        loop {
            let page = engine.range(&request).await.map_err(super::convert::status)?;
            if seen.revision == 0 {
                // Later pages are of the same moment.
                (seen.revision, request.revision) = (page.revision, page.revision.max(request.revision));
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            let mut kept = page.kvs.into_iter().filter(|kv| self.sees(&kv.key));
            while (seen.kvs.len() as i64) < wanted
                && let Some(kv) = kept.next()
            {
                seen.kvs.push(kv);
            }
            seen.more = kept.next().is_some();
            match last {
                Some(last) if page.more && !seen.more && (seen.kvs.len() as i64) < wanted => {
                    request.key = [&last[..], &[0]].concat().into();
                }
                Some(_) | None => {
                    // That there is more which it may not see, it learns by one page more.
                    seen.more |= page.more;
                    break;
                }
            }
        }
        seen.count = i64::try_from(seen.kvs.len()).unwrap_or(i64::MAX) + i64::from(seen.more);
        Ok(seen)
    }
}
