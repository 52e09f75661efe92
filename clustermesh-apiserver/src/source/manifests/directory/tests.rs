use super::{files, subscribe};
use std::fs;
use tokio::sync::mpsc;

#[tokio::test]
async fn who_reads_the_directory_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["a.yaml", "b.yaml", "c.yaml"] {
        fs::write(dir.path().join(file), "kind: Pod\n").unwrap();
    }
    let (changed, mut changes) = mpsc::channel(100);
    let watcher = subscribe(dir.path(), changed).unwrap();
    assert_eq!(files(dir.path()).unwrap().len(), 3);
    // The kernel tells things in their order: this comes after everything that reading told.
    fs::create_dir(dir.path().join("later")).unwrap();
    changes.recv().await.expect("a new directory is a change");
    drop(watcher);
    // Ends when the watcher has ended.
    let mut more = 0;
    while changes.recv().await.is_some() {
        more += 1;
    }
    assert_eq!(more, 0, "told besides the one change");
}
