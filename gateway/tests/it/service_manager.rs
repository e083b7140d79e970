//! What systemd learns of a gateway, and what it hands to it: readiness, reloads, the watchdog, sockets.

use std::{net::TcpListener, os::fd::OwnedFd, path::Path, process::Stdio};

use http::StatusCode;
use tokio::{net::UnixDatagram, process::Command};

use crate::{
    commands::{Serving, ended, millgate},
    support::{DEADLINE, backend::Backend, client::status, gateway::write_config},
};

const ARGS: &[&str] = &["run", "--state-dir", "state"];

fn config(backend: &Backend) -> String {
    format!("routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{}\"]}}}}\n", backend.addr)
}

/// The socket to which a gateway sends its messages, as systemd has it.
struct Manager(UnixDatagram);

impl Manager {
    fn at(dir: &Path) -> (Self, Command) {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let mut command = millgate(dir, ARGS);
        command.env("NOTIFY_SOCKET", path);
        (Self(socket), command)
    }

    async fn hears(&self) -> String {
        let mut space = vec![0; 4096];
        let length =
            tokio::time::timeout(DEADLINE, self.0.recv(&mut space)).await.expect("a message").unwrap();
        String::from_utf8(space[..length].to_vec()).unwrap()
    }
}

fn signal(serving: &Serving, name: &str) {
    let pid = serving.pid().to_string();
    assert!(std::process::Command::new("kill").args([name, &pid]).status().unwrap().success());
}

#[tokio::test]
async fn the_manager_learns_of_readiness_reloads_and_the_end() {
    let (backend, dir) = (Backend::named("s").await, tempfile::tempdir().unwrap());
    write_config(dir.path(), &config(&backend));
    let (manager, command) = Manager::at(dir.path());
    let serving = Serving::start_command(command, "admin").await;
    assert_eq!(manager.hears().await, "READY=1\nSTATUS=serving 1 routes to 1 services\n");
    signal(&serving, "-HUP");
    let reloading = manager.hears().await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(manager.hears().await.starts_with("READY=1\n"));
    write_config(dir.path(), "routes: wrong\n");
    signal(&serving, "-HUP");
    assert!(manager.hears().await.starts_with("RELOADING=1\n"));
    assert_eq!(manager.hears().await, "READY=1\nSTATUS=serving; the last configuration was refused\n");
    signal(&serving, "-TERM");
    let stopping = manager.hears().await;
    assert!(stopping.starts_with("STOPPING=1\n") && stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
}

#[tokio::test]
async fn the_watchdog_is_told_again_and_again_and_not_by_a_process_that_stands_still() {
    let (backend, dir) = (Backend::named("s").await, tempfile::tempdir().unwrap());
    write_config(dir.path(), &config(&backend));
    let (manager, mut command) = Manager::at(dir.path());
    command.env("WATCHDOG_USEC", "300000");
    let serving = Serving::start_command(command, "admin").await;
    assert!(manager.hears().await.starts_with("READY=1"));
    for _ in 0..3 {
        assert_eq!(manager.hears().await, "WATCHDOG=1\n");
    }
    drop(serving);
}

#[tokio::test]
async fn after_an_upgrade_the_manager_follows_the_new_process() {
    let (backend, dir) = (Backend::named("s").await, tempfile::tempdir().unwrap());
    write_config(dir.path(), &config(&backend));
    let (manager, command) = Manager::at(dir.path());
    let serving = Serving::start_command(command, "admin").await;
    assert!(manager.hears().await.starts_with("READY=1"));
    signal(&serving, "-USR2");
    // The two processes say this at the same time.
    let (one, other) = (manager.hears().await, manager.hears().await);
    let (main, ready) = if one.starts_with("MAINPID") { (one, other) } else { (other, one) };
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    let pid = main.trim().strip_prefix("MAINPID=").expect("the number of the process");
    assert!(std::process::Command::new("kill").args(["-TERM", pid]).status().unwrap().success());
    assert!(manager.hears().await.starts_with("STOPPING=1"), "and the old one did not say that");
}

/// A gateway that gets a listening socket as systemd passes it: as file 3, with its own number in the environment.
fn activated(dir: &Path, socket: TcpListener) -> Command {
    let gateway = millgate(dir, ARGS);
    let script = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec \"$@\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).arg(gateway.as_std().get_program()).args(ARGS);
    command.current_dir(dir).env("HOME", dir).kill_on_drop(true).stdin(Stdio::from(OwnedFd::from(socket)));
    command
}

#[tokio::test]
async fn a_listener_takes_the_socket_that_systemd_has_opened_for_its_address() {
    let (backend, dir) = (Backend::named("s").await, tempfile::tempdir().unwrap());
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let text = format!("workers: 2\nlisten: {{http: \"{address}\", admin: off}}\n{}", config(&backend));
    write_config(dir.path(), &text);
    let serving = Serving::start_command(activated(dir.path(), socket.try_clone().unwrap()), "admin").await;
    for _ in 0..20 {
        assert_eq!(status(address, "/").await, StatusCode::OK);
    }
    assert_eq!(serving.terminate().await, Some(0));
    // The socket is still open: a client that comes while no gateway runs waits for the next one.
    let waiting = tokio::spawn(async move { status(address, "/").await });
    let _next = Serving::start_command(activated(dir.path(), socket), "admin").await;
    assert_eq!(waiting.await.unwrap(), StatusCode::OK);
}

#[tokio::test]
async fn a_socket_that_no_listener_takes_is_an_error_that_names_it() {
    let (backend, dir) = (Backend::named("s").await, tempfile::tempdir().unwrap());
    write_config(dir.path(), &config(&backend));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let said = ended(activated(dir.path(), socket)).await;
    said.expect(1, &[&address, "no listener of the configuration has this address"]);
}
