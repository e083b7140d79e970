//! Consul servers with a configuration of their own: with ACLs, with TLS, or three of them with one leader.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{START_TIMEOUT, find_binary, restartable_port};
use crate::client::{Client, ClientConfig, QueryOptions};

/// The token that may do everything, where ACLs are on.
pub const MASTER_TOKEN: &str = "11111111-1111-1111-1111-111111111111";

/// One Consul server; killed on drop, with its folder.
#[derive(Debug)]
pub struct ConsulServer {
    binary: PathBuf,
    folder: PathBuf,
    arguments: Vec<String>,
    client: ClientConfig,
    child: Option<Child>,
}

impl ConsulServer {
    /// `consul agent -dev` with these settings merged in. `None` if there is no binary.
    ///
    /// # Panics
    /// If it does not come up, or there is no binary although `MILLGATE_REQUIRE_SERVERS=1`.
    pub async fn dev(settings: Value) -> Option<Self> {
        Self::dev_for(settings, |addr, _| ClientConfig::new(format!("http://{addr}"))).await
    }

    /// As [`ConsulServer::dev`] with ACLs that deny what no token allows. See [`MASTER_TOKEN`].
    ///
    /// # Panics
    /// As [`ConsulServer::dev`].
    pub async fn dev_with_acls() -> Option<Self> {
        let settings = json!({"acl": {
            "enabled": true,
            "default_policy": "deny",
            "down_policy": "extend-cache",
            "tokens": {"master": MASTER_TOKEN, "agent": MASTER_TOKEN},
        }});
        Self::dev_for(settings, |addr, _| ClientConfig {
            token: Some(MASTER_TOKEN.to_owned()),
            ..ClientConfig::new(format!("http://{addr}"))
        })
        .await
    }

    /// As [`ConsulServer::dev`], over HTTPS with client certificates. `certificates` is a folder with `ca.pem`,
    /// `server.pem`, `server.key`, and the files that `client` names.
    ///
    /// # Panics
    /// As [`ConsulServer::dev`].
    pub async fn dev_with_tls(
        certificates: &Path,
        client: impl Fn(SocketAddr) -> ClientConfig,
    ) -> Option<Self> {
        let file = |name: &str| certificates.join(name).display().to_string();
        let settings = json!({
            "ports": {"http": -1},
            "ca_file": file("ca.pem"),
            "cert_file": file("server.pem"),
            "key_file": file("server.key"),
            "verify_incoming_https": true,
        });
        Self::dev_for(settings, |addr, settings| {
            settings["ports"]["https"] = addr.port().into();
            client(addr)
        })
        .await
    }

    /// Makes the files that [`ConsulServer::dev_with_tls`] needs, and `client.pem` with `client.key`. False if there is no
    /// binary.
    ///
    /// # Panics
    /// If the binary cannot make them.
    pub fn certificates(folder: &Path) -> bool {
        let Some(binary) = find_binary() else { return false };
        let calls: [&[&str]; 3] = [
            &["tls", "ca", "create"],
            &["tls", "cert", "create", "-server", "-dc", "dc1"],
            &["tls", "cert", "create", "-client", "-dc", "dc1"],
        ];
        for arguments in calls {
            let made = Command::new(&binary).args(arguments).current_dir(folder).output();
            assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{arguments:?}: {made:?}");
        }
        for (from, to) in [
            ("consul-agent-ca.pem", "ca.pem"),
            ("dc1-server-consul-0.pem", "server.pem"),
            ("dc1-server-consul-0-key.pem", "server.key"),
            ("dc1-client-consul-0.pem", "client.pem"),
            ("dc1-client-consul-0-key.pem", "client.key"),
        ] {
            let renamed = std::fs::rename(folder.join(from), folder.join(to));
            assert!(renamed.is_ok(), "{from}: {renamed:?}");
        }
        true
    }

    async fn dev_for(
        mut settings: Value,
        client: impl Fn(SocketAddr, &mut Value) -> ClientConfig,
    ) -> Option<Self> {
        let binary = find_binary()?;
        let [http, rpc, lan, wan] = std::array::from_fn(|_| restartable_port());
        settings["ports"]["server"] = rpc.into();
        settings["ports"]["serf_lan"] = lan.into();
        settings["ports"]["serf_wan"] = wan.into();
        settings["ports"]["dns"] = (-1).into();
        settings["ports"]["grpc"] = (-1).into();
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, http));
        if settings["ports"]["http"].is_null() {
            settings["ports"]["http"] = http.into();
        }
        let client = client(addr, &mut settings);
        let arguments = ["-dev", "-node=n1", "-datacenter=dc1", "-bind=127.0.0.1", "-client=127.0.0.1"];
        let mut server = Self::prepare(binary, &settings, &arguments, client);
        server.start().await;
        Some(server)
    }

    /// Three servers that elect a leader, on 127.0.0.11, .12 and .13 (loopback addresses of Linux). `None` if there is
    /// no binary.
    ///
    /// # Panics
    /// As [`ConsulServer::dev`].
    pub async fn three() -> Option<Vec<Self>> {
        let binary = find_binary()?;
        let [http, rpc, lan] = std::array::from_fn(|_| restartable_port());
        let mut servers: Vec<Self> = (11..=13)
            .map(|last| {
                let ip = Ipv4Addr::new(127, 0, 0, last);
                let settings = json!({
                    "datacenter": "dc1", "node_name": format!("n{last}"), "server": true, "bootstrap_expect": 3,
                    "bind_addr": ip, "client_addr": ip, "retry_interval": "1s",
                    "retry_join": [format!("127.0.0.11:{lan}"), format!("127.0.0.12:{lan}"), format!("127.0.0.13:{lan}")],
                    "ports": {"http": http, "https": -1, "grpc": -1, "dns": -1, "server": rpc, "serf_lan": lan, "serf_wan": -1},
                    "disable_update_check": true, "disable_host_node_id": true, "performance": {"raft_multiplier": 1},
                    "connect": {"enabled": false},
                });
                let client = ClientConfig::new(format!("http://{ip}:{http}"));
                Self::prepare(binary.clone(), &settings, &[], client)
            })
            .collect();
        for server in &mut servers {
            server.spawn();
        }
        for server in &mut servers {
            server.wait().await;
        }
        Some(servers)
    }

    /// The URL of the server's HTTP API.
    pub fn url(&self) -> &str {
        &self.client.address
    }

    /// A client that may do everything.
    ///
    /// # Panics
    /// If its files cannot be read.
    pub fn client(&self) -> Client {
        Client::new(self.client.clone()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Kills the server as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if the process is gone already.
            let _gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Kills the server and starts it again; its memory is lost.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn restart(&mut self) {
        self.kill();
        self.start().await;
    }

    /// Stops the process, with its sockets open, until [`ConsulServer::thaw`].
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let id = self.child.as_ref().map(Child::id).unwrap_or_default();
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {id}")).status();
        assert!(sent.is_ok_and(|status| status.success()), "SIG{name} could not be sent");
    }

    fn prepare(binary: PathBuf, settings: &Value, arguments: &[&str], client: ClientConfig) -> Self {
        let folder = std::env::temp_dir().join(format!("millgate-consul-{}", uuid::Uuid::new_v4()));
        let file = folder.join("consul.json");
        let written =
            std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, settings.to_string()));
        assert!(written.is_ok(), "{}: {written:?}", folder.display());
        let mut arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        if arguments.is_empty() {
            arguments.push(format!("-data-dir={}", folder.join("data").display()));
        }
        arguments.extend([format!("-config-file={}", file.display()), "-log-level=err".to_owned()]);
        Self { binary, folder, arguments, client, child: None }
    }

    async fn start(&mut self) {
        self.spawn();
        self.wait().await;
    }

    fn spawn(&mut self) {
        let log = || {
            std::fs::File::options()
                .create(true)
                .append(true)
                .open(self.folder.join("log"))
                .map_or_else(|_| Stdio::null(), Stdio::from)
        };
        let child = Command::new(&self.binary)
            .arg("agent")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log())
            .spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("{}: {error}", self.binary.display())));
    }

    async fn wait(&mut self) {
        let client = self.client();
        let give_up = Instant::now() + START_TIMEOUT;
        while !is_ready(&client).await {
            let ended = self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() >= give_up {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                self.kill();
                panic!("consul does not come up:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ConsulServer {
    fn drop(&mut self) {
        self.kill();
        // A folder that stays behind is one in the system's folder for such things.
        let _removed = std::fs::remove_dir_all(&self.folder);
    }
}

/// A leader, the node with its addresses, and its check. With the client's token and certificates.
async fn is_ready(client: &Client) -> bool {
    if !matches!(client.status_leader().await, Ok(Some(_))) {
        return false;
    }
    let nodes = client.read_at("/v1/catalog/nodes", &QueryOptions::default()).await;
    let body = nodes.ok().and_then(|nodes| nodes.body).unwrap_or_default();
    if !String::from_utf8_lossy(&body).contains("lan_ipv4") {
        return false;
    }
    let own = client.health_service("consul", &QueryOptions::default()).await;
    own.is_ok_and(|answer| {
        answer.entries.iter().any(|entry| entry.checks.iter().any(|check| check.check_id == "serfHealth"))
    })
}
