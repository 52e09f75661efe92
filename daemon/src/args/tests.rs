use super::*;
use anyhow::Context;

#[test]
fn an_error_is_told_with_its_causes_and_what_to_try() {
    let error = Err::<(), _>(std::io::Error::other("operation not permitted"))
        .context(Hint::new(
            "cannot attach `mesh_egress` to eth0",
            "the agent needs CAP_BPF and CAP_NET_ADMIN",
        ))
        .expect_err("an error");
    let text = "error: cannot attach `mesh_egress` to eth0: operation not permitted\n\
                hint: the agent needs CAP_BPF and CAP_NET_ADMIN\n";
    assert_eq!(report(&error), text);
    assert_eq!(
        report(&error.context("cannot start")).lines().count(),
        2,
        "a hint is found under another context"
    );
}

#[test]
fn an_error_without_a_hint_is_one_line() {
    assert_eq!(report(&anyhow::anyhow!("no such cluster")), "error: no such cluster\n");
}
