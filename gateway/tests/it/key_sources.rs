//! A reload that gives a provider another source of keys loses no good token.
//!
//! Before: the good keys were dropped at once, and with a URL that does not answer the provider had none for ever.

use std::time::Duration;

use crate::{
    commands::run,
    support::{
        backend::{Backend, closed_port},
        client::{Reply, get, json, send},
        eventually,
        gateway::{TestGateway, write_config},
        issuer::{Issuer, Mode, SigningKey},
        tokens::bearing,
    },
};

fn config(backend: &Backend, jwks: &str, more: &str) -> String {
    format!(
        "auth:\n  main: {{jwks: \"{jwks}\", audience: api}}\n{more}\
         routes:\n  - {{path: /**, service: one, auth: main}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    )
}

async fn ask(gateway: &TestGateway, key: &SigningKey) -> Reply {
    send(gateway.http, bearing(get("/x"), &key.token("ann"))).await
}

#[tokio::test]
async fn the_new_source_is_read_before_the_switch_and_the_old_keys_end_with_it() {
    let (old, new) = (SigningKey::new(Some("k")), SigningKey::new(Some("k")));
    let backend = Backend::named("one").await;
    let (before, after) = (Issuer::publishing(&[&old]).await, Issuer::publishing(&[&new]).await);
    after.is(Mode::Slow);
    let gateway = TestGateway::start(&config(&backend, &before.url(), "")).await;
    assert_eq!(ask(&gateway, &old).await.status(), 200);
    gateway.rewrite(&config(&backend, &after.url(), ""));
    let (reloaded, ()) = tokio::join!(gateway.reload(), async {
        eventually("the new source is asked", async || after.asked() > 0).await;
        assert_eq!(ask(&gateway, &old).await.status(), 200, "until then the old keys serve");
        after.is(Mode::Up);
    });
    reloaded.unwrap();
    assert_eq!(ask(&gateway, &new).await.status(), 200, "from the first request on");
    assert_eq!(ask(&gateway, &old).await.status(), 401);
    let kept: Vec<String> = std::fs::read_dir(gateway.dir.path().join("state/keys"))
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    assert!(kept.iter().any(|text| text.contains(&after.url())), "{kept:?}");
}

#[tokio::test]
async fn a_source_that_does_not_answer_is_refused_where_there_are_good_keys() {
    let (key, backend) = (SigningKey::new(Some("k")), Backend::named("one").await);
    let issuer = Issuer::publishing(&[&key]).await;
    let gateway = TestGateway::start(&config(&backend, &issuer.url(), "")).await;
    assert_eq!(ask(&gateway, &key).await.status(), 200);
    let typo = format!("http://{}/keys", closed_port());
    gateway.rewrite(&config(&backend, &typo, ""));
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("error[E061]: the keys of `main` cannot be fetched"), "{report}");
    assert!(report.contains(&typo), "{report}");
    assert_eq!(ask(&gateway, &key).await.status(), 200, "the running configuration stays, with its keys");
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn a_source_that_was_refused_is_taken_by_the_next_reload_once_it_answers() {
    let (old, new) = (SigningKey::new(Some("k")), SigningKey::new(Some("k")));
    let backend = Backend::named("one").await;
    let (before, after) = (Issuer::publishing(&[&old]).await, Issuer::publishing(&[&new]).await);
    after.is(Mode::Down);
    let gateway = TestGateway::start(&config(&backend, &before.url(), "")).await;
    assert_eq!(ask(&gateway, &old).await.status(), 200);
    gateway.rewrite(&config(&backend, &after.url(), ""));
    let report = gateway.reload().await.unwrap_err();
    // The file is as it should be, so nothing that changes would be noticed.
    assert!(report.contains("send SIGHUP when it answers"), "{report}");
    assert_eq!(ask(&gateway, &old).await.status(), 200);
    after.is(Mode::Up);
    gateway.reload().await.unwrap();
    assert_eq!(ask(&gateway, &new).await.status(), 200);
    assert_eq!(ask(&gateway, &old).await.status(), 401);
}

#[tokio::test]
async fn check_asks_the_issuers_where_it_is_told_to() {
    let (key, backend) = (SigningKey::new(Some("k")), Backend::named("one").await);
    let issuer = Issuer::publishing(&[&key]).await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(&backend, &issuer.url(), ""));
    run(dir.path(), &["check", "--online"]).await.expect(0, &[]);
    assert_eq!(issuer.asked(), 1);
    issuer.is(Mode::Down);
    run(dir.path(), &["check"]).await.expect(0, &[]);
    let words = ["error[E061]: the keys of `main` cannot be fetched", "answered 500", "routes.yaml:6:3"];
    run(dir.path(), &["check", "--online"]).await.expect(1, &words);
}

#[tokio::test]
async fn a_new_provider_without_keys_is_taken_and_said() {
    let (key, backend) = (SigningKey::new(Some("k")), Backend::named("one").await);
    let issuer = Issuer::publishing(&[&key]).await;
    let gateway = TestGateway::start(&config(&backend, &issuer.url(), "")).await;
    assert_eq!(ask(&gateway, &key).await.status(), 200);
    let away = format!("  other: {{jwks: \"http://{}/keys\", audience: api}}\n", closed_port());
    gateway.rewrite(&config(&backend, &issuer.url(), &away));
    gateway.reload().await.unwrap();
    assert_eq!(ask(&gateway, &key).await.status(), 200);
    let events = json(&send(gateway.admin(), get("/api/v1/events")).await);
    let said = |event: &serde_json::Value| {
        event["kind"] == "keys_unavailable" && event["text"].as_str().unwrap().starts_with("other: ")
    };
    assert!(events["events"].as_array().unwrap().iter().any(said), "{events}");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_reload_that_waits_for_keys() {
    let (key, backend) = (SigningKey::new(Some("k")), Backend::named("one").await);
    let (before, silent) = (Issuer::publishing(&[&key]).await, Issuer::publishing(&[&key]).await);
    silent.is(Mode::Slow);
    let gateway = TestGateway::start(&config(&backend, &before.url(), "")).await;
    assert_eq!(ask(&gateway, &key).await.status(), 200);
    gateway.rewrite(&config(&backend, &silent.url(), ""));
    eventually("the new source is asked", async || silent.asked() > 0).await;
    let stopped = tokio::time::timeout(Duration::from_secs(3), gateway.stop()).await;
    assert_eq!(stopped.expect("the drain ends the wait"), 0);
}
