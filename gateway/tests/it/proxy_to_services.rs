//! The PROXY protocol towards services: each connection states one client, and no other client's request is on it.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proxy_header::{ParseConfig, ProxyHeader};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::support::{authority::Authority, backend::Backend, gateway::TestGateway};

/// A service that answers with the addresses in the header of its connection.
struct Service {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

impl Service {
    async fn start(speaks: Speaks, tls: Option<ServerConfig>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let (count, tls) = (Arc::clone(&connections), tls.map(|tls| TlsAcceptor::from(Arc::new(tls))));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let tls = tls.clone();
                tokio::spawn(async move {
                    let addresses = addresses(&mut stream).await;
                    match tls {
                        None => serve(speaks, stream, addresses).await,
                        Some(tls) => serve(speaks, tls.accept(stream).await.unwrap(), addresses).await,
                    }
                });
            }
        });
        Self { addr, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Reads the header, and no byte behind it: `SOURCE DESTINATION`, or `own`.
async fn addresses(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        bytes.push(stream.read_u8().await.unwrap());
        if let Ok((header, _)) = ProxyHeader::parse(&bytes, ParseConfig::default()) {
            let address = header.proxied_address();
            return address.map_or("own".to_owned(), |one| format!("{} {}", one.source, one.destination));
        }
        assert!(bytes.len() < 300, "no header: {}", bytes.escape_ascii());
    }
}

async fn serve<I>(speaks: Speaks, io: I, addresses: String)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |_: Request<hyper::body::Incoming>| {
        let answer = Response::new(Full::new(Bytes::from(addresses.clone())));
        async move { Ok::<_, Infallible>(answer) }
    });
    let io = TokioIo::new(io);
    match speaks {
        Speaks::Http1 => drop(http1::Builder::new().serve_connection(io, service).await),
        Speaks::Http2 => {
            drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await);
        }
    }
}

/// A client with a connection of its own, kept between requests.
struct Client(TcpStream);

impl Client {
    async fn from(source: [u8; 4], to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        Self(socket.connect(to).await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The content of the answer.
    async fn ask(&mut self, fields: &str) -> String {
        let request = format!("GET /a HTTP/1.1\r\nhost: gw\r\n{fields}\r\n");
        self.0.write_all(request.as_bytes()).await.unwrap();
        let (mut answer, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = self.0.read(&mut buffer).await.unwrap();
            assert!(read > 0, "{}", answer.escape_ascii());
            answer.extend_from_slice(&buffer[..read]);
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            let Some((head, content)) = text.split_once("\r\n\r\n") else { continue };
            assert!(head.starts_with("http/1.1 200"), "{text}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            if content.len() == length.parse::<usize>().unwrap() {
                return content.to_owned();
            }
        }
    }
}

fn config(service: &str, addr: SocketAddr) -> String {
    format!(
        "workers: 1\nlisten: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", trusted_proxies: [127.0.0.9]}}\n\
         routes: [{{path: /**, service: one}}]\nservices: {{one: {{hosts: [\"{addr}\"]{service}}}}}\n"
    )
}

#[tokio::test]
async fn each_client_has_connections_of_its_own_that_state_its_address_and_are_used_again() {
    for version in ["v1", "v2"] {
        let service = Service::start(Speaks::Http1, None).await;
        let gateway =
            TestGateway::start(&config(&format!(", proxy_protocol: {version}"), service.addr)).await;
        let mut clients = [
            Client::from([127, 0, 0, 1], gateway.http).await,
            Client::from([127, 0, 0, 3], gateway.http).await,
            // Another connection of the first one.
            Client::from([127, 0, 0, 1], gateway.http).await,
        ];
        for _ in 0..5 {
            for client in &mut clients {
                let expected = format!("{} {}", client.address(), gateway.http);
                assert_eq!(client.ask("").await, expected, "{version}");
            }
        }
        assert_eq!(service.connections(), 3, "{version}");
    }
}

#[tokio::test]
async fn no_request_is_on_a_connection_of_another_client_however_many_there_are() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
    let mut h2 = authority.server("localhost");
    h2.alpn_protocols = vec![b"h2".to_vec()];
    let tls = "tls: {ca_file: ca.pem, server_name: localhost}";
    for (speaks, server, protocol) in [
        (Speaks::Http1, None, "http".to_owned()),
        (Speaks::Http2, None, "h2c".to_owned()),
        (Speaks::Http1, Some(authority.server("localhost")), format!("https, {tls}")),
        (Speaks::Http2, Some(h2), format!("h2, {tls}")),
    ] {
        let service = Service::start(speaks, server).await;
        let own = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("ca.pem"), own.path().join("ca.pem")).unwrap();
        // Room for two idle connections only, so that most of them are closed and opened again.
        let settings = format!(", proxy_protocol: v2, protocol: {protocol}, pool: {{max: 2}}");
        let gateway = TestGateway::start_in(own, &config(&settings, service.addr)).await;
        let (http, mut running) = (gateway.http, JoinSet::new());
        for number in 0..12 {
            running.spawn(async move {
                let mut client = Client::from([127, 0, 1, number], http).await;
                let expected = format!("{} {http}", client.address());
                for _ in 0..10 {
                    assert_eq!(client.ask("").await, expected);
                }
            });
        }
        while let Some(client) = running.join_next().await {
            client.unwrap_or_else(|error| panic!("{protocol}: {error}"));
        }
    }
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_is_stated_without_a_port() {
    let service = Service::start(Speaks::Http1, None).await;
    let gateway = TestGateway::start(&config(", proxy_protocol: v1", service.addr)).await;
    let mut proxy = Client::from([127, 0, 0, 9], gateway.http).await;
    for _ in 0..2 {
        for (client, expected) in [("203.0.113.7", "203.0.113.7:0 "), ("203.0.113.8", "203.0.113.8:0 ")] {
            let answer = proxy.ask(&format!("x-forwarded-for: {client}\r\n")).await;
            assert!(answer.starts_with(expected), "{answer}");
        }
        // IPv6 in front of a listener of IPv4: a header has one family.
        let answer = proxy.ask("x-forwarded-for: 2001:db8::7\r\n").await;
        assert_eq!(answer, format!("[2001:db8::7]:0 [::ffff:127.0.0.1]:{}", gateway.http.port()));
        let answer = proxy.ask("").await;
        assert_eq!(answer, format!("{} {}", proxy.address(), gateway.http));
    }
    assert_eq!(service.connections(), 4);
}

#[tokio::test]
async fn a_header_that_came_in_front_of_the_client_goes_out_to_the_service() {
    let service = Service::start(Speaks::Http1, None).await;
    let config = config(", proxy_protocol: v2", service.addr)
        .replace("http: \"127.0.0.1:0\"", "http: {bind: \"127.0.0.1:0\", proxy_protocol: required}");
    let gateway = TestGateway::start(&config).await;
    let mut client = Client::from([127, 0, 0, 9], gateway.http).await;
    client.0.write_all(b"PROXY TCP4 203.0.113.7 198.51.100.1 40000 443\r\n").await.unwrap();
    assert_eq!(client.ask("").await, format!("203.0.113.7:40000 {}", gateway.http));
}

#[tokio::test]
async fn a_reload_that_adds_the_header_uses_no_connection_without_it() {
    let (plain, service) = (Backend::named("plain").await, Service::start(Speaks::Http1, None).await);
    let gateway = TestGateway::start(&config("", plain.addr)).await;
    let mut client = Client::from([127, 0, 0, 1], gateway.http).await;
    assert_eq!(client.ask("").await, "plain");
    gateway.rewrite(&config(", proxy_protocol: v1", service.addr));
    gateway.reload().await.unwrap();
    // The client came before any service needed the gateway's own address.
    assert_eq!(client.ask("").await, format!("{} 0.0.0.0:0", client.address()));
    let mut other = Client::from([127, 0, 0, 1], gateway.http).await;
    assert_eq!(other.ask("").await, format!("{} {}", other.address(), gateway.http));
}
