//! A directory of ordinary Kubernetes YAML as a source: what its files say, as far as they can be read.
//!
//! [`read`] is pure: the files' texts and the last snapshot in, the next snapshot out. A document that was good before
//! and is bad now keeps its last good state, and the problem says so. When a document cannot even be told which object
//! it is about, nothing that came from its file is withdrawn.

mod document;
#[cfg(test)]
mod tests;
pub mod tree;

use super::{
    object::ObjectKey,
    parse::{self, Parsed},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// Largest manifest we read, in bytes: 10,000 Pods of 400 bytes, as a generated file may hold.
pub const FILE_MAX_BYTES: u64 = 4 * 1024 * 1024;

/// Most manifests we read in a directory: one file for each of 10,000 objects.
pub const FILES_MAX: usize = 10_000;

/// Most problems we keep for status; each is at most a few hundred bytes, so they stay under 1 MiB.
pub const PROBLEMS_MAX: usize = 1_000;

/// What a file held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its text.
    Text(String),
    /// Why there is none: too large, not UTF-8, not readable.
    Unusable(String),
}

/// What becomes of a document that has a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It is not used.
    Refused,
    /// Its object stays as it last was good.
    LastGood,
    /// It is used; the text says how it was read.
    Read,
}

/// Something wrong with a manifest, for the person who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Relative to the directory.
    pub file: String,
    /// From 1; none when the file as a whole is meant.
    pub line: Option<u64>,
    /// Such as `spec.ports[0].port`; empty when the document as a whole is meant.
    pub field: String,
    /// What is wrong.
    pub text: String,
    /// Which object it is about, where that is known.
    pub object: Option<ObjectKey>,
    /// What becomes of it.
    pub effect: Effect,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.text)?;
        match self.effect {
            Effect::LastGood => write!(f, " (what it last said stays in force)"),
            Effect::Refused | Effect::Read => Ok(()),
        }
    }
}

/// An object and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Relative to the directory.
    pub file: String,
    /// Where its document begins, from 1.
    pub line: u64,
    /// What it says.
    pub parsed: Parsed,
}

/// All that the directory said, or last said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// One entry an object.
    pub objects: BTreeMap<ObjectKey, Manifest>,
    /// In the order of files and lines, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
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
    objects: BTreeMap<ObjectKey, Manifest>,
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
                    let text =
                        format!("the same object stands in {}:{}; that one is used", first.file, first.line);
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
                self.objects.insert(key, Manifest { file: file.to_owned(), line, parsed });
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
        let kept = self.last.objects.values().any(|m| m.file == file);
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
            let (file, field) = (file.to_owned(), field.to_owned());
            self.problems.push(Problem { file, line, field, text, object, effect });
        }
    }

    fn finish(mut self) -> Snapshot {
        for (key, manifest) in &self.last.objects {
            if self.bad.contains(key) || self.opaque.contains(&manifest.file) {
                self.objects.entry(key.clone()).or_insert_with(|| manifest.clone());
            }
        }
        Snapshot { objects: self.objects, problems: self.problems }
    }
}
