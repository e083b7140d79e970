//! An instance, and real Consul agents and servers, for the tests of this package and of the gateway. This is not a part of
//! the product.
//!
//! The binary is `$CONSUL_BIN`, or `consul` on `PATH`. Without one, tests print that they are skipped, unless
//! `MILLGATE_REQUIRE_SERVERS=1` makes that a failure. Failures panic, as they do in a test.

mod server;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use rand::RngExt;
use tokio::time::Instant;

use crate::client::{Client, ClientConfig, QueryOptions};
use crate::http::{HttpClient, HttpOptions};
use crate::watch::{Instance, Status};

pub use server::{ConsulServer, MASTER_TOKEN};

/// An instance at 10.0.0.1:80, without tags and meta.
pub fn instance(id: &str, status: Status) -> Instance {
    Instance {
        datacenter: "dc1".to_owned(),
        node: "n1".to_owned(),
        id: id.to_owned(),
        address: "10.0.0.1".to_owned(),
        port: 80,
        tagged_addresses: BTreeMap::new(),
        weight: 1,
        status,
        tags: Vec::new(),
        meta: BTreeMap::new(),
    }
}

/// `consul agent -dev` on free ports of the loopback interface; killed on drop. State lives in its memory, so
/// a restart begins with an empty catalog and a low index.
#[derive(Debug)]
pub struct ConsulProcess {
    binary: PathBuf,
    datacenter: &'static str,
    ports: [u16; 4],
    child: Option<Child>,
}

impl ConsulProcess {
    /// Starts an agent and waits until it has a leader and its own node is healthy. `None` if there is no
    /// binary.
    ///
    /// # Panics
    /// If the agent does not come up, or there is no binary although `MILLGATE_REQUIRE_SERVERS=1`.
    pub async fn start() -> Option<Self> {
        Self::start_in("dc1").await
    }

    /// Starts two agents, of `dc1` and of `dc2`, that are joined into a federation.
    ///
    /// # Panics
    /// As [`ConsulProcess::start`], and if they do not come together.
    pub async fn start_federation() -> Option<[Self; 2]> {
        let (first, second) = tokio::join!(Self::start_in("dc1"), Self::start_in("dc2"));
        let (first, second) = (first?, second?);
        let join = format!("{}/v1/agent/join/127.0.0.1:{}?wan=1", second.url(), first.ports[3]);
        let http = HttpClient::new(&HttpOptions::default()).expect("a client without options");
        let (headers, nothing) = (HeaderMap::new(), Bytes::new());
        let joined = http.send(Method::PUT, &join, headers, nothing, START_TIMEOUT, NODES_BYTES_MAX).await;
        assert!(joined.as_ref().is_ok_and(|answer| answer.status == 200), "no federation: {joined:?}");
        for (agent, other) in [(&first, "dc2"), (&second, "dc1")] {
            let client = Client::new(ClientConfig::new(agent.url())).expect("an address of our own");
            let there = QueryOptions { datacenter: Some(other.to_owned()), ..QueryOptions::default() };
            let give_up = Instant::now() + START_TIMEOUT;
            while client.health_service("consul", &there).await.is_err() {
                assert!(Instant::now() < give_up, "{other} is not reached within {START_TIMEOUT:?}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Some([first, second])
    }

    async fn start_in(datacenter: &'static str) -> Option<Self> {
        let binary = find_binary()?;
        let mut failure = String::new();
        // A port that was free may be taken a moment later.
        for _ in 0..START_ATTEMPTS {
            let ports = std::array::from_fn(|_| restartable_port());
            let mut process = Self { binary: binary.clone(), datacenter, ports, child: None };
            match process.run().await {
                Ok(()) => return Some(process),
                Err(why) => failure = why,
            }
        }
        panic!("consul does not start: {failure}")
    }

    /// The address of the agent's HTTP API.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.ports[0]))
    }

    /// The path of the program, which tests also run as a client.
    pub fn binary(&self) -> PathBuf {
        self.binary.clone()
    }

    /// The ports of HTTP, RPC, and gossip in the LAN and in the WAN.
    pub fn ports(&self) -> [u16; 4] {
        self.ports
    }

    /// The URL of the agent's HTTP API.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr())
    }

    /// Kills the agent as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if the process is gone already.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Kills the agent and starts it again on the same ports, with an empty catalog.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn restart(&mut self) {
        self.kill();
        if let Err(why) = self.run().await {
            panic!("consul does not start again: {why}");
        }
    }

    async fn run(&mut self) -> Result<(), String> {
        let [http, rpc, lan, wan] = self.ports;
        let child = Command::new(&self.binary)
            .args(["agent", "-dev", "-node=n1", "-bind=127.0.0.1", "-client=127.0.0.1"])
            .arg(format!("-datacenter={}", self.datacenter))
            .args(["-dns-port=-1", "-grpc-port=-1", "-log-level=err"])
            .arg(format!("-http-port={http}"))
            .arg(format!("-server-port={rpc}"))
            .arg(format!("-serf-lan-port={lan}"))
            .arg(format!("-serf-wan-port={wan}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        self.child = Some(child);
        let client = Client::new(ClientConfig::new(self.url())).map_err(|error| error.to_string())?;
        let give_up = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Err(format!("it ended with {status}"));
            }
            if is_ready(&client).await {
                return Ok(());
            }
            if Instant::now() >= give_up {
                self.kill();
                return Err(format!("not ready within {START_TIMEOUT:?}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ConsulProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A leader, the node with its addresses, and its check: the catalog follows the leader by up to a second.
async fn is_ready(client: &Client) -> bool {
    if !matches!(client.status_leader().await, Ok(Some(_))) {
        return false;
    }
    let nodes = format!("{}/v1/catalog/nodes", client.address());
    let Ok(http) = HttpClient::new(&HttpOptions::default()) else { return false };
    match http.get(&nodes, START_TIMEOUT, NODES_BYTES_MAX).await {
        Ok(answer) if String::from_utf8_lossy(&answer.body).contains("lan_ipv4") => {}
        _ => return false,
    }
    let own = client.health_service("consul", &QueryOptions::default()).await;
    own.is_ok_and(|answer| {
        answer.entries.iter().any(|entry| entry.checks.iter().any(|check| check.check_id == "serfHealth"))
    })
}

fn find_binary() -> Option<PathBuf> {
    let found = match std::env::var_os("CONSUL_BIN").filter(|path| !path.is_empty()) {
        Some(path) => Some(PathBuf::from(path)),
        None => std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path).map(|folder| folder.join("consul")).find(|file| file.is_file())
        }),
    };
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no consul on PATH, and MILLGATE_REQUIRE_SERVERS=1 (CONSUL_BIN=\"$(.ci/consul)\" fetches one)"
        );
        println!("skipped: no consul on PATH");
    }
    found
}

/// A port of the loopback interface that is free, and that is likely to be free again after a restart.
///
/// Port 0 is not enough: the system gives a port from the ephemeral range to the next socket as soon as the
/// server is down, and a client that keeps calling it may even connect to itself.
///
/// # Panics
/// If no port is free.
pub fn restartable_port() -> u16 {
    for _ in 0..PORT_ATTEMPTS {
        let port = rand::rng().random_range(PORTS);
        let address = (Ipv4Addr::LOCALHOST, port);
        // Serf uses both.
        if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
            return port;
        }
    }
    panic!("no free port in {PORTS:?}")
}

/// Starts something on a port that has just been given up, as soon as the port is free.
///
/// A program that another thread starts holds every socket of this process until its `exec`, and so a port can be taken for
/// some milliseconds after its listener was closed.
///
/// # Panics
/// If `start` fails for another reason, or the port is not free within half a minute.
pub async fn on_freed_port<T, E, F>(start: impl Fn() -> F) -> T
where
    E: Error + 'static,
    F: Future<Output = Result<T, E>>,
{
    let give_up = Instant::now() + START_TIMEOUT;
    loop {
        match start().await {
            Ok(started) => return started,
            Err(error) if is_taken(&error) && Instant::now() < give_up => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("it does not start again: {error}"),
        }
    }
}

fn is_taken(error: &(dyn Error + 'static)) -> bool {
    let own = error.downcast_ref::<std::io::Error>();
    own.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        || error.source().is_some_and(is_taken)
}

const START_ATTEMPTS: usize = 3;
const PORT_ATTEMPTS: usize = 1000;
/// Below the range that Linux gives to sockets which ask for any port (32768 to 60999).
const PORTS: std::ops::Range<u16> = 20_000..32_000;
/// There is one node.
const NODES_BYTES_MAX: usize = 64 * 1024;
/// About a second on an idle machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
