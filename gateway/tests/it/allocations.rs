//! Allocation budgets: the number of allocations of a request on the path that most requests take, the owner of each,
//! and the reason.
//!
//! Counted is the worker's thread alone: gateway, hyper and tokio. Client and service run on it too, but read into
//! and write from buffers that they made before (`testing::Harness`), so they add nothing. A reallocation counts as one.
//! Where an allocation comes from: `valgrind --tool=dhat` on this test binary (docs/PERFORMANCE.md).

use std::{fmt::Write as _, path::Path};

use millgate::testing::Harness;

/// Allocations of one request by one cause.
type Cause = (u64, &'static str);

/// Every proxied request without a body.
const PLAIN: [Cause; 6] = [
    (1, "hyper, server: read buffer of 8 KiB; the last one still belongs to the last request's head"),
    (1, "hyper, server: the head is split off that buffer, which becomes shared (bytes)"),
    (1, "Exchange: what is known of a request until it is counted and logged"),
    (1, "Spare::of: the head once more, in case the connection turns out to be closed"),
    (1, "response_head::parse: head and content, copied out of the worker's buffer"),
    (1, "response_head::parse: that copy becomes shared by the fields and the content (bytes)"),
];

/// The same with a cached token, a limit for each user, a breaker, power of two choices and an access log.
const EVERYTHING_BESIDES: [Cause; 2] = [
    (1, "RateLimit::state_value: text of `RateLimit`, which has the numbers of this request"),
    (1, "RateLimit::state_value: the text becomes a header value (bytes)"),
];

/// Beyond the budget, in 100 requests: buffers that grow or are made anew now and then. Request ids are cut from one
/// buffer; the access log's begins anew, empty, whenever it was handed over.
const REFILLS_MAX: [u64; 2] = [2, 40];

#[test]
fn a_proxied_request_allocates_exactly_its_budget() {
    assert_budget(PLAIN_ROUTES, "", &PLAIN, REFILLS_MAX[0]);
}

#[test]
fn a_request_with_every_policy_allocates_exactly_its_budget() {
    let authorization = format!("authorization: Bearer {TOKEN}\r\n");
    let causes = [&PLAIN[..], &EVERYTHING_BESIDES].concat();
    assert_budget(EVERYTHING_ROUTES, &authorization, &causes, REFILLS_MAX[1]);
}

/// Fewer is a failure, too: the list above must stay true.
fn assert_budget(routes: &str, header: &str, causes: &[Cause], refills_max: u64) {
    let mut harness = Harness::new(routes, Path::new(FIXTURES)).unwrap();
    let request = format!(
        "GET /items/7 HTTP/1.1\r\nhost: api.example\r\nuser-agent: test\r\naccept: */*\r\n{header}\r\n"
    );
    let mut ask = || {
        let response = harness.exchange(request.as_bytes()).unwrap();
        assert!(response.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(response));
    };
    for _ in 0..WARM_UP {
        ask();
    }
    let mut counts = [0; REQUESTS];
    for count in &mut counts {
        *count = allocation_counter::measure(&mut ask).count_total;
    }
    counts.sort_unstable();
    let budget: u64 = causes.iter().map(|(count, _)| count).sum();
    // What most requests take; refills are above it.
    let usual = counts[REQUESTS / 2];
    assert_eq!(usual, budget, "allocations of a request, and who is known to make them:{}", list(causes));
    assert_eq!(counts[0], budget, "some requests allocate less");
    let refills = counts.iter().sum::<u64>() - budget * REQUESTS as u64;
    assert!(
        refills * 100 <= refills_max * REQUESTS as u64,
        "{refills} allocations of {REQUESTS} requests are beyond the budget"
    );
}

fn list(causes: &[Cause]) -> String {
    causes.iter().fold(String::new(), |mut list, (count, cause)| {
        let _ = write!(list, "\n  {count}  {cause}");
        list
    })
}

/// Enough for every buffer to have its size and every connection its timer.
const WARM_UP: usize = 200;
const REQUESTS: usize = 1000;

/// What `benches/micro` counts the instructions of.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/micro/fixtures");
const PLAIN_ROUTES: &str = include_str!("../../../benches/micro/fixtures/plain.yaml");
const EVERYTHING_ROUTES: &str = include_str!("../../../benches/micro/fixtures/everything.yaml");
const TOKEN: &str = include_str!("../../../benches/micro/fixtures/token.txt");
