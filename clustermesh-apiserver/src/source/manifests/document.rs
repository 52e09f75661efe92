//! From a file's text to its documents, and from a document to the objects in it.

use super::tree::{Node, Step, Tree};

/// Most values in one document: 10,000 Pods of 60 values, and as much again. The file's size bounds the rest.
const NODES_MAX: usize = 1_200_000;

/// Most lists and maps within each other: the parser takes 40 KiB of the stack for each without optimisation, and a thread
/// has 2 MiB. A Pod's affinity has 12, the schema of a custom resource with one in it 30.
const DEPTH_MAX: usize = 40;

/// Most values that aliases may stand for in one document: some people use them for common labels; nobody needs more.
const ALIASED_MAX: usize = 50_000;

/// Why a document is no YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    /// From 1 within the document.
    pub(super) line: u64,
    /// What the parser found.
    pub(super) text: String,
}

/// Splits a file where a line begins with `---`: at no indentation that can only be a document's marker, even inside a
/// block of text (YAML 1.2.2, 9.1.2 c-forbidden). So a document that is no YAML cannot hide its neighbours.
/// Gives the line on which each part begins, from 1.
pub(super) fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut at = 0;
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if let Some(rest) = line.strip_prefix("---")
            && (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, number);
        }
        at += line.len();
    }
    parts.push((start_line, &text[start..]));
    // Directives and comments before the first marker are not a document.
    parts.retain(|(_, part)| {
        part.lines().any(|line| !line.trim().is_empty() && !line.starts_with(['#', '%']))
    });
    parts
}

/// Reads one document; `None` when it holds nothing.
pub(super) fn read(text: &str) -> Result<Option<Tree>, Unreadable> {
    let mut aliases = serde_saphyr::options::AliasLimits::default();
    aliases.max_total_replayed_events = ALIASED_MAX;
    let options = serde_saphyr::options! {
        // A file of many comments is no attack, and we read none of them.
        emit_comments: false,
        budget: serde_saphyr::budget! { max_nodes: NODES_MAX, max_events: 2 * NODES_MAX, max_depth: DEPTH_MAX },
        alias_limits: aliases,
    };
    let documents: Vec<Tree> =
        serde_saphyr::from_multiple_with_options(text, options).map_err(|error| Unreadable {
            line: error.location().map_or(1, |at| at.line().max(1)),
            text: format!("not YAML: {}", message(&error)),
        })?;
    Ok(documents.into_iter().next())
}

/// The parser's message on one line, without the picture of the place that it draws, and without the place: its lines
/// are the document's, not the file's.
fn message(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    let line = text.lines().next().unwrap_or_default();
    let end = line.rfind(" at line ").unwrap_or(line.len());
    line[..end].trim().to_owned()
}

/// One object of a document.
pub(super) struct Item<'a> {
    pub(super) tree: &'a Tree,
    pub(super) api_version: Option<&'a str>,
    pub(super) kind: Option<&'a str>,
}

/// The objects of a document: itself, or the items of a `List` (or `PodList` and the like, whose items need not repeat
/// what they are).
pub(super) fn items(tree: &Tree) -> Vec<Item<'_>> {
    let (api_version, kind) = (tree.text(&["apiVersion"]), tree.text(&["kind"]));
    let list = kind.and_then(|kind| kind.strip_suffix("List"));
    match (list, tree.get(&Step::from("items")).map(|items| &items.node)) {
        (Some(of), Some(Node::List(items))) => {
            let (default_version, default_kind) =
                if of.is_empty() { (None, None) } else { (api_version, Some(of)) };
            let item = |tree| Item {
                tree,
                api_version: Tree::text(tree, &["apiVersion"]).or(default_version),
                kind: Tree::text(tree, &["kind"]).or(default_kind),
            };
            items.iter().map(item).collect()
        }
        (_, _) => vec![Item { tree, api_version, kind }],
    }
}
