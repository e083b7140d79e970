//! Allocation budgets: how often a request allocates on the way that most requests take, who does it, and why.
//!
//! Counted is the worker's thread alone: gateway, hyper and tokio. Client and service run on it too, but read into
//! and write from buffers that they made before (`testing::Harness`), so they add nothing. A reallocation counts as one.
//! Where an allocation comes from: `valgrind --tool=dhat` on this test binary (docs/PERFORMANCE.md).

use std::{fmt::Write as _, path::Path, time::Duration};

use millgate::{
    testing::Harness,
    token::{MintOptions, mint},
};
use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};

/// Allocations of one request by one cause.
type Cause = (u64, &'static str);

/// Every proxied request without a body.
const PLAIN: [Cause; 12] = [
    (1, "hyper, server: read buffer of 8 KiB; the last one still belongs to the last request's head"),
    (1, "hyper, server: the head is split off that buffer, which becomes shared (bytes)"),
    (1, "Exchange: what is known of a request until it is counted and logged, longer than the service's future"),
    (1, "Exchange::host: the admitted host, for the access log"),
    (1, "RequestBody::new: Upload, which the body and whoever waits for the response both see"),
    (1, "attempt::copy_of: Upload of the copy that a retry would send"),
    (1, "attempt::copy_of: the copy's header table: index"),
    (1, "attempt::copy_of: the copy's header table: entries"),
    (1, "hyper, client: oneshot channel that the response comes through (tokio)"),
    (1, "hyper, client: read buffer of 8 KiB, as on the server's side"),
    (1, "hyper, client: the response's head is split off that buffer"),
    (1, "hyper, client: channel that the response's body comes through"),
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
    let dir = tempfile::tempdir().unwrap();
    assert_budget(PLAIN_ROUTES, dir.path(), "", &PLAIN, REFILLS_MAX[0]);
}

#[test]
fn a_request_with_every_policy_allocates_exactly_its_budget() {
    let dir = tempfile::tempdir().unwrap();
    let authorization = format!("authorization: Bearer {}\r\n", token(dir.path()));
    let causes = [&PLAIN[..], &EVERYTHING_BESIDES].concat();
    assert_budget(EVERYTHING_ROUTES, dir.path(), &authorization, &causes, REFILLS_MAX[1]);
}

/// Fewer is a failure, too: the list above must stay true.
fn assert_budget(routes: &str, dir: &Path, header: &str, causes: &[Cause], refills_max: u64) {
    let mut harness = Harness::new(routes, dir).unwrap();
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
    assert_eq!(usual, budget, "allocations of a request, and who makes those that are known:{}", list(causes));
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

/// An RS256 token; writes its public key to `issuer.pem`.
fn token(dir: &Path) -> String {
    let key = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    std::fs::write(dir.join("issuer.pem"), key.public_key_pem()).unwrap();
    let key_file = dir.join("issuer.key");
    std::fs::write(&key_file, key.serialize_pem()).unwrap();
    mint(&MintOptions {
        key_file,
        subject: "user-0001".into(),
        scopes: vec!["items:read".into()],
        issuer: Some("https://issuer.example".into()),
        audience: Some("bench".into()),
        ttl: Duration::from_hours(1),
        ..MintOptions::default()
    })
    .unwrap()
}

/// Enough for every buffer to have its size and every connection its timer.
const WARM_UP: usize = 200;
const REQUESTS: usize = 1000;

const PLAIN_ROUTES: &str = r#"
version: 1
routes:
  - path: GET /items/{id}
    service: items
services:
  items:
    hosts: ["192.0.2.1:80", "192.0.2.2:80"]
access_log: {format: off}
"#;

const EVERYTHING_ROUTES: &str = r#"
version: 1
auth:
  main:
    issuer: https://issuer.example
    public_key_file: issuer.pem
    audience: bench
    algorithms: [RS256]
    forward: {sub: X-User-Id}
routes:
  - path: GET /items/{id}
    service: items
    auth: main
    rate_limit: 1000000/s per user
services:
  items:
    hosts: ["192.0.2.1:80", "192.0.2.2:80"]
    balance: p2c
    breaker: {errors: 50%, min: 20, window: 10s, open: 10s, probes: 3}
access_log: {format: json, file: /dev/null}
"#;
