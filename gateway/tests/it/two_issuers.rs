//! If a route has several providers, the token's own provider checks it; what the others lack does not matter.
//!
//! Before: the last provider's verdict was the answer, a good token of the second counted as a failure of the first and had its
//! keys fetched, and users of two issuers with one `sub` shared their limits.

use millgate::token::MintOptions;
use serde_json::json;

use crate::support::{
    backend::Backend,
    client::{Reply, get, json, send, text},
    eventually,
    gateway::TestGateway,
    issuer::{Issuer, Mode, SigningKey},
    tokens::bearing,
};

/// Two issuers with one name of a key, and a route for each order of them.
struct Two {
    gateway: TestGateway,
    keys: [SigningKey; 2],
    issuers: [Issuer; 2],
    _backend: Backend,
}

const ISSUERS: [&str; 2] = ["https://a.test", "https://b.test"];
const ROUTES: [&str; 2] = ["/ab", "/ba"];

impl Two {
    async fn with(modes: [Mode; 2], limit: &str, more: &str) -> Self {
        let keys = [SigningKey::new(Some("k")), SigningKey::new(Some("k"))];
        let issuers = [Issuer::publishing(&[&keys[0]]).await, Issuer::publishing(&[&keys[1]]).await];
        for (issuer, mode) in issuers.iter().zip(modes) {
            issuer.is(mode);
        }
        let backend = Backend::named("one").await;
        let provider = |at: usize| {
            format!("{{issuer: \"{}\", jwks: \"{}\", audience: api}}", ISSUERS[at], issuers[at].url())
        };
        let config = format!(
            "{more}auth:\n  a: {}\n  b: {}\nroutes:\n  - {{path: /ab, service: one, auth: [a, b]{limit}}}\n  \
             - {{path: /ba, service: one, auth: [b, a]{limit}}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
            provider(0),
            provider(1),
            backend.addr
        );
        Self { gateway: TestGateway::start(&config).await, keys, issuers, _backend: backend }
    }

    /// Of issuer `at`, signed with the key of issuer `by`.
    fn token(&self, at: usize, by: usize) -> String {
        let set_issuer = |options: &mut MintOptions| options.issuer = Some(ISSUERS[at].to_owned());
        self.keys[by].token_with("ann", set_issuer)
    }

    async fn ask(&self, route: &str, token: &str) -> (u16, String) {
        let reply = send(self.gateway.http, bearing(get(route), token)).await;
        (reply.status().as_u16(), code(&reply))
    }

    async fn metrics(&self) -> String {
        text(&send(self.gateway.admin(), get("/metrics")).await).to_owned()
    }
}

fn code(reply: &Reply) -> String {
    if reply.status() == 200 { String::new() } else { json(reply)["code"].as_str().unwrap().to_owned() }
}

fn refused(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

#[tokio::test]
async fn each_token_is_asked_of_the_provider_that_it_names_in_either_order() {
    let two = Two::with([Mode::Up; 2], "", "").await;
    two.gateway.ready().await;
    for route in ROUTES {
        for at in [0, 1] {
            for _ in 0..2 {
                assert_eq!(two.ask(route, &two.token(at, at)).await, (200, String::new()), "{route} {at}");
            }
        }
    }
    let metrics = two.metrics().await;
    assert!(
        !metrics.contains("millgate_auth_failures_total") && !metrics.contains("keys_waits"),
        "{metrics}"
    );
    assert_eq!(two.issuers.each_ref().map(Issuer::asked), [1, 1]);
    for route in ROUTES {
        let forged = two.token(0, 1);
        assert_eq!(
            two.ask(route, &forged).await,
            refused(401, "token_invalid"),
            "signed by the other issuer"
        );
        let claims = json!({"iss": ISSUERS[0], "sub": "ann", "aud": "api", "exp": 1_700_000_000});
        assert_eq!(two.ask(route, &two.keys[0].signed(&claims)).await, refused(401, "token_expired"));
        let stranger =
            two.keys[0].token_with("ann", |options| options.issuer = Some("https://c.test".into()));
        assert_eq!(two.ask(route, &stranger).await, refused(401, "token_invalid"));
        assert_eq!(
            two.ask(route, &two.keys[0].token("ann")).await,
            refused(401, "token_invalid"),
            "no `iss`"
        );
    }
    assert_eq!(two.issuers[1].asked(), 1, "what was wrong was wrong with the other");
}

#[tokio::test]
async fn what_one_issuer_cannot_say_is_no_verdict_of_the_other() {
    let two = Two::with([Mode::Down, Mode::Up], "", "").await;
    for route in ROUTES {
        assert_eq!(two.ask(route, &two.token(0, 0)).await, refused(503, "keys_unavailable"), "{route}");
        assert_eq!(two.ask(route, &two.token(1, 1)).await, (200, String::new()), "{route}");
        let claims = json!({"iss": ISSUERS[0], "sub": "ann", "aud": "api", "exp": 1_700_000_000});
        let expired = two.keys[0].signed(&claims);
        assert_eq!(two.ask(route, &expired).await, refused(401, "token_expired"), "no key would help");
    }
}

#[tokio::test]
async fn one_subject_of_two_issuers_is_two_users() {
    // One worker, so that the lines are in the order of the requests.
    let log = "workers: 1\naccess_log: {format: json, file: access.log}\n";
    let two = Two::with([Mode::Up; 2], ", rate_limit: 1/h per user", log).await;
    for route in ROUTES {
        for at in [0, 1] {
            assert_eq!(two.ask(route, &two.token(at, at)).await.0, 200, "{route} {at}");
            assert_eq!(
                two.ask(route, &two.token(at, at)).await,
                refused(429, "rate_limited"),
                "{route} {at}"
            );
        }
    }
    let file = two.gateway.dir.path().join("access.log");
    let read = || std::fs::read_to_string(&file).unwrap_or_default();
    eventually("eight lines are written", || async { read().lines().count() == 8 }).await;
    let whose: Vec<(String, String)> = read()
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|line| {
            (line["user"].as_str().unwrap().to_owned(), line["provider"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = ["a", "a", "b", "b", "a", "a", "b", "b"];
    assert!(
        whose
            .iter()
            .map(|(user, provider)| (user.as_str(), provider.as_str()))
            .eq(expected.map(|p| ("ann", p)))
    );
}

/// A provider `name` with its key set in a file and without an issuer: it checks any token.
fn of_any(name: &str) -> String {
    format!("  {name}: {{jwks_file: {name}.json, audience: api}}\n")
}

/// The response, and the provider whose reason stands in the log: the most specific one, whatever the order of providers.
#[tokio::test]
async fn of_several_rejections_the_one_is_reported_that_says_most_and_each_provider_has_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let keys = ["x", "y", "z"].map(|name| (name, SigningKey::new(Some("k"))));
    for (name, key) in &keys {
        std::fs::write(dir.path().join(format!("{name}.json")), key.jwks()).unwrap();
    }
    let [x, y, z] = keys.map(|(_, key)| key);
    let down = Issuer::publishing(&[&x]).await;
    down.is(Mode::Down);
    let backend = Backend::named("one").await;
    let config = format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n\
         auth:\n{}{}  named: {{issuer: \"{}\", jwks_file: x.json, audience: api}}\n  \
         down: {{jwks: \"{}\", audience: api}}\nroutes:\n",
        backend.addr,
        of_any("x"),
        of_any("y"),
        ISSUERS[0],
        down.url()
    );
    let routes = ["x, y", "y, x", "x, down", "down, x", "named, y", "y, named"].map(|pair| {
        let path = pair.replace(", ", "-");
        format!("  - {{path: /{path}, service: one, auth: [{pair}]}}\n")
    });
    let config = config + &routes.concat();
    let gateway = TestGateway::start_in(dir, &config).await;
    let claims = |issuer: &str, audience: &str, expires: u64| json!({"iss": issuer, "sub": "ann", "aud": audience, "exp": expires});
    let (later, past) = (4_102_444_800, 1_700_000_000);
    let of = |key: &SigningKey| key.signed(&claims("https://any.test", "api", later));
    let late = |key: &SigningKey| key.signed(&claims("https://any.test", "api", past));
    let named = |key: &SigningKey| key.signed(&claims(ISSUERS[0], "api", later));
    // Route, token, status, and provider and reason of the log.
    let rows = [
        ("x-y", of(&x), 200, None),
        ("x-y", of(&y), 200, None),
        ("y-x", of(&x), 200, None),
        // Both have the same reason, so the first provider of the route is named.
        ("x-y", of(&z), 401, Some(("x", "bad_signature"))),
        ("y-x", of(&z), 401, Some(("y", "bad_signature"))),
        // Only the provider that has the key can find that the token has expired.
        ("x-y", late(&y), 401, Some(("y", "expired"))),
        ("y-x", late(&y), 401, Some(("y", "expired"))),
        // A token that cannot be checked may be good.
        ("x-down", of(&x), 200, None),
        ("down-x", of(&x), 200, None),
        ("x-down", of(&y), 503, Some(("down", "keys_unavailable"))),
        ("down-x", of(&y), 503, Some(("down", "keys_unavailable"))),
        // The one that is named, and then those that take any.
        ("named-y", named(&x), 200, None),
        ("y-named", named(&x), 200, None),
        ("y-named", named(&y), 200, None),
        ("y-named", of(&x), 401, Some(("y", "bad_signature"))),
        ("y-named", named(&z), 401, Some(("named", "bad_signature"))),
    ];
    for (at, (route, token, status, reason)) in rows.iter().enumerate() {
        let reply = send(gateway.http, bearing(get(&format!("/{route}")), token)).await;
        assert_eq!(reply.status(), *status, "row {at}, {route}: {}", text(&reply));
        let Some((provider, reason)) = reason else { continue };
        let series = format!("millgate_auth_failures_total{{provider=\"{provider}\",reason=\"{reason}\"}} ");
        let before = rows[..at].iter().filter(|row| row.3 == Some((*provider, *reason))).count();
        let line = format!("{series}{}", before + 1);
        assert!(gateway.shows(&line).await, "row {at}, {route}: {line}");
    }
    drop(down);
}
