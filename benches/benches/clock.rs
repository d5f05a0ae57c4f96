//! Lamport's clock, and version vectors.
//!
//! `cargo bench -p dsv2-benches --bench clock`
#![allow(missing_docs, reason = "criterion's macros make undocumented items")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use dsv2_core::{Clock, Lamport, LogicalClock, Origin, Position};

fn clocks(c: &mut Criterion) {
    let mut clock = Lamport::default();
    c.bench_function("lamport/tick", |b| b.iter(|| black_box(&mut clock).tick()));
    let received = Clock::new(1 << 40).expect("in range");
    c.bench_function("lamport/observe", |b| b.iter(|| black_box(&mut clock).observe(black_box(received))));
    let position: Position = (0..5)
        .map(|n| (Origin { server: format!("server{n}").parse().expect("a name"), incarnation: n }, 1_000 + n))
        .collect();
    c.bench_function("position/covers, 5 origins", |b| b.iter(|| black_box(&position).covers(black_box(&position))));
}

criterion_group!(benches, clocks);
criterion_main!(benches);
