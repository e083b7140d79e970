//! `cargo bench -p micro --bench time`: how long each subject takes on this machine, for people.
//!
//! Times of two runs differ by more than most changes do. What must not get slower has a budget in instructions
//! (`instructions.rs`).

use criterion::{Criterion, criterion_group, criterion_main};

mod subjects;

fn micro(criterion: &mut Criterion) {
    for (name, make) in subjects::ALL {
        // Made only if its name was asked for.
        let mut subject = None;
        criterion.bench_function(name, |bencher| bencher.iter(subject.get_or_insert_with(make)));
    }
}

criterion_group!(benches, micro);
criterion_main!(benches);
