use super::*;

fn key(byte: u8) -> PublicKey {
    PublicKey::from_hex(&format!("{byte:02x}").repeat(32)).expect("64 hex digits")
}

fn pair_of(one: u8, other: u8) -> Pair {
    Pair::new(key(one), key(other)).expect("two keys")
}

#[test]
fn a_request_says_all_pairs_and_the_order_within_one_says_nothing() {
    let text = format!("set=1\npair={},{}\npair={},{}\n", key(2), key(1), key(1), key(3));
    let wanted = BTreeSet::from([pair_of(1, 2), pair_of(1, 3)]);
    assert_eq!(Request::parse(text.as_bytes()), Ok(Request::Set(wanted)));
    assert_eq!(Request::parse(b"set=1"), Ok(Request::Set(BTreeSet::new())));
    assert_eq!(Request::parse(b"get=1"), Ok(Request::Get));
}

#[test]
fn what_is_no_request_is_refused_whole() {
    let good = format!("pair={},{}", key(1), key(2));
    for (text, wanted) in [
        (String::new(), Malformed::NoOperation),
        ("get=1\nset=1".to_owned(), Malformed::NoOperation),
        (format!("set=1\n{good}\npair={}", key(1)), Malformed::Line(3)),
        // Nobody talks to himself.
        (format!("set=1\npair={},{}", key(1), key(1)), Malformed::Line(2)),
        (format!("set=1\n{good},{}", key(3)), Malformed::Line(2)),
        (format!("set=1\n\n{good}"), Malformed::Line(2)),
    ] {
        assert_eq!(Request::parse(text.as_bytes()), Err(wanted), "{text}");
    }
    assert_eq!(Request::parse(b"set=1\n\xff"), Err(Malformed::NotText));
    let numbered = |number: usize| PublicKey::from_hex(&format!("{number:064x}")).expect("64 hex digits");
    let lines = (0..=PAIRS_MAX).map(|number| format!("pair={},{}\n", key(255), numbered(number)));
    let text = format!("set=1\n{}", lines.collect::<String>());
    assert_eq!(Request::parse(text.as_bytes()), Err(Malformed::TooMany));
}

#[test]
fn what_is_kept_is_read_back_and_what_is_damaged_is_not_guessed() {
    let private_key = Secret::from_hex(&"07".repeat(32)).expect("a key");
    let mut kept = Kept::new(private_key);
    kept.pairs = BTreeSet::from([pair_of(1, 2), pair_of(1, 3)]);
    kept.whereabouts = BTreeMap::from([
        (key(1), "192.0.2.7:4711".parse().expect("an address")),
        (key(3), "[2001:db8::7]:51871".parse().expect("an address")),
    ]);
    let text = kept.to_text();
    assert_eq!(Kept::parse(text.as_bytes()), Ok(kept));
    for damaged in [&text[..40], &text[..text.len() - 9], &text.replace("endpoint", "elsewhere"), ""] {
        assert!(Kept::parse(damaged.as_bytes()).is_err(), "{damaged}");
    }
}
