//! Two administrators who share no kubeconfig and no context file connect their clusters by a line of text.

use e2e::{A, B, Cluster, carts};

use crate::story::Story;

/// What the administrator of one cluster alone runs, and how it ends.
fn ctl_of(story: &Story, cluster: Cluster, args: &[&str]) -> (i32, String, String) {
    let argv = story.meshctl_argv_of(&[cluster], args.iter().copied());
    let line = argv.iter().map(|arg| format!("'{arg}'")).collect::<Vec<_>>().join(" ");
    story.sh("host/admin", &line)
}

#[test]
fn two_administrators_connect_their_clusters_by_a_token_that_counts_once() {
    let story = Story::running("tokens");
    let (code, line, said) = ctl_of(&story, A, &["token", "issue"]);
    assert!(
        code == 0 && line.starts_with("meshctl token redeem mesh-peer-") && line.lines().count() == 1,
        "{line}{said}"
    );
    let token = line.trim().rsplit(' ').next().unwrap();

    let (code, _, said) = ctl_of(&story, B, &["token", "redeem", &token[..token.len() - 6]]);
    assert!(code == 1 && said.contains("it is not whole"), "{said}");
    let other = format!("{}AAAA", &token[..token.len() - 4]);
    let (code, _, said) = ctl_of(&story, B, &["token", "redeem", &other]);
    assert!(code == 4 && said.contains("this token does not count here"), "{said}");
    let (code, _, said) = ctl_of(&story, A, &["token", "redeem", token]);
    assert!(code == 4 && said.contains("nothing was changed"), "a cluster is no peer of its own: {said}");

    let (code, told, said) = ctl_of(&story, B, &["token", "redeem", token]);
    assert!(code == 0 && told.contains(" ✓ trust") && told.contains(" ✓ tunnel"), "{told}{said}");
    assert!(told.contains("connected in"), "{told}");
    for (client, cluster) in [("cluster-a/pod/client", &A), ("cluster-b/pod/client", &B)] {
        story.carts(client, cluster, |answers| carts(answers, &[A, B]));
    }
    for cluster in [A, B] {
        let (code, status, said) = ctl_of(&story, cluster, &["status", "--wait", "--timeout", "60"]);
        assert_eq!(code, 0, "{}: {status}{said}", cluster.name);
    }
    let (code, told, said) = ctl_of(&story, B, &["token", "redeem", token]);
    assert!(code == 0 && told.contains("connected already"), "{told}{said}");
}
