//! A service that speaks HTTP/2, made of h2 itself, so that a test decides about each stream.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use h2::{RecvStream, server};
use http::{HeaderMap, Request, Response};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a service does with each stream.
pub(crate) type Handler = dyn Fn(Request<RecvStream>, server::SendResponse<Bytes>) -> BoxFuture + Send + Sync;
type BoxFuture = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) head: Request<()>,
    pub(crate) body: Vec<u8>,
}

pub(crate) struct H2Service {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl H2Service {
    /// In cleartext, with prior knowledge. `configure` changes the settings of each connection.
    pub(crate) async fn start<H>(configure: fn(&mut server::Builder), handler: H) -> Self
    where
        H: Fn(Request<RecvStream>, server::SendResponse<Bytes>) -> BoxFuture + Send + Sync + 'static,
    {
        Self::over(None, configure, Arc::new(handler)).await
    }

    /// Over TLS; the configuration decides about ALPN.
    pub(crate) async fn over_tls<H>(config: ServerConfig, handler: H) -> Self
    where
        H: Fn(Request<RecvStream>, server::SendResponse<Bytes>) -> BoxFuture + Send + Sync + 'static,
    {
        Self::over(Some(TlsAcceptor::from(Arc::new(config))), |_| {}, Arc::new(handler)).await
    }

    async fn over(
        tls: Option<TlsAcceptor>,
        configure: fn(&mut server::Builder),
        handler: Arc<Handler>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, SeqCst);
                let (tls, handler) = (tls.clone(), Arc::clone(&handler));
                open.spawn(async move {
                    match tls {
                        None => serve(stream, configure, handler).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, configure, handler).await;
                            }
                        }
                    }
                });
            }
        });
        Self { addr, connections, task }
    }

    /// Answers each request with 200 and its own body, and keeps what it has seen.
    pub(crate) async fn echoing(configure: fn(&mut server::Builder)) -> (Self, Arc<Mutex<Vec<Seen>>>) {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        (Self::start(configure, echo(&seen)).await, seen)
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

impl Drop for H2Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A handler that echoes.
pub(crate) fn echo(
    seen: &Arc<Mutex<Vec<Seen>>>,
) -> impl Fn(Request<RecvStream>, server::SendResponse<Bytes>) -> BoxFuture + Send + Sync + 'static {
    let seen = Arc::clone(seen);
    move |request, mut reply| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            let (head, mut stream) = request.into_parts();
            let Some((body, _)) = collect(&mut stream).await else { return };
            let head = Request::from_parts(head, ());
            let sent = Bytes::from(body.clone());
            seen.lock().unwrap().push(Seen { head, body });
            let response = Response::builder().header("x-service", "h2").body(()).unwrap();
            let Ok(mut stream) = reply.send_response(response, sent.is_empty()) else { return };
            if !sent.is_empty() {
                send(&mut stream, sent, true).await;
            }
        })
    }
}

/// The whole body. `None`: the stream was reset.
pub(crate) async fn collect(stream: &mut RecvStream) -> Option<(Vec<u8>, Option<HeaderMap>)> {
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.ok()?;
        stream.flow_control().release_capacity(data.len()).ok()?;
        body.extend_from_slice(&data);
    }
    Some((body, stream.trailers().await.ok()?))
}

/// Sends as the other side grants room.
pub(crate) async fn send(stream: &mut h2::SendStream<Bytes>, mut data: Bytes, ends: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let Some(Ok(room)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else { return };
        let piece = data.split_to(room.min(data.len()));
        if stream.send_data(piece, ends && data.is_empty()).is_err() {
            return;
        }
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    configure: fn(&mut server::Builder),
    handler: Arc<Handler>,
) {
    let mut builder = server::Builder::new();
    configure(&mut builder);
    let Ok(mut connection) = builder.handshake(stream).await else { return };
    let mut open = tokio::task::JoinSet::new();
    while let Some(Ok((request, reply))) = connection.accept().await {
        open.spawn(handler(request, reply));
    }
}
