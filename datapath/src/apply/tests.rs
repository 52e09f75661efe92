use super::{
    apply,
    model::{Model, Sizes},
};
use crate::{
    backend::bpf::{LocalRow, RouteRow, SetRef},
    image::Frontend,
    observe::Observed,
    step::Step,
};
use api::record::Protocol;
use expect_test::{Expect, expect};

#[test]
fn a_refused_step_stops_only_what_depends_on_it() {
    check(
        |step| matches!(step, Step::PutScope { .. }),
        expect![[r#"
            cannot close 10.2.0.0/16: refused
            3 steps wait for those
            took: 10.101.0.8:80/TCP → set 0 of 0
        "#]],
    );
    check(
        |step| matches!(step, Step::PutSet { .. }),
        expect![[r#"
            cannot fill set 7: 10.2.0.5:80: refused
            2 steps wait for those
            took: close 10.2.0.0/16
            took: 10.101.0.8:80/TCP → set 0 of 0
        "#]],
    );
}

#[test]
fn nothing_leaves_the_scope_while_anything_before_it_failed() {
    check(
        |step| matches!(step, Step::PutService { to: SetRef { set: 0, .. }, .. }),
        expect![[r#"
            cannot 10.101.0.8:80/TCP → set 0 of 0: refused
            1 steps wait for those
            took: close 10.2.0.0/16
            took: fill set 7: 10.2.0.5:80
            took: 10.101.0.9:80/TCP → set 7 of 1
        "#]],
    );
}

#[test]
fn each_full_map_is_named_however_much_another_one_refuses() {
    let closed = (0..40).map(|third| {
        let prefix = format!("10.2.{third}.0/24").parse().unwrap();
        Step::PutScope { prefix, row: RouteRow::Closed }
    });
    let locals =
        [8, 9].map(|last| Step::PutLocal { address: [10, 1, 0, last].into(), local: LocalRow::Node });
    let steps: Vec<Step> = closed.chain(locals).collect();
    let sizes = Sizes { routes: 1, locals: 0, ..Sizes::AMPLE };
    let problems = apply(&steps, &mut Model::of(Observed::default()).sized(sizes)).problems;
    assert_eq!(problems.len(), 16 + 2, "{problems:?}");
    assert!(problems[16].starts_with("cannot 10.1.0.8 is this host: "), "{}", problems[16]);
    assert!(problems[16].contains("map mesh_local"), "{}", problems[16]);
    assert_eq!(problems[17], "24 more were refused");
}

fn check(refuses: impl Fn(&Step) -> bool + 'static, result: Expect) {
    let frontend = |last| Frontend { address: [10, 101, 0, last].into(), protocol: Protocol::Tcp, port: 80 };
    let steps = [
        Step::PutScope { prefix: "10.2.0.0/16".parse().unwrap(), row: RouteRow::Closed },
        Step::PutSet { set: 7, backends: vec!["10.2.0.5:80".parse().unwrap()] },
        Step::PutService { frontend: frontend(9), to: SetRef { set: 7, count: 1 } },
        Step::PutService { frontend: frontend(8), to: SetRef { set: 0, count: 0 } },
        Step::RemoveScope { prefix: "10.9.0.0/16".parse().unwrap() },
    ];
    let taken = std::rc::Rc::new(std::cell::RefCell::new(String::new()));
    let seen = std::rc::Rc::clone(&taken);
    let mut host = Model::of(Observed::default())
        .refusing(refuses)
        .watched(move |_, step| *seen.borrow_mut() += &format!("took: {step}\n"));
    let outcome = apply(&steps, &mut host);
    result.assert_eq(&format!("{}\n{}", outcome.problems.join("\n"), taken.borrow()));
}
