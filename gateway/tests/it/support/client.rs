//! Clients: one request at a time, raw bytes, and load.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Body,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A response that was read to its end.
pub(crate) type Reply = Response<Bytes>;

/// A request with `Host: gw` and an empty body.
pub(crate) fn get(path: &str) -> Request<Full<Bytes>> {
    request("GET", path, "")
}

pub(crate) fn request(method: &str, path: &str, body: &'static str) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "gw")
        .body(Full::new(Bytes::from_static(body.as_bytes())))
        .unwrap()
}

/// One HTTP/1.1 connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
}

impl Connection {
    pub(crate) async fn open(addr: SocketAddr) -> Self {
        Self::try_open(addr).await.expect("the gateway accepts connections")
    }

    pub(crate) async fn try_open(addr: SocketAddr) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    pub(crate) async fn try_send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Reply> {
        self.sender.ready().await?;
        let (parts, body) = self.sender.send_request(request).await?.into_parts();
        Ok(Response::from_parts(parts, body.collect().await?.to_bytes()))
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Reply {
        self.try_send(request).await.expect("a response")
    }
}

/// One HTTP/2 connection in cleartext.
pub(crate) async fn http2<B>(addr: SocketAddr) -> http2::SendRequest<B>
where
    B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

/// Sends one request on a new connection.
pub(crate) async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Reply {
    Connection::open(addr).await.send(request).await
}

pub(crate) async fn status(addr: SocketAddr, path: &str) -> StatusCode {
    send(addr, get(path)).await.status()
}

/// The body as text.
pub(crate) fn text(reply: &Reply) -> &str {
    std::str::from_utf8(reply.body()).unwrap()
}

/// The body as JSON.
pub(crate) fn json(reply: &Reply) -> serde_json::Value {
    serde_json::from_slice(reply.body()).unwrap_or_else(|error| panic!("{error}: {:?}", reply.body()))
}

pub(crate) fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

/// Writes bytes in the given pieces and reads until the gateway closes or `patience` is over. `true`: the
/// gateway has closed the connection.
pub(crate) async fn raw(
    addr: SocketAddr,
    pieces: &[&[u8]],
    half_close: bool,
    patience: std::time::Duration,
) -> (Vec<u8>, bool) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in pieces {
        if stream.write_all(piece).await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
    if half_close {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(patience, stream.read_to_end(&mut answer)).await.is_ok();
    (answer, closed)
}

/// Sends `pieces` pieces of `piece`, one every `pause`, and returns the answer.
pub(crate) async fn upload_slowly(
    addr: SocketAddr,
    piece: &[u8],
    pieces: usize,
    pause: std::time::Duration,
) -> String {
    let mut client = TcpStream::connect(addr).await.unwrap();
    let length = piece.len() * pieces;
    let head =
        format!("POST / HTTP/1.1\r\nhost: gw\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..pieces {
        tokio::time::sleep(pause).await;
        if client.write_all(piece).await.is_err() {
            break;
        }
    }
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(super::DEADLINE, client.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The result of a load run.
#[derive(Debug, Default)]
pub(crate) struct Load {
    pub(crate) sent: usize,
    /// Every answer other than `200`, and every request without an answer.
    pub(crate) failed: Vec<String>,
}

/// `clients` keep-alive connections send `path` until `stop` is notified, or `stop_at` requests were sent. A client opens a
/// new connection when the gateway has announced that it closes the old one (`Connection: close`), as any client does.
pub(crate) async fn load(
    addr: SocketAddr,
    path: &'static str,
    clients: usize,
    stop: Arc<tokio::sync::Notify>,
    stop_at: usize,
) -> Load {
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let stopped = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..clients {
        let (sent, stopped) = (Arc::clone(&sent), Arc::clone(&stopped));
        tasks.spawn(one_client(addr, path, sent, stopped, stop_at));
    }
    let waiter = {
        let stopped = Arc::clone(&stopped);
        tokio::spawn(async move {
            stop.notified().await;
            stopped.store(true, std::sync::atomic::Ordering::SeqCst);
        })
    };
    let mut load = Load::default();
    while let Some(failed) = tasks.join_next().await {
        load.failed.extend(failed.unwrap());
    }
    waiter.abort();
    load.sent = sent.load(std::sync::atomic::Ordering::SeqCst);
    load
}

async fn one_client(
    addr: SocketAddr,
    path: &'static str,
    sent: Arc<std::sync::atomic::AtomicUsize>,
    stopped: Arc<std::sync::atomic::AtomicBool>,
    stop_at: usize,
) -> Vec<String> {
    use std::sync::atomic::Ordering::SeqCst;
    let mut failed = Vec::new();
    let mut connection = None;
    while !stopped.load(SeqCst) && sent.load(SeqCst) < stop_at {
        let mut open = match connection.take() {
            Some(open) => open,
            // The connection was not accepted: the gateway no longer listens, so this request never reached it.
            None => match Connection::try_open(addr).await {
                Ok(open) => open,
                Err(_) => break,
            },
        };
        sent.fetch_add(1, SeqCst);
        match open.try_send(get(path)).await {
            Ok(reply) => {
                if reply.status() != StatusCode::OK {
                    failed.push(format!("{} {}", reply.status(), text(&reply)));
                }
                if header(&reply, "connection") != "close" {
                    connection = Some(open);
                }
            }
            Err(error) => failed.push(format!("{error:?}")),
        }
    }
    failed
}
