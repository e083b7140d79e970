//! Backends: one whose answers come from a closure, and one that writes raw bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use millgate_registry::testing::on_freed_port;
use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::watch,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

type Handler = dyn Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync;

/// An HTTP/1.1 service that keeps the requests that it gets.
pub(crate) struct Backend {
    pub(crate) addr: SocketAddr,
    seen: Arc<Mutex<Vec<Request<Bytes>>>>,
    served: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    leaving: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl Backend {
    /// Answers 200 with its name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::with(move |_| Response::new(Bytes::from_static(name.as_bytes()))).await
    }

    pub(crate) async fn with(
        handler: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(handler), None).await
    }

    /// Answers 200 with its name, over TLS.
    pub(crate) async fn over_tls(name: &'static str, config: ServerConfig) -> Self {
        let handler = move |_: &Request<Bytes>| Response::new(Bytes::from_static(name.as_bytes()));
        Self::start(Arc::new(handler), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// As [`Self::named`], at an address that another backend had.
    pub(crate) async fn named_at(name: &'static str, addr: SocketAddr) -> Self {
        let handler = move |_: &Request<Bytes>| Response::new(Bytes::from_static(name.as_bytes()));
        Self::start_at(addr, Arc::new(handler), None).await
    }

    /// Closes the port. Each open connection gets one more answer, which announces that it is the last one.
    pub(crate) async fn leave(&self) {
        self.leaving.send_replace(true);
        let closed = async || TcpStream::connect(self.addr).await.is_err();
        super::eventually("the port is closed", closed).await;
    }

    /// As [`Self::with`], over TLS.
    pub(crate) async fn with_tls(
        config: ServerConfig,
        handler: impl Fn(&Request<Bytes>) -> Response<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::start(Arc::new(handler), Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(handler: Arc<Handler>, tls: Option<TlsAcceptor>) -> Self {
        Self::start_at(([127, 0, 0, 1], 0).into(), handler, tls).await
    }

    async fn start_at(addr: SocketAddr, handler: Arc<Handler>, tls: Option<TlsAcceptor>) -> Self {
        let listener = on_freed_port(|| TcpListener::bind(addr)).await;
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let served = Arc::new(AtomicUsize::new(0));
        let connections = Arc::new(AtomicUsize::new(0));
        let leaving = Arc::new(watch::channel(false).0);
        let counts = (Arc::clone(&seen), Arc::clone(&served), Arc::clone(&connections));
        let accept = accept(listener, tls, handler, counts, Arc::clone(&leaving));
        Self { addr, seen, served, connections, leaving, task: tokio::spawn(accept) }
    }

    /// The number of requests answered so far.
    pub(crate) fn served(&self) -> usize {
        self.served.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The requests received since the last call.
    pub(crate) fn take_seen(&self) -> Vec<Request<Bytes>> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    /// The only request received since the last call.
    pub(crate) fn only_seen(&self) -> Request<Bytes> {
        let mut seen = self.take_seen();
        assert_eq!(seen.len(), 1, "expected one request: {seen:?}");
        seen.remove(0)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The requests received, the number answered, and the number of connections accepted.
type Counts = (Arc<Mutex<Vec<Request<Bytes>>>>, Arc<AtomicUsize>, Arc<AtomicUsize>);

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    handler: Arc<Handler>,
    (seen, served, connections): Counts,
    leaving: Arc<watch::Sender<bool>>,
) {
    // Dropped with this task, so that a stopped backend closes its open connections, too.
    let mut open = tokio::task::JoinSet::new();
    let mut left = leaving.subscribe();
    loop {
        let accepted = tokio::select! {
            // Connections that the kernel has completed are accepted first, because they would be reset with the port.
            biased;
            accepted = listener.accept() => accepted,
            _ = left.wait_for(|left| *left) => break,
        };
        let Ok((stream, _)) = accepted else { return };
        connections.fetch_add(1, Ordering::SeqCst);
        let (handler, seen, served) = (Arc::clone(&handler), Arc::clone(&seen), Arc::clone(&served));
        let leaving = Arc::clone(&leaving);
        let service = service_fn(move |request: Request<hyper::body::Incoming>| {
            let (handler, seen, served) = (Arc::clone(&handler), Arc::clone(&seen), Arc::clone(&served));
            let is_last = *leaving.borrow();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let request = Request::from_parts(parts, body);
                let mut response = handler(&request).map(Full::new);
                if is_last {
                    response.headers_mut().insert("connection", http::HeaderValue::from_static("close"));
                }
                seen.lock().unwrap().push(request);
                served.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(response)
            }
        });
        stream.set_nodelay(true).unwrap();
        let tls = tls.clone();
        open.spawn(async move {
            // A client that leaves, or does not trust this server, is not an error here.
            let Some(tls) = tls else {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
                return;
            };
            if let Ok(stream) = tls.accept(stream).await {
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            }
        });
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// An address at which nothing listens. The system does not assign it again while this process lives, but a backend can be
/// started at it.
pub(crate) fn closed_port() -> SocketAddr {
    let socket = TcpSocket::new_v4().unwrap();
    // Two sockets may be bound to one address if both allow it and neither listens yet.
    socket.set_reuseaddr(true).unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let addr = socket.local_addr().unwrap();
    std::mem::forget(socket);
    addr
}

/// A backend that reads one request head per connection and then follows a script.
pub(crate) struct RawBackend {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    /// Every byte received, over all connections.
    pub(crate) received: Arc<Mutex<Vec<u8>>>,
    heads: Arc<AtomicUsize>,
    gate: Arc<watch::Sender<bool>>,
    task: JoinHandle<()>,
}

impl RawBackend {
    /// Writes `answer` after each request head, and then closes the connection if `close`, or otherwise reads on.
    pub(crate) async fn answering(answer: &'static [u8], close: bool) -> Self {
        let backend = Self::held(answer, close).await;
        backend.release();
        backend
    }

    /// As [`Self::answering`], but no answer is written before [`Self::release`].
    pub(crate) async fn held(answer: &'static [u8], close: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (connections, heads) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let received = Arc::new(Mutex::new(Vec::new()));
        let gate = Arc::new(watch::channel(false).0);
        let count = Arc::clone(&connections);
        let seen = (Arc::clone(&received), Arc::clone(&heads), Arc::clone(&gate));
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                open.spawn(script(stream, answer, close, seen.clone()));
            }
        });
        Self { addr, connections, received, heads, gate, task }
    }

    /// Answers all requests that wait, and from now on each one at once.
    pub(crate) fn release(&self) {
        self.gate.send_replace(true);
    }

    /// The number of request heads received.
    pub(crate) fn requests(&self) -> usize {
        self.heads.load(Ordering::SeqCst)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for RawBackend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All bytes received, the number of heads, and whether they are answered now.
type Seen = (Arc<Mutex<Vec<u8>>>, Arc<AtomicUsize>, Arc<watch::Sender<bool>>);

async fn script(mut stream: TcpStream, answer: &'static [u8], close: bool, (log, heads, gate): Seen) {
    let mut open = gate.subscribe();
    let mut pending = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(n) => {
                pending.extend_from_slice(&buffer[..n]);
                log.lock().unwrap().extend_from_slice(&buffer[..n]);
            }
        }
        if let Some(end) = pending.windows(4).position(|w| w == b"\r\n\r\n") {
            pending.drain(..end + 4);
            heads.fetch_add(1, Ordering::SeqCst);
            let _ = open.wait_for(|open| *open).await;
            if stream.write_all(answer).await.is_err() || close {
                return;
            }
        }
    }
}
