use super::*;
use api::{
    bytes::ClusterUuid,
    record::{Node, Record},
};
use replica::follower::{Event, Value};
use std::os::unix::fs::{PermissionsExt as _, symlink};

#[test]
fn a_view_that_changes_or_failed_is_kept_every_half_minute_and_one_that_rests_every_ten_minutes() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let content = |revision| Content { boot: None, revision, records: 3 };
    let mut schedule = Schedule::default();
    let polls = [
        (0, 1, 0),
        (1, 2, 0),
        (29, 2, 0),
        (30, 2, 0),
        (31, 3, 0),
        (60, 3, 0),
        (659, 3, 0),
        (660, 3, 0),
        (689, 3, 1), // the write at 660 failed
        (690, 3, 1),
        (1_289, 3, 1),
    ];
    let kept = polls
        .into_iter()
        .filter(|&(s, revision, failures)| schedule.poll(at(s), content(revision), failures));
    assert_eq!(kept.map(|(second, ..)| second).collect::<Vec<_>>(), [0, 30, 60, 660, 690]);
    assert!(!schedule.is_behind(content(3), 1) && schedule.is_behind(content(4), 1));
}

#[test]
fn what_was_written_is_read_and_nobody_else_may_read_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    assert!(matches!(file.read(), Found::Nothing));
    file.write(&bytes(7)).unwrap();
    file.write(&bytes(8)).unwrap();
    let Found::View(kept) = file.read() else { panic!("{:?}", file.read()) };
    assert_eq!(kept.at_ms, 8, "the last one");
    let mode = fs::metadata(&file.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(names(dir.path()), ["last-view"]);
}

#[test]
fn a_damaged_file_is_set_aside_and_named_and_the_next_start_finds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let mut damaged = bytes(7);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    file.write(&damaged).unwrap();
    let Found::Refused(why) = file.read() else { panic!("it was taken") };
    assert!(why.contains("last-view is not used, it is damaged: its sum is another"), "{why}");
    assert!(why.ends_with("last-view.refused"), "{why}");
    assert_eq!(names(dir.path()), ["last-view.refused"]);
    assert!(matches!(file.read(), Found::Nothing));
}

#[test]
fn what_a_crash_left_half_written_and_a_link_in_its_place_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let file = file(dir.path());
    let victim = dir.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    symlink(&victim, file.path.with_extension("part")).unwrap();
    file.write(&bytes(7)).unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert!(matches!(file.read(), Found::View(_)));
}

#[test]
fn a_disk_that_takes_nothing_is_named_counted_and_forgotten_when_it_takes_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let file = file(&dir.path().join("gone"));
        let (snapshots, receiver) = mpsc::channel(1);
        let (outcomes, mut outcome) = watch::channel(Outcome::default());
        let keeper = tokio::spawn(run(file.clone(), receiver, outcomes));
        snapshots.send(Snapshot { bytes: Ok(bytes(7)), at_ms: 7 }).await.unwrap();
        let failed = outcome.wait_for(|o| o.failures == 1).await.unwrap().clone();
        let problem = failed.problem.expect("a problem");
        assert!(problem.contains("gone/last-view: No such file or directory"), "{problem}");
        assert_eq!(failed.at_ms, None);

        fs::create_dir(dir.path().join("gone")).unwrap();
        snapshots.send(Snapshot { bytes: Err(kept::TooLarge), at_ms: 8 }).await.unwrap();
        let failed = outcome.wait_for(|o| o.failures == 2).await.unwrap().clone();
        assert!(failed.problem.expect("a problem").contains("the view is larger than"));

        // The last one is written although nobody can send any more.
        snapshots.send(Snapshot { bytes: Ok(bytes(9)), at_ms: 9 }).await.unwrap();
        drop(snapshots);
        keeper.await.unwrap();
        let last = outcome.borrow().clone();
        assert_eq!((last.at_ms, last.bytes, last.failures, last.problem), (Some(9), bytes(9).len(), 2, None));
        let Found::View(kept) = file.read() else { panic!("nothing was written") };
        assert_eq!(kept.at_ms, 9);
    });
}

// ---- helpers ----

fn owner() -> Owner {
    Owner { uuid: ClusterUuid([9; 16]), node: "n1".parse().unwrap() }
}

fn file(dir: &Path) -> KeptFile {
    KeptFile::in_dir(dir, owner())
}

fn bytes(at_ms: u64) -> Vec<u8> {
    let mut view = View::new("east".parse().unwrap());
    let node = Node {
        mesh_addresses: vec![],
        prefixes: vec![],
        endpoints: vec![],
        zone: String::new(),
        relay: vec![],
    };
    let value =
        Value { key: "mesh/v1/east/nodes/n1".into(), value: Record::from(node).encode(), mod_revision: 4 };
    view.apply(Event::Init);
    view.apply(Event::InitApply(value));
    view.apply(Event::InitDone { revision: 6 });
    kept::encode(&view, &owner(), at_ms).unwrap()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}
