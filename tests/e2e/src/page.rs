//! The shell blocks of a page of the documentation, to be run as they stand.

use anyhow::{Context, Result, bail};

/// A block of commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of its first command, from 1.
    pub line: usize,
    /// Its commands, without the indentation of the block.
    pub text: String,
}

impl Block {
    /// Its first command, by which a test means it.
    #[must_use]
    pub fn first(&self) -> &str {
        self.text.lines().next().unwrap_or_default()
    }
}

/// The blocks fenced as `sh`, in their order. `text` is what a program says; no other kind is known, so that no block
/// is missed because it is called something else.
///
/// # Errors
/// A block of another kind, one that does not end, or one that is empty; with its line.
pub fn shell_blocks(page: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let text = line.trim_start();
        let Some(kind) = text.strip_prefix("```") else { continue };
        let indent = line.len() - text.len();
        let mut block = Block { line: at + 2, text: String::new() };
        loop {
            let (_, line) =
                lines.next().with_context(|| format!("line {}: a block without an end", at + 1))?;
            if line.trim() == "```" {
                break;
            }
            block.text += line.get(indent..).unwrap_or_default();
            block.text.push('\n');
        }
        match kind {
            "sh" if block.text.trim().is_empty() => bail!("line {}: an empty block", at + 1),
            "sh" => blocks.push(block),
            "text" => {}
            other => bail!("line {}: a block of `{other}`, neither `sh` nor `text`", at + 1),
        }
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_taken_with_their_lines_and_without_their_indentation() {
        let page =
            "# A page\n\n1. do\n\n   ```sh\n   a b\n     c\n   ```\n\n```text\nsaid\n```\n```sh\nd\n```\n";
        let blocks = shell_blocks(page).unwrap();
        assert_eq!(
            blocks,
            [Block { line: 6, text: "a b\n  c\n".to_owned() }, Block { line: 14, text: "d\n".to_owned() }]
        );
        assert_eq!(blocks[0].first(), "a b");
    }

    #[test]
    fn a_block_that_nobody_would_run_is_an_error() {
        for (page, why) in [
            ("```bash\na\n```\n", "line 1: a block of `bash`, neither `sh` nor `text`"),
            ("\n```sh\na\n", "line 2: a block without an end"),
            ("```sh\n\n```\n", "line 1: an empty block"),
        ] {
            assert_eq!(shell_blocks(page).unwrap_err().to_string(), why);
        }
    }
}
