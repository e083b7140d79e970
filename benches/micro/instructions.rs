//! `cargo bench -p micro --bench instructions`: instructions of each subject, counted by valgrind's callgrind.
//!
//! Gungraun runs each bench in a separate process and counts only what happens in [`calls`]. `budgets.rs` has the
//! budgets and checks them.

use gungraun::{Callgrind, prelude::*};

mod subjects;

use subjects::{ALL, BATCH, Subject};

#[library_benchmark(setup = named)]
#[bench::router_10("router_10")]
#[bench::router_10000("router_10000")]
#[bench::jwt_hit("jwt_hit")]
#[bench::jwt_miss("jwt_miss")]
#[bench::limiter("limiter")]
#[bench::p2c_2("p2c_2")]
#[bench::p2c_500("p2c_500")]
#[bench::p2c_2000("p2c_2000")]
#[bench::round_robin_2("round_robin_2")]
#[bench::round_robin_2000("round_robin_2000")]
#[bench::admission("admission")]
#[bench::headers_request("headers_request")]
#[bench::headers_response("headers_response")]
#[bench::request_plain("request_plain")]
#[bench::request_everything("request_everything")]
fn calls(mut subject: Subject) -> Subject {
    for _ in 0..BATCH {
        subject();
    }
    // Returned, so that dropping it is not counted.
    subject
}

fn named(name: &str) -> Subject {
    let found = ALL.iter().find(|(known, _)| *known == name);
    found.map_or_else(|| panic!("no subject {name}"), |(_, make)| make())
}

library_benchmark_group!(name = micro, benchmarks = calls);
main!(
    config = LibraryBenchmarkConfig::default().tool(Callgrind::with_args(["--cache-sim=no"])),
    library_benchmark_groups = micro
);
