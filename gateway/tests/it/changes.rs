//! Everything about a gateway is changed while clients use it: its configuration, its certificate, its program, and the gateways
//! behind it. No request fails, and what is open stays open through all that does not end its process.
//!
//! Some seconds here. `MILLGATE_CHANGES=long` is the long form: 10,000 requests at 500 a second through 20 reloads, 100
//! certificates, 10 binary upgrades and two rolling restarts of both gateways behind it.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_rustls::TlsConnector;

use crate::{
    binary_upgrade::Line,
    commands::Serving,
    support::{
        DEADLINE,
        authority::Authority,
        backend::{Backend, closed_port},
        client::{get, status},
        eventually,
        gateway::write_config,
        h2_service::H2Service,
        websocket::{EchoService, WebSocketClient},
    },
};

/// How much of everything.
struct Form {
    requests: usize,
    per_second: u32,
    reloads: usize,
    certificates: usize,
    upgrades: usize,
    restarts: usize,
}

const SHORT: Form =
    Form { requests: 1500, per_second: 250, reloads: 4, certificates: 8, upgrades: 2, restarts: 1 };
const LONG: Form =
    Form { requests: 10_000, per_second: 500, reloads: 20, certificates: 100, upgrades: 10, restarts: 2 };

/// The gateway that clients use, and its certificate's authority.
struct Front {
    line: Line,
    https: SocketAddr,
    authority: Authority,
    backs: [SocketAddr; 2],
    services: [SocketAddr; 2],
}

impl Front {
    async fn start(backs: [SocketAddr; 2], services: [SocketAddr; 2]) -> Self {
        let (authority, https) = (Authority::new(), closed_port());
        let text = config(https, backs, services, 0);
        let certified = authority.certify("gw");
        let line = Line::start_in(&text, |dir| {
            std::fs::write(dir.join("gw.pem"), certified.cert).unwrap();
            std::fs::write(dir.join("gw.key"), certified.key).unwrap();
        })
        .await;
        Self { line, https, authority, backs, services }
    }

    fn dir(&self) -> &Path {
        self.line.dir.path()
    }

    /// Another configuration: a route more or less, and another limit.
    async fn reload(&self, number: usize) {
        let before = self.line.said("configuration reloaded").len();
        write_config(self.dir(), &config(self.https, self.backs, self.services, number));
        eventually("it is read", || async { self.line.said("configuration reloaded").len() > before }).await;
    }

    /// Another certificate and its key.
    async fn rotate(&self) {
        let certified = self.authority.certify("gw");
        let before = self.serial().await;
        // The two files do not change at once, and what lies between is no certificate.
        for (name, text) in [("gw.key", certified.key), ("gw.pem", certified.cert)] {
            std::fs::write(self.dir().join("new"), text).unwrap();
            std::fs::rename(self.dir().join("new"), self.dir().join(name)).unwrap();
        }
        eventually("it is served", || async { self.serial().await != before }).await;
    }

    /// The certificate that new connections get.
    async fn serial(&self) -> Vec<u8> {
        let stream = TcpStream::connect(self.https).await.unwrap();
        let connector = TlsConnector::from(self.authority.client(&[b"http/1.1"]));
        let stream = connector.connect(ServerName::try_from("gw").unwrap(), stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }
}

fn config(https: SocketAddr, backs: [SocketAddr; 2], services: [SocketAddr; 2], number: usize) -> String {
    let ([a, b], [echo, calls]) = (backs, services);
    format!(
        "workers: 2\ndrain: {{timeout: 20s}}\naccess_log: {{format: off}}\n\
         listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {{bind: \"{https}\", cert_file: gw.pem, key_file: gw.key}}}}\n\
         routes:\n  - {{path: /**, service: s, rate_limit: {}/s per ip}}\n  - {{path: /echo, service: e}}\n\
         \x20 - {{path: /calls.S/M, service: g}}\n  - {{path: /more{number}, service: s}}\n\
         services:\n  s: {{hosts: [\"{a}\", \"{b}\"]}}\n  e: {{hosts: [\"{echo}\"]}}\n\
         \x20 g: {{hosts: [\"{calls}\"], protocol: grpc}}\n",
        100_000 + number
    )
}

/// A gateway behind the front, at an address that it keeps.
async fn back(dir: &Path, http: SocketAddr, service: SocketAddr) -> Serving {
    write_config(
        dir,
        &format!(
            "workers: 1\ndrain: {{timeout: 20s}}\nlisten: {{http: \"{http}\", admin: \"127.0.0.1:0\"}}\n\
             routes: [{{path: /**, service: s}}]\nservices: {{s: {{hosts: [\"{service}\"]}}}}\n"
        ),
    );
    Serving::start(dir, &["run", "--state-dir", "state"], "admin").await
}

/// Clients at a steady pace, whatever happens: half of them over TLS on connections of their own, the others with pooled connections
/// of both protocols.
struct Clients {
    http: SocketAddr,
    https: SocketAddr,
    tls: Arc<ClientConfig>,
    pooled: [Client<HttpConnector, Full<Bytes>>; 2],
    failed: Mutex<Vec<String>>,
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Clients {
    fn of(front: &Front) -> Arc<Self> {
        let pooled = |only_http2| Client::builder(TokioExecutor::new()).http2_only(only_http2).build_http();
        Arc::new(Self {
            http: front.line.http,
            https: front.https,
            tls: front.authority.client(&[b"http/1.1"]),
            pooled: [pooled(false), pooled(true)],
            failed: Mutex::default(),
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        })
    }

    /// Sends until all requests are sent and the changes are over.
    async fn run(self: Arc<Self>, form: &Form) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / form.per_second);
        let mut running = JoinSet::new();
        let mut sent = 0;
        while sent < form.requests || !self.is_over.load(SeqCst) {
            pace.tick().await;
            let clients = Arc::clone(&self);
            running.spawn(async move {
                match clients.send(sent).await {
                    Ok((StatusCode::OK, _)) => _ = clients.answered.fetch_add(1, SeqCst),
                    other => clients.failed.lock().unwrap().push(format!("request {sent}: {other:?}")),
                }
            });
            sent += 1;
            while running.try_join_next().is_some() {}
        }
        running.join_all().await;
    }

    async fn send(&self, number: usize) -> Answered {
        if number.is_multiple_of(2) {
            return self.send_over_tls().await;
        }
        let request = || Request::get(format!("http://{}/{number}", self.http)).body(Full::default());
        let client = &self.pooled[number / 2 % 2];
        let mut response = tokio::time::timeout(DEADLINE, client.request(request()?)).await?;
        // This client takes a connection of which it knows that it goes away, and sends nothing then (RFC 9113 §6.8).
        while response.as_ref().is_err_and(went_away) {
            response = tokio::time::timeout(DEADLINE, client.request(request()?)).await?;
        }
        let response = response?;
        let (head, body) = response.into_parts();
        let content = body.collect().await?.to_bytes();
        Ok((head.status, String::from_utf8_lossy(&content).into_owned()))
    }

    async fn send_over_tls(&self) -> Answered {
        let stream = TcpStream::connect(self.https).await?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(ServerName::try_from("gw")?, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let response = tokio::time::timeout(DEADLINE, sender.send_request(get("/tls"))).await??;
        let (head, body) = response.into_parts();
        let content = body.collect().await?.to_bytes();
        Ok((head.status, String::from_utf8_lossy(&content).into_owned()))
    }
}

fn went_away(error: &hyper_util::client::legacy::Error) -> bool {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref::<h2::Error>().is_some_and(|error| error.is_go_away() && error.is_remote())
    })
}

/// The status and the content of a response.
type Answered = Result<(StatusCode, String), Box<dyn std::error::Error + Send + Sync>>;

/// A call of gRPC that stays open: each message comes back.
struct OpenCall {
    to: h2::SendStream<Bytes>,
    from: h2::RecvStream,
}

impl OpenCall {
    async fn begin(http: SocketAddr) -> Self {
        let (client, connection) =
            h2::client::handshake(TcpStream::connect(http).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post("http://gw/calls.S/M").header("content-type", "application/grpc");
        let mut client = client.ready().await.unwrap();
        let (response, to) = client.send_request(request.body(()).unwrap(), false).unwrap();
        let from = tokio::time::timeout(DEADLINE, response).await.unwrap().unwrap().into_body();
        Self { to, from }
    }

    async fn echoes(&mut self, text: &'static str) {
        self.to.send_data(Bytes::from_static(text.as_bytes()), false).unwrap();
        let came = tokio::time::timeout(DEADLINE, self.from.data()).await.unwrap().unwrap().unwrap();
        let _ = self.from.flow_control().release_capacity(came.len());
        assert_eq!(came, text);
    }
}

async fn echoing_calls() -> H2Service {
    H2Service::start(
        |_| {},
        |request, mut reply| {
            Box::pin(async move {
                let mut from = request.into_body();
                let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut to = reply.send_response(head, false).unwrap();
                while let Some(Ok(data)) = from.data().await {
                    let _ = from.flow_control().release_capacity(data.len());
                    if to.send_data(data, false).is_err() {
                        return;
                    }
                }
                let status = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
                let _ = to.send_trailers(status);
            })
        },
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_everything_changes_and_what_is_open_outlives_reloads() {
    let is_long = std::env::var("MILLGATE_CHANGES").is_ok_and(|form| form == "long");
    let form = if is_long { LONG } else { SHORT };
    let (service, echo, calls) =
        (Backend::named("s").await, EchoService::start().await, echoing_calls().await);
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let backs = [closed_port(), closed_port()];
    let mut gateways = Vec::new();
    for (dir, http) in folders.iter().zip(backs) {
        gateways.push(back(dir.path(), http, service.addr).await);
    }
    let mut front = Front::start(backs, [echo.addr, calls.addr]).await;
    let clients = Clients::of(&front);
    let began = Instant::now();
    let sending = tokio::spawn({
        let (clients, form) = (Arc::clone(&clients), Form { ..form });
        async move { clients.run(&form).await }
    });

    let mut websocket = WebSocketClient::open_at(front.line.http, "/echo").await;
    let mut call = OpenCall::begin(front.line.http).await;
    for number in 0..form.reloads.max(form.certificates) {
        if number < form.reloads {
            front.reload(number + 1).await;
        }
        if number < form.certificates {
            front.rotate().await;
        }
        websocket.echoes("still open").await;
        call.echoes("still open").await;
    }
    println!("reloads and certificates: {:?}", began.elapsed());
    for _ in 0..form.restarts {
        for (at, (dir, http)) in folders.iter().zip(backs).enumerate() {
            let old = gateways.remove(at);
            assert_eq!(old.terminate().await, Some(0));
            gateways.insert(at, back(dir.path(), http, service.addr).await);
            assert_eq!(status(http, "/").await, StatusCode::OK);
        }
    }
    println!("and restarts: {:?}", began.elapsed());
    websocket.echoes("still open").await;
    call.echoes("still open").await;
    let closes = tokio::spawn(async move { websocket.closed_with().await });
    drop(call);
    for _ in 0..form.upgrades {
        front.line.upgrade().await;
    }
    println!("and upgrades: {:?}", began.elapsed());
    assert_eq!(closes.await.unwrap(), 1001);
    clients.is_over.store(true, SeqCst);
    sending.await.unwrap();
    let failed = std::mem::take(&mut *clients.failed.lock().unwrap());
    let answered = clients.answered.load(SeqCst);
    println!("{answered} answered in {:?}, {} failed", began.elapsed(), failed.len());
    assert!(
        failed.is_empty(),
        "{} of {answered} failed: {:#?}",
        failed.len(),
        &failed[..failed.len().min(5)]
    );
    assert!(answered >= form.requests);
}
