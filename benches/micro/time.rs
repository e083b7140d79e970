//! `cargo bench -p micro --bench time`: the time of each subject on this machine, for people.
//!
//! The times of two runs differ by more than most changes cause. Subjects that must not get slower have a
//! budget in instructions (`instructions.rs`).

use criterion::{Criterion, criterion_group, criterion_main};

mod subjects;

fn micro(criterion: &mut Criterion) {
    for (name, make) in subjects::ALL {
        // Made only if its name was selected.
        let mut subject = None;
        criterion.bench_function(name, |bencher| bencher.iter(subject.get_or_insert_with(make)));
    }
}

criterion_group!(benches, micro);
criterion_main!(benches);
