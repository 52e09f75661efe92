//! `mesh-corpus`: writes the chosen inputs of every target. Inputs that were found (`found-…`) stay.

use std::{fs, process::ExitCode};

fn main() -> ExitCode {
    let seeds = fuzz::seeds::all();
    for seed in &seeds {
        let dir = fuzz::corpus().join(seed.target);
        let file = dir.join(&seed.why);
        if let Err(error) = fs::create_dir_all(&dir).and_then(|()| fs::write(&file, &seed.input)) {
            eprintln!("error: cannot write {}: {error}", file.display());
            return ExitCode::FAILURE;
        }
    }
    eprintln!("wrote {} inputs under {}", seeds.len(), fuzz::corpus().display());
    ExitCode::SUCCESS
}
