//! Scripts that chance wrote: every option of every request that [`crate::script`] can ask, over a few keys.
//!
//! They keep out of what differs on purpose: within a txn no delete has an open end, and what is nested deletes nothing.

use sim::chance::Chance;
use std::fmt::Write;

const KEYS: [&str; 4] = ["a", "b", "c", "cc"];

/// Where ranges end: nowhere, which is one key, before a key, before the start, and never.
const ENDS: [&str; 6] = ["", "b", "c", "d", "\\0", "0"];

/// A script of so many requests; its last watch sees everything that was not compacted.
#[must_use]
pub fn script(seed: u64, requests: usize) -> String {
    let mut writer = Writer { chance: Chance::new(seed), revision: 1 };
    let mut out = String::new();
    for _ in 0..requests {
        let request = writer.request();
        // About half of these are refused, or change nothing.
        let writes = request.starts_with("KV/Put") || request.starts_with("KV/Txn");
        writer.revision += u64::from(writes && writer.chance.one_in(2));
        writeln!(out, "{request}").expect("a string");
    }
    let start = writer.revision / 2;
    writeln!(out, "KV/Compact revision: {}", writer.revision / 3).expect("a string");
    writeln!(out, "KV/Put key: \"end\"").expect("a string");
    let create = format!("key: \"\\0\" range_end: \"\\0\" start_revision: {start} prev_kv: true");
    writeln!(out, "Watch/Watch create_request {{ {create} }}\nevents until end").expect("a string");
    out
}

struct Writer {
    chance: Chance,
    /// About where the store is.
    revision: u64,
}

impl Writer {
    fn request(&mut self) -> String {
        match self.chance.below(40) {
            0..=9 => format!("KV/Put {}", self.put()),
            10..=12 => format!("KV/DeleteRange {}", self.delete(true)),
            13..=22 => format!("KV/Range {}", self.range()),
            23..=32 => format!("KV/Txn {}", self.txn(2)),
            33 => {
                format!("Lease/LeaseGrant ID: {} TTL: {}", self.lease(), 1_000 + self.chance.below(5) * 100)
            }
            34 => format!("Lease/LeaseRevoke ID: {}", self.lease()),
            35 => format!("Lease/LeaseTimeToLive ID: {} keys: true", self.lease()),
            36 => format!("Lease/LeaseKeepAlive ID: {}", self.lease()),
            37 => "Lease/LeaseLeases".to_owned(),
            38 if self.chance.one_in(4) => format!("KV/Compact revision: {}", self.past()),
            _ => format!("KV/Range key: \"\\0\" range_end: \"\\0\" revision: {}", self.past()),
        }
    }

    /// A revision that was, mostly.
    fn past(&mut self) -> u64 {
        self.chance.below(self.revision + 3)
    }

    fn lease(&mut self) -> u64 {
        1 + self.chance.below(4)
    }

    fn key(&mut self) -> String {
        format!("key: \"{}\"", self.chance.pick(&KEYS))
    }

    fn range_of_keys(&mut self) -> String {
        format!("{} range_end: \"{}\"", self.key(), self.chance.pick(&ENDS))
    }

    /// Adds an option once in so many times.
    fn maybe(&mut self, to: &mut String, times: u64, option: impl FnOnce(&mut Self) -> String) {
        if self.chance.one_in(times) {
            let option = option(self);
            write!(to, " {option}").expect("a string");
        }
    }

    fn range(&mut self) -> String {
        let mut out = self.range_of_keys();
        self.maybe(&mut out, 2, |w| format!("limit: {}", w.chance.below(4)));
        self.maybe(&mut out, 4, |w| format!("revision: {}", w.past()));
        self.maybe(&mut out, 2, |w| format!("sort_order: {}", w.chance.pick(&["NONE", "ASCEND", "DESCEND"])));
        let targets = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"];
        self.maybe(&mut out, 2, |w| format!("sort_target: {}", w.chance.pick(&targets)));
        self.maybe(&mut out, 8, |_| "keys_only: true".to_owned());
        self.maybe(&mut out, 8, |_| "count_only: true".to_owned());
        for bound in ["min_mod", "max_mod", "min_create", "max_create"] {
            self.maybe(&mut out, 8, |w| format!("{bound}_revision: {}", w.past()));
        }
        out
    }

    fn put(&mut self) -> String {
        let mut out = self.key();
        self.maybe(&mut out, 2, |w| format!("value: \"{}\"", w.chance.below(5)));
        self.maybe(&mut out, 4, |w| format!("lease: {}", w.lease()));
        self.maybe(&mut out, 3, |_| "prev_kv: true".to_owned());
        self.maybe(&mut out, 12, |_| "ignore_value: true".to_owned());
        self.maybe(&mut out, 12, |_| "ignore_lease: true".to_owned());
        out
    }

    fn delete(&mut self, alone: bool) -> String {
        let mut out = if alone { self.range_of_keys() } else { self.key() };
        self.maybe(&mut out, 3, |_| "prev_kv: true".to_owned());
        out
    }

    fn compare(&mut self) -> String {
        let result = self.chance.pick(&["EQUAL", "GREATER", "LESS", "NOT_EQUAL"]).to_string();
        let target = match self.chance.below(5) {
            0 => format!("target: VERSION version: {}", self.chance.below(4)),
            1 => format!("target: CREATE create_revision: {}", self.past()),
            2 => format!("target: MOD mod_revision: {}", self.past()),
            3 => format!("target: VALUE value: \"{}\"", self.chance.below(5)),
            _ => format!("target: LEASE lease: {}", self.chance.below(4)),
        };
        format!("compare {{ {} result: {result} {target} }}", self.range_of_keys())
    }

    fn txn(&mut self, depth: u32) -> String {
        let mut parts: Vec<String> = (0..self.chance.below(3)).map(|_| self.compare()).collect();
        for branch in ["success", "failure"] {
            for _ in 0..self.chance.below(4) {
                parts.push(format!("{branch} {{ {} }}", self.op(depth)));
            }
        }
        parts.join(" ")
    }

    fn op(&mut self, depth: u32) -> String {
        match self.chance.below(8) {
            0..=2 => format!("request_range {{ {} }}", self.range()),
            3 if depth == 2 => format!("request_delete_range {{ {} }}", self.delete(false)),
            4 | 5 if depth > 0 => format!("request_txn {{ {} }}", self.txn(depth - 1)),
            _ => format!("request_put {{ {} }}", self.put()),
        }
    }
}
