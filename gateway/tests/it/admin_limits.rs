//! The admin listener has time limits, few connections and names of its own: nothing that is done to it stops the data
//! plane, and nothing that is done there stops it.

use std::{net::SocketAddr, time::Duration};

use http::Request;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::support::{
    backend::Backend,
    client::{Connection, Reply, get, raw, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn config(backend: SocketAddr) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", header_timeout: 1s, idle_timeout: 2s}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{backend}\"]}}\n"
    )
}

#[tokio::test]
async fn a_thousand_idle_admin_connections_stop_neither_admin_nor_the_data_plane() {
    let backend = Backend::named("one").await;
    // The time limits are long: what makes room is the limit of connections.
    let long = config(backend.addr).replace("header_timeout: 1s, idle_timeout: 2s", "header_timeout: 60s");
    let gateway = TestGateway::start(&long).await;
    let mut idle = Vec::new();
    for at in 0..1000 {
        idle.push(TcpStream::connect(gateway.admin()).await.unwrap());
        if at % 100 == 0 {
            assert_eq!(status(gateway.admin(), "/livez").await, 200);
            assert_eq!(status(gateway.http, "/x").await, 200);
        }
    }
    eventually("at most 64 are open", || async {
        let shown = send(gateway.admin(), get("/metrics")).await;
        let open = text(&shown).lines().find_map(|line| line.strip_prefix("millgate_admin_connections "));
        open.unwrap().parse::<usize>().unwrap() <= 64
    })
    .await;
    assert!(!gateway.shows("millgate_admin_refusals_total{reason=\"shed\"} 0").await);
    assert!(gateway.shows("millgate_admin_refusals_total{reason=\"full\"} 0").await);
}

/// Each has its answer within milliseconds, so that places become free all the time.
#[tokio::test]
async fn a_hundred_clients_that_scrape_and_come_back_take_no_answer_from_another() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(backend.addr)).await;
    let admin = gateway.admin();
    let mut scrapers = JoinSet::new();
    for _ in 0..100 {
        scrapers.spawn(async move {
            loop {
                assert_eq!(send(admin, get("/metrics")).await.status(), 200);
            }
        });
    }
    for _ in 0..100 {
        assert_eq!(status(admin, "/livez").await, 200);
    }
    assert!(scrapers.try_join_next().is_none(), "no scraper was refused, either");
    assert!(gateway.shows("millgate_admin_refusals_total{reason=\"full\"} 0").await);
    scrapers.abort_all();
}

#[tokio::test]
async fn a_head_that_is_slow_and_a_connection_that_is_idle_are_closed() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(backend.addr)).await;
    let patience = Duration::from_secs(10);
    let head: [&[u8]; 1] = [b"GET /livez HTTP/1.1\r\nhost: gw\r\n"];
    let (half, silent) = tokio::join!(
        raw(gateway.admin(), &head, false, patience),
        raw(gateway.admin(), &[], false, patience)
    );
    assert!(half.1 && silent.1, "neither waits for ever");
    let whole: &[u8] = b"GET /livez HTTP/1.1\r\nhost: gw\r\n\r\n";
    let (answer, closed) = raw(gateway.admin(), &[whole], false, patience).await;
    assert!(answer.starts_with(b"HTTP/1.1 200") && closed, "idle between two requests");
    eventually("all three are counted", || {
        gateway.shows("millgate_admin_refusals_total{reason=\"timeout\"} 3")
    })
    .await;
}

/// A client that requests a large page and reads none of it keeps its place no longer than an idle one.
#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(backend.addr)).await;
    let mut client = TcpStream::connect(gateway.admin()).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: gw\r\n\r\n".repeat(2000);
    let _ = tokio::time::timeout(Duration::from_secs(1), client.write_all(&request)).await;
    eventually("it is cut", || async {
        !gateway.shows("millgate_admin_refusals_total{reason=\"timeout\"} 0").await
    })
    .await;
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest).await;
}

async fn with_host(addr: SocketAddr, host: &str) -> Reply {
    let request = Request::get("/livez").header("host", host).body(Full::default()).unwrap();
    Connection::open(addr).await.send(request).await
}

/// DNS rebinding: a page in the operator's browser reaches loopback under a name of the page's own.
#[tokio::test]
async fn a_request_for_a_name_that_is_not_ours_is_refused() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(backend.addr)).await;
    let own = gateway.admin().to_string();
    for host in ["localhost", "localhost:9900", "127.0.0.1", "[::1]:9900", own.as_str(), "gw"] {
        assert_eq!(with_host(gateway.admin(), host).await.status(), 200, "{host}");
    }
    for host in ["evil.test", "evil.test:9900", "localhost.evil.test"] {
        let reply = with_host(gateway.admin(), host).await;
        assert_eq!(reply.status(), 421, "{host}");
        assert!(text(&reply).contains("listen.admin_hosts"), "{}", text(&reply));
    }
    assert!(gateway.shows("millgate_admin_refusals_total{reason=\"host\"} 3").await);
}

#[tokio::test]
async fn the_embedded_registry_keeps_idle_connections_and_foreign_names_out_too() {
    use millgate_registry::{EmbeddedRegistry, RegistryOptions, ServerLimits};
    let options = RegistryOptions {
        listen: "127.0.0.1:0".parse().unwrap(),
        hosts: vec!["consul".to_owned()],
        limits: ServerLimits { connections: 8, ..ServerLimits::default() },
        ..RegistryOptions::default()
    };
    let registry = EmbeddedRegistry::start(options).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..40 {
        idle.push(TcpStream::connect(registry.addr()).await.unwrap());
    }
    for (host, expected) in [("consul:8500", 200), ("127.0.0.1:8500", 200), ("evil.test", 421)] {
        let request = Request::get("/v1/status/leader").header("host", host).body(Full::default()).unwrap();
        let reply = Connection::open(registry.addr()).await.send(request).await;
        assert_eq!(reply.status(), expected, "{host}");
    }
}
