//! The keys of a set that the gateway cannot use are logged once for each set.
//!
//! Before: such keys were left out without a word, and their tokens got 401 `unknown_key`.

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{get, json, send},
    eventually,
    gateway::TestGateway,
    issuer::{Issuer, SigningKey},
    tokens::bearing,
};

async fn shown(gateway: &TestGateway, path: &str) -> Value {
    json(&send(gateway.admin(), get(path)).await)
}

/// Texts of the events about it.
async fn told(gateway: &TestGateway) -> Vec<String> {
    let events = shown(gateway, "/api/v1/events").await;
    let events = events["events"].as_array().unwrap().iter();
    let texts = events.filter(|event| event["kind"] == "keys_left_out");
    texts.map(|event| event["text"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn each_set_with_keys_that_cannot_be_used_is_told_once_with_their_names_and_reasons() {
    let (one, two) = (SigningKey::new(Some("one")), SigningKey::new(Some("two")));
    let issuer = Issuer::publishing(&[&one]).await;
    let secret = json!({"kty": "oct", "kid": "mac\u{202e}\n", "alg": "HS256", "k": "aGVsbG8taGVsbG8="});
    let curve = json!({"kty": "EC", "crv": "P-521", "kid": "p521", "alg": "ES512", "x": "AA", "y": "AA"});
    let encryption =
        json!({"kty": "RSA", "use": "enc", "kid": "enc", "alg": "RSA-OAEP", "n": "AA", "e": "AQAB"});
    issuer.publish_beside(&[&one], &[encryption.clone(), secret.clone(), curve.clone(), json!(7)]);
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let file = json!({"keys": [serde_json::from_str::<Value>(&two.jwks()).unwrap()["keys"][0], encryption]});
    std::fs::write(dir.path().join("keys.json"), file.to_string()).unwrap();
    let config = format!(
        "workers: 1\nauth:\n  main: {{jwks: \"{}\", audience: api}}\n  file: {{jwks_file: keys.json, audience: api}}\n\
         routes:\n  - {{path: /**, service: one, auth: [main, file]}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        issuer.url(),
        backend.addr
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    gateway.ready().await;
    let ask =
        async |key: &SigningKey| send(gateway.http, bearing(get("/x"), &key.token("ann"))).await.status();
    assert_eq!(ask(&one).await, 200);
    let first = told(&gateway).await;
    let expected = [
        "main: `enc` (RSA, RSA-OAEP): not for signatures",
        r"`mac\u{202e}\n` (oct, HS256): a shared secret, which a key set must not publish",
        "`p521` (EC, ES512): unsupported key type or curve",
        "`-`: not a JSON Web Key",
    ];
    assert_eq!(first, [expected.join("; ")]);
    let keys = shown(&gateway, "/api/v1/keys").await;
    let left_out = &keys["providers"][0]["left_out"];
    assert_eq!(
        left_out[2],
        json!({"kid": "p521", "kty": "EC", "alg": "ES512", "why": "unsupported key type or curve"})
    );
    assert_eq!(keys["providers"][1]["left_out"][0]["kid"], "enc", "an encryption key alone is no warning");
    assert!(gateway.shows("millgate_keys_left_out{provider=\"main\"} 4").await);
    assert!(gateway.shows("millgate_keys_left_out{provider=\"file\"} 1").await);

    // The same set again, by a token that causes a fetch and by a reload.
    assert_eq!(ask(&SigningKey::new(Some("unknown"))).await, 401);
    assert!(issuer.asked() >= 2);
    gateway.reload().await.unwrap();
    assert_eq!(told(&gateway).await, first);
    // Another set: one more usable key does not change what is left out, and one unusable key less does.
    let three = SigningKey::new(Some("three"));
    issuer.publish_beside(&[&one, &three], &[curve]);
    eventually("the new set is in use", || async { ask(&three).await == 200 }).await;
    eventually("it is told", || async { told(&gateway).await.len() == 2 }).await;
    assert_eq!(told(&gateway).await[1], "main: `p521` (EC, ES512): unsupported key type or curve");
}
