//! The committed corpora: every input is answered, within bounds, and is what the command writes.

use fuzz::{Cost, TARGETS, corpus, measure, seeds};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
};

/// A target with fewer inputs shows little.
const INPUTS_MIN: usize = 4;

#[test]
fn every_input_of_every_corpus_is_answered_and_costs_little() {
    for target in TARGETS {
        let inputs = inputs(target.name);
        assert!(inputs.len() >= INPUTS_MIN, "{} has {} inputs", target.name, inputs.len());
        for (file, input) in inputs {
            let file = file.display();
            // A stack that overflows leaves no other trace.
            eprintln!("{file}");
            let cost = measure(target.run, &input);
            cost.check(input.len()).unwrap_or_else(|error| panic!("{file}: {error}"));
        }
    }
}

#[test]
fn every_input_is_answered_when_it_is_cut_off_anywhere() {
    // Steps of a prime, so that they hit each place of a word sooner or later.
    const STEP: usize = 31;
    for target in TARGETS {
        for (file, input) in inputs(target.name) {
            for end in (0..input.len().min(2_048)).step_by(STEP) {
                let cost = measure(target.run, &input[..end]);
                cost.check(end).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
            }
        }
    }
}

#[test]
fn the_corpora_are_what_the_command_writes_and_what_was_found() {
    let written: BTreeMap<PathBuf, Vec<u8>> = seeds::all()
        .into_iter()
        .map(|seed| (corpus().join(seed.target).join(seed.why), seed.input))
        .collect();
    let mut on_disk = BTreeSet::new();
    for target in TARGETS {
        for (file, input) in inputs(target.name) {
            let is_found = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("found-"));
            assert!(is_found || written.get(&file) == Some(&input), "{}: run mesh-corpus", file.display());
            on_disk.insert(file);
        }
    }
    let missing: Vec<_> = written.keys().filter(|file| !on_disk.contains(*file)).collect();
    assert!(missing.is_empty(), "run mesh-corpus: {missing:?}");
}

#[test]
fn a_decoder_that_believes_a_length_is_noticed() {
    let greedy =
        |input: &[u8]| drop(std::hint::black_box(Vec::<u8>::with_capacity(usize::from(input[0]) << 20)));
    assert!(measure(greedy, &[255]).check(1).is_err_and(|error| error.contains("allocate")));
    assert_eq!(measure(greedy, &[1]).check(1), Ok(()));
}

#[test]
fn a_decoder_that_takes_for_ever_is_noticed() {
    let cost = Cost { allocated: 0, took: std::time::Duration::from_secs(3) };
    assert!(cost.check(1).is_err_and(|error| error.contains("took")));
    let spins = |_: &[u8]| {
        std::hint::black_box((0..2_000_000_u64).fold(0, |sum, n| sum ^ std::hint::black_box(n)));
    };
    assert!(measure(spins, &[]).took > std::time::Duration::from_micros(100), "the clock counts our work");
}

fn inputs(target: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    let dir = corpus().join(target);
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}; run mesh-corpus", dir.display()));
    let files = entries.map(|entry| entry.expect("an entry").path());
    files.map(|file| (file.clone(), fs::read(&file).expect("a file of the corpus"))).collect()
}
