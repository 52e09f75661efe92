//! Scripts: a request a line, as `Service/Method` and its message in protobuf's text format, every field of etcd's API
//! by etcd's own name. What came back stands below it, indented, a line for each field.
//!
//! | line | does |
//! |---|---|
//! | `KV/Range key: "a"` | asks, and shows the answer; of a stream's answers the first |
//! | `Watch/Watch create_request { key: "a" }` | asks on the watch stream, and shows what answers it |
//! | `send Watch/Watch …` | asks on the watch stream, and waits for nothing |
//! | `events N` | waits for so many changes on the watch stream, and shows them by watch |
//! | `events until KEY` | waits for a change of that key, and shows all there were |
//! | `messages N` | shows the next messages of the watch stream as they are |
//! | `new stream` | gives the watch stream up: the next `Watch/Watch` opens another |
//! | `repeat N …` | asks N times, `$n` is 1, 2, …, and shows the last answer |
//! | `# …` | is for people |
//!
//! `${v*100}` stands for `v` a hundred times, `$1` for the first ID of a lease that the server chose; a line that ends in
//! `\` goes on in the next one.

use crate::{
    api::{self, Silence, Stream},
    server::Server,
    show::Show,
};
use prost_reflect::{DescriptorPool, DynamicMessage, MethodDescriptor};
use std::fmt::Write;

/// What stands before every line of an answer.
const INDENT: &str = "  ";

/// Asks a server what the script says; the script, with this server's answers in place of those it has.
pub async fn run(script: &str, server: &Server) -> String {
    let mut runner = Runner { pool: api::pool(), server, show: Show::default(), watches: None };
    let mut out = String::new();
    let mut command = String::new();
    for line in script.lines() {
        if line.starts_with(INDENT) && command.is_empty() {
            continue;
        }
        writeln!(out, "{line}").expect("a string");
        if let Some(line) = line.strip_suffix('\\') {
            command.push_str(line);
            continue;
        }
        command.push_str(line);
        if !command.is_empty() && !command.starts_with('#') {
            for line in runner.command(&command).await {
                writeln!(out, "{INDENT}{line}").expect("a string");
            }
        }
        command.clear();
    }
    out
}

struct Runner<'a> {
    pool: DescriptorPool,
    server: &'a Server,
    show: Show,
    watches: Option<Stream>,
}

impl Runner<'_> {
    async fn command(&mut self, command: &str) -> Vec<String> {
        let (verb, rest) = command.split_once(' ').unwrap_or((command, ""));
        match (verb, rest) {
            ("new", "stream") => {
                self.watches = None;
                Vec::new()
            }
            ("events", rest) => match rest.strip_prefix("until ") {
                Some(key) => {
                    let key = format!("kv {{ key: \"{key}\"");
                    self.events(|changes| changes.iter().any(|(_, line)| line.contains(&key))).await
                }
                None => {
                    let count = rest.parse().expect("a number");
                    self.events(|changes| changes.len() >= count).await
                }
            },
            ("messages", count) => self.messages(count.parse().expect("a number")).await,
            ("send", request) => {
                self.send(request).await;
                Vec::new()
            }
            ("repeat", rest) => {
                let (times, request) = rest.split_once(' ').expect("repeat N Service/Method …");
                let times: usize = times.parse().expect("a number");
                let mut last = Vec::new();
                for n in 1..=times {
                    last = self.ask(&request.replace("$n", &n.to_string())).await;
                }
                last
            }
            ("Watch/Watch", _) => {
                self.send(command).await;
                self.answer().await
            }
            _ => self.ask(command).await,
        }
    }

    /// A method and its message.
    fn parse(&self, request: &str) -> (MethodDescriptor, DynamicMessage) {
        let (name, text) = request.split_once(' ').unwrap_or((request, ""));
        let method = api::method(&self.pool, name).unwrap_or_else(|| panic!("there is no method {name}"));
        let text = expand(text, self.show.chosen());
        let message = DynamicMessage::parse_text_format(method.input(), &text)
            .unwrap_or_else(|error| panic!("{request}: {error}"));
        (method, message)
    }

    async fn ask(&mut self, request: &str) -> Vec<String> {
        let (method, message) = self.parse(request);
        let answer = match api::call(self.server.channel(), &method, &message).await {
            Ok(answer) => answer,
            Err(silence) => return vec![why(&silence)],
        };
        if method.full_name() == "etcdserverpb.Lease.LeaseGrant" && !message.has_field_by_name("ID") {
            let id = answer.get_field_by_name("ID").and_then(|id| id.as_i64());
            self.show.chose(id.expect("a lease has an ID"));
        }
        self.show.lines(&answer)
    }

    async fn send(&mut self, request: &str) {
        let (method, message) = self.parse(request);
        match &self.watches {
            Some(stream) => stream.send(&message).await,
            None => self.watches = Some(Stream::open(self.server.channel(), &method, &message).await),
        }
    }

    async fn next(&mut self) -> Result<DynamicMessage, Silence> {
        self.watches.as_mut().expect("a script watches before it waits for changes").next().await
    }

    /// The next message that says something other than changes, and those before it.
    async fn answer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            match self.next().await {
                Ok(message) if message.has_field_by_name("events") => {
                    lines.extend(self.changes(&message).into_iter().map(|(_, line)| line));
                }
                Ok(message) => {
                    lines.extend(self.show.lines(&message));
                    return lines;
                }
                Err(silence) => {
                    lines.push(why(&silence));
                    return lines;
                }
            }
        }
    }

    async fn messages(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        for _ in 0..count {
            match self.next().await {
                Ok(message) => lines.extend(self.show.lines(&message)),
                Err(silence) => lines.push(why(&silence)),
            }
        }
        lines
    }

    async fn events(&mut self, enough: impl Fn(&[(i64, String)]) -> bool) -> Vec<String> {
        let mut changes: Vec<(i64, String)> = Vec::new();
        let mut end = None;
        while !enough(&changes) && end.is_none() {
            match self.next().await {
                Ok(message) if message.has_field_by_name("events") => changes.extend(self.changes(&message)),
                Ok(message) => end = Some(self.show.lines(&message).join(" ")),
                Err(silence) => end = Some(why(&silence)),
            }
        }
        // Watches of one stream do not wait for each other.
        changes.sort_by_key(|(watch, _)| *watch);
        changes.into_iter().map(|(_, line)| line).chain(end).collect()
    }

    /// The changes that a message tells, and of which watch.
    fn changes(&self, message: &DynamicMessage) -> Vec<(i64, String)> {
        let watch = message.get_field_by_name("watch_id").and_then(|id| id.as_i64()).unwrap_or_default();
        let lines = self.show.lines(message).into_iter();
        lines
            .filter(|line| line.starts_with("events "))
            .map(|line| (watch, format!("watch {watch} {line}")))
            .collect()
    }
}

fn why(silence: &Silence) -> String {
    match silence {
        Silence::Refused(status) => format!("{:?}: {}", status.code(), status.message()),
        Silence::Ended => "the stream ended".to_owned(),
        Silence::Nothing => "nothing came".to_owned(),
    }
}

fn expand(text: &str, chosen: &[i64]) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let (what, after) = after.split_once('*').expect("${v*100}");
        let (times, after) = after.split_once('}').expect("${v*100}");
        out.push_str(before);
        out.push_str(&what.repeat(times.parse().expect("a number")));
        rest = after;
    }
    out.push_str(rest);
    for (at, id) in chosen.iter().enumerate() {
        out = out.replace(&format!("${}", at + 1), &id.to_string());
    }
    out
}
