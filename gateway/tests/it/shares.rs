//! One connection, or one client, takes no service away from the others.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    commands::run,
    support::{
        client::{Connection, get, http2, json, send, text},
        eventually,
        gateway::TestGateway,
    },
};

/// Answers at once, except for `/hold`, which it never answers.
struct Holding {
    addr: SocketAddr,
    held: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl Holding {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let held = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&held);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, Arc::clone(&counted)));
            }
        });
        Self { addr, held, task }
    }

    fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, held: Arc<AtomicUsize>) {
    let mut request = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        request.push(byte);
        if !request.ends_with(b"\r\n\r\n") {
            continue;
        }
        if request.starts_with(b"GET /hold") {
            held.fetch_add(1, Ordering::SeqCst);
        } else if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
            return;
        }
        request.clear();
    }
}

fn config(service: &Holding, max_inflight: u32, more: &str) -> String {
    format!(
        "{more}access_log: {{format: json, file: access.log}}\nroutes:\n  - {{path: /**, service: one}}\nservices:\n  \
         one: {{hosts: [\"{}\"], max_inflight: {max_inflight}}}\n",
        service.addr
    )
}

fn stream_of(path: &str) -> Request<Full<Bytes>> {
    Request::get(format!("http://gw{path}")).body(Full::default()).unwrap()
}

/// Opens so many streams that are never answered; the statuses of those that are refused come at once.
fn hold(sender: &SendRequest<Full<Bytes>>, streams: usize) -> JoinSet<StatusCode> {
    let mut all = JoinSet::new();
    for _ in 0..streams {
        let mut sender = sender.clone();
        all.spawn(async move { sender.send_request(stream_of("/hold")).await.unwrap().status() });
    }
    all
}

async fn in_flight(gateway: &TestGateway) -> u64 {
    let services = send(gateway.admin(), get("/api/v1/services")).await;
    json(&services)["services"][0]["in_flight"].as_u64().unwrap()
}

#[tokio::test]
async fn a_connection_that_fills_a_service_leaves_half_of_it_to_others_and_none_of_them_fails() {
    let service = Holding::start().await;
    let gateway = TestGateway::start(&config(&service, 16, "")).await;
    let hog = http2(gateway.http).await;
    let mut held = hold(&hog, 40);
    let mut refused = 0;
    while refused < 32 {
        assert_eq!(held.join_next().await.unwrap().unwrap(), 503);
        refused += 1;
    }
    eventually("half of the slots are held", || async { service.held() == 8 }).await;
    // Beside it, over both protocols: as many at a time as there are slots left.
    let mut honest = JoinSet::new();
    for _ in 0..6 {
        let addr = gateway.http;
        honest.spawn(async move {
            let mut client = Connection::open(addr).await;
            for _ in 0..50 {
                assert_eq!(client.send(get("/ok")).await.status(), 200);
            }
        });
    }
    let addr = gateway.http;
    honest.spawn(async move {
        let mut client = http2(addr).await;
        for _ in 0..50 {
            client.ready().await.unwrap();
            let reply = client.send_request(stream_of("/ok")).await.unwrap();
            assert_eq!(reply.status(), 200);
            reply.into_body().collect().await.unwrap();
        }
    });
    while let Some(done) = honest.join_next().await {
        done.unwrap();
    }
    let line = "millgate_local_replies_total{route=\"/**\",reason=\"connection_share\"} 32";
    eventually("it is counted by its own reason", || gateway.shows(line)).await;
    eventually("it is logged", || async {
        let log = std::fs::read_to_string(gateway.dir.path().join("access.log")).unwrap_or_default();
        log.lines()
            .any(|line| line.contains("\"status\":503") && line.contains("\"flags\":\"connection_share\""))
    })
    .await;
    // What it had is free again when it is gone.
    drop((held, hog));
    eventually("nothing is in flight", || async { in_flight(&gateway).await == 0 }).await;
    let again = http2(gateway.http).await;
    let _held = hold(&again, 8);
    eventually("another one may have as much", || async { service.held() == 16 }).await;
}

/// A page with its scripts and pictures over one connection, at a service with the default limit.
#[tokio::test]
async fn a_hundred_streams_of_one_connection_are_served_at_a_time_by_default() {
    let service = Holding::start().await;
    let gateway = TestGateway::start(&config(&service, 1024, "")).await;
    let client = http2(gateway.http).await;
    let mut held = hold(&client, 100);
    eventually("all are at the service", || async { service.held() == 100 }).await;
    assert!(held.try_join_next().is_none(), "none was refused");
}

#[tokio::test]
async fn a_trusted_proxy_may_have_everything_since_its_connection_carries_many_clients() {
    let service = Holding::start().await;
    let listen = "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n";
    let gateway = TestGateway::start(&config(&service, 16, listen)).await;
    let proxy = http2(gateway.http).await;
    let _held = hold(&proxy, 16);
    eventually("all slots are its own", || async { service.held() == 16 }).await;
}

#[tokio::test]
async fn switched_off_one_connection_may_have_everything() {
    let service = Holding::start().await;
    let gateway = TestGateway::start(&config(&service, 16, "limits: {per_connection: off}\n")).await;
    let client = http2(gateway.http).await;
    let _held = hold(&client, 16);
    eventually("all slots are its own", || async { service.held() == 16 }).await;
}

#[tokio::test]
async fn check_advises_a_share_per_client_at_the_edge_only() {
    let dir = tempfile::tempdir().unwrap();
    let rest =
        "version: 1\nroutes:\n  - {path: /**, service: one}\nservices: {one: {hosts: [\"127.0.0.1:9\"]}}\n";
    for (more, advised) in [
        ("listen: {http: \"0.0.0.0:8080\"}\n", true),
        ("listen: {http: \"[2001:db8::1]:8080\"}\n", true),
        ("listen: {http: \"0.0.0.0:8080\"}\nlimits: {per_client: off}\n", false),
        ("listen: {http: \"0.0.0.0:8080\"}\nlimits: {per_client: 5%}\n", false),
        ("listen: {http: \"0.0.0.0:8080\", trusted_proxies: [10.0.0.0/8]}\n", false),
        ("listen: {http: [\"127.0.0.1:8080\", \"10.1.2.3:8080\", \"[fd00::1]:8080\"]}\n", false),
    ] {
        std::fs::write(dir.path().join("routes.yaml"), format!("{rest}{more}")).unwrap();
        let said = run(dir.path(), &["check"]).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(said.err.contains("W012"), advised, "{more}{}{}", said.err, said.out);
    }
}

#[tokio::test]
async fn an_address_has_its_share_over_all_its_connections_where_that_is_asked_for() {
    let service = Holding::start().await;
    // The proxy names the client's address, so one machine can be many clients.
    let more = "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}\n\
                limits: {per_client: 12.5%}\n";
    let gateway = TestGateway::start(&config(&service, 16, more)).await;
    let ask = |client: &'static str, path: &'static str| {
        let addr = gateway.http;
        async move {
            let mut request = get(path);
            request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
            Connection::open(addr).await.send(request).await
        }
    };
    let mut held = JoinSet::new();
    for at in 0..8 {
        // One customer's /64.
        let client = ["2001:db8::1", "2001:db8::2"][at % 2];
        held.spawn(ask(client, "/hold"));
    }
    eventually("half of the slots are held", || async { service.held() == 8 }).await;
    let refused = ask("2001:db8::3", "/ok").await;
    assert_eq!((refused.status().as_u16(), json(&refused)["code"].as_str()), (503, Some("overloaded")));
    assert!(json(&refused)["detail"].as_str().unwrap().contains("for this client"), "{}", text(&refused));
    for client in ["2001:db8:0:1::1", "192.0.2.1"] {
        assert_eq!(ask(client, "/ok").await.status(), 200, "{client}");
    }
    let line = "millgate_local_replies_total{route=\"/**\",reason=\"client_share\"} 1";
    eventually("it is counted by its own reason", || gateway.shows(line)).await;
    held.abort_all();
    eventually("its slots are free again", || async { in_flight(&gateway).await == 0 }).await;
    assert_eq!(ask("2001:db8::3", "/ok").await.status(), 200);
}
