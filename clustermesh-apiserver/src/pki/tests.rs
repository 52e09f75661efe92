use super::*;
use std::{fs, os::unix::fs::PermissionsExt};
use tempfile::TempDir;

#[test]
fn a_file_is_written_whole_with_its_mode_or_not_at_all() {
    let dir = TempDir::new().expect("a directory");
    let path = dir.path().join("deep/er/key.pem");
    write_file(&path, b"one", 0o600, Existing::Refuse).expect("written");
    let error = write_file(&path, b"two", 0o600, Existing::Refuse).expect_err("refused");
    assert_eq!(error.source.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).expect("there"), b"one");
    write_file(&path, b"three", 0o600, Existing::Replace).expect("replaced");
    assert_eq!(fs::read(&path).expect("there"), b"three");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    let left: Vec<_> = fs::read_dir(path.parent().expect("a parent")).expect("listed").collect();
    assert_eq!(left.len(), 1, "no temporary file stays");
}
