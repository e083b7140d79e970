//! The output to standard error: one event a line if JSON is requested, and no line that causes the next.
//!
//! Before: a log in JSON began with five plain lines; `RUST_LOG=trace` into the configuration's folder wrote 55 MB in a second; each
//! TLS handshake for an address wrote a line.

use std::{net::SocketAddr, path::Path, process::Stdio, sync::Arc, time::Duration};

use rcgen::generate_simple_self_signed;
use rustls::ClientConnection;
use serde_json::Value;
use tokio::{io::AsyncWriteExt, net::TcpStream, process::Child};

use crate::{
    commands::millgate,
    support::{
        authority::Authority,
        backend::{Backend, RawBackend},
        client::{get, send},
        eventually,
        gateway::write_config,
    },
};

/// `millgate run` whose standard error is the file `stderr` in its own folder.
struct Run {
    dir: tempfile::TempDir,
    _child: Child,
}

impl Run {
    fn start(dir: tempfile::TempDir, config: &str, variables: &[(&str, &str)]) -> Self {
        write_config(dir.path(), config);
        let mut command = millgate(dir.path(), &["run", "--state-dir", "state"]);
        command.envs(variables.iter().copied()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(dir.path().join("stderr")).unwrap());
        let child = command.spawn().unwrap();
        Self { dir, _child: child }
    }

    fn written(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("stderr")).unwrap_or_default()
    }

    /// Events, each with its line. Fails if a line is not an event.
    fn events(&self) -> Vec<Value> {
        let written = self.written();
        let whole = written.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }
}

fn config(backend: SocketAddr) -> String {
    format!("routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{backend}\"]}}\n")
}

#[tokio::test]
async fn where_json_is_asked_for_each_line_is_an_event_and_the_start_is_one() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    // It warns: nothing uses this one.
    let text = format!("{}  two: {{hosts: [\"127.0.0.1:9\"]}}\n", config(backend.addr));
    let run = Run::start(dir, &text, &[("MILLGATE_LOG_FORMAT", "json"), ("RUST_LOG", "error")]);
    eventually("the warning is written", || async { run.written().contains("W002") }).await;
    let events = run.events();
    let serving: Vec<_> =
        events.iter().filter(|event| event["fields"]["message"] == "serving").map(|e| &e["fields"]).collect();
    assert_eq!(serving.len(), 1, "{events:?}");
    let fields = serving[0];
    assert_eq!((&fields["config"], &fields["routes"]), (&"routes.yaml".into(), &1.into()));
    assert_eq!(fields["services"]["one"], 1);
    let http: SocketAddr =
        fields["http"][0].as_str().unwrap().strip_prefix("http://").unwrap().parse().unwrap();
    assert_eq!(send(http, get("/x")).await.status(), 200);
    assert!(fields["admin"].as_str().unwrap().starts_with("http://127.0.0.1:"));
    let warning = events.iter().find(|event| event["level"] == "WARN").unwrap();
    assert!(warning["fields"]["message"].as_str().unwrap().contains("W002"), "{warning}");
    for event in &events {
        assert!(event["timestamp"].is_string() && event["target"].is_string(), "{event}");
    }
}

#[tokio::test]
async fn what_keeps_it_from_starting_is_an_event_too() {
    let wrong = "routes: nonsense\n";
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap();
    let busy = format!("listen: {{http: \"{port}\", admin: \"127.0.0.1:0\"}}\n{}", config(port));
    for (text, words) in [(wrong, "E011"), (&*busy, "another process listens there")] {
        let dir = tempfile::tempdir().unwrap();
        let run = Run::start(dir, text, &[("MILLGATE_LOG_FORMAT", "json")]);
        eventually(words, || async { run.written().contains(words) && run.written().ends_with('\n') }).await;
        let events = run.events();
        let error = events.iter().find(|event| event["level"] == "ERROR").unwrap();
        assert!(error["fields"]["message"].as_str().unwrap().contains(words), "{error}");
    }
}

#[tokio::test]
async fn a_log_in_the_folder_that_is_watched_does_not_wake_the_watcher() {
    let backend = Backend::named("one").await;
    let run = Run::start(tempfile::tempdir().unwrap(), &config(backend.addr), &[("RUST_LOG", "trace")]);
    let reloads = || run.written().matches("configuration reloaded").count();
    eventually("it serves", || async { run.written().contains("admin     http") }).await;
    // Each takes the watcher at least 50 ms, in which the fault wrote megabytes.
    for round in 1..=5 {
        write_config(run.dir.path(), &format!("# {round}\n{}", config(backend.addr)));
        eventually("the change is seen", || async { reloads() == round }).await;
    }
    let bytes = run.written().len();
    assert!(bytes < 1024 * 1024, "{bytes} bytes");
    assert!(!run.written().contains("inotify event"));
}

/// A ClientHello for a host name, with an address in the place of the name.
fn hello_for_an_address(authority: &Authority) -> Vec<u8> {
    let (name, address) = ("abc.d.e.f", "127.0.0.1");
    let config = authority.client(&[b"http/1.1"]);
    let mut client = ClientConnection::new(Arc::clone(&config), name.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let at = hello.windows(name.len()).position(|part| part == name.as_bytes()).unwrap();
    hello[at..at + address.len()].copy_from_slice(address.as_bytes());
    hello
}

fn write_certificate(dir: &Path) {
    let made = generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn handshakes_for_an_address_do_not_write_the_log() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_certificate(dir.path());
    let listen = "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
                  https: {bind: \"127.0.0.1:0\", cert_file: cert.pem, key_file: key.pem}}\n";
    let run = Run::start(dir, &format!("{listen}{}", config(backend.addr)), &[]);
    eventually("it serves", || async { run.written().contains("admin     http") }).await;
    let written = run.written();
    let https = written.lines().find_map(|line| line.strip_prefix("https     https://")).unwrap();
    let https: SocketAddr = https.parse().unwrap();
    let hello = hello_for_an_address(&Authority::new());
    let shake = async || {
        let mut client = TcpStream::connect(https).await.unwrap();
        client.write_all(&hello).await.unwrap();
        // The answer of the gateway: the line, if there is one, was written before it.
        let mut first = [0];
        let _ = tokio::io::AsyncReadExt::read(&mut client, &mut first).await;
    };
    let began = std::time::Instant::now();
    for _ in 0..200 {
        shake().await;
    }
    let seconds = began.elapsed().as_secs() + 2;
    let lines = || run.written().matches("SNI").count();
    eventually("one is written", || async { lines() > 0 }).await;
    assert!(lines() as u64 <= 10 * seconds, "{} lines in {seconds} s", lines());
    eventually("the next one says how many were left out", || async {
        shake().await;
        tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>()).await.unwrap_err();
        run.written().contains("lines of libraries were left out")
    })
    .await;
}

#[tokio::test]
async fn an_instance_whose_answers_are_refused_writes_a_line_in_ten_seconds() {
    let answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    let odd = RawBackend::answering(answer, true).await;
    let config = config(odd.addr).replace("\"]}", "\"], outlier: off, breaker: off}");
    let run = Run::start(tempfile::tempdir().unwrap(), &format!("workers: 1\n{config}"), &[]);
    eventually("it serves", || async { run.written().contains("admin     http") }).await;
    let written = run.written();
    let http = written.lines().find_map(|line| line.strip_prefix("http      http://")).unwrap();
    let began = std::time::Instant::now();
    for _ in 0..50 {
        assert_eq!(send(http.parse().unwrap(), get("/x")).await.status(), 502);
    }
    let lines = || run.written().matches("upstream answer refused").count();
    eventually("it is written", || async { lines() > 0 }).await;
    assert!(lines() as u64 <= 1 + began.elapsed().as_secs() / 10, "{} lines", lines());
}
