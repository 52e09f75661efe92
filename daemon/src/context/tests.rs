use super::*;

fn context(name: &str, uuid: u8, endpoint: &str) -> Contexts {
    Contexts {
        clusters: vec![Context {
            name: name.parse().expect("a name"),
            uuid: ClusterUuid([uuid; 16]),
            endpoints: vec![endpoint.to_owned()],
            bundle: "bundle.pem".into(),
            cert: "cert.pem".into(),
            key: "/etc/mesh/key.pem".into(),
        }],
    }
}

#[test]
fn paths_are_relative_to_the_file() {
    let context = context("west", 1, "w:2379").clusters.remove(0).resolved(Path::new("/srv/west/admin"));
    assert_eq!(context.bundle, Path::new("/srv/west/admin/bundle.pem"));
    assert_eq!(context.key, Path::new("/etc/mesh/key.pem"));
}

#[test]
fn several_files_are_one_list_and_the_last_word_on_a_cluster_counts() {
    let files =
        [context("west", 1, "old:2379"), context("east", 2, "e:2379"), context("west", 1, "new:2379")];
    let merged = Contexts::merge(files).expect("no conflict");
    let shown: Vec<_> = merged.iter().map(|(name, c)| format!("{name} {}", c.endpoints[0])).collect();
    assert_eq!(shown, ["east e:2379", "west new:2379"]);
}

#[test]
fn one_name_for_two_clusters_is_refused() {
    let error =
        Contexts::merge([context("west", 1, "a:1"), context("west", 2, "b:1")]).expect_err("ambiguous");
    assert!(error.to_string().starts_with("two contexts are called `west`"), "{error}");
}
