//! A gateway in a process of its own, with a limit of open files, and what it costs in memory.

use std::{fs, net::SocketAddr, process::Command, sync::Arc, thread};

use bytes::Bytes;
use http::Response;
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::{
    commands::Serving,
    files_account::through_shell,
    support::{
        authority::Authority,
        backend::{Backend, RawBackend},
        client::{get, send, text},
        eventually,
        gateway::write_config,
    },
};

/// Where clients and attackers go.
pub(crate) struct Target {
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Expects the PROXY protocol, of nobody whom it trusts.
    pub(crate) proxied: SocketAddr,
    pub(crate) authority: Authority,
    /// For HTTP/1.1.
    pub(crate) tls: TlsConnector,
}

impl Target {
    pub(crate) fn listener(&self, over_tls: bool) -> SocketAddr {
        if over_tls { self.https } else { self.http }
    }
}

/// The gateway and its services.
pub(crate) struct Rig {
    gateway: Serving,
    pub(crate) target: Arc<Target>,
    _dir: TempDir,
}

impl Rig {
    /// `files`: `ulimit -n`; `core`: the one that it stays on.
    pub(crate) async fn start(files: Option<u32>, core: Option<&str>) -> Self {
        let (authority, dir) = (Authority::new(), tempfile::tempdir().unwrap());
        let certified = authority.certify("gw");
        fs::write(dir.path().join("gw.pem"), certified.cert).unwrap();
        fs::write(dir.path().join("gw.key"), certified.key).unwrap();
        // Each on a thread of its own: what attackers do to their services must not look like the gateway's doing.
        let honest = serve(false, || async {
            let service = Backend::named("honest").await;
            (service.addr, service)
        });
        let others = serve(core.is_some(), || async {
            let large = Bytes::from(vec![b'x'; LARGE]);
            let service = Backend::with(move |request| {
                Response::new(if request.uri().path() == "/large" { large.clone() } else { "ok".into() })
            });
            let service = service.await;
            (service.addr, service)
        });
        let silent = serve(core.is_some(), || async {
            let service = RawBackend::answering(b"", false).await;
            (service.addr, service)
        });
        let idle = serve(core.is_some(), || async {
            let service = RawBackend::answering(SWITCHED.as_bytes(), false).await;
            (service.addr, service)
        });
        let pouring = serve(core.is_some(), || async {
            let answer = format!("{SWITCHED}{}", "x".repeat(1 << 20));
            let service = RawBackend::answering(answer.leak().as_bytes(), false).await;
            (service.addr, service)
        });
        write_config(dir.path(), &config(honest, others, silent, [idle, pouring]));
        let limit = files.map_or(String::new(), |files| format!("ulimit -n {files} && "));
        let pinned = core.map_or(String::new(), |core| format!("taskset --cpu-list {core} "));
        let script = format!("{limit}exec {pinned}\"$@\"");
        let gateway = Serving::start_command(through_shell(dir.path(), &script), "admin").await;
        let address = |name| gateway.value(name).trim_start_matches("https://").parse().unwrap();
        let target = Target {
            http: address("http "),
            https: address("https "),
            admin: address("admin "),
            proxied: gateway.listener("proxied").parse().unwrap(),
            tls: authority.client(&[b"http/1.1"]).into(),
            authority,
        };
        Self { gateway, target: Arc::new(target), _dir: dir }
    }

    /// Until no client is connected.
    pub(crate) async fn rests(&self) {
        eventually("all clients are gone", || async {
            let shown = send(self.target.admin, get("/metrics")).await;
            text(&shown).contains("\nmillgate_file_places_used{part=\"clients\"} 0\n")
        })
        .await;
    }

    pub(crate) fn memory_kib(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most since [`Self::forget_peak`].
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) {
        // A kernel without this counts from the process's start, and the peak is then only larger.
        let _ = fs::write(format!("/proc/{}/clear_refs", self.gateway.pid()), "5");
    }

    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.gateway.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }
}

const SWITCHED: &str = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
/// Content of `/large`: more than a client's first window.
const LARGE: usize = 300_000;

/// The address of a service on a thread of its own, until the process ends.
fn serve<S, F: Future<Output = (SocketAddr, S)>>(
    steps_back: bool,
    start: impl FnOnce() -> F + Send + 'static,
) -> SocketAddr {
    let (said, addr) = std::sync::mpsc::channel();
    thread::spawn(move || {
        if steps_back {
            step_back();
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (addr, _service) = start().await;
            said.send(addr).unwrap();
            std::future::pending::<()>().await;
        });
    });
    addr.recv().unwrap()
}

/// One worker, so that attackers and honest clients share it. Times that a stall may take are short; all limits have their
/// defaults.
fn config(
    honest: SocketAddr,
    others: SocketAddr,
    silent: SocketAddr,
    [idle, pouring]: [SocketAddr; 2],
) -> String {
    format!(
        "workers: 1\nlisten: {{http: [\"127.0.0.1:0\", {{bind: \"127.0.0.1:0\", name: proxied, proxy_protocol: required}}],\n  \
           admin: \"127.0.0.1:0\", header_timeout: 2s, trusted_proxies: [\"192.0.2.1\"],\n  \
           https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key}}}}\n\
         routes:\n  - {{path: /honest, service: honest}}\n  \
           - {{path: /others, service: others}}\n  - {{path: /large, service: others, timeout: {{idle: 1s}}}}\n  \
           - {{path: /silent/**, service: silent, timeout: {{idle: 1s}}}}\n  \
           - {{path: /idle, service: idle, upgrade: [echo], timeout: {{tunnel: 1s}}}}\n  \
           - {{path: /pouring, service: pouring, upgrade: [echo], timeout: {{tunnel: 1s}}}}\n\
         services:\n  honest: {{hosts: [\"{honest}\"]}}\n  others: {{hosts: [\"{others}\"]}}\n  \
           silent: {{hosts: [\"{silent}\"], breaker: off, outlier: off}}\n  \
           idle: {{hosts: [\"{idle}\"], breaker: off, outlier: off}}\n  \
           pouring: {{hosts: [\"{pouring}\"], breaker: off, outlier: off}}\n"
    )
}

/// This thread gets what others of this process leave of its core: what an attacker computes is its own affair, and must not
/// look like the gateway's doing.
pub(crate) fn step_back() {
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let id = thread.file_name().unwrap();
    // Also where the process was started as one for which the others wait.
    let done = Command::new("chrt").args(["--idle", "--pid", "0"]).arg(id).output();
    assert!(done.is_ok_and(|said| said.status.success()), "chrt of util-linux is needed");
}
