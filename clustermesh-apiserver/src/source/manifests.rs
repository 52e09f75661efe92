//! A directory of ordinary Kubernetes YAML as a source: what its files say, as far as they can be read.
//!
//! [`directory`] watches it. [`read`] is pure: the files' texts and the last snapshot in, the next snapshot out. A document that was good before
//! and is bad now keeps its last good state, and the problem says so. When a document cannot even be told which object
//! it is about, nothing that came from its file is withdrawn.

pub mod directory;
mod document;
#[cfg(test)]
mod tests;
pub mod tree;

use super::{
    object::ObjectKey,
    parse,
    snapshot::{Effect, Found, PROBLEMS_MAX, Place, Problem, Snapshot},
};
use std::collections::{BTreeMap, BTreeSet};

/// Largest manifest we read, in bytes: 10,000 Pods of 400 bytes, as a generated file may hold.
pub const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Most manifests we read in a directory: one file for each of 10,000 objects.
pub const FILES_MAX: usize = 10_000;

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its text.
    Text(String),
    /// Why there is none: too large, not UTF-8, not readable.
    Unusable(String),
}

/// Reads all files; `last` is what an object that can no longer be read falls back to.
#[must_use]
pub fn read(files: &BTreeMap<String, Content>, last: &Snapshot) -> Snapshot {
    let mut reader = Reader::new(last);
    for (file, content) in files {
        reader.file(file, content);
    }
    reader.finish()
}

struct Reader<'a> {
    last: &'a Snapshot,
    objects: BTreeMap<ObjectKey, Found>,
    problems: Vec<Problem>,
    /// Objects with a document that is bad now.
    bad: BTreeSet<ObjectKey>,
    /// Files with something in them that nobody can read.
    opaque: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(last: &'a Snapshot) -> Self {
        Self {
            last,
            objects: BTreeMap::new(),
            problems: Vec::new(),
            bad: BTreeSet::new(),
            opaque: BTreeSet::new(),
        }
    }

    fn file(&mut self, file: &str, content: &Content) {
        let text = match content {
            Content::Text(text) => text,
            Content::Unusable(why) => {
                self.opaque(file, None, why.clone());
                return;
            }
        };
        for (line, text) in document::split(text) {
            match document::read(text) {
                Ok(None) => {}
                Ok(Some(tree)) => {
                    for item in document::items(&tree) {
                        self.item(file, line - 1, &item);
                    }
                }
                Err(error) => self.opaque(file, Some(line - 1 + error.line), error.text),
            }
        }
    }

    /// `offset`: lines of the file before the document's first.
    fn item(&mut self, file: &str, offset: u64, item: &document::Item<'_>) {
        let line = offset + item.tree.line;
        let kind = match (item.api_version, item.kind) {
            (Some(api_version), Some(kind)) => match parse::kind_of(api_version, kind) {
                Some(known) => known,
                None => {
                    let text =
                        format!("nothing here reads `{kind}` of `{api_version}`: the document is not used");
                    self.problem(file, Some(line), "kind", text, None, Effect::Refused);
                    return;
                }
            },
            (_, _) => {
                let text = "not a Kubernetes object: it needs apiVersion and kind".to_owned();
                self.opaque(file, Some(line), text);
                return;
            }
        };
        let document = item.tree.to_json();
        match parse::parse(kind, &document) {
            Ok(parsed) => {
                let key = parsed.key.clone();
                if let Some(first) = self.objects.get(&key) {
                    let text = format!("the same object stands in {}; that one is used", first.place);
                    self.problem(file, Some(line), "", text, Some(key), Effect::Refused);
                    return;
                }
                for warning in &parsed.warnings {
                    let line = offset + item.tree.line_of(&warning.path);
                    let field = warning.path.to_string();
                    self.problem(
                        file,
                        Some(line),
                        &field,
                        warning.text.clone(),
                        Some(key.clone()),
                        Effect::Read,
                    );
                }
                let place = Place::File { file: file.to_owned(), line: Some(line) };
                self.objects.insert(key, Found { place, version: None, parsed });
            }
            Err(fault) => {
                let line = offset + item.tree.line_of(&fault.path);
                match parse::key_of(kind, &document) {
                    Some(key) => {
                        let kept = self.last.objects.contains_key(&key);
                        let effect = if kept { Effect::LastGood } else { Effect::Refused };
                        self.problem(
                            file,
                            Some(line),
                            &fault.path.to_string(),
                            fault.text,
                            Some(key.clone()),
                            effect,
                        );
                        self.bad.insert(key);
                    }
                    None => {
                        self.problem(
                            file,
                            Some(line),
                            &fault.path.to_string(),
                            fault.text,
                            None,
                            Effect::Refused,
                        );
                        self.opaque.insert(file.to_owned());
                    }
                }
            }
        }
    }

    fn opaque(&mut self, file: &str, line: Option<u64>, text: String) {
        let kept = self.last.objects.values().any(|found| found.place.file() == Some(file));
        let effect = if kept { Effect::LastGood } else { Effect::Refused };
        self.problem(file, line, "", text, None, effect);
        self.opaque.insert(file.to_owned());
    }

    fn problem(
        &mut self,
        file: &str,
        line: Option<u64>,
        field: &str,
        text: String,
        object: Option<ObjectKey>,
        effect: Effect,
    ) {
        if self.problems.len() < PROBLEMS_MAX {
            let place = Place::File { file: file.to_owned(), line };
            self.problems.push(Problem { place, field: field.to_owned(), text, object, effect });
        }
    }

    fn finish(mut self) -> Snapshot {
        for (key, found) in &self.last.objects {
            if self.bad.contains(key) || found.place.file().is_some_and(|file| self.opaque.contains(file)) {
                self.objects.entry(key.clone()).or_insert_with(|| found.clone());
            }
        }
        Snapshot { objects: self.objects, problems: self.problems }
    }
}
