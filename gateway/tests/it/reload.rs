//! Configuration changes and stops under load.

use std::{process::Stdio, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
    sync::Notify,
};

use crate::support::{
    DEADLINE,
    backend::Backend,
    client::{self, load, status},
    eventually,
    gateway::{TestGateway, write_config},
};

fn config(backend: &Backend, note: &str) -> String {
    format!(
        "# {note}\nroutes:\n  - {{path: /load/**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_requests_through_five_reloads_all_succeed() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, "first")).await;
    let stop = Arc::new(Notify::new());
    let running = tokio::spawn(load(gateway.http, "/load/x", 16, Arc::clone(&stop), usize::MAX));
    for n in 0..5 {
        let seen = backend.served();
        eventually("load goes on", || async { backend.served() >= seen + 100 }).await;
        let extra = if n % 2 == 0 { "  - {path: /other, service: one}\n" } else { "" };
        gateway.rewrite(
            &config(&backend, &format!("reload {n}")).replace("services:", &format!("{extra}services:")),
        );
        gateway.reload().await.unwrap();
        let expected = if n % 2 == 0 { 200 } else { 404 };
        assert_eq!(status(gateway.http, "/other").await, expected, "reload {n} is in effect");
    }
    eventually("so many were served", || async { backend.served() >= 2000 }).await;
    stop.notify_one();
    let load = running.await.unwrap();
    assert!(load.sent >= 2000, "{}", load.sent);
    assert_eq!(load.failed, Vec::<String>::new());
    gateway.stop().await;
}

#[tokio::test]
async fn a_wrong_configuration_never_replaces_the_running_one() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, "good")).await;
    gateway.rewrite("routes:\n  - {path: /load/**, servic: one}\n");
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("servic") && report.contains("service"), "{report}");
    assert_eq!(status(gateway.http, "/load/x").await, 200);
    let metrics = client::send(gateway.admin(), client::get("/metrics")).await;
    assert!(client::text(&metrics).contains("millgate_config_last_reload_successful 0"));
    gateway.rewrite(&config(&backend, "good again"));
    gateway.reload().await.unwrap();
    let metrics = client::send(gateway.admin(), client::get("/metrics")).await;
    assert!(client::text(&metrics).contains("millgate_config_last_reload_successful 1"));
    let events = client::send(gateway.admin(), client::get("/api/v1/events")).await;
    assert!(
        client::text(&events).contains("routes.yaml: routes: 1, services: 1"),
        "{}",
        client::text(&events)
    );
}

#[tokio::test]
async fn a_changed_file_is_taken_over_without_being_asked() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, "first")).await;
    assert_eq!(status(gateway.http, "/new").await, 404);
    gateway.rewrite(
        &config(&backend, "second").replace("services:", "  - {path: /new, service: one}\nservices:"),
    );
    eventually("the new route answers", || async { status(gateway.http, "/new").await == 200 }).await;
}

/// The real command, because signals are its business.
struct Process {
    child: tokio::process::Child,
    http: std::net::SocketAddr,
}

impl Process {
    async fn start(dir: &std::path::Path, config: &str) -> Self {
        write_config(dir, config);
        let mut child = Command::new(env!("CARGO_BIN_EXE_millgate"))
            .args(["run", "--config", "routes.yaml", "--state-dir", "state"])
            .current_dir(dir)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut http = None;
        while let Ok(Some(line)) = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap() {
            if let Some(address) = line.strip_prefix("http      http://") {
                http = Some(address.parse().unwrap());
            }
            if line.starts_with("admin") {
                break;
            }
        }
        // Later output must not fill the pipe.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, http: http.expect("the start-up lines name the address") }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_under_load_fails_no_request_that_was_accepted() {
    let backend = Backend::with(|_| http::Response::new(bytes::Bytes::from_static(b"slowly"))).await;
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = Process::start(dir.path(), &config(&backend, "drain")).await;
    let running = tokio::spawn(load(gateway.http, "/load/x", 32, Arc::new(Notify::new()), usize::MAX));
    eventually("load flows", || async { backend.served() > 500 }).await;
    gateway.signal("-TERM");
    let exit = tokio::time::timeout(DEADLINE, gateway.child.wait()).await.unwrap().unwrap();
    let load = running.await.unwrap();
    assert!(exit.success(), "{exit}");
    assert_eq!(load.failed, Vec::<String>::new(), "of {}", load.sent);
}

#[tokio::test]
async fn sighup_reloads() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let gateway = Process::start(dir.path(), &config(&backend, "first")).await;
    let more = config(&backend, "second").replace("services:", "  - {path: /new, service: one}\nservices:");
    write_config(dir.path(), &more);
    gateway.signal("-HUP");
    eventually("the new route answers", || async { status(gateway.http, "/new").await == 200 }).await;
}

#[tokio::test]
async fn an_idle_keep_alive_connection_does_not_hold_up_the_drain() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, "idle")).await;
    let mut idle = client::Connection::open(gateway.http).await;
    assert_eq!(idle.send(client::get("/load/x")).await.status(), 200);
    let cut = tokio::time::timeout(Duration::from_secs(10), gateway.stop()).await.unwrap();
    assert_eq!(cut, 0);
}

#[tokio::test]
async fn sigterm_does_not_wait_for_a_reload_that_waits_for_the_registry() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let mut gateway = Process::start(dir.path(), &config(&backend, "first")).await;
    // This registry never answers, so the reload waits three seconds for a first answer about `web`.
    let silent = crate::support::backend::RawBackend::answering(b"", false).await;
    let more = format!(
        "discovery: {{consul: {{address: \"http://{}\"}}}}\n{}",
        silent.addr,
        config(&backend, "second").replace("services:", "  - {path: /web, service: web}\nservices:")
    );
    write_config(dir.path(), &more);
    gateway.signal("-HUP");
    eventually("the registry is asked", || async { !silent.received.lock().unwrap().is_empty() }).await;
    gateway.signal("-TERM");
    let exit = tokio::time::timeout(Duration::from_millis(2500), gateway.child.wait()).await;
    assert!(exit.expect("it does not wait for the first word").unwrap().success());
}
