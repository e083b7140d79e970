//! The PROXY protocol in front of connections: who may send a header, what it changes, and what is refused.

use std::net::SocketAddr;

use proxy_header::{ProxiedAddress, ProxyHeader};
use rustls_pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::support::{
    DEADLINE,
    authority::Authority,
    backend::Backend,
    client::{get, json, send, text},
    eventually,
    gateway::TestGateway,
};

/// The load balancer's address.
const BALANCER: [u8; 4] = [127, 0, 0, 2];
/// An address that nobody trusts.
const STRANGER: [u8; 4] = [127, 0, 0, 1];

async fn connect(from: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let stream = socket.connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Everything that the gateway answers to these bytes, which are sent one after the other.
async fn answer(from: [u8; 4], to: SocketAddr, pieces: &[&[u8]]) -> String {
    let mut stream = connect(from, to).await;
    for piece in pieces {
        // A gateway that has closed the connection takes no more.
        let _ = stream.write_all(piece).await;
        tokio::task::yield_now().await;
    }
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    // A reset is an end as well: the gateway has closed a connection of which it did not read everything.
    let _ = read.expect("the gateway closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

fn v1(source: &str) -> Vec<u8> {
    format!("PROXY TCP4 {source} 198.51.100.1 40000 443\r\n").into_bytes()
}

fn v2(source: &str) -> Vec<u8> {
    let destination = if source.starts_with('[') { "[::1]:443" } else { "198.51.100.1:443" };
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut bytes = Vec::new();
    ProxyHeader::with_address(ProxiedAddress::stream(source, destination)).encode_v2(&mut bytes).unwrap();
    bytes
}

const REQUEST: &[u8] = b"GET /a HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n";

fn config(listen: &str, route: &str, backend: &Backend) -> String {
    format!(
        "access_log: {{format: json, file: access.log}}\n\
         listen: {{admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.2, 192.0.2.99], {listen}}}\n\
         routes: [{{path: /**, service: one{route}}}]\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    )
}

const REQUIRED: &str = "http: {bind: \"127.0.0.1:0\", proxy_protocol: required}";
const OPTIONAL: &str = "http: \"127.0.0.1:0\", proxy_protocol: optional";

fn forwarded_for(backend: &Backend) -> String {
    backend.only_seen().headers()["x-forwarded-for"].to_str().unwrap().to_owned()
}

async fn is_counted(gateway: &TestGateway, reason: &str, times: u32) {
    let line = format!("millgate_connection_errors_total{{listener=\"http\",reason=\"{reason}\"}} {times}");
    eventually(&line, async || gateway.shows(&line).await).await;
}

#[tokio::test]
async fn the_address_in_the_header_is_the_clients_in_both_versions_and_in_pieces() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    for (header, client) in [
        (v1("203.0.113.7"), "203.0.113.7"),
        (v2("203.0.113.8:40000"), "203.0.113.8"),
        (v2("[2001:db8::9]:1"), "2001:db8::9"),
        (v2("[::ffff:203.0.113.10]:1"), "203.0.113.10"),
    ] {
        let whole = [&header, REQUEST].concat();
        let bytes: Vec<&[u8]> = whole.chunks(1).collect();
        let two = whole.split_at(header.len());
        for pieces in [&[&whole[..]][..], &bytes, &[two.0, two.1]] {
            let answer = answer(BALANCER, gateway.http, pieces).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{client}: {answer}");
            assert_eq!(forwarded_for(&backend), client);
        }
    }
    let log = gateway.dir.path().join("access.log");
    eventually("the lines are written", async || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.matches("\"client\":\"203.0.113.7\"").count() == 3
            && log.matches("\"client\":\"203.0.113.10\"").count() == 3
    })
    .await;
}

#[tokio::test]
async fn limits_and_rules_about_clients_mean_the_address_in_the_header() {
    let backend = Backend::named("one").await;
    let route = ", rate_limit: 1/h per ip, clients: {deny: [203.0.113.66]}";
    let gateway = TestGateway::start(&config(REQUIRED, route, &backend)).await;
    let ask = async |source| {
        let answer = answer(BALANCER, gateway.http, &[&v1(source), REQUEST]).await;
        answer.get(9..12).unwrap_or_default().to_owned()
    };
    assert_eq!([ask("203.0.113.7").await, ask("203.0.113.7").await], ["200", "429"]);
    assert_eq!([ask("203.0.113.8").await, ask("203.0.113.66").await], ["200", "403"]);
}

#[tokio::test]
async fn a_stranger_gets_nothing_where_a_header_is_required_and_none_is_believed_where_it_is_not() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    for bytes in [&[&v1("203.0.113.7"), REQUEST].concat()[..], REQUEST, b""] {
        assert_eq!(answer(STRANGER, gateway.http, &[bytes]).await, "");
    }
    is_counted(&gateway, "proxy_untrusted", 3).await;
    let refusals = json(&send(gateway.admin(), get("/api/v1/refusals")).await);
    assert_eq!(
        (&refusals["refusals"][0]["client"], &refusals["refusals"][0]["reason"]),
        (&"127.0.0.1".into(), &"proxy_untrusted".into())
    );
    let open = TestGateway::start(&config(OPTIONAL, "", &backend)).await;
    // The header of a stranger is what it is: no HTTP.
    for header in [v1("203.0.113.7"), v2("203.0.113.7:1")] {
        let answer = answer(STRANGER, open.http, &[&header, REQUEST]).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    is_counted(&open, "bad_request", 2).await;
    assert!(backend.take_seen().is_empty());
    assert!(answer(STRANGER, open.http, &[REQUEST]).await.starts_with("HTTP/1.1 200"));
    assert_eq!(forwarded_for(&backend), "127.0.0.1");
}

#[tokio::test]
async fn an_optional_header_is_told_from_other_bytes_without_taking_any_of_them() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(OPTIONAL, "", &backend)).await;
    assert!(
        answer(BALANCER, gateway.http, &[&v2("203.0.113.7:1"), REQUEST]).await.starts_with("HTTP/1.1 200")
    );
    assert_eq!(forwarded_for(&backend), "203.0.113.7");
    // Beginnings that a header has as well, byte by byte: a method, and empty lines in front of a request.
    for request in [
        &b"PROPFIND /a HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n"[..],
        b"\r\n\r\nGET /a HTTP/1.1\r\nhost: gw\r\nconnection: close\r\n\r\n",
    ] {
        let pieces: Vec<&[u8]> = request.chunks(1).collect();
        assert!(answer(BALANCER, gateway.http, &pieces).await.starts_with("HTTP/1.1 200"));
        assert_eq!(forwarded_for(&backend), "127.0.0.2");
    }
    // Only the first header is one.
    let twice = answer(BALANCER, gateway.http, &[&v1("203.0.113.7"), &v1("203.0.113.8"), REQUEST]).await;
    assert!(twice.starts_with("HTTP/1.1 400"), "{twice}");
    // HTTP/2 in cleartext begins like one, too.
    let mut stream = connect(BALANCER, gateway.http).await;
    stream.write_all(&v1("203.0.113.9")).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("http://gw/a").body(()).unwrap();
    assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
    assert_eq!(forwarded_for(&backend), "203.0.113.9");
}

#[tokio::test]
async fn a_health_check_of_the_balancer_keeps_its_own_address() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    let mut local = Vec::new();
    ProxyHeader::with_local().encode_v2(&mut local).unwrap();
    for header in [&local[..], b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN 203.0.113.7 198.51.100.1 1 2\r\n"] {
        assert!(answer(BALANCER, gateway.http, &[header, REQUEST]).await.starts_with("HTTP/1.1 200"));
        assert_eq!(forwarded_for(&backend), "127.0.0.2");
    }
    // One that only connects is no error.
    drop(connect(BALANCER, gateway.http).await);
    assert!(answer(BALANCER, gateway.http, &[&v1("203.0.113.7"), REQUEST]).await.starts_with("HTTP/1.1 200"));
    let metrics = text(&send(gateway.admin(), get("/metrics")).await).to_owned();
    assert!(
        !metrics.contains("reason=\"proxy_protocol\"") && !metrics.contains("reason=\"read\""),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_wrong_header_is_counted_and_gets_no_answer() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    let mut other_version = v2("203.0.113.7:1");
    other_version[12] = 0x31;
    let mut too_long = v2("203.0.113.7:1");
    too_long[14] = 0x10;
    let wrong = [
        REQUEST.to_vec(),
        b"PROXY TCP4 203.0.113.7 198.51.100.1 040 443\r\n".to_vec(),
        b"PROXY TCP6 203.0.113.7 198.51.100.1 40 443\r\n".to_vec(),
        [&b"PROXY "[..], &[b'x'; 200]].concat(),
        other_version,
        too_long,
    ];
    for (at, bytes) in wrong.iter().enumerate() {
        assert_eq!(answer(BALANCER, gateway.http, &[bytes, REQUEST]).await, "", "{}", bytes.escape_ascii());
        is_counted(&gateway, "proxy_protocol", u32::try_from(at + 1).unwrap()).await;
    }
    // One that ends in the middle.
    let mut stream = connect(BALANCER, gateway.http).await;
    stream.write_all(&v2("203.0.113.7:1")[..20]).await.unwrap();
    stream.shutdown().await.unwrap();
    is_counted(&gateway, "proxy_protocol", 7).await;
    assert!(backend.take_seen().is_empty());
    let refusals = json(&send(gateway.admin(), get("/api/v1/refusals")).await);
    let details: Vec<_> = refusals["refusals"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["detail"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        details,
        ["no header", "port", "address", "length", "version", "length", "end"]
            .into_iter()
            .filter({
                // Equal refusals are one row, at the place of the last one.
                let mut lengths = 0;
                move |detail| {
                    lengths += u32::from(*detail == "length");
                    *detail != "length" || lengths == 2
                }
            })
            .collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_header_that_does_not_come_is_bounded_by_the_time_of_heads_and_counts_as_new() {
    let backend = Backend::named("one").await;
    let listen = format!("{REQUIRED}, header_timeout: 1s");
    let gateway = TestGateway::start(&config(&listen, "", &backend)).await;
    let mut stream = connect(BALANCER, gateway.http).await;
    stream.write_all(b"PROXY TCP4 203.0.113.7").await.unwrap();
    let new = "millgate_connections{protocol=\"new\"} 1";
    eventually("the connection is counted", async || gateway.shows(new).await).await;
    is_counted(&gateway, "header_timeout", 1).await;
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await.expect("it is closed");
    assert_eq!(rest, b"");
}

#[tokio::test]
async fn the_header_stands_before_tls() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let pair = authority.certify("shop.example");
    std::fs::write(dir.path().join("cert.pem"), &pair.cert).unwrap();
    std::fs::write(dir.path().join("key.pem"), &pair.key).unwrap();
    // The listener's own word counts before the one for all.
    let listen = "http: {bind: \"127.0.0.1:0\", proxy_protocol: off}, proxy_protocol: required, \
        https: {bind: \"127.0.0.1:0\", cert_file: cert.pem, key_file: key.pem}";
    let gateway = TestGateway::start_in(dir, &config(listen, "", &backend)).await;
    let https = gateway.https_addr().unwrap();
    for header in [v1("203.0.113.7"), v2("203.0.113.7:1")] {
        let mut stream = connect(BALANCER, https).await;
        stream.write_all(&header).await.unwrap();
        let connector = TlsConnector::from(authority.client(&[b"h2"]));
        let stream = connector.connect(ServerName::try_from("shop.example").unwrap(), stream).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::get("https://shop.example/a").body(()).unwrap();
        assert_eq!(client.send_request(request, true).unwrap().0.await.unwrap().status(), 200);
        assert_eq!(forwarded_for(&backend), "203.0.113.7");
    }
    // Within TLS it is no header any more, and without one there is no TLS.
    let connector = TlsConnector::from(authority.client(&[b"http/1.1"]));
    let naked = connect(BALANCER, https).await;
    assert!(connector.connect(ServerName::try_from("shop.example").unwrap(), naked).await.is_err());
    assert!(answer(BALANCER, gateway.http, &[&v1("203.0.113.7"), REQUEST]).await.starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn forwarding_fields_count_by_the_address_in_the_header() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    let request =
        b"GET /a HTTP/1.1\r\nhost: gw\r\nx-forwarded-for: 198.51.100.200\r\nconnection: close\r\n\r\n";
    // The client behind the balancer is no proxy, and the one at 192.0.2.99 is.
    for (source, expected) in [("203.0.113.7", "203.0.113.7"), ("192.0.2.99", "198.51.100.200, 192.0.2.99")] {
        assert!(answer(BALANCER, gateway.http, &[&v1(source), request]).await.starts_with("HTTP/1.1 200"));
        assert_eq!(forwarded_for(&backend), expected);
    }
}

#[tokio::test]
async fn a_reload_changes_who_is_believed_for_the_next_connection() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(REQUIRED, "", &backend)).await;
    let bytes = [&v1("203.0.113.7")[..], REQUEST].concat();
    assert!(answer(BALANCER, gateway.http, &[&bytes]).await.starts_with("HTTP/1.1 200"));
    gateway.rewrite(&config(REQUIRED, "", &backend).replace("127.0.0.2", "127.0.0.1"));
    gateway.reload().await.unwrap();
    assert_eq!(answer(BALANCER, gateway.http, &[&bytes]).await, "");
    assert!(answer(STRANGER, gateway.http, &[&bytes]).await.starts_with("HTTP/1.1 200"));
    // The listener itself stays as it was started.
    gateway.rewrite(&config(OPTIONAL, "", &backend));
    gateway.reload().await.unwrap();
    let shown = json(&send(gateway.admin(), get("/api/v1/config")).await);
    assert_eq!(shown["waiting_for_restart"], serde_json::json!(["listen.http"]));
    assert_eq!(shown["listeners"][0]["proxy_protocol"], "required");
}
