use super::*;
use tempfile::TempDir;

/// A `/run` with records.
fn run_dir(records: &[(&str, &str)]) -> (TempDir, Records) {
    let run = tempfile::tempdir().unwrap();
    let dir = run.path().join("resolvconf/interface");
    fs::create_dir_all(&dir).unwrap();
    for (name, text) in records {
        fs::write(dir.join(name), text).unwrap();
    }
    let records = Records::in_run(run.path());
    (run, records)
}

#[test]
fn the_hosts_servers_are_those_of_all_records_but_ours() {
    let (_run, records) = run_dir(&[
        ("eth0.dhclient", "nameserver 192.0.2.1\nsearch corp.example\n"),
        ("eth1.inet", "nameserver 192.0.2.1\nnameserver 192.0.2.2\ndomain lab.example\n"),
        (RECORD, "nameserver 127.0.0.153\nsearch svc.cluster.local\n"),
    ]);
    let hosts = records.hosts().unwrap();
    assert_eq!(
        hosts,
        ResolvConf::parse("nameserver 192.0.2.1\nnameserver 192.0.2.2\nsearch corp.example lab.example\n")
    );
}

#[tokio::test]
async fn a_record_that_says_what_it_should_is_left_alone_and_without_one_there_is_nothing_to_take_back() {
    let us = "127.0.0.153".parse().unwrap();
    let (_run, records) =
        run_dir(&[(RECORD, "# by us\nnameserver 127.0.0.153\n\nsearch svc.cluster.local\n")]);
    assert!(!records.take(Flavour::Debian, us, &["svc.cluster.local".to_owned()]).await.unwrap());
    let (_run, records) = run_dir(&[]);
    records.restore().await.unwrap();
    assert_eq!(Records::in_run(Path::new("/nowhere")).hosts().unwrap(), ResolvConf::default());
}
