//! Honest clients, and others.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rand::{RngExt, rngs::SmallRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Seen;
use crate::support::client::{Connection, get, text};

pub(crate) const HONEST: u64 = 8;
pub(crate) const OTHERS: u64 = 12;

/// Longer than the route's `timeout.total`.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between two requests of one client.
const PACE: Duration = Duration::from_millis(25);

/// Sends requests, each with a path of its own, and returns every answer that is not its own, whole, and 200. Every fourth
/// client speaks HTTP/2.
pub(crate) async fn honest(gateway: SocketAddr, at: u64, seen: Arc<Seen>) -> Vec<String> {
    let (mut wrong, mut number) = (Vec::new(), 0_u64);
    let mut pace = tokio::time::interval(PACE);
    while !seen.over.load(SeqCst) {
        let failed = if at % 4 == 3 {
            http2(gateway, at, &mut number, &mut pace, &seen).await
        } else {
            http1(gateway, at, &mut number, &mut pace, &seen).await
        };
        wrong.extend(failed);
    }
    wrong
}

/// One connection, until it ends. `None`: it ended as connections do.
async fn http1(
    gateway: SocketAddr,
    at: u64,
    number: &mut u64,
    pace: &mut tokio::time::Interval,
    seen: &Seen,
) -> Option<String> {
    let mut open = Connection::open(gateway).await;
    while !seen.over.load(SeqCst) {
        pace.tick().await;
        *number += 1;
        let path = format!("/{at}/{number}");
        match tokio::time::timeout(PATIENCE, open.try_send(get(&path))).await {
            Err(_) => return Some(format!("{path}: no answer")),
            Ok(Ok(reply)) if reply.status() == 200 && text(&reply) == path => seen.right.fetch_add(1, SeqCst),
            Ok(Ok(reply)) => return Some(format!("{path}: {} {}", reply.status(), text(&reply))),
            // The head had come: a response that broke off.
            Ok(Err(error)) if format!("{error:?}").contains("IncompleteBody") => {
                seen.broken.fetch_add(1, SeqCst);
                return None;
            }
            Ok(Err(error)) => return Some(format!("{path}: {error:?}")),
        };
    }
    None
}

async fn http2(
    gateway: SocketAddr,
    at: u64,
    number: &mut u64,
    pace: &mut tokio::time::Interval,
    seen: &Seen,
) -> Option<String> {
    let stream = TcpStream::connect(gateway).await.unwrap();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    while !seen.over.load(SeqCst) {
        pace.tick().await;
        *number += 1;
        let path = format!("/{at}/{number}");
        let request = Request::get(format!("http://gw{path}")).body(Full::<Bytes>::default()).unwrap();
        let answered = tokio::time::timeout(PATIENCE, sender.send_request(request)).await;
        let response = match answered {
            Err(_) => return Some(format!("{path}: no answer")),
            Ok(Err(error)) => return Some(format!("{path}: {error:?}")),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        match tokio::time::timeout(PATIENCE, response.into_body().collect()).await {
            Err(_) => return Some(format!("{path}: no end")),
            Ok(Err(_)) => seen.broken.fetch_add(1, SeqCst),
            Ok(Ok(content)) => {
                let content = content.to_bytes();
                if status != 200 || content != path {
                    return Some(format!("{path}: {status} {}", String::from_utf8_lossy(&content)));
                }
                seen.right.fetch_add(1, SeqCst)
            }
        };
    }
    None
}

/// Does one thing after the other that no honest client does.
pub(crate) async fn other(gateway: SocketAddr, mut rng: SmallRng, seen: Arc<Seen>) -> Vec<String> {
    while !seen.over.load(SeqCst) {
        let (choice, pause) = (rng.random_range(0..7), Duration::from_millis(rng.random_range(1..400)));
        // Longer than the gateway's own limits, in case one of them fails.
        let _ = tokio::time::timeout(Duration::from_secs(8), mischief(gateway, choice, pause)).await;
        seen.mischief.fetch_add(1, SeqCst);
    }
    Vec::new()
}

async fn mischief(gateway: SocketAddr, choice: u32, pause: Duration) {
    let Ok(mut stream) = TcpStream::connect(gateway).await else { return };
    let head = match choice {
        // Asks for much and reads nothing, or little.
        0 | 1 => "GET /large/1 HTTP/1.1\r\nhost: gw\r\n\r\n",
        // Half a head, half a body, a body that never comes.
        2 => "GET /half HTTP/1.1\r\nho",
        3 => "POST /half HTTP/1.1\r\nhost: gw\r\ncontent-length: 100000\r\n\r\nhalf",
        4 => "POST /half HTTP/1.1\r\nhost: gw\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
        // Leaves while it is served.
        _ => "GET /leaves HTTP/1.1\r\nhost: gw\r\n\r\n",
    };
    let _ = stream.write_all(head.as_bytes()).await;
    match choice {
        0 => tokio::time::sleep(Duration::from_secs(6)).await,
        1 => {
            let mut byte = [0; 1];
            while stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
                tokio::time::sleep(pause).await;
            }
        }
        _ => tokio::time::sleep(pause).await,
    }
    if choice.is_multiple_of(2) {
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
    }
}
