//! Answers as text, a line for each field, and the closed list of what may differ between two servers:
//!
//! | what | is shown as |
//! |---|---|
//! | `cluster_id`, `member_id`, `raft_term` of a header | `…` where all three are set; else as they are |
//! | the ID of a lease that the server chose | `$1`, `$2`, … in the order they were granted, wherever it stands |
//! | seconds that a lease has left | `about` what was granted, when a minute of them has passed at most |
//! | the keys of a lease | in order: etcd has them in none |
//! | how changes are batched into messages, and the headers of those | `events N` shows the changes alone, by watch |
//!
//! The last one is [`crate::script`]'s; the others are here, and nothing else is.

use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, ReflectMessage, Value};

/// A script's longest: two servers' answers are this close, whatever the machine does.
const ABOUT_S: i64 = 60;

/// Longer runs of one byte are written as `${v*61440}`.
const RUN_BYTES_MIN: usize = 64;

/// Shows the answers of one server, in the order in which they come.
#[derive(Debug, Default)]
pub struct Show {
    chosen: Vec<i64>,
}

impl Show {
    /// The server chose this ID of a lease.
    pub fn chose(&mut self, id: i64) {
        self.chosen.push(id);
    }

    /// The IDs that `$1`, `$2`, … stand for.
    #[must_use]
    pub fn chosen(&self) -> &[i64] {
        &self.chosen
    }

    /// A line for each field that is set; of a repeated one, for each value.
    #[must_use]
    pub fn lines(&self, message: &DynamicMessage) -> Vec<String> {
        let lines = self.fields(message);
        if message.descriptor().name() == "ResponseHeader" { of_store(message, lines) } else { lines }
    }

    fn fields(&self, message: &DynamicMessage) -> Vec<String> {
        let mut lines = Vec::new();
        for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
            let value = message.get_field(&field);
            if is(&field, "LeaseTimeToLiveResponse.TTL") {
                lines.push(time_left(message, &value));
                continue;
            }
            let mut values: Vec<String> = match value.as_list() {
                Some(values) => values.iter().map(|value| self.field(&field, value)).collect(),
                None => vec![self.field(&field, &value)],
            };
            if is(&field, "LeaseTimeToLiveResponse.keys") {
                values.sort();
            }
            lines.append(&mut values);
        }
        counted(lines)
    }

    fn field(&self, field: &FieldDescriptor, value: &Value) -> String {
        let name = field.name();
        match value {
            Value::Message(message) => {
                let lines = self.lines(message).join(" ");
                if lines.is_empty() { format!("{name} {{}}") } else { format!("{name} {{ {lines} }}") }
            }
            Value::Bytes(bytes) => format!("{name}: \"{}\"", text(bytes)),
            Value::String(text) => format!("{name}: {text:?}"),
            Value::EnumNumber(number) => format!("{name}: {}", variant(field, *number)),
            Value::I64(id) if self.chosen.contains(id) => {
                let at = self.chosen.iter().position(|chosen| chosen == id).expect("it is there");
                format!("{name}: ${}", at + 1)
            }
            Value::I64(number) => format!("{name}: {number}"),
            Value::U64(number) => format!("{name}: {number}"),
            Value::I32(number) => format!("{name}: {number}"),
            Value::U32(number) => format!("{name}: {number}"),
            Value::F64(number) => format!("{name}: {number}"),
            Value::F32(number) => format!("{name}: {number}"),
            Value::Bool(yes) => format!("{name}: {yes}"),
            Value::List(_) | Value::Map(_) => format!("{name}: {value}"),
        }
    }
}

/// A header without what names the server.
fn of_store(header: &DynamicMessage, lines: Vec<String>) -> Vec<String> {
    let of_server = ["cluster_id", "member_id", "raft_term"];
    if !of_server.iter().all(|field| header.has_field_by_name(field)) {
        return lines;
    }
    let others = lines.into_iter().filter(|line| !of_server.iter().any(|field| line.starts_with(field)));
    ["…".to_owned()].into_iter().chain(others).collect()
}

/// The same line again and again, once.
fn counted(lines: Vec<String>) -> Vec<String> {
    let mut out: Vec<(String, usize)> = Vec::new();
    for line in lines {
        match out.last_mut() {
            Some((last, times)) if *last == line => *times += 1,
            _ => out.push((line, 1)),
        }
    }
    let shown = |(line, times)| if times == 1 { line } else { format!("{line} × {times}") };
    out.into_iter().map(shown).collect()
}

fn is(field: &FieldDescriptor, name: &str) -> bool {
    field.full_name().strip_prefix("etcdserverpb.") == Some(name)
}

fn time_left(lease: &DynamicMessage, left: &Value) -> String {
    let number = |value: &Value| value.as_i64().unwrap_or_default();
    let granted = lease.get_field_by_name("grantedTTL").map_or(0, |value| number(&value));
    let left = number(left);
    if left > 0 && (granted - ABOUT_S..=granted).contains(&left) {
        return format!("TTL: about {granted}");
    }
    format!("TTL: {left}")
}

fn variant(field: &FieldDescriptor, number: i32) -> String {
    let kind = field.kind();
    let name = |of: &EnumDescriptor| of.get_value(number).map(|value| value.name().to_owned());
    match &kind {
        Kind::Enum(of) => name(of).unwrap_or_else(|| number.to_string()),
        _ => number.to_string(),
    }
}

/// Bytes in a form that scripts can ask with.
fn text(bytes: &[u8]) -> String {
    match bytes {
        [first, ..] if bytes.len() >= RUN_BYTES_MIN && bytes.iter().all(|byte| byte == first) => {
            format!("${{{}*{}}}", [*first].escape_ascii(), bytes.len())
        }
        _ => bytes.escape_ascii().to_string(),
    }
}
