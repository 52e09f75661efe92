//! What one input costs, and what it may cost.

use nix::time::{ClockId, clock_gettime};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::{
    alloc::System,
    sync::{Mutex, PoisonError},
    time::Duration,
};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One at a time: the allocator counts for the whole process.
static MEASURING: Mutex<()> = Mutex::new(());

/// A decoder may build what it needs whatever it is given: stores to ask, a table, an error's text; and the most is the 50,000
/// values that aliases in a manifest may stand for, of 500 bytes each with all that is given back meanwhile.
const ALLOCATED_BASE_BYTES: usize = 32 * 1024 * 1024;

/// And so much for each byte of the input. A byte of YAML makes a node with its place, and many grow twice.
const ALLOCATED_PER_BYTE: usize = 16 * 1024;

/// Processor time, unoptimised: most inputs take less than a millisecond, and a decoder that loops takes for ever.
const TIME_BASE: Duration = Duration::from_secs(2);

/// And so much for each byte of the input: more than twice what a byte of YAML took that was read, written, and read again, on
/// a core whose other half was busy (8 µs).
const TIME_PER_BYTE: Duration = Duration::from_micros(20);

/// What it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// All that was allocated, in bytes, also what was given back: no less than what was held at one time.
    pub allocated: usize,
    /// Processor time of this thread, so that a busy machine changes nothing.
    pub took: Duration,
}

impl Cost {
    /// Whether it is what an input of this length may cost.
    ///
    /// # Errors
    /// What was too much, for people.
    pub fn check(self, input_bytes: usize) -> Result<(), String> {
        let allocated_max = ALLOCATED_BASE_BYTES + ALLOCATED_PER_BYTE * input_bytes;
        if self.allocated > allocated_max {
            let Self { allocated, .. } = self;
            return Err(format!(
                "{input_bytes} bytes made it allocate {allocated} bytes, at most {allocated_max} may be"
            ));
        }
        let per_byte = TIME_PER_BYTE.saturating_mul(u32::try_from(input_bytes).unwrap_or(u32::MAX));
        let took_max = TIME_BASE.saturating_add(per_byte);
        if self.took > took_max {
            return Err(format!("{input_bytes} bytes took {:?}, at most {took_max:?} may be", self.took));
        }
        Ok(())
    }
}

/// Runs a target on an input. Other threads that allocate meanwhile are counted, too.
pub fn measure(run: fn(&[u8]), input: &[u8]) -> Cost {
    let _one_at_a_time = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let (region, begin) = (Region::new(ALLOCATOR), processor_time());
    run(input);
    Cost { allocated: region.change().bytes_allocated, took: processor_time().saturating_sub(begin) }
}

fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every Linux has this clock").into()
}
