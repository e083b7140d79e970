//! The gateway as a process, and a client that sends it one request after the other.

use std::{
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};

use crate::{Options, source::Source};

pub(crate) struct Gateway {
    child: Child,
    http: SocketAddr,
    admin: SocketAddr,
    folder: tempfile::TempDir,
}

/// One connection to the gateway.
pub(crate) struct Asking {
    sender: http1::SendRequest<Empty<Bytes>>,
}

impl Gateway {
    /// Starts a gateway with a route `/NAME` for each service, and waits until it is ready.
    pub(crate) async fn start(
        options: &Options,
        source: &Source,
        services: &[String],
        fixed: Option<SocketAddr>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let [http, admin] = [free_port()?, free_port()?];
        let mut config = format!(
            "version: 1\nworkers: 1\nlisten: {{http: \"{http}\", admin: \"{admin}\"}}\n\
             discovery: {{consul: {{address: \"{}\", flap_damping: off, max_watches: {}{}}}}}\naccess_log: {{format: off}}\nroutes:\n",
            source.url, MAX_WATCHES, source.tls
        );
        let fixed_name = fixed.map(|_| "fixed".to_owned());
        for name in services.iter().chain(&fixed_name) {
            writeln!(config, "  - {{path: /{name}, service: {name}, retry: off}}")?;
        }
        config.push_str("services:\n");
        for name in services {
            writeln!(config, "  {name}: {{consul: {{name: {name}}}, breaker: off}}")?;
        }
        if let Some(address) = fixed {
            writeln!(config, "  fixed: {{hosts: [\"{address}\"]}}")?;
        }
        let file = folder.path().join("routes.yaml");
        fs::write(&file, config)?;
        let log = fs::File::create(folder.path().join("log"))?;
        let child = Command::new(&options.millgate)
            .arg("run")
            .arg("-c")
            .arg(&file)
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("{}: build it first", options.millgate.display()))?;
        let mut gateway = Self { child, http, admin, folder };
        gateway.until_ready().await?;
        Ok(gateway)
    }

    async fn until_ready(&mut self) -> anyhow::Result<()> {
        let give_up = Instant::now() + READY_TIMEOUT;
        while Instant::now() < give_up {
            if let Some(status) = self.child.try_wait()? {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                bail!("the gateway ended with {status}:\n{log}");
            }
            if let Ok(mut admin) = Asking::connect(self.admin).await
                && matches!(admin.get("/readyz").await, Ok((200, _)))
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!("the gateway is not ready within {READY_TIMEOUT:?}")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.http
    }

    pub(crate) async fn ask(&self) -> anyhow::Result<Asking> {
        Asking::connect(self.http).await
    }

    /// The sum of all series of a metric, at most a second old.
    pub(crate) async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        // Once a second, the control loop copies what its watches have counted.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (_, text) = Asking::connect(self.admin).await?.get("/metrics").await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        let values = text.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            (rest.starts_with([' ', '{'])).then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        Ok(values.sum())
    }

    /// CPU time of the process so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // The name, in parentheses, may have spaces; utime and stime are the 14th and 15th field of the whole.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // This fails only if the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Asking {
    pub(crate) async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// The status and the content of the answer.
    pub(crate) async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Bytes)> {
        self.sender.ready().await?;
        let request = Request::get(path).header("host", "localhost").body(Empty::new())?;
        let response = tokio::time::timeout(ANSWER_TIMEOUT, self.sender.send_request(request)).await??;
        let status = response.status().as_u16();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }

    /// Sends requests until the answer is `wanted`. Returns the time of that answer.
    pub(crate) async fn until(
        &mut self,
        path: &str,
        what: &str,
        wanted: impl Fn(u16, &[u8]) -> bool,
    ) -> anyhow::Result<Instant> {
        let give_up = Instant::now() + CHANGE_TIMEOUT;
        loop {
            let (status, content) = self.get(path).await?;
            let now = Instant::now();
            if wanted(status, &content) {
                return Ok(now);
            }
            if now > give_up {
                bail!("{path}: no sign of {what} within {CHANGE_TIMEOUT:?}; the last answer is {status}");
            }
            // Without a pause, the requests would take the core from the processes that are measured.
            tokio::time::sleep(PAUSE).await;
        }
    }
}

fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// One blocking query for every service, whatever their number. A Consul in cleartext must allow as many
/// connections (`limits.http_max_conns_per_client`); over HTTPS they share one.
const MAX_WATCHES: usize = 1000;
const READY_TIMEOUT: Duration = Duration::from_mins(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const CHANGE_TIMEOUT: Duration = Duration::from_secs(30);
/// Adds half of itself to the measured times.
const PAUSE: Duration = Duration::from_millis(1);
