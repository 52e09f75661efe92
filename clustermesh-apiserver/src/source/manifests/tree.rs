//! A YAML value in which every node knows its line, so that whatever is wrong with a field can be shown to its author.

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;
use std::{collections::BTreeMap, fmt};

/// One step from a value to a part of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// A field.
    Key(String),
    /// An element, from 0.
    Index(usize),
}

impl From<&str> for Step {
    fn from(key: &str) -> Self {
        Self::Key(key.to_owned())
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

/// A field of a document, as people write it: `spec.ports[0].port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldPath(pub Vec<Step>);

impl FieldPath {
    /// A part of what this path leads to.
    #[must_use]
    pub fn join(mut self, part: Self) -> Self {
        self.0.extend(part.0);
        self
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => write!(f, "{key}")?,
                Step::Key(key) => write!(f, ".{key}")?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Builds a [`FieldPath`]: `path!["spec", "ports", 0, "port"]`.
#[macro_export]
macro_rules! path {
    ($($step:expr),* $(,)?) => {
        $crate::source::manifests::tree::FieldPath(vec![$($crate::source::manifests::tree::Step::from($step)),*])
    };
}

/// A value and the line where it stands, from 1 within its document.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    /// From 1.
    pub line: u64,
    /// The value.
    pub node: Node,
}

/// A value of JSON's model.
#[derive(Debug, Clone, PartialEq)]
pub enum Node {
    /// null, a text, a number, a boolean
    Scalar(serde_json::Value),
    /// A sequence.
    List(Vec<Tree>),
    /// A mapping.
    Map(BTreeMap<String, Tree>),
}

impl Tree {
    /// The same value without lines.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match &self.node {
            Node::Scalar(value) => value.clone(),
            Node::List(items) => items.iter().map(Self::to_json).collect(),
            Node::Map(fields) => fields.iter().map(|(key, value)| (key.clone(), value.to_json())).collect(),
        }
    }

    /// The part that a step leads to.
    #[must_use]
    pub fn get(&self, step: &Step) -> Option<&Self> {
        match (&self.node, step) {
            (Node::Map(fields), Step::Key(key)) => fields.get(key),
            (Node::List(items), Step::Index(index)) => items.get(*index),
            (Node::Map(_), Step::Index(_)) | (Node::List(_), Step::Key(_)) | (Node::Scalar(_), _) => None,
        }
    }

    /// The line of a field, or of the nearest part around it that exists (a missing field has no line of its own).
    #[must_use]
    pub fn line_of(&self, path: &FieldPath) -> u64 {
        let mut here = self;
        for step in &path.0 {
            match here.get(step) {
                Some(part) => here = part,
                None => break,
            }
        }
        here.line
    }

    /// The text under a path of fields, if there is one.
    #[must_use]
    pub fn text(&self, fields: &[&str]) -> Option<&str> {
        let part = fields.iter().try_fold(self, |tree, &field| tree.get(&Step::from(field)))?;
        match &part.node {
            Node::Scalar(serde_json::Value::String(text)) => Some(text),
            Node::Scalar(_) | Node::List(_) | Node::Map(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value that JSON can say")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }

    fn visit_unit<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(serde_json::Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Node, E> {
        Ok(Node::Scalar(serde_json::Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Node, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, value)) = fields.next_entry::<String, Tree>()? {
            map.insert(key, value);
        }
        Ok(Node::Map(map))
    }
}
