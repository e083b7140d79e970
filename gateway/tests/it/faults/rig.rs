//! A gateway, four instances, a proxy before Consul that counts and can be set to fail, and load.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Method;
use millgate_registry::{
    CheckStatus, Client, HttpClient, HttpOptions, Lease, ServiceRegistration,
    testing::{ConsulServer, MASTER_TOKEN},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::support::{
    backend::Backend,
    client::{Connection, get, json as body_of, send, text},
    eventually,
    gateway::TestGateway,
};

/// How long the gateway's queries block here, so that each fault is met soon.
pub(super) const WAIT: Duration = Duration::from_secs(3);
/// What is promised: at most this many requests to the registry in any [`WINDOW`].
const REQUESTS_MAX: usize = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// Scenarios at once; each has a Consul and a gateway.
const TOGETHER: usize = 4;
const INSTANCES: [&str; 4] = ["a", "b", "c", "d"];
/// Between two requests of one client, so that all scenarios together leave the machine alive.
const PACE: Duration = Duration::from_millis(4);
const CLIENTS: usize = 2;
/// With `MILLGATE_FAULT_REQUESTS=10000`, each scenario goes on until it had so many requests; then scenarios run one after
/// the other, with more clients that hardly pause.
fn requests_min() -> Option<usize> {
    std::env::var("MILLGATE_FAULT_REQUESTS").ok().map(|text| text.parse().expect("a number of requests"))
}
const REQUESTS_MIN: usize = 100;
/// The instances' heartbeats come every second.
const LEASE_TTL: Duration = Duration::from_secs(3);

/// The time that a fault lasts; nothing is waited for.
pub(super) async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs a scenario when fewer than [`TOGETHER`] others run.
pub(super) fn on_a_thread_of_its_own<F: Future<Output = ()>>(scenario: impl FnOnce() -> F) {
    static RUNNING: (Mutex<usize>, std::sync::Condvar) = (Mutex::new(0), std::sync::Condvar::new());
    struct Turn;
    impl Drop for Turn {
        fn drop(&mut self) {
            *RUNNING.0.lock().unwrap() -= 1;
            RUNNING.1.notify_all();
        }
    }
    let together = if requests_min().is_some() { 1 } else { TOGETHER };
    let running = RUNNING.0.lock().unwrap();
    *RUNNING.1.wait_while(running, |running| *running >= together).unwrap() += 1;
    let _turn = Turn;
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
        .block_on(scenario());
}

pub(super) struct Rig {
    /// One before each agent that the gateway may query.
    proxies: Vec<Proxy>,
    gateway: TestGateway,
    instances: Vec<Backend>,
    newcomer: Option<Backend>,
}

impl Rig {
    /// Returns when all instances are routed to. With a token, the gateway reads it from a file.
    pub(super) async fn start(consul: &ConsulServer, token: Option<&str>) -> Self {
        Self::start_asking(&[consul], consul, token).await
    }

    /// The gateway queries any of `agents`; the instances are registered with `home`.
    pub(super) async fn start_asking(
        agents: &[&ConsulServer],
        home: &ConsulServer,
        token: Option<&str>,
    ) -> Self {
        let mut instances = Vec::new();
        for name in INSTANCES {
            instances.push(Backend::named(name).await);
        }
        for (name, backend) in INSTANCES.iter().zip(&instances) {
            register(&home.client(), name, backend.addr).await;
        }
        let mut proxies = Vec::new();
        for agent in agents {
            proxies.push(Proxy::start(agent.url()).await);
        }
        let addresses: Vec<String> =
            proxies.iter().map(|proxy| format!("\"http://{}\"", proxy.addr)).collect();
        let dir = tempfile::tempdir().unwrap();
        let token_line = token.map_or("", |token| {
            std::fs::write(dir.path().join("token"), token).unwrap();
            ", token_file: token"
        });
        let config = format!(
            "discovery: {{consul: {{address: [{}], wait: {}s{token_line}}}}}\n\
             routes:\n  - {{path: /**, service: web}}\n",
            addresses.join(", "),
            WAIT.as_secs()
        );
        let gateway = TestGateway::start_in(dir, &config).await;
        let rig = Self { proxies, gateway, instances, newcomer: None };
        eventually("all instances are routed to", || rig.reaches(&INSTANCES)).await;
        rig
    }

    /// Clients that send requests all the time until [`Rig::end`].
    pub(super) fn load(&self) -> Load {
        let load = Load::default();
        let (clients, pace) = match requests_min() {
            None => (CLIENTS, PACE),
            Some(_) => (8 * CLIENTS, Duration::from_millis(1)),
        };
        for _ in 0..clients {
            let (addr, load) = (self.gateway.http, load.clone());
            tokio::spawn(async move {
                let mut connection = Connection::open(addr).await;
                while !load.stop.load(Ordering::SeqCst) {
                    let outcome = match connection.try_send(get("/x")).await {
                        Ok(reply) if reply.status() == 200 => None,
                        Ok(reply) => Some(format!("{} {}", reply.status(), text(&reply))),
                        Err(error) => {
                            connection = Connection::open(addr).await;
                            Some(error.to_string())
                        }
                    };
                    load.failed.lock().unwrap().extend(outcome);
                    load.sent.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(pace).await;
                }
            });
        }
        load
    }

    /// The promises.
    pub(super) async fn end(self, load: &Load) {
        let enough = requests_min().unwrap_or(REQUESTS_MIN);
        eventually("there were requests enough", async || load.sent.load(Ordering::SeqCst) >= enough).await;
        load.stop.store(true, Ordering::SeqCst);
        let (sent, failed) = (load.sent.load(Ordering::SeqCst), load.failed.lock().unwrap().clone());
        let mut asked: Vec<(Instant, String)> = self.proxies.iter().flat_map(Proxy::requests).collect();
        asked.sort();
        println!("{sent} requests, {} failed; {} to the registry", failed.len(), asked.len());
        assert!(failed.is_empty(), "{} of {sent} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
        for window in asked.windows(REQUESTS_MAX + 1) {
            let took = window[REQUESTS_MAX].0 - window[0].0;
            let told = || asked.iter().map(|(at, what)| (*at - asked[0].0, what)).collect::<Vec<_>>();
            assert!(took >= WINDOW, "{} to the registry within {took:?}: {:?}", REQUESTS_MAX + 1, told());
        }
        assert!(self.instances.iter().all(|backend| backend.served() > 0));
    }

    /// The service has another index, and no instance less.
    pub(super) async fn changes(&self, consul: &ConsulServer) {
        let check = web("d", self.instances[3].addr).ttl_check_id();
        consul.client().check_update(&check, CheckStatus::Warning, "a change").await.unwrap();
    }

    /// The fault is over: the registry is followed again.
    pub(super) async fn a_new_instance_is_routed_to(&mut self, consul: &ConsulServer) {
        let backend = Backend::named("new").await;
        register(&consul.client(), "new", backend.addr).await;
        self.newcomer = Some(backend);
        eventually("the new instance is routed to", || self.reaches(&["a", "b", "c", "d", "new"])).await;
    }

    /// The proxy before this agent.
    pub(super) fn proxy(&self, agent: usize) -> &Proxy {
        &self.proxies[agent]
    }

    /// The agent that the gateway queried last.
    pub(super) fn asked(&self) -> usize {
        let last = |at: &usize| self.proxies[*at].requests().last().map(|(at, _)| *at);
        (0..self.proxies.len()).max_by_key(last).unwrap()
    }

    /// The watch as the admin listener shows it.
    pub(super) async fn watch(&self) -> Value {
        let services = body_of(&send(self.gateway.admin(), get("/api/v1/services")).await);
        services["services"][0]["watch"].clone()
    }

    pub(super) async fn has_failed(&self) -> bool {
        self.watch().await["errors"].as_u64() > Some(0)
    }

    pub(super) async fn doubts(&self) -> bool {
        self.watch().await["empty_held"].as_u64() > Some(0)
    }

    pub(super) fn write_token(&self, token: &str) {
        let (file, aside) =
            (self.gateway.dir.path().join("token"), self.gateway.dir.path().join("token.new"));
        std::fs::write(&aside, token).unwrap();
        std::fs::rename(aside, file).unwrap();
    }

    /// The instances renew their registrations themselves.
    pub(super) fn leases(&self, consul: &ConsulServer) -> Vec<Lease> {
        let lease = |(name, backend): (&&str, &Backend)| {
            let registration = web(name, backend.addr).ttl(LEASE_TTL);
            Lease::register(consul.client(), registration)
        };
        INSTANCES.iter().zip(&self.instances).map(lease).collect()
    }

    /// Takes all connections that the agent has for this machine, and any that becomes free.
    pub(super) fn hoard_connections(consul: &ConsulServer, count: usize) -> tokio::task::JoinSet<()> {
        let addr: SocketAddr = consul.url().trim_start_matches("http://").parse().unwrap();
        let mut hoard = tokio::task::JoinSet::new();
        for _ in 0..count + 15 {
            hoard.spawn(async move {
                loop {
                    if let Ok(mut stream) = TcpStream::connect(addr).await {
                        // Unfinished, so that the agent waits for the rest; refused, it is reset.
                        let _refused = stream.write_all(b"GET /v1/status/leader HTTP/1.1\r\n").await;
                        let _ended = stream.read_u8().await;
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
        hoard
    }

    async fn reaches(&self, names: &[&str]) -> bool {
        let mut client = Connection::open(self.gateway.http).await;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..names.len() * 4 {
            let Ok(reply) = client.try_send(get("/x")).await else { return false };
            seen.insert(text(&reply).to_owned());
        }
        names.iter().all(|name| seen.contains(*name))
    }
}

fn web(name: &str, addr: SocketAddr) -> ServiceRegistration {
    ServiceRegistration::http("web", name, "127.0.0.1", addr.port()).ttl(Duration::from_mins(5))
}

async fn register(client: &Client, name: &str, addr: SocketAddr) {
    let registration = web(name, addr);
    // A server that elects refuses for a moment.
    eventually("the registration is accepted", || async {
        client.register(&registration).await.is_ok()
            && client.check_update(&registration.ttl_check_id(), CheckStatus::Passing, "").await.is_ok()
    })
    .await;
}

#[derive(Clone, Default)]
pub(super) struct Load {
    sent: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

/// Policies and tokens, made with the master token.
pub(crate) struct Acl {
    url: String,
    http: HttpClient,
}

impl Acl {
    /// What a gateway needs.
    pub(crate) const READ: &str =
        "service_prefix \"\" { policy = \"read\" } node_prefix \"\" { policy = \"read\" }";

    pub(crate) fn of(consul: &ConsulServer) -> Self {
        Self { url: consul.url().to_owned(), http: HttpClient::new(&HttpOptions::default()).unwrap() }
    }

    /// A new token with a policy of the same name; its secret.
    pub(crate) async fn token(&self, name: &str, rules: &str) -> String {
        self.put("policy", &json!({"Name": name, "Rules": rules})).await;
        let token = self.put("token", &json!({"Policies": [{"Name": name}]})).await;
        token["SecretID"].as_str().unwrap().to_owned()
    }

    /// Replaces the rules of a policy.
    pub(crate) async fn policy(&self, name: &str, rules: &str) {
        let policies = self.call(Method::GET, "/v1/acl/policies", "").await;
        let policy = policies.as_array().unwrap().iter().find(|policy| policy["Name"] == name).unwrap();
        let id = policy["ID"].as_str().unwrap();
        self.put(&format!("policy/{id}"), &json!({"ID": id, "Name": name, "Rules": rules})).await;
    }

    pub(super) async fn delete(&self, secret: &str) {
        let tokens = self.call(Method::GET, "/v1/acl/tokens", "").await;
        for token in tokens.as_array().unwrap() {
            let id = token["AccessorID"].as_str().unwrap();
            let whole = self.call(Method::GET, &format!("/v1/acl/token/{id}"), "").await;
            if whole["SecretID"] == secret {
                self.call(Method::DELETE, &format!("/v1/acl/token/{id}"), "").await;
                return;
            }
        }
        panic!("no such token");
    }

    async fn put(&self, what: &str, body: &Value) -> Value {
        self.call(Method::PUT, &format!("/v1/acl/{what}"), &body.to_string()).await
    }

    async fn call(&self, method: Method, path: &str, body: &str) -> Value {
        let headers =
            [("x-consul-token".parse().unwrap(), MASTER_TOKEN.parse().unwrap())].into_iter().collect();
        let url = format!("{}{path}", self.url);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let answer = self.http.send(method, &url, headers, body, WINDOW, 1 << 20).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {:?}", answer.body);
        serde_json::from_slice(&answer.body).unwrap()
    }
}

/// What the proxy does to answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    None,
    /// Reads the request and sends nothing, as long as the connection is open.
    Silence,
    /// Half of the body, then the end.
    Truncate,
    /// Without `X-Consul-Index`.
    StripIndex,
    /// `[]` under an index that grows, at once, for the blocking queries.
    Empty,
}

/// One request per connection on either side. Counts requests.
pub(super) struct Proxy {
    addr: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    met: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(Instant, String)>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn start(consul: &str) -> Self {
        let consul: SocketAddr = consul.trim_start_matches("http://").parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (fault, met, requests) = (Arc::new(Mutex::new(Fault::None)), Arc::default(), Arc::default());
        let serving = Serving {
            consul,
            fault: Arc::clone(&fault),
            met: Arc::clone(&met),
            requests: Arc::clone(&requests),
        };
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                open.spawn(async move { serving.exchange(stream).await });
            }
        });
        Self { addr, fault, met, requests, task }
    }

    pub(super) fn set(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// How many exchanges were disturbed.
    pub(super) fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }

    fn requests(&self) -> Vec<(Instant, String)> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone)]
struct Serving {
    consul: SocketAddr,
    fault: Arc<Mutex<Fault>>,
    met: Arc<AtomicUsize>,
    requests: Arc<Mutex<Vec<(Instant, String)>>>,
}

impl Serving {
    /// An end of the exchange in any other way than a whole answer is what the gateway has to bear.
    async fn exchange(&self, mut client: TcpStream) -> Option<()> {
        let head = read_head(&mut client).await?;
        let length = head.to_ascii_lowercase();
        let length = length.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        client.read_exact(&mut body).await.ok()?;
        let line = head.lines().next()?.to_owned();
        self.requests.lock().unwrap().push((Instant::now(), line.clone()));
        let fault = *self.fault.lock().unwrap();
        if fault == Fault::Empty && line.contains("index=") {
            let index = self.met.fetch_add(1, Ordering::SeqCst) + 1_000_000;
            let answer = format!(
                "HTTP/1.1 200 OK\r\nX-Consul-Index: {index}\r\nX-Consul-Knownleader: true\r\nContent-Length: 2\r\n\
                 Connection: close\r\n\r\n[]"
            );
            return client.write_all(answer.as_bytes()).await.ok();
        }
        if fault == Fault::Silence {
            self.met.fetch_add(1, Ordering::SeqCst);
            let _ended = client.read_u8().await;
            return None;
        }
        let mut consul = TcpStream::connect(self.consul).await.ok()?;
        let head = head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
        consul.write_all(&[head.as_bytes(), &body].concat()).await.ok()?;
        let mut answer = Vec::new();
        // A gateway that gives up ends the query at Consul, too.
        tokio::select! {
            read = consul.read_to_end(&mut answer) => { read.ok()?; }
            _ = client.read_u8() => return None,
        }
        // As it is when the answer comes: the fault may have begun while the query was pending.
        let answer = match *self.fault.lock().unwrap() {
            Fault::Truncate => {
                self.met.fetch_add(1, Ordering::SeqCst);
                answer.truncate(answer.len() - 20);
                answer
            }
            Fault::StripIndex => {
                self.met.fetch_add(1, Ordering::SeqCst);
                String::from_utf8(answer).ok()?.replace("X-Consul-Index", "X-Not-Index").into_bytes()
            }
            Fault::None | Fault::Silence | Fault::Empty => answer,
        };
        client.write_all(&answer).await.ok()?;
        client.shutdown().await.ok()
    }
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}
