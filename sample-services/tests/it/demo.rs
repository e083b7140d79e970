//! The demo from outside: the whole road from a client through the gateway to a service found in the registry.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use axum::http::Method;
use millgate_registry::{
    Client as RegistryClient, ClientConfig, EmbeddedRegistry, RegistryOptions,
    testing::{ConsulServer, MASTER_TOKEN},
};
use sample_services::demo::{
    Demo, DemoOptions, RegistryChoice,
    client::{Answer, Client, Version},
};
use serde_json::json;
use tokio::net::TcpListener;

use crate::support::product;

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn options() -> DemoOptions {
    let registry = RegistryChoice::Embedded(any_port());
    DemoOptions { http: any_port(), https: any_port(), admin: any_port(), registry, data: None }
}

#[tokio::test]
async fn the_demo_works_end_to_end_over_every_protocol() {
    let demo = Demo::start(options()).await.unwrap();
    for (name, client) in [
        ("http1", Client::cleartext(demo.http, Version::Http1)),
        ("h2c", Client::cleartext(demo.http, Version::Http2)),
        ("tls", Client::tls(demo.https, Version::Http1, &demo.ca_pem).unwrap()),
        ("h2", Client::tls(demo.https, Version::Http2, &demo.ca_pem).unwrap()),
    ] {
        Visitor { name, client, staff: &demo.staff_token }.walk().await;
    }
    demo.shutdown().await;
}

/// A new customer with one way to speak to the gateway.
struct Visitor<'a> {
    name: &'static str,
    client: Client,
    staff: &'a str,
}

impl Visitor<'_> {
    async fn walk(self) {
        let token = self.signs_up_and_logs_in().await;
        self.is_stopped_at_closed_doors(&token).await;
        self.buys(&token).await;
        self.asks_too_often(&token).await;
    }

    async fn signs_up_and_logs_in(&self) -> String {
        let email = format!("{}@example.org", self.name);
        let account = json!({"email": email, "name": self.name, "password": "correct horse"});
        let created = self.answer(self.client.post("/users", None, &account).await, 201);
        let credentials = json!({"email": email, "password": "correct horse"});
        let login = self.answer(self.client.post("/login", None, &credentials).await, 200);
        let token = login.body["access_token"].as_str().unwrap().to_owned();
        let path = created.headers["location"].to_str().unwrap();
        let own = self.answer(self.client.get(path, Some(&token)).await, 200);
        assert_eq!(own.body["email"], email);
        token
    }

    async fn is_stopped_at_closed_doors(&self, token: &str) {
        let unknown = self.client.get("/products", None).await;
        let unknown = self.problem(unknown, 401, "token_missing");
        assert!(unknown.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"), "{}", self.name);
        let forged = self.client.get("/products", Some("a.b.c")).await;
        self.problem(forged, 401, "token_invalid");
        let customer = self.client.post("/products", Some(token), &product("Own tea", 1, 1)).await;
        let customer = self.problem(customer, 403, "insufficient_scope");
        let challenge = customer.headers["www-authenticate"].to_str().unwrap();
        assert!(
            challenge.contains("insufficient_scope") && challenge.contains("catalog:write"),
            "{challenge}"
        );
        let nowhere = self.client.get("/nowhere", Some(token)).await;
        self.problem(nowhere, 404, "route_not_found");
        // A 404 of the service passes through as the service wrote it.
        let missing = self.client.get("/products/00000000-0000-0000-0000-000000000000", Some(token)).await;
        self.problem(missing, 404, "not_found");
    }

    async fn buys(&self, token: &str) {
        let name = format!("Tea for {}", self.name);
        let added = self.client.post("/products", Some(self.staff), &product(&name, 250, 5)).await;
        let added = self.answer(added, 201);
        let list = self.client.get("/products?sort=-created_at&limit=2", Some(token)).await;
        let list = self.answer(list, 200);
        assert_eq!(list.body["items"][0]["name"], json!(name));
        assert!(list.headers["link"].to_str().unwrap().ends_with("rel=\"next\""), "{}", self.name);

        let order = json!({"items": [{"product_id": added.body["id"], "quantity": 2}]});
        let placed = self.answer(self.client.post("/orders", Some(token), &order).await, 201);
        assert_eq!((&placed.body["total_cents"], &placed.body["status"]), (&json!(500), &json!("pending")));
        assert!(placed.headers.contains_key("x-request-id"), "{}", self.name);
        let path = placed.headers["location"].to_str().unwrap();
        let left =
            self.client.get(&format!("/products/{}", added.body["id"].as_str().unwrap()), Some(token)).await;
        assert_eq!(self.answer(left, 200).body["stock"], 3);

        let step = json!({"status": "confirmed"});
        let customer =
            self.client.send(Method::PATCH, &format!("{path}/status"), Some(token), Some(&step)).await;
        self.problem(customer, 403, "insufficient_scope");
    }

    /// The route allows bursts of 10; far more than that cannot pass, however slow the machine is.
    async fn asks_too_often(&self, token: &str) {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let (client, token) = (self.client.clone(), token.to_owned());
            calls.spawn(async move { client.get("/orders", Some(&token)).await });
        }
        let answers = calls.join_all().await;
        let (passed, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.as_ref().unwrap().status == 200);
        assert!(!passed.is_empty() && !refused.is_empty(), "{}: {} passed", self.name, passed.len());
        for answer in refused {
            let refused = self.problem(answer, 429, "rate_limited");
            let header = |name: &str| refused.headers[name].to_str().unwrap();
            assert!(header("retry-after").parse::<u64>().unwrap() >= 1, "{}", header("retry-after"));
            let (policy, state) = (header("ratelimit-policy"), header("ratelimit"));
            let name = policy.strip_suffix(";q=5;w=1").expect(policy);
            assert!(state.starts_with(&format!("{name};r=0;t=")), "{policy} but {state}");
        }
        for answer in passed {
            assert!(answer.unwrap().headers.contains_key("ratelimit"), "{}", self.name);
        }
    }

    #[track_caller]
    fn answer(&self, answer: anyhow::Result<Answer>, status: u16) -> Answer {
        let answer = answer.unwrap_or_else(|error| panic!("{}: {error:#}", self.name));
        assert_eq!(answer.status.as_u16(), status, "{}: {}", self.name, answer.body);
        answer
    }

    #[track_caller]
    fn problem(&self, answer: anyhow::Result<Answer>, status: u16, code: &str) -> Answer {
        let answer = self.answer(answer, status);
        assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", self.name);
        assert_eq!(answer.body["code"], code, "{}: {}", self.name, answer.body);
        assert_eq!(answer.body["status"], status, "{}", self.name);
        answer
    }
}

#[tokio::test]
async fn the_demo_leaves_nothing_behind_in_a_registry_that_was_there_before() {
    let own = RegistryOptions { listen: any_port(), ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(own).await.unwrap();
    let client = RegistryClient::new(ClientConfig::new(registry.url())).unwrap();
    let choice = RegistryChoice::Existing(registry.url());
    let demo = Demo::start(DemoOptions { registry: choice, ..options() }).await.unwrap();
    let mut names: Vec<_> = client.agent_services().await.unwrap().into_values().map(|s| s.service).collect();
    names.sort();
    assert_eq!(names, ["orders", "products", "products", "users"]);
    demo.shutdown().await;
    assert!(client.agent_services().await.unwrap().is_empty());
    registry.shutdown().await;
}

#[tokio::test]
async fn a_kept_folder_keeps_accounts_and_goods() {
    let folder = tempfile::tempdir().unwrap();
    let kept = DemoOptions { data: Some(folder.path().to_owned()), ..options() };
    let first = Demo::start(kept.clone()).await.unwrap();
    let product_id = first.product_id.clone();
    first.shutdown().await;
    let second = Demo::start(kept).await.unwrap();
    assert_eq!(second.product_id, product_id);
    second.shutdown().await;
}

#[tokio::test]
async fn an_edited_routes_yaml_is_kept_and_used() {
    let own = RegistryOptions { listen: any_port(), ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(own).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let choice = RegistryChoice::Existing(registry.url());
    let kept = DemoOptions { registry: choice, data: Some(folder.path().to_owned()), ..options() };
    let first = Demo::start(kept.clone()).await.unwrap();
    assert!(first.notes.is_empty(), "{:?}", first.notes);
    let file = first.routes_file.clone();
    first.shutdown().await;
    let edited = std::fs::read_to_string(&file).unwrap().replace(
        "path: GET|HEAD /products/**",
        "path: GET|HEAD /products/**, headers: {response: {set: {X-Edited: kept}}}",
    );
    std::fs::write(&file, &edited).unwrap();
    let second = Demo::start(kept).await.unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), edited);
    assert_eq!(second.notes, ["routes.yaml was edited; it is kept as it is"]);
    let client = Client::cleartext(second.http, Version::Http1);
    let list = client.get("/products?limit=1", Some(&second.customer_token)).await.unwrap();
    assert_eq!(list.headers["x-edited"], "kept");
    second.shutdown().await;
    registry.shutdown().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named_together_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap();
    // Free, but not twice.
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (flag, options) in [
        ("--http", DemoOptions { http: addr, ..options() }),
        ("--https", DemoOptions { https: addr, ..options() }),
        ("--admin", DemoOptions { admin: addr, ..options() }),
        ("--registry", DemoOptions { registry: RegistryChoice::Embedded(addr), ..options() }),
        ("--https", DemoOptions { http: free, https: free, ..options() }),
    ] {
        let Err(error) = Demo::start(options).await else {
            panic!("{flag}: started on a port that is taken")
        };
        let line = error.to_string();
        assert!(
            line.starts_with("cannot listen on 127.0.0.1:") && line.ends_with(&format!("{flag} ADDR")),
            "{line}"
        );
        let offer = format!("use the Consul that is there with --registry http://{addr}");
        assert_eq!(line.contains(&offer), flag == "--registry", "{line}");
        assert!(!line.contains('\n'), "{line}");
    }
}

#[tokio::test]
async fn the_binary_says_ready_and_stops_cleanly_on_sigterm() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    for flag in ["--http", "--https", "--admin", "--registry"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    let mut log = tempfile::NamedTempFile::new().unwrap();
    command.env("RUST_LOG", "info").env_remove("NO_COLOR").stderr(log.reopen().unwrap());
    let mut demo = Process(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (printed, lines) = within_deadline(move || {
        let printed: Vec<_> = lines.by_ref().take_while(|line| line != "ready").collect();
        (printed, lines)
    })
    .await;
    assert_eq!(printed.iter().filter(|line| line.starts_with("curl ")).count(), 4, "{printed:#?}");
    let load = printed.iter().find(|line| line.contains("[1-1000]")).unwrap().clone();
    if Command::new("curl").arg("--version").output().is_ok() {
        let counted = within_deadline(move || Command::new("sh").args(["-c", &load]).output().unwrap()).await;
        assert_eq!(String::from_utf8_lossy(&counted.stdout).trim(), "1000 200");
    } else {
        assert!(std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none(), "no curl on PATH");
    }
    for word in ["customer", "staff"] {
        let token = printed.iter().find_map(|line| line.strip_prefix(word)).unwrap().trim();
        assert_eq!(token.split('.').count(), 3, "{token}");
    }
    demo.signal("TERM");
    // The end of its output is the end of the process.
    within_deadline(move || lines.for_each(drop)).await;
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
    let mut written = String::new();
    std::io::Read::read_to_string(&mut log, &mut written).unwrap();
    assert!(written.contains("INFO") && !written.contains('\u{1b}'), "a file has no colours: {written}");
}

/// At this registry, with other ports than the usual ones.
fn demo_at(registry: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    for flag in ["--http", "--https", "--admin"] {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.args(["--registry", registry]).stdout(Stdio::piped());
    command
}

#[tokio::test]
async fn a_registry_that_wants_a_token_gets_the_one_of_the_environment() {
    let Some(consul) = ConsulServer::dev_with_acls().await else { return };
    let mut demo = Process(demo_at(consul.url()).env("CONSUL_HTTP_TOKEN", MASTER_TOKEN).spawn().unwrap());
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let (printed, _lines) = within_deadline(move || {
        let printed: Vec<_> = lines.by_ref().take_while(|line| line != "ready").collect();
        (printed, lines)
    })
    .await;
    assert_eq!(printed.iter().filter(|line| line.starts_with("curl ")).count(), 4, "{printed:#?}");
    let registered = consul.client().agent_services().await.unwrap();
    assert_eq!(registered.len(), 4, "{registered:?}");
    demo.signal("TERM");
    assert_eq!(within_deadline(move || demo.0.wait().unwrap().code()).await, Some(0));
}

#[tokio::test]
async fn a_signal_ends_a_demo_that_waits_for_its_registry() {
    for signal in ["TERM", "INT"] {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = format!("http://{}", silent.local_addr().unwrap());
        let mut demo = Process(demo_at(&registry).spawn().unwrap());
        let asked = tokio::time::timeout(DEADLINE, silent.accept()).await.unwrap().unwrap();
        demo.signal(signal);
        // Without the signal it would wait four times for a registration, and then for the gateway.
        let ended = tokio::task::spawn_blocking(move || demo.0.wait().unwrap().code());
        let code = tokio::time::timeout(Duration::from_secs(20), ended).await.expect("in time").unwrap();
        assert_eq!(code, Some(0), "SIG{signal}");
        drop(asked);
    }
}

/// A child that does not outlive a failed test.
struct Process(Child);

impl Process {
    fn signal(&self, name: &str) {
        // `kill` is a command of every shell, though not a program of every machine.
        let kill = format!("kill -{name} {}", self.0.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
    }
}

async fn within_deadline<T: Send + 'static>(blocking: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::time::timeout(DEADLINE, tokio::task::spawn_blocking(blocking)).await.expect("in time").unwrap()
}

/// Reached only by a failure.
const DEADLINE: Duration = Duration::from_mins(1);
