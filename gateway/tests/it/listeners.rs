//! Several listeners with names, and routes that are for some of them.

use std::{net::SocketAddr, path::Path};

use http::StatusCode;
use rustls_pki_types::ServerName;
use serde_json::json as value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{
    DEADLINE,
    authority::Authority,
    backend::{Backend, closed_port},
    client::{get, header, http2, json, raw, request, send, status, text},
    eventually,
    gateway::{TestGateway, config_path, write_config},
};

/// The first address of a listener.
fn address_of(gateway: &TestGateway, name: &str) -> SocketAddr {
    gateway
        .listeners()
        .iter()
        .find(|listening| *listening.listener.name == *name)
        .expect("the listener")
        .address
}

/// Writes `NAME.pem` and `NAME.key`. Each file aside first, so that the watcher never sees half of one.
fn write_pair(dir: &Path, name: &str, authority: &Authority) {
    let pair = authority.certify(&format!("{name}.example"));
    for (ending, text) in [("key", &pair.key), ("pem", &pair.cert)] {
        std::fs::write(dir.join("aside"), text).unwrap();
        std::fs::rename(dir.join("aside"), dir.join(format!("{name}.{ending}"))).unwrap();
    }
}

const TWO: &str = "listen: {admin: \"127.0.0.1:0\", http: [\"127.0.0.1:0\", \
     {bind: [\"127.0.0.1:0\", \"[::1]:0\"], name: internal}]}\n";

fn config(listen: &str, routes: &str, backends: [&Backend; 2]) -> String {
    let [open, inside] = backends.map(|backend| backend.addr);
    format!(
        "{listen}routes:\n{routes}services: {{open: {{hosts: [\"{open}\"]}}, inside: {{hosts: [\"{inside}\"]}}}}\n"
    )
}

#[tokio::test]
async fn a_route_of_a_listener_is_for_its_clients_only() {
    let (open, inside) = (Backend::named("open").await, Backend::named("inside").await);
    let routes = "  - {path: /**, service: open}\n  - {path: /**, service: inside, listener: internal}\n  \
         - {path: POST /metrics, service: inside, listener: internal}\n  - {path: GET /metrics, service: open, listener: http}\n";
    let gateway = TestGateway::start(&config(TWO, routes, [&open, &inside])).await;
    let body = async |address, path| text(&send(address, get(path)).await).to_owned();
    for _ in 0..4 {
        assert_eq!(body(address_of(&gateway, "http"), "/a").await, "open");
        assert_eq!(body(address_of(&gateway, "internal"), "/a").await, "inside");
    }
    // All addresses of a listener have its name.
    let of_v6 = gateway.listeners().iter().find(|listening| listening.address.is_ipv6()).unwrap();
    assert_eq!((&*of_v6.listener.name, &*body(of_v6.address, "/a").await), ("internal", "inside"));
    // A client of one listener does not learn the methods of the other one's routes: `/**` takes those of this one.
    let posted = send(address_of(&gateway, "http"), request("POST", "/metrics", "")).await;
    assert_eq!(text(&posted), "open");
    assert_eq!(body(address_of(&gateway, "internal"), "/metrics").await, "inside");
}

#[tokio::test]
async fn both_protocols_come_through_a_listener_and_what_only_another_one_has_is_404() {
    let (open, inside) = (Backend::named("open").await, Backend::named("inside").await);
    let routes =
        "  - {path: POST /only/**, service: inside, listener: internal}\n  - {path: /a, service: open}\n";
    let gateway = TestGateway::start(&config(TWO, routes, [&open, &inside])).await;
    for (listener, expected) in
        [("http", StatusCode::NOT_FOUND), ("internal", StatusCode::METHOD_NOT_ALLOWED)]
    {
        let address = address_of(&gateway, listener);
        let reply = send(address, get("/only/a")).await;
        assert_eq!(reply.status(), expected, "{listener}");
        let mut client = http2(address).await;
        let asked = http::Request::get("http://gw/only/a").body(http_body_util::Empty::<bytes::Bytes>::new());
        assert_eq!(client.send_request(asked.unwrap()).await.unwrap().status(), expected, "{listener}");
    }
    // Paths with two readings are judged by the routes of the same listener.
    assert_eq!(status(address_of(&gateway, "http"), "/only//a").await, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn each_tls_listener_has_its_own_certificate_also_after_a_refused_reload() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let (shop, office) = (Authority::new(), Authority::new());
    write_pair(dir.path(), "shop", &shop);
    write_pair(dir.path(), "office", &office);
    let pair = |name| format!("cert_file: {name}.pem, key_file: {name}.key");
    let listen = format!(
        "listen: {{admin: \"127.0.0.1:0\", http: \"127.0.0.1:0\", https: [{{bind: \"127.0.0.1:0\", {}}}, \
         {{bind: \"127.0.0.1:0\", name: office, {}}}]}}\n",
        pair("shop"),
        pair("office"),
    );
    let routes = "  - {path: /**, service: open, listener: https}\n";
    let config = config(&listen, routes, [&backend, &backend]);
    let gateway = TestGateway::start_in(dir, &config).await;
    let believes = async |authority: &Authority, listener: &str, name: &'static str| {
        let connector = TlsConnector::from(authority.client(&[b"http/1.1"]));
        let stream = TcpStream::connect(address_of(&gateway, listener)).await.unwrap();
        connector.connect(ServerName::try_from(name).unwrap(), stream).await.is_ok()
    };
    assert!(
        believes(&shop, "https", "shop.example").await && believes(&office, "office", "office.example").await
    );
    assert!(
        !believes(&shop, "office", "shop.example").await
            && !believes(&office, "https", "office.example").await
    );
    // A renewed certificate of one of them counts although the configuration is refused.
    let renewed = Authority::new();
    write_pair(gateway.dir.path(), "office", &renewed);
    gateway.rewrite(&config.replace("routes:", "ruotes:"));
    gateway.reload().await.unwrap_err();
    eventually("the renewed certificate is shown", async || {
        believes(&renewed, "office", "office.example").await
    })
    .await;
    assert!(believes(&shop, "https", "shop.example").await);
    let metrics = text(&send(gateway.admin(), get("/metrics")).await).to_owned();
    for listener in ["https", "office"] {
        let family = format!("millgate_certificate_expiry_timestamp_seconds{{listener=\"{listener}\"");
        assert!(metrics.contains(&family), "{metrics}");
    }
}

#[tokio::test]
async fn one_listener_redirects_and_another_one_serves() {
    let backend = Backend::named("one").await;
    let listen = "listen: {admin: \"127.0.0.1:0\", http: [{bind: \"127.0.0.1:0\", redirect: \"https:443\"}, \
         {bind: \"127.0.0.1:0\", name: internal}]}\n";
    let gateway =
        TestGateway::start(&config(listen, "  - {path: /**, service: open}\n", [&backend, &backend])).await;
    let redirected = send(address_of(&gateway, "http"), get("/a?b")).await;
    assert_eq!((redirected.status().as_u16(), header(&redirected, "location")), (308, "https://gw/a?b"));
    assert_eq!(status(address_of(&gateway, "internal"), "/a?b").await, 200);
    // A reload that waits for a restart neither moves a redirect nor ends it.
    let swapped = listen.replace("redirect: \"https:443\"", "name: public");
    gateway.rewrite(&config(&swapped, "  - {path: /**, service: open}\n", [&backend, &backend]));
    gateway.reload().await.unwrap();
    assert_eq!(status(address_of(&gateway, "http"), "/a").await, 308);
    assert_eq!(status(address_of(&gateway, "internal"), "/a").await, 200);
}

#[tokio::test]
async fn listeners_keep_their_names_until_the_restart_and_routes_follow_those() {
    let (open, inside) = (Backend::named("open").await, Backend::named("inside").await);
    let routes = "  - {path: /a, service: inside, listener: internal}\n  - {path: /b, service: open}\n";
    let gateway = TestGateway::start(&config(TWO, routes, [&open, &inside])).await;
    let renamed = TWO.replace("internal", "office");
    let routes = routes.replace("internal", "office");
    gateway.rewrite(&config(&renamed, &routes, [&open, &inside]));
    gateway.reload().await.unwrap();
    let shown = json(&send(gateway.admin(), get("/api/v1/config")).await);
    assert_eq!(shown["waiting_for_restart"], value!(["listen.http"]));
    // Nothing of the new name is open, so its routes wait as well; they must not become public meanwhile.
    for listening in gateway.listeners() {
        assert_eq!(status(listening.address, "/a").await, 404);
        assert_eq!(status(listening.address, "/b").await, 200);
    }
}

#[tokio::test]
async fn names_are_in_the_log_the_metrics_and_the_admin_api() {
    let (open, inside) = (Backend::named("open").await, Backend::named("inside").await);
    let routes = "  - {path: /a, service: inside, listener: [internal, http]}\n";
    let top = format!("access_log: {{format: json, file: access.log}}\n{TWO}");
    let gateway = TestGateway::start(&config(&top, routes, [&open, &inside])).await;
    assert_eq!(status(address_of(&gateway, "internal"), "/a").await, 200);
    let shown = json(&send(gateway.admin(), get("/api/v1/config")).await);
    let names: Vec<_> =
        shown["listeners"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["http", "internal", "internal"]);
    assert_eq!(shown["listeners"][0]["url"], format!("http://{}", address_of(&gateway, "http")));
    let routes = json(&send(gateway.admin(), get("/api/v1/routes")).await);
    assert_eq!(routes["routes"][0]["listeners"], value!(["http", "internal"]));
    assert_eq!(routes["routes"][0]["name"], "/a on http,internal");
    // What is no HTTP counts for the listener through which it came.
    let internal = address_of(&gateway, "internal");
    raw(internal, &[b"\x16\x03\x01 no HTTP\r\n\r\n"], false, DEADLINE).await;
    let line = "millgate_connection_errors_total{listener=\"internal\",reason=\"bad_request\"} 1";
    eventually("the error is counted", async || gateway.shows(line).await).await;
    let refusals = json(&send(gateway.admin(), get("/api/v1/refusals")).await);
    assert_eq!(refusals["refusals"][0]["listener"], "internal");
    let log = gateway.dir.path().join("access.log");
    eventually("the line is written", async || {
        std::fs::read_to_string(&log).unwrap_or_default().contains(r#""tls":false,"listener":"internal","#)
    })
    .await;
}

#[tokio::test]
async fn a_second_gateway_at_the_address_of_one_listener_does_not_start_at_all() {
    let backend = Backend::named("one").await;
    let routes = "  - {path: /**, service: open}\n";
    let taken = TestGateway::start(&config(TWO, routes, [&backend, &backend])).await;
    let internal = address_of(&taken, "internal");
    let free = closed_port();
    let listen =
        format!("listen: {{admin: \"off\", http: [\"{free}\", {{bind: \"{internal}\", name: internal}}]}}\n");
    let dir = tempfile::tempdir().unwrap();
    write_config(dir.path(), &config(&listen, routes, [&backend, &backend]));
    let options = millgate::RunOptions {
        config: millgate::ConfigSource::File(config_path(dir.path())),
        state_dir: None,
    };
    let error = millgate::Gateway::start(options).await.err().expect("the address is taken").to_string();
    assert!(error.contains("listen.http") && error.contains(&internal.to_string()), "{error}");
    assert!(TcpStream::connect(free).await.is_err(), "the listener that could be bound is closed again");
}
