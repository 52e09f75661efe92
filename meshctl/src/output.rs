//! What a command says: data to stdout, all else to stderr.
//!
//! A reader that has gone away, as `head` does, is no error, and ends nothing: what was begun is done, with the exit code
//! that it has. (`println!` would panic.)

use std::io::{self, ErrorKind, Write};

/// Data, to stdout.
///
/// # Errors
/// When it cannot be written though somebody reads it, such as into a file on a full disk.
pub fn data(text: &str) -> io::Result<()> {
    unless_closed(io::stdout().write_all(text.as_bytes()))
}

/// A line about what goes on, to stdout. That it cannot be told is no reason to stop.
pub fn line(text: &str) {
    let _told = writeln!(io::stdout(), "{text}");
}

/// A line for a person, to stderr. That it cannot be told is no reason to stop.
pub fn note(text: &str) {
    let _told = writeln!(io::stderr(), "{text}");
}

fn unless_closed(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A writer whose reader may go away.
#[derive(Debug)]
pub struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes).map(|()| bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        unless_closed(io::stdout().write_all(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_closed(io::stdout().flush())
    }
}
