//! Nothing that does not answer (a pipe, a service, a disk) keeps the process from ending.

use std::{
    fs::OpenOptions,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    process::{Child, ChildStderr},
};

use crate::{
    commands::millgate,
    support::{
        DEADLINE,
        backend::{Backend, RawBackend},
        client::{Connection, get, send, text},
        eventually,
        gateway::write_config,
    },
};

/// The process, whose standard output and, from now on, standard error are pipes that are not read.
struct Unread {
    child: Child,
    _err: BufReader<ChildStderr>,
    http: SocketAddr,
    admin: SocketAddr,
}

impl Unread {
    async fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[]).await
    }

    async fn start_with(dir: &Path, variables: &[(&str, &str)]) -> Self {
        let mut command = millgate(dir, &["run", "--state-dir", "state"]);
        command.envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut err = BufReader::new(child.stderr.take().unwrap());
        let (mut http, mut admin) = (None, None);
        while admin.is_none() {
            let mut line = String::new();
            let read = tokio::time::timeout(DEADLINE, err.read_line(&mut line)).await.unwrap().unwrap();
            assert!(read > 0, "ended before it was ready");
            let value =
                |name| Some(line.strip_prefix(name)?.trim().trim_start_matches("http://").parse().unwrap());
            http = http.or(value("http      "));
            admin = admin.or(value("admin     "));
        }
        Self { child, _err: err, http: http.unwrap(), admin: admin.unwrap() }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// Fills the pipe that is file 1 or 2 of the process, as output that is not read does in time.
    fn fill(&self, file: u8) {
        let path = format!("/proc/{}/fd/{file}", self.child.id().unwrap());
        let nonblocking = 0o4000;
        let mut pipe = OpenOptions::new().write(true).custom_flags(nonblocking).open(path).unwrap();
        while pipe.write(&[b'x'; 512]).is_ok() {}
        while pipe.write(b"x").is_ok() {}
    }

    /// The exit code, and how long it took.
    async fn ended(mut self) -> (Option<i32>, Duration) {
        let began = Instant::now();
        let status =
            tokio::time::timeout(DEADLINE, self.child.wait()).await.expect("the process ends").unwrap();
        (status.code(), began.elapsed())
    }
}

fn config(backend: SocketAddr, more: &str) -> String {
    format!("{more}routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{backend}\"]}}\n")
}

const LOG: &str = "access_log: {format: json}\n";

#[tokio::test]
async fn a_process_whose_output_is_not_read_ends_on_the_first_signal() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(backend.addr, LOG));
    let gateway = Unread::start(dir.path()).await;
    gateway.fill(1);
    assert_eq!(send(gateway.http, get("/x")).await.status(), 200);
    gateway.signal("-TERM");
    let (code, took) = gateway.ended().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(12), "{took:?}");
}

#[tokio::test]
async fn a_second_signal_ends_the_process_at_once_whatever_is_under_way() {
    let silent = RawBackend::answering(b"", false).await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(silent.addr, "drain: {timeout: 60s}\naccess_log: {format: json}\n"));
    let gateway = Unread::start(dir.path()).await;
    gateway.fill(1);
    gateway.fill(2);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.unwrap();
    eventually("the request is under way", || async { silent.connections() == 1 }).await;
    gateway.signal("-TERM");
    eventually("the drain has begun", || async { send(gateway.admin, get("/readyz")).await.status() == 503 })
        .await;
    gateway.signal("-INT");
    let (code, took) = gateway.ended().await;
    assert_eq!(code, Some(1));
    assert!(took < Duration::from_secs(3), "{took:?}");
}

/// Standard error is as much a pipe as standard output: workers and the signal handler write to it.
#[tokio::test]
async fn diagnostics_that_are_not_read_stop_neither_requests_nor_the_end() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(backend.addr, ""));
    let gateway = Unread::start(dir.path()).await;
    gateway.fill(2);
    // The process logs it on the thread of the signals and on that of the control plane.
    write_config(dir.path(), "routes: nonsense");
    gateway.signal("-HUP");
    eventually("admin goes on", || async {
        let shown = send(gateway.admin, get("/metrics")).await;
        text(&shown).contains("millgate_config_reloads_total{result=\"refused\"}")
    })
    .await;
    assert_eq!(send(gateway.http, get("/x")).await.status(), 200);
    gateway.signal("-TERM");
    let (code, took) = gateway.ended().await;
    assert_eq!(code, Some(0));
    assert!(took < Duration::from_secs(12), "{took:?}");
}

/// More lines than the queue takes, all of them from workers.
#[tokio::test]
async fn a_log_that_is_not_read_holds_up_no_request_however_much_is_logged() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(backend.addr, "workers: 1\n"));
    let gateway = Unread::start_with(dir.path(), &[("RUST_LOG", "trace")]).await;
    gateway.fill(2);
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..500 {
        let reply = tokio::time::timeout(DEADLINE, client.send(get("/x"))).await.expect("it is answered");
        assert_eq!(reply.status(), 200);
    }
    gateway.signal("-TERM");
    assert_eq!(gateway.ended().await.0, Some(0));
}
