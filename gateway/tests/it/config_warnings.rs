//! The warnings of `millgate check` are also logged by `run` and by each reload that changes them, since a reload runs
//! without `check`.

use crate::{
    commands::Serving,
    support::{
        backend::Backend,
        client::{get, send, text},
        eventually,
        gateway::{TestGateway, write_config},
    },
};

/// An open catch-all beside a closed path; `closed`: more of the closed route.
fn config(addr: &str, closed: &str) -> String {
    format!(
        "auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\nroutes:\n  \
         - {{path: /**, service: s, auth: none}}\n  - {{path: /admin, service: s, auth: main{closed}}}\n\
         services: {{s: {{hosts: [\"{addr}\"]}}}}\n"
    )
}

const CURED: &str = ", case_insensitive: true, trailing_slash: exact";

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret.key"), "0123456789abcdef0123456789abcdef").unwrap();
    dir
}

/// The number of events of this kind, and whether the metric is there.
async fn warned(gateway: &TestGateway) -> (usize, bool) {
    let events = send(gateway.admin(), get("/api/v1/events")).await;
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let events =
        text(&events).matches("W010 an open route takes what a service may take for this closed one").count();
    (events, text(&metrics).contains("millgate_config_warnings{code=\"W010\"} 1"))
}

#[tokio::test]
async fn a_warning_is_an_event_once_for_each_change_and_a_metric_while_it_holds() {
    let backend = Backend::named("one").await;
    let addr = backend.addr.to_string();
    let gateway = TestGateway::start_in(folder(), &config(&addr, "")).await;
    assert_eq!(warned(&gateway).await, (1, true));
    for (text, expected) in [
        (format!("{}# the same\n", config(&addr, "")), (1, true)),
        (config(&addr, CURED), (1, false)),
        (config(&addr, ""), (2, true)),
    ] {
        gateway.rewrite(&text);
        gateway.reload().await.unwrap();
        assert_eq!(warned(&gateway).await, expected, "{text}");
    }
}

#[tokio::test]
async fn run_and_reload_say_what_check_says() {
    let dir = folder();
    write_config(dir.path(), &config("127.0.0.1:9", ""));
    let is_it = |line: &String| line.contains("W010") && line.contains("an open route takes");
    let gateway = Serving::start(dir.path(), &["run", "--state-dir", "state"], "routes.yaml: ").await;
    assert!(gateway.lines.iter().any(is_it), "{:?}", gateway.lines);
    write_config(dir.path(), &config("127.0.0.1:9", CURED));
    let later = || gateway.lines_since();
    eventually("it was read", || async {
        later().iter().any(|line| line.contains("configuration reloaded"))
    })
    .await;
    assert!(!later().iter().any(is_it), "{:?}", later());
    write_config(dir.path(), &config("127.0.0.1:9", ""));
    eventually("it is said again", || async { later().iter().any(is_it) }).await;
    assert_eq!(gateway.terminate().await, Some(0));
}
