//! The tunnel's way is cut while the control ports work: nobody is told by a connection that fails.

use std::time::{Duration, Instant};

use e2e::{A, both};
use lab::Traffic;

use crate::story::{SHOWN, Story, eventually, problems};

/// What the operator is promised.
const RED_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn a_cut_of_udp_turns_status_red_within_20_s_and_names_the_pair_until_it_is_healed() {
    let story = Story::connected("udp-cut");
    story.well();

    story.lab.cut("cluster-a/node/a1", "cluster-b/node/b2", Traffic::Udp).unwrap();
    let cut = Instant::now();
    let pairs = ["cluster-a/a1 → cluster-b/b2", "cluster-b/b2 → cluster-a/a1"];
    eventually("status names the pair in both directions", RED_WITHIN, || {
        let (code, status) = story.status();
        let problems = problems(&status);
        let named = |pair: &&str| problems.iter().any(|problem| problem.contains(*pair));
        if code == 1 && pairs.iter().all(named) { Ok(()) } else { Err(format!("{code} {problems:?}")) }
    });
    assert!(cut.elapsed() < RED_WITHIN, "red after {:?}", cut.elapsed());
    let (_, status) = story.status();
    let other: Vec<String> =
        problems(&status).into_iter().filter(|p| !pairs.iter().any(|pair| p.contains(pair))).collect();
    assert!(other.is_empty(), "no other pair is called silent: {other:?}");
    let (code, table, _) = story.try_ctl(&["status"]);
    assert!(code == 1 && table.contains("3/4") && table.contains("does UDP pass"), "{code}: {table}");

    // The backend behind the silent tunnel is left out by the node that cannot reach it, and by nobody else.
    let behind = |who: &str| who == "cluster-b/cart-2";
    story.carts("cluster-a/pod/client", &A, |all| both(all) && !all.keys().any(|who| behind(who)));
    story.carts("cluster-a/pod/shell", &A, |all| all.keys().any(|who| behind(who)));

    story.lab.heal("cluster-a/node/a1", "cluster-b/node/b2").unwrap();
    story.well();
    eventually("the backend behind the tunnel is used again", SHOWN, || {
        let all = story.ask("cluster-a/pod/client", &format!("http://{}/", A.cart), 20).unwrap();
        if all.keys().any(|who| behind(who)) { Ok(()) } else { Err(format!("{all:?}")) }
    });
}
