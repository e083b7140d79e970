//! SIGUSR2: a new process takes over the listening sockets, and no client notices.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use http::StatusCode;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::{
    commands::{Serving, millgate},
    support::{
        DEADLINE,
        backend::{Backend, closed_port},
        client::{Connection, get, header, status},
        eventually,
        gateway::write_config,
        websocket::{EchoService, WebSocketClient},
    },
};

fn config(workers: usize, more: &str, backend: SocketAddr) -> String {
    format!(
        "workers: {workers}\ndrain: {{timeout: 10s}}\n{more}routes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [\"{backend}\"]}}}}\n"
    )
}

/// Processes of one gateway, one after the other. The last one ends with the test.
pub(crate) struct Line {
    pub(crate) dir: TempDir,
    serving: Serving,
    pub(crate) http: SocketAddr,
    pid: u32,
}

impl Line {
    async fn start(text: &str) -> Self {
        Self::start_as(text, millgate).await
    }

    async fn start_as(text: &str, command: fn(&Path, &[&str]) -> tokio::process::Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_config(dir.path(), text);
        Self::start_command(dir, command).await
    }

    /// With files that the configuration names.
    pub(crate) async fn start_in(text: &str, prepare: impl FnOnce(&Path)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        write_config(dir.path(), text);
        Self::start_command(dir, millgate).await
    }

    async fn start_command(dir: TempDir, command: fn(&Path, &[&str]) -> tokio::process::Command) -> Self {
        let command = command(dir.path(), &["run", "--state-dir", "state"]);
        let serving = Serving::start_command(command, "admin").await;
        let http = serving.value("http ").parse().unwrap();
        let pid = serving.pid();
        Self { dir, serving, http, pid }
    }

    fn signal(&self, name: &str) {
        let pid = self.pid.to_string();
        assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
    }

    /// The lines with these words.
    pub(crate) fn said(&self, words: &str) -> Vec<String> {
        self.serving.lines_since().into_iter().filter(|line| line.contains(words)).collect()
    }

    /// Upgrades, and waits until the old process has ended.
    pub(crate) async fn upgrade(&mut self) {
        let (before, old) = (self.said("the new process serves").len(), self.pid);
        self.signal("-USR2");
        eventually("the new process serves", || async {
            self.said("the new process serves").len() == before + 1
        })
        .await;
        let line = self.said("the new process serves").pop().unwrap();
        self.pid = line.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        eventually("the old process has ended", || async { !is_alive(old) }).await;
        assert!(is_alive(self.pid));
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = std::process::Command::new("kill").args(["-KILL", &self.pid.to_string()]).status();
    }
}

/// Whether a process runs. One that has ended and is not waited for yet does not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Clients that send all the time, until they are stopped. The results are the numbers of answers and of failures.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
    clients: JoinSet<Vec<String>>,
}

impl Load {
    fn on(http: SocketAddr) -> Self {
        let (stop, answers) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let mut clients = JoinSet::new();
        for at in 0..8 {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            clients.spawn(async move {
                let mut failed = Vec::new();
                while !stop.load(SeqCst) {
                    let result = if at % 2 == 0 { one(http).await } else { several(http, &stop).await };
                    match result {
                        Ok(number) => _ = answers.fetch_add(number, SeqCst),
                        Err(error) => failed.push(error),
                    }
                }
                failed
            });
        }
        Self { stop, answers, clients }
    }

    async fn goes_on(&self) {
        let before = self.answers.load(SeqCst);
        eventually("more answers", || async { self.answers.load(SeqCst) > before + 50 }).await;
    }

    async fn end(self) -> usize {
        self.stop.store(true, SeqCst);
        let failed = self.clients.join_all().await.concat();
        assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
        self.answers.load(SeqCst)
    }
}

/// A request on a connection of its own.
async fn one(http: SocketAddr) -> Result<usize, String> {
    let mut connection = Connection::try_open(http).await.map_err(|error| error.to_string())?;
    let reply = connection.try_send(get("/one")).await.map_err(|error| format!("one: {error:?}"))?;
    if reply.status() == StatusCode::OK { Ok(1) } else { Err(format!("one: {reply:?}")) }
}

/// Requests on one connection, until the gateway says that it closes it.
async fn several(http: SocketAddr, stop: &AtomicBool) -> Result<usize, String> {
    let mut connection = Connection::try_open(http).await.map_err(|error| error.to_string())?;
    let mut number = 0;
    while !stop.load(SeqCst) {
        let reply = connection.try_send(get("/several")).await;
        let reply = reply.map_err(|error| format!("several, after {number}: {error:?}"))?;
        if reply.status() != StatusCode::OK {
            return Err(format!("several: {reply:?}"));
        }
        number += 1;
        if header(&reply, "connection") == "close" {
            break;
        }
    }
    Ok(number)
}

#[tokio::test]
async fn no_request_is_lost_through_upgrades_whatever_the_number_of_workers() {
    let backend = Backend::named("s").await;
    let mut line = Line::start(&config(1, "", backend.addr)).await;
    let load = Load::on(line.http);
    for workers in [3, 2, 1] {
        load.goes_on().await;
        write_config(line.dir.path(), &config(workers, "", backend.addr));
        line.upgrade().await;
        load.goes_on().await;
        let admin = line.serving.value("admin ").parse().unwrap();
        assert_eq!(status(admin, "/readyz").await, StatusCode::OK, "not the old process, which drains");
    }
    assert!(load.end().await > 300);
}

#[tokio::test]
async fn what_is_under_way_ends_in_the_old_process() {
    let (backend, echo) = (Backend::named("s").await, EchoService::start().await);
    let text = format!(
        "workers: 1\ndrain: {{timeout: 10s}}\nroutes: [{{path: /**, service: s}}, {{path: /echo, service: e}}]\n\
         services: {{s: {{hosts: [\"{}\"]}}, e: {{hosts: [\"{}\"]}}}}\n",
        backend.addr, echo.addr
    );
    let mut line = Line::start(&text).await;
    let mut websocket = WebSocketClient::open_at(line.http, "/echo").await;
    websocket.echoes("before").await;
    let mut upload = TcpStream::connect(line.http).await.unwrap();
    upload.write_all(b"POST /up HTTP/1.1\r\nhost: gw\r\ncontent-length: 10\r\n\r\nhalf ").await.unwrap();
    // The other half of the request comes when the new process serves already.
    let closes = tokio::spawn(async move { websocket.closed_with().await });
    let old = line.pid;
    line.signal("-USR2");
    eventually("the new process serves", || async { !line.said("the new process serves").is_empty() }).await;
    assert!(is_alive(old), "it has an upload under way");
    assert_eq!(status(line.http, "/new").await, StatusCode::OK);
    upload.write_all(b"half.").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(DEADLINE, upload.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("connection: close"), "{answer}");
    assert_eq!(closes.await.unwrap(), 1001);
    let said = line.said("the new process serves").remove(0);
    line.pid = said.split("pid=").nth(1).unwrap().trim().parse().unwrap();
    eventually("the old process has ended", || async { !is_alive(old) }).await;
}

#[tokio::test]
async fn a_new_process_that_does_not_get_ready_changes_nothing() {
    let backend = Backend::named("s").await;
    // The program as an installation has it: a link to a version.
    let mut line = Line::start_as(&config(1, "", backend.addr), |dir, args| {
        let command = millgate(dir, args);
        let installed = dir.join("installed");
        std::os::unix::fs::symlink(command.as_std().get_program(), &installed).unwrap();
        let mut linked = tokio::process::Command::new(&installed);
        linked.args(args).current_dir(dir).env("HOME", dir).kill_on_drop(true);
        linked
    })
    .await;
    let (load, installed) = (Load::on(line.http), line.dir.path().join("installed"));
    let good = std::fs::read_link(&installed).unwrap();
    for (program, says) in [("/bin/false", "before it was ready"), ("nowhere", "cannot be started")] {
        std::fs::remove_file(&installed).unwrap();
        std::os::unix::fs::symlink(program, &installed).unwrap();
        line.signal("-USR2");
        eventually(says, || async { !line.said(says).is_empty() }).await;
        load.goes_on().await;
    }
    std::fs::remove_file(&installed).unwrap();
    std::os::unix::fs::symlink(good, &installed).unwrap();
    // A configuration that is wrong: the new process reports it, and the old one has the old one.
    write_config(line.dir.path(), "routes: wrong\n");
    line.signal("-USR2");
    eventually("it is refused", || async { line.said("before it was ready").len() == 2 }).await;
    load.goes_on().await;
    write_config(line.dir.path(), &config(2, "", backend.addr));
    line.upgrade().await;
    load.goes_on().await;
    load.end().await;
}

/// The children of a process.
fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_of = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        parent_of == Some(parent)
    })
    .collect()
}

#[tokio::test]
async fn a_signal_to_stop_ends_the_new_process_too_when_it_is_not_ready_yet() {
    let (backend, consul) = (Backend::named("s").await, closed_port());
    // Its own registry never answers, so the new process waits for it.
    let discovery = format!("discovery: {{consul: {{address: \"http://{consul}\"}}}}\n");
    let text = config(1, &discovery, backend.addr).replace("services: {", "services: {unknown: {}, ");
    let text = text.replace("routes: [", "routes: [{path: /unknown, service: unknown}, ");
    let line = Line::start(&text).await;
    line.signal("-USR2");
    eventually("the new process is there", || async { children(line.pid).len() == 1 }).await;
    let new = children(line.pid)[0];
    assert_eq!(status(line.http, "/served").await, StatusCode::OK, "by the old one");
    line.signal("-TERM");
    eventually("both have ended", || async { !is_alive(line.pid) && !is_alive(new) }).await;
}

#[tokio::test]
async fn an_address_that_the_new_configuration_leaves_out_is_closed_and_a_new_one_opened() {
    let backend = Backend::named("s").await;
    let (kept, left_out, added) = (closed_port(), closed_port(), closed_port());
    let listen = |addresses: [SocketAddr; 2]| {
        let [first, second] = addresses;
        format!("listen: {{http: [\"{first}\", \"{second}\"], admin: off}}\n")
    };
    let mut line = Line::start(&config(2, &listen([kept, left_out]), backend.addr)).await;
    assert_eq!(status(left_out, "/").await, StatusCode::OK);
    write_config(line.dir.path(), &config(2, &listen([kept, added]), backend.addr));
    line.upgrade().await;
    assert_eq!(status(kept, "/").await, StatusCode::OK);
    assert_eq!(status(added, "/").await, StatusCode::OK);
    assert!(TcpStream::connect(left_out).await.is_err());
}

#[tokio::test]
async fn a_process_without_a_predecessor_says_what_is_wrong_with_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), "routes: [{path: /**, redirect: https://example.com/}]\n");
    let mut command = millgate(dir.path(), &["run"]);
    command.env("MILLGATE_HANDOVER", "1");
    crate::commands::ended(command).await.expect(1, &["MILLGATE_HANDOVER is set", "unset it"]);
}
