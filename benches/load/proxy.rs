//! The programs that are compared: how each is found, started on its core, and known to be ready.

use std::{
    env, fs,
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Program {
    Millgate,
    Nginx,
    Haproxy,
    Envoy,
    Relay,
}

impl Program {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "millgate" => Self::Millgate,
            "nginx" => Self::Nginx,
            "haproxy" => Self::Haproxy,
            "envoy" => Self::Envoy,
            "relay" => Self::Relay,
            _ => return None,
        })
    }

    /// Where the program is; `None`: this machine does not have it.
    pub(crate) fn find(self, millgate: &Path) -> Option<PathBuf> {
        match self {
            Self::Millgate => millgate.is_file().then(|| millgate.to_owned()),
            Self::Nginx => on_path("nginx"),
            Self::Haproxy => on_path("haproxy"),
            Self::Envoy => on_path("envoy"),
            Self::Relay => env::current_exe().ok(),
        }
    }

    /// First line of what it says about itself.
    pub(crate) fn version(self, path: &Path) -> String {
        let flag = match self {
            Self::Nginx | Self::Haproxy => "-v",
            Self::Millgate | Self::Envoy => "--version",
            Self::Relay => return "relay of this commit".to_owned(),
        };
        let Ok(output) = Command::new(path).arg(flag).output() else { return "unknown".to_owned() };
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        said.trim().lines().next().unwrap_or("unknown").trim().to_owned()
    }

    fn args(self, config: &Path, dir: &Path, port: u16, endpoint_ports: &[u16]) -> Vec<String> {
        let config = config.display().to_string();
        let dir = dir.display().to_string();
        match self {
            Self::Millgate => vec!["run".into(), "-c".into(), config, "--state-dir".into(), dir],
            Self::Nginx => vec!["-p".into(), dir, "-c".into(), config, "-g".into(), "daemon off;".into()],
            Self::Haproxy => vec!["-db".into(), "-f".into(), config],
            Self::Envoy => {
                ["--concurrency", "1", "--log-level", "warn", "--disable-hot-restart", "-c", &config]
                    .map(str::to_owned)
                    .to_vec()
            }
            Self::Relay => {
                let mut args = vec!["relay".into(), "--port".into(), port.to_string()];
                args.extend(endpoint_ports.iter().map(|port| format!("127.0.0.1:{port}")));
                args
            }
        }
    }
}

/// Names beside `PATH`: where Debian keeps daemons.
const DAEMON_DIRS: [&str; 2] = ["/usr/sbin", "/usr/local/sbin"];

pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&path).chain(DAEMON_DIRS.map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A command that stays on one core.
pub(crate) fn pinned(core: u32, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(core.to_string()).arg(program).stdin(Stdio::null());
    command
}

/// A process that ends with us.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // TERM first, so that a master takes its workers with it; `kill` because the standard library sends no TERM.
        let _ = Command::new("kill").arg(self.0.id().to_string()).stderr(Stdio::null()).status();
        let deadline = Instant::now() + TERM_TIMEOUT;
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(POLL);
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const TERM_TIMEOUT: Duration = Duration::from_secs(3);
const READY_TIMEOUT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(20);

/// A proxy that serves.
#[derive(Debug)]
pub(crate) struct Proxy {
    process: Running,
    pub(crate) port: u16,
}

/// What to start.
pub(crate) struct Start<'a> {
    pub(crate) program: Program,
    pub(crate) path: &'a Path,
    /// Filled in.
    pub(crate) config: &'a Path,
    pub(crate) dir: &'a Path,
    pub(crate) core: u32,
    pub(crate) port: u16,
    pub(crate) endpoint_ports: &'a [u16],
}

impl Proxy {
    /// Starts a proxy and waits until it answers the probe with 200.
    pub(crate) fn start(start: &Start<'_>, probe: &Probe<'_>) -> anyhow::Result<Self> {
        let log = start.dir.join("output.log");
        let output = File::create(&log)?;
        let child = pinned(start.core, start.path)
            .args(start.program.args(start.config, start.dir, start.port, start.endpoint_ports))
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("taskset (util-linux) cannot be started")?;
        let mut proxy = Self { process: Running(child), port: start.port };
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let said = match probe.ask(start.port, probe.token) {
                Ok(200) => break,
                Ok(status) => format!("answers {status}"),
                Err(error) => error.to_string(),
            };
            let ended = proxy.process.0.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default();
                let tail = log.lines().rev().take(8).collect::<Vec<_>>();
                let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                bail!("does not serve: {said}\n{tail}");
            }
            thread::sleep(POLL);
        }
        // A proxy that lets everybody in does less than the others, and its number would be a lie.
        if probe.token.is_some() {
            let status = probe.ask(start.port, None)?;
            ensure!(status == 401, "a request without a token is answered with {status}, not 401");
        }
        Ok(proxy)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }
}

/// One request as wrk will send it.
pub(crate) struct Probe<'a> {
    pub(crate) path: &'a str,
    pub(crate) token: Option<&'a str>,
}

impl Probe<'_> {
    /// The status of the answer.
    fn ask(&self, port: u16, token: Option<&str>) -> anyhow::Result<u16> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let path = self.path;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: close\r\n\r\n")?;
        let mut start = [0; STATUS_LINE_BYTES];
        stream.read_exact(&mut start).context("no answer")?;
        let status = std::str::from_utf8(&start)?.strip_prefix("HTTP/1.1 ").context("no HTTP/1.1 answer")?;
        Ok(status.parse()?)
    }
}

/// `HTTP/1.1 200`
const STATUS_LINE_BYTES: usize = 12;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A port that is free now. Another program could take it before the proxy does; then the proxy says so.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_machine_does_not_have_is_not_found() {
        assert_eq!(on_path("no-such-proxy"), None);
        assert_eq!(Program::Millgate.find(Path::new("/no/such/millgate")), None);
        assert!(on_path("sh").is_some());
    }
}
