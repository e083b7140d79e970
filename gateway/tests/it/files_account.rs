//! Clients, upstream connections, admin and reloads share the process's files, and none of them takes all.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
    task::JoinSet,
};

use crate::{
    commands::{Serving, millgate},
    support::{
        DEADLINE,
        backend::Backend,
        client::{Connection, get, send, text},
        eventually,
        gateway::write_config,
    },
};

/// The command as `millgate run`, with at most so many open files.
async fn gateway_with_files(dir: &Path, files: usize) -> Serving {
    let limited = through_shell(dir, &format!("ulimit -n {files} && exec \"$@\""));
    Serving::start_command(limited, "admin").await
}

/// `millgate run` as a script of the shell starts it: `"$@"` is the command.
pub(crate) fn through_shell(dir: &Path, script: &str) -> Command {
    let plain = millgate(dir, &["run", "--state-dir", "state"]);
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(plain.as_std().get_program()).args(plain.as_std().get_args());
    command.current_dir(dir).env("HOME", dir).kill_on_drop(true);
    command
}

fn config(backend: SocketAddr) -> String {
    format!("routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{backend}\"]}}\n")
}

fn address(gateway: &Serving, name: &str) -> SocketAddr {
    gateway.value(name).parse().unwrap()
}

/// Sends one GET and stays, and comes back whenever it is closed.
async fn stay(addr: SocketAddr, stopped: Arc<AtomicBool>) {
    while !stopped.load(Ordering::Relaxed) {
        let Ok(mut client) = TcpStream::connect(addr).await else { continue };
        if client.write_all(b"GET /x HTTP/1.1\r\nhost: gw\r\n\r\n").await.is_ok() {
            while client.read(&mut [0; 512]).await.is_ok_and(|read| read > 0) {}
        }
    }
}

async fn metrics(admin: SocketAddr) -> String {
    text(&send(admin, get("/metrics")).await).to_owned()
}

/// The sum of a family's values.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// nginx with `worker_connections` used up closes idle clients as well; before this, all of it stood still for a minute.
#[tokio::test]
async fn clients_that_send_one_request_and_stay_stop_neither_others_nor_admin_nor_a_reload() {
    millgate::file_account::raise_limit();
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(backend.addr));
    let gateway = gateway_with_files(dir.path(), 1024).await;
    let (http, admin) = (address(&gateway, "http"), address(&gateway, "admin"));
    let stopped = Arc::new(AtomicBool::new(false));
    let mut hogs = JoinSet::new();
    for _ in 0..950 {
        hogs.spawn(stay(http, Arc::clone(&stopped)));
    }
    eventually("idle connections are closed to make room", || async {
        sum(&metrics(admin).await, "millgate_connections_shed_total") > 100
    })
    .await;
    // A client that goes on keeps its connection.
    let busy = tokio::spawn({
        let stopped = Arc::clone(&stopped);
        async move {
            let mut kept = Connection::open(http).await;
            let mut pause = tokio::time::interval(Duration::from_millis(20));
            while !stopped.load(Ordering::Relaxed) {
                pause.tick().await;
                assert_eq!(kept.send(get("/kept")).await.status(), 200);
            }
        }
    });
    let mut slowest = Duration::ZERO;
    for _ in 0..5 {
        let began = Instant::now();
        assert_eq!(send(http, get("/new")).await.status(), 200);
        assert_eq!(send(admin, get("/livez")).await.status(), 200);
        assert_eq!(send(admin, get("/readyz")).await.status(), 200);
        slowest = slowest.max(began.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "the slowest new client took {slowest:?}");
    write_config(dir.path(), &config(backend.addr).replace("/**", "/**, body_limit: 1MiB"));
    eventually("the changed configuration is accepted", || async {
        metrics(admin).await.contains("millgate_config_reloads_total{result=\"accepted\"} 1")
    })
    .await;
    let shown = metrics(admin).await;
    assert_eq!(sum(&shown, "millgate_accept_errors_total"), 0, "files never ran out");
    assert_eq!(sum(&shown, "millgate_config_reloads_total{result=\"refused\"}"), 0);
    assert!(sum(&shown, "process_open_fds") < 1000, "{shown}");
    stopped.store(true, Ordering::Relaxed);
    busy.await.expect("no request of the busy client failed");
    drop(hogs);
}

/// A change that the account cannot see: the system lowers the limit under a process that runs.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_process_that_is_out_of_files_does_not_spin_serves_what_is_open_and_recovers() {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(backend.addr));
    let gateway = gateway_with_files(dir.path(), 512).await;
    let (http, admin) = (address(&gateway, "http"), address(&gateway, "admin"));
    let (mut client, mut scraper) = (Connection::open(http).await, Connection::open(admin).await);
    assert_eq!(client.send(get("/x")).await.status(), 200);
    assert_eq!(scraper.send(get("/metrics")).await.status(), 200);
    let pid = Pid::from_raw(i32::try_from(gateway.pid()).unwrap());
    let files = |number| Rlimit { current: Some(number), maximum: Some(512) };
    prlimit(pid, Resource::Nofile, files(8)).unwrap();
    let mut refused = JoinSet::new();
    for _ in 0..10 {
        refused.spawn(async move { send(http, get("/new")).await.status() });
    }
    let mut errors = 0;
    let began = Instant::now();
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    while errors < 20 || began.elapsed() < Duration::from_secs(2) {
        pace.tick().await;
        assert_eq!(client.send(get("/x")).await.status(), 200, "what is open goes on");
        errors = sum(text(&scraper.send(get("/metrics")).await), "millgate_accept_errors_total");
        assert!(began.elapsed() < DEADLINE, "{errors} attempts to accept");
    }
    let most = began.elapsed().as_millis() / 50 * 2 + 20;
    assert!(u128::from(errors) <= most, "{errors} in {:?}", began.elapsed());
    assert!(gateway.lines_since().iter().filter(|line| line.contains("could not be accepted")).count() <= 4);
    prlimit(pid, Resource::Nofile, files(512)).unwrap();
    while let Some(status) = refused.join_next().await {
        assert_eq!(status.unwrap(), 200, "it waited, and is served");
    }
}

/// A limit of files that the system sets below the hard one is not a limit of the gateway.
#[tokio::test]
async fn the_soft_limit_of_files_is_raised_to_the_hard_one() {
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config("127.0.0.1:9".parse().unwrap()));
    let limited = through_shell(dir.path(), "ulimit -Sn 200 && ulimit -Hn 2000 && exec \"$@\"");
    let gateway = Serving::start_command(limited, "admin").await;
    let shown = metrics(address(&gateway, "admin")).await;
    assert_eq!(sum(&shown, "process_max_fds"), 2000);
    assert!(sum(&shown, "millgate_file_places{part=\"clients\"}") > 1500, "{shown}");
}
