use super::*;

const NONCE: Nonce = Nonce([7; 16]);
const HASH: ContractHash = ContractHash([0; 32]);

#[test]
fn each_state_and_each_word_of_the_other_side_has_its_answer() {
    let prepared = Object { nonce: Some(NONCE), deadline_s: Some(60), contract_hash: HASH };
    let active = Object { deadline_s: None, ..prepared };
    let by_hand = Object { nonce: None, ..active };
    let record = |nonce, phase| Peering { nonce, phase, contract_hash: HASH };
    let same = |phase| record(Some(NONCE), phase);
    let another = record(Some(Nonce([8; 16])), Phase::Active);
    let (ready, done, hand) = (same(Phase::Prepared), same(Phase::Active), record(None, Phase::Active));
    use Told::{Absent, Present, Unknown};
    let cases = [
        (prepared, Unknown, 59, Wish::Keep, Phase::Prepared),
        (prepared, Absent, 59, Wish::Keep, Phase::Prepared),
        (prepared, Present(&another), 59, Wish::Keep, Phase::Prepared),
        (prepared, Present(&ready), 59, Wish::Activate, Phase::Prepared),
        (prepared, Present(&done), 59, Wish::Activate, Phase::Prepared),
        (prepared, Unknown, 60, Wish::Remove(Gone::Expired), Phase::Prepared),
        (prepared, Absent, 60, Wish::Remove(Gone::Expired), Phase::Prepared),
        (prepared, Present(&another), 60, Wish::Remove(Gone::Expired), Phase::Prepared),
        (prepared, Present(&ready), 60, Wish::Activate, Phase::Prepared),
        (active, Unknown, 99, Wish::Keep, Phase::Prepared),
        (active, Present(&ready), 99, Wish::Keep, Phase::Prepared),
        (active, Present(&done), 99, Wish::Keep, Phase::Active),
        (active, Absent, 99, Wish::Remove(Gone::NeverActive), Phase::Prepared),
        (active, Present(&another), 99, Wish::Remove(Gone::NeverActive), Phase::Prepared),
        (by_hand, Unknown, 99, Wish::Keep, Phase::Active),
        (by_hand, Absent, 99, Wish::Keep, Phase::Active),
        (by_hand, Present(&hand), 99, Wish::Keep, Phase::Active),
    ];
    for (object, told, unix_s, wish, phase) in cases {
        let mut side = Side::new(&object, Some(&verdict(Phase::Prepared)), Now::START);
        let decision = side.decide(&object, told, Now::START, unix_s);
        assert_eq!((decision.wish, decision.phase), (wish, phase), "{object:?} {told:?} at {unix_s}");
    }
}

#[test]
fn a_peer_that_was_active_and_vanished_has_disconnected_and_is_kept_also_after_a_restart() {
    let object = Object { nonce: Some(NONCE), deadline_s: None, contract_hash: HASH };
    let done = Peering { nonce: Some(NONCE), phase: Phase::Active, contract_hash: HASH };
    let mut side = Side::new(&object, Some(&verdict(Phase::Prepared)), Now::START);
    side.decide(&object, Told::Present(&done), Now::START, 0);
    let decision = side.decide(&object, Told::Absent, Now::START, 0);
    assert_eq!((decision.wish, decision.phase, decision.other), (Wish::Keep, Phase::Active, Other::Absent));
    let held = verdict(Phase::Active);
    let decision = Side::new(&object, Some(&held), Now::START).decide(&object, Told::Absent, Now::START, 0);
    assert_eq!((decision.wish, decision.phase), (Wish::Keep, Phase::Active));
}

#[test]
fn a_store_that_was_lost_does_not_undo_what_was_active() {
    let object = Object { nonce: Some(NONCE), deadline_s: None, contract_hash: HASH };
    for told in [Told::Unknown, Told::Absent] {
        let decision = Side::new(&object, None, Now::START).decide(&object, told, Now::START, 0);
        assert_eq!((decision.wish, decision.phase), (Wish::Keep, Phase::Active));
    }
}

#[test]
fn a_clock_that_stands_still_does_not_keep_a_connect_for_ever() {
    let object = Object { nonce: Some(NONCE), deadline_s: Some(u64::MAX), contract_hash: HASH };
    let mut side = Side::new(&object, None, Now::START);
    let late = side.poll_timeout(&object, Now::START, 0).expect("a deadline");
    assert_eq!(late, Now::at(CONNECT_WITHIN));
    assert_eq!(side.decide(&object, Told::Absent, late, 0).wish, Wish::Remove(Gone::Expired));
}

#[test]
fn a_new_connect_over_an_old_one_begins_anew() {
    let old = Object { nonce: Some(NONCE), deadline_s: None, contract_hash: HASH };
    let mut side = Side::new(&old, Some(&verdict(Phase::Active)), Now::START);
    let new = Object { nonce: Some(Nonce([8; 16])), deadline_s: Some(60), ..old };
    let decision = side.decide(&new, Told::Absent, Now::START, 0);
    assert_eq!((decision.phase, decision.publish.phase), (Phase::Prepared, Phase::Prepared));
}

/// Every order of these, so many steps long, and then contact and quiet.
const STEPS: [Step; 8] = [
    Step::Write(0),
    Step::Write(1),
    Step::Look(0),
    Step::Look(1),
    Step::Act(0),
    Step::Act(1),
    Step::Restart(0),
    Step::PastDeadline,
];
const LENGTH: u32 = 6;

#[test]
fn whatever_dies_and_whenever_both_sides_end_active_or_neither_does() {
    let mut ends = [0, 0];
    for mut script in 0..STEPS.len().pow(LENGTH) {
        let mut two = Two::default();
        let mut steps = Vec::new();
        for _ in 0..LENGTH {
            steps.push(STEPS[script % STEPS.len()]);
            script /= STEPS.len();
        }
        for step in &steps {
            two.run(*step);
        }
        // Contact: each looks and acts until nothing moves, and the deadline passes.
        for step in [Step::Look(0), Step::Act(0), Step::Look(1), Step::Act(1), Step::PastDeadline]
            .iter()
            .cycle()
            .take(40)
        {
            two.run(*step);
        }
        let ended =
            two.sides.each_ref().map(|side| side.object.map(|object| (object.deadline_s, side.phase)));
        match ended {
            [None, None] => ends[0] += 1,
            [Some((None, Phase::Active)), Some((None, Phase::Active))] => ends[1] += 1,
            other => panic!("{other:?} after {steps:?}"),
        }
    }
    assert!(ends.iter().all(|&end| end > 100), "both ends are reached: {ends:?}");
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// meshctl writes the object of one side, once; it may die before the other.
    Write(usize),
    /// One side reads what the other has published.
    Look(usize),
    /// One side decides by what it read last, and does it.
    Act(usize),
    /// One side forgets what is not in its object or its store.
    Restart(usize),
    PastDeadline,
}

#[derive(Debug, Default)]
struct Two {
    sides: [Mirror; 2],
    unix_s: u64,
}

#[derive(Debug)]
struct Mirror {
    object: Option<Object>,
    written: bool,
    side: Option<Side>,
    published: Option<Peering>,
    /// As last read from the other; nothing before the first look.
    read: Option<Option<Peering>>,
    phase: Phase,
}

impl Default for Mirror {
    fn default() -> Self {
        Self { object: None, written: false, side: None, published: None, read: None, phase: Phase::Prepared }
    }
}

impl Two {
    fn run(&mut self, step: Step) {
        match step {
            Step::Write(n) if self.unix_s < 60 => {
                let side = &mut self.sides[n];
                if !std::mem::replace(&mut side.written, true) {
                    side.object =
                        Some(Object { nonce: Some(NONCE), deadline_s: Some(60), contract_hash: HASH });
                }
            }
            Step::Write(_) => {}
            Step::Look(n) => self.sides[n].read = Some(self.sides[1 - n].published.clone()),
            Step::Act(n) => self.sides[n].act(self.unix_s),
            Step::Restart(n) => {
                self.sides[n].side = None;
                self.sides[n].read = None;
            }
            Step::PastDeadline => self.unix_s = 61,
        }
    }
}

impl Mirror {
    fn act(&mut self, unix_s: u64) {
        let Some(object) = self.object else { return };
        let held = verdict(self.phase);
        let side = self.side.get_or_insert_with(|| Side::new(&object, Some(&held), Now::START));
        let told = match &self.read {
            None => Told::Unknown,
            Some(None) => Told::Absent,
            Some(Some(record)) => Told::Present(record),
        };
        let decision = side.decide(&object, told, Now::START, unix_s);
        self.phase = decision.phase;
        self.published = Some(decision.publish);
        match decision.wish {
            Wish::Keep => {}
            Wish::Activate => self.object = Some(Object { deadline_s: None, ..object }),
            Wish::Remove(_) => *self = Self { written: true, ..Self::default() },
        }
    }
}

fn verdict(phase: Phase) -> PeerState {
    PeerState {
        uuid: api::bytes::ClusterUuid([2; 16]),
        phase,
        freshness: api::record::Freshness::Fresh,
        stale_policy: api::record::StalePolicy::Demote,
        drop_after_ms: 0,
        prefixes: vec![],
        nonce: Some(NONCE),
        dropped: false,
        through: None,
        relay: vec![],
    }
}
