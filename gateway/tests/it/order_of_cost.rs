//! Cheap checks come first: limits that need no identity bound the number of signatures that an unknown client can have
//! checked.
//!
//! Before: `5/s per ip` was looked at after the token, and 32,700 wrong signatures a second were checked and answered.

use http::Request;
use http_body_util::Full;

use crate::support::{
    backend::Backend,
    client::{Connection, get, header, json, send, text},
    eventually,
    gateway::TestGateway,
    tokens::{self, GOOD, WRONG, bearing, token},
};

struct Guarded {
    gateway: TestGateway,
    backend: Backend,
}

impl Guarded {
    async fn with(limits: &str) -> Self {
        let backend = Backend::named("one").await;
        let config = format!(
            "auth:\n  main: {{hs256_secret_file: secret.key, audience: api}}\n\
             routes:\n  - {{path: /**, service: one, auth: main, rate_limit: {limits}}}\n\
             services: {{one: {{hosts: [\"{}\"]}}}}\n",
            backend.addr
        );
        Self { gateway: TestGateway::start_in(tokens::folder(), &config).await, backend }
    }

    /// Signed with the key in this file.
    fn asking(&self, key: &str, subject: &str) -> Request<Full<bytes::Bytes>> {
        let mut request = bearing(get("/x"), &token(self.gateway.dir.path(), key, subject));
        request.headers_mut().insert("x-tenant", "t".parse().unwrap());
        request
    }

    /// How many of a hundred wrong signatures get 401, before the first 429.
    async fn guesses(&self) -> usize {
        let mut client = Connection::open(self.gateway.http).await;
        let mut statuses = Vec::new();
        for _ in 0..100 {
            statuses.push(client.send(self.asking(WRONG, "mallory")).await.status().as_u16());
        }
        let guesses = statuses.iter().take_while(|status| **status == 401).count();
        assert!(statuses[guesses..].iter().all(|status| *status == 429), "{statuses:?}");
        guesses
    }
}

#[tokio::test]
async fn a_limit_that_needs_no_identity_bounds_how_many_signatures_are_checked() {
    for key in ["ip", "route", "service", "header:X-Tenant"] {
        let guarded = Guarded::with(&format!("\"5/h per {key}\"")).await;
        assert_eq!(guarded.guesses().await, 5, "{key}");
        assert_eq!(guarded.backend.served(), 0);
        let checked = "millgate_auth_failures_total{provider=\"main\",reason=\"bad_signature\"} 5";
        eventually("the metric counts five checks", || async {
            text(&send(guarded.gateway.admin(), get("/metrics")).await).lines().any(|line| line == checked)
        })
        .await;
    }
}

#[tokio::test]
async fn a_limit_that_needs_an_identity_is_looked_at_after_the_token() {
    let guarded = Guarded::with("5/h per user").await;
    assert_eq!(guarded.guesses().await, 100);
    let reply = send(guarded.gateway.http, guarded.asking(GOOD, "mallory")).await;
    assert_eq!(
        (reply.status().as_u16(), header(&reply, "ratelimit-policy")),
        (200, r#""default";q=5;w=3600"#)
    );
}

#[tokio::test]
async fn the_client_is_told_of_the_limit_with_the_least_left_whichever_is_looked_at_first() {
    // Of two with as much left, the first in the file.
    for (limits, policy, left) in [
        ("[9/h per user, 5/h per ip]", "ip", 4),
        ("[5/h per user, 9/h per ip]", "user", 4),
        ("[5/h per user, 5/h per ip]", "user", 4),
        ("[5/h per ip, 5/h per user]", "ip", 4),
    ] {
        let guarded = Guarded::with(limits).await;
        let reply = send(guarded.gateway.http, guarded.asking(GOOD, "ann")).await;
        assert_eq!(reply.status(), 200);
        let told = header(&reply, "ratelimit");
        assert!(told.starts_with(&format!("\"{policy}\";r={left};")), "{limits}: {told}");
    }
    let guarded = Guarded::with("[2/h per user, 9/h per ip]").await;
    let mut client = Connection::open(guarded.gateway.http).await;
    for expected in [200, 200, 429] {
        let reply = client.send(guarded.asking(GOOD, "ann")).await;
        assert_eq!(reply.status(), expected);
        if expected == 429 {
            assert_eq!(json(&reply)["violated-policies"][0], "user");
        }
    }
}
