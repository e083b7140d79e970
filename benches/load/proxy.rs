//! A running proxy: it is started on its cores, and ready when it has answered.

use std::{
    fs,
    fs::File,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use rustls::{ClientConfig, ClientConnection, StreamOwned};

pub(crate) use crate::program::Program;
use crate::{
    certificate,
    program::{Executable, Invocation},
};

/// A process that ends with this one.
#[derive(Debug)]
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        // TERM comes first, so that a master ends its workers. `kill` is used because the standard library cannot
        // send TERM.
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

/// The parameters of a start.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) program: Program,
    pub(crate) executable: &'a Executable,
    /// The configuration, with its placeholders filled in.
    pub(crate) config: PathBuf,
    pub(crate) dir: &'a Path,
    pub(crate) cores: &'a str,
    pub(crate) workers: usize,
    pub(crate) port: u16,
    pub(crate) endpoint_ports: &'a [u16],
}

impl Start<'_> {
    pub(crate) fn args(&self) -> Vec<String> {
        self.program.args(&Invocation {
            config: &self.config,
            dir: self.dir,
            port: self.port,
            workers: self.workers,
            endpoint_ports: self.endpoint_ports,
        })
    }

    /// The file for the program's output.
    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("output.log")
    }
}

impl Proxy {
    /// Starts a proxy and waits until it answers the probe with 200.
    pub(crate) fn start(start: &Start<'_>, probe: &Probe) -> anyhow::Result<Self> {
        let output = File::create(start.log())?;
        let child = start
            .executable
            .pinned(start.cores)
            .args(start.args())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .context("sh cannot be started")?;
        let mut proxy = Self { process: Running(child), port: start.port };
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            let said = match probe.ask(start.port, probe.token.as_deref()) {
                Ok(200) => break,
                Ok(status) => format!("answers {status}"),
                Err(error) => error.to_string(),
            };
            let ended = proxy.process.0.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                bail!("does not serve: {said}\n{}", tail(&start.log()));
            }
            thread::sleep(POLL);
        }
        // A proxy that accepts every request does less than the others, and its number would be wrong.
        if probe.token_is_checked {
            let status = probe.ask(start.port, None)?;
            ensure!(status == 401, "a request without a token is answered with {status}, not 401");
        }
        Ok(proxy)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Ends it as an operator does, and waits until it has ended by itself.
    pub(crate) fn stop(mut self, timeout: Duration) -> anyhow::Result<ExitStatus> {
        let signalled = Command::new("kill").arg(self.pid().to_string()).status()?;
        ensure!(signalled.success(), "kill: {signalled}");
        let deadline = Instant::now() + timeout;
        loop {
            match self.process.0.try_wait()? {
                Some(status) => return Ok(status),
                None if Instant::now() > deadline => bail!("does not end within {timeout:?}"),
                None => thread::sleep(POLL),
            }
        }
    }
}

/// The end of a log.
pub(crate) fn tail(log: &Path) -> String {
    let log = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<_> = log.lines().collect();
    lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default().join("\n")
}

const TAIL_LINES: usize = 8;

/// One request like those of the load generator, but always a GET.
#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) path: String,
    pub(crate) token: Option<String>,
    pub(crate) token_is_checked: bool,
    /// The TLS configuration if the proxy uses TLS.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Probe {
    /// Sends the request and returns the status of the answer.
    pub(crate) fn ask(&self, port: u16, token: Option<&str>) -> anyhow::Result<u16> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let authorization = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
        let path = &self.path;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: close\r\n\r\n");
        match &self.tls {
            None => status(stream, &request),
            Some(config) => {
                let connection = ClientConnection::new(Arc::clone(config), certificate::name())?;
                status(StreamOwned::new(connection, stream), &request)
            }
        }
    }
}

fn status(mut stream: impl Read + Write, request: &str) -> anyhow::Result<u16> {
    stream.write_all(request.as_bytes())?;
    let mut start = [0; STATUS_LINE_BYTES];
    stream.read_exact(&mut start).context("no answer")?;
    let status = std::str::from_utf8(&start)?.strip_prefix("HTTP/1.1 ").context("no HTTP/1.1 answer")?;
    Ok(status.parse()?)
}

/// `HTTP/1.1 200`
const STATUS_LINE_BYTES: usize = 12;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A port that is free now. If another program takes it before the proxy does, the proxy reports that.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_log_the_end_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        fs::write(&log, "1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
        assert_eq!(tail(&log), "2\n3\n4\n5\n6\n7\n8\n9");
        assert_eq!(tail(&dir.path().join("none")), "");
    }
}
