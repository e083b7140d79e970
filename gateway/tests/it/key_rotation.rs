//! A token that no known key verifies is not refused before its issuer was queried: it waits, or gets 503.
//!
//! Before: a new signing key cost 401s until the next fetch, for ten seconds after a stranger's token had used up the pace, and for
//! minutes where the new key had the name of the old one or none.

use std::{net::SocketAddr, time::Duration};

use tokio::task::JoinSet;

use crate::support::{
    backend::Backend,
    client::{Connection, Reply, get, header, json, send, text},
    eventually,
    gateway::TestGateway,
    issuer::{Issuer, Mode, SigningKey},
    tokens::bearing,
    within,
};

struct Guarded {
    gateway: TestGateway,
    issuer: Issuer,
    config: String,
    _backend: Backend,
}

impl Guarded {
    async fn by(key: &SigningKey) -> Self {
        Self::with(key, "").await
    }

    async fn with(key: &SigningKey, route: &str) -> Self {
        let (issuer, backend) = (Issuer::publishing(&[key]).await, Backend::named("one").await);
        let config = format!(
            "auth: {{main: {{jwks: \"{}\", audience: api}}}}\n\
             routes:\n  - {{path: /**, service: one, auth: main{route}}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
            issuer.url(),
            backend.addr
        );
        Self { gateway: TestGateway::start(&config).await, issuer, config, _backend: backend }
    }

    async fn ask(&self, token: &str) -> Reply {
        ask(self.gateway.http, token).await
    }

    /// Statuses of this many tokens of different subjects, over eight connections.
    async fn crowd(&self, key: &SigningKey, tokens: usize) -> Vec<u16> {
        let mut clients = JoinSet::new();
        for client in 0..8 {
            let tokens: Vec<String> =
                (client..tokens).step_by(8).map(|number| key.token(&format!("user-{number}"))).collect();
            let http = self.gateway.http;
            clients.spawn(async move {
                let mut connection = Connection::open(http).await;
                let mut statuses = Vec::new();
                for token in tokens {
                    statuses.push(connection.send(bearing(get("/x"), &token)).await.status().as_u16());
                }
                statuses
            });
        }
        clients.join_all().await.concat()
    }
}

async fn ask(http: SocketAddr, token: &str) -> Reply {
    send(http, bearing(get("/x"), token)).await
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status().as_u16(), json(reply)["code"].as_str().unwrap_or_default().to_owned())
}

/// More by `MILLGATE_KEY_ROTATIONS`; each takes a second, the pace of fetches.
fn rotations() -> usize {
    std::env::var("MILLGATE_KEY_ROTATIONS")
        .ok()
        .map_or(6, |text| text.parse().expect("a number of rotations"))
}

#[tokio::test]
async fn however_a_key_is_replaced_no_token_of_the_new_one_gets_401() {
    let first = SigningKey::new(Some("k"));
    let guarded = Guarded::by(&first).await;
    assert_eq!(guarded.ask(&first.token("ann")).await.status(), 200);
    let mut before: Option<SigningKey> = None;
    for rotation in 0..rotations() {
        let new = format!("k{rotation}");
        // A new name, one that was used before, and twice none. Some issuers publish the key before for a while.
        let key = SigningKey::new([Some(new.as_str()), Some("k"), None, None][rotation % 4]);
        let kept = before.as_ref().filter(|_| rotation % 2 == 1);
        guarded.issuer.publish(&[Some(&key), kept].into_iter().flatten().collect::<Vec<_>>());
        let statuses = guarded.crowd(&key, 500).await;
        assert!(statuses.iter().all(|status| *status == 200), "rotation {rotation}: {statuses:?}");
        before = Some(key);
    }
    let old = guarded.ask(&first.token("ann")).await;
    assert_eq!(code(&old), (401, "token_invalid".to_owned()), "a key that was taken back is none");
    // One at the start, one for each set, one for the last token, and one that was due at a wrong moment each time.
    assert!(guarded.issuer.asked() <= 2 * rotations() + 2, "{}", guarded.issuer.asked());
}

#[tokio::test]
async fn a_strangers_token_does_not_use_up_the_pace_of_fetches() {
    let (old, new) = (SigningKey::new(Some("old")), SigningKey::new(Some("new")));
    let guarded = Guarded::by(&old).await;
    assert_eq!(guarded.ask(&old.token("ann")).await.status(), 200);
    // Refused, because the keys of the fetch that it caused do not verify it either.
    let stranger = SigningKey::new(Some("new"));
    for _ in 0..2 {
        assert_eq!(code(&guarded.ask(&stranger.token("mallory")).await), (401, "token_invalid".to_owned()));
    }
    guarded.issuer.publish(&[&old, &new]);
    let statuses = guarded.crowd(&new, 100).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(code(&guarded.ask(&stranger.token("mallory")).await).0, 401);
    for line in ["{provider=\"main\",result=\"refused\"} 3", "{provider=\"main\",reason=\"unknown_key\"} 2"] {
        let shown = async || text(&send(guarded.gateway.admin(), get("/metrics")).await).contains(line);
        eventually(line, shown).await;
    }
}

#[tokio::test]
async fn what_no_key_would_let_through_asks_for_none() {
    let key = SigningKey::new(Some("k"));
    let guarded = Guarded::by(&key).await;
    assert_eq!(guarded.ask(&key.token("ann")).await.status(), 200);
    let stranger = SigningKey::new(Some("other"));
    for token in [
        stranger.token_with("ann", |options| options.audience = Some("other".into())),
        stranger.signed(&serde_json::json!({"sub": "ann", "aud": "api", "exp": 1_700_000_000})),
        stranger.signed(&serde_json::json!({"sub": "ann", "aud": "api"})),
        "a.b.c".to_owned(),
    ] {
        assert_eq!(code(&guarded.ask(&token).await), (401, "token_invalid".to_owned()), "{token}");
    }
    assert_eq!(guarded.issuer.asked(), 1);
}

#[tokio::test]
async fn while_the_issuer_is_slow_a_new_key_waits_and_a_known_one_does_not() {
    let (old, new) = (SigningKey::new(Some("k")), SigningKey::new(Some("k")));
    let guarded = Guarded::by(&old).await;
    let known = old.token("ann");
    assert_eq!(guarded.ask(&known).await.status(), 200);
    guarded.issuer.publish(&[&new]);
    guarded.issuer.is(Mode::Slow);
    let (http, token) = (guarded.gateway.http, new.token("ann"));
    let waiting = tokio::spawn(async move { ask(http, &token).await.status().as_u16() });
    eventually("the issuer is asked", async || guarded.issuer.asked() == 2).await;
    assert_eq!(guarded.ask(&known).await.status(), 200);
    assert!(!waiting.is_finished());
    // Neither does a reload end the wait.
    std::fs::write(guarded.gateway.dir.path().join("keys"), old.jwks()).unwrap();
    let other = "auth: {first: {jwks_file: keys, audience: api}, main:";
    guarded.gateway.rewrite(&guarded.config.replace("auth: {main:", other));
    guarded.gateway.reload().await.unwrap();
    guarded.issuer.is(Mode::Up);
    assert_eq!(waiting.await.unwrap(), 200);
}

#[tokio::test]
async fn a_wait_is_no_longer_than_the_routes_time_and_ends_with_503() {
    let (old, new) = (SigningKey::new(Some("k")), SigningKey::new(Some("k")));
    let guarded = Guarded::with(&old, ", timeout: 1500ms").await;
    // On a busy machine the first fetch may take longer than the route's time.
    eventually("the first keys are there", async || guarded.ask(&old.token("ann")).await.status() == 200)
        .await;
    guarded.issuer.is(Mode::Slow);
    let reply = guarded.ask(&new.token("ann")).await;
    assert_eq!(code(&reply), (503, "keys_unavailable".to_owned()));
    assert_eq!(header(&reply, "retry-after"), "1");
}

#[tokio::test]
async fn while_the_issuer_is_down_known_keys_serve_and_new_ones_are_503_until_it_is_back() {
    let (old, new) = (SigningKey::new(Some("old")), SigningKey::new(Some("new")));
    let guarded = Guarded::by(&old).await;
    assert_eq!(guarded.ask(&old.token("ann")).await.status(), 200);
    guarded.issuer.publish(&[&old, &new]);
    guarded.issuer.is(Mode::Down);
    for subject in ["ann", "bob", "eve"] {
        let reply = guarded.ask(&new.token(subject)).await;
        assert_eq!(code(&reply), (503, "keys_unavailable".to_owned()));
        assert_eq!(header(&reply, "retry-after"), "1");
        assert_eq!(guarded.ask(&old.token(subject)).await.status(), 200);
    }
    let report = json(&send(guarded.gateway.admin(), get("/api/v1/keys")).await);
    let fetch = &report["providers"][0]["fetch"];
    assert!(fetch["error"].as_str().unwrap().ends_with("answered 500 Internal Server Error"), "{report}");
    guarded.issuer.is(Mode::Up);
    let passes = async || {
        let status = guarded.ask(&new.token("ann")).await.status().as_u16();
        assert_ne!(status, 401);
        status == 200
    };
    within(Duration::from_secs(10), "the new key is known", passes).await;
}

#[tokio::test]
async fn a_restart_while_the_issuer_is_down_serves_with_the_last_good_keys_of_that_source() {
    let key = SigningKey::new(Some("k"));
    let mut guarded = Guarded::by(&key).await;
    assert_eq!(guarded.ask(&key.token("ann")).await.status(), 200);
    guarded.issuer.is(Mode::Down);
    guarded.gateway.restart().await;
    let admin = guarded.gateway.admin();
    assert_eq!(guarded.ask(&key.token("ann")).await.status(), 200, "at once");
    assert_eq!(send(admin, get("/readyz")).await.status(), 200);
    let report = json(&send(admin, get("/api/v1/keys")).await);
    assert_eq!(report["providers"][0]["from"], "last_start");
    assert_eq!(report["providers"][0]["keys"][0]["kid"], "k");
    // The same keys at another address are not believed.
    let file = guarded.gateway.dir.path().join("routes.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("/keys\"", "/other\"");
    std::fs::write(&file, text).unwrap();
    guarded.gateway.restart().await;
    assert_eq!(code(&guarded.ask(&key.token("ann")).await), (503, "keys_unavailable".to_owned()));
}

#[tokio::test]
async fn a_start_is_ready_when_the_first_keys_are_there_and_without_them_after_a_while() {
    let key = SigningKey::new(Some("k"));
    let (slow, never) = (Issuer::publishing(&[&key]).await, Issuer::publishing(&[&key]).await);
    slow.is(Mode::Slow);
    never.is(Mode::Down);
    let start = async |issuer: &Issuer| {
        TestGateway::start(&format!(
            "auth: {{main: {{jwks: \"{}\", audience: api}}}}\n\
             routes:\n  - {{path: /**, service: one, auth: main}}\nservices: {{one: {{hosts: [\"127.0.0.1:9\"]}}}}\n",
            issuer.url()
        ))
        .await
    };
    let (waiting, without) = (start(&slow).await, start(&never).await);
    for gateway in [&waiting, &without] {
        let reply = send(gateway.admin(), get("/readyz")).await;
        assert_eq!((reply.status().as_u16(), text(&reply)), (503, "[-] keys\nnot ready\n"));
    }
    slow.is(Mode::Up);
    waiting.ready().await;
    assert_eq!(send(waiting.admin(), get("/readyz")).await.status(), 200);
    without.ready().await;
    let events = json(&send(without.admin(), get("/api/v1/events")).await);
    let events = events["events"].as_array().unwrap();
    assert!(
        events.iter().any(|event| event["kind"] == "keys_unavailable" && event["text"] == "main"),
        "{events:?}"
    );
}

#[tokio::test]
async fn the_state_of_each_key_set_is_shown() {
    let key = SigningKey::new(Some("k"));
    let guarded = Guarded::by(&key).await;
    assert_eq!(guarded.ask(&key.token("ann")).await.status(), 200);
    let report = json(&send(guarded.gateway.admin(), get("/api/v1/keys")).await);
    let provider = &report["providers"][0];
    assert_eq!((&provider["provider"], &provider["from"]), (&"main".into(), &"issuer".into()), "{report}");
    assert_eq!(provider["keys"], serde_json::json!([{"kid": "k"}]));
    assert!(provider["fetch"]["age_seconds"].as_f64().unwrap() < 20.0, "{report}");
    assert!(provider["fetch"]["next"].is_string() && provider["fetch"]["error"].is_null(), "{report}");
    for line in [
        "millgate_keys{provider=\"main\"} 1",
        "millgate_keys_fetches_total{provider=\"main\",result=\"good\"} 1",
        "millgate_keys_fetches_total{provider=\"main\",result=\"failed\"} 0",
    ] {
        assert!(guarded.gateway.shows(line).await, "{line}");
    }
}
