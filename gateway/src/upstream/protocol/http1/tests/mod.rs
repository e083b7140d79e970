//! The client against services that are written out byte by byte, over memory.

mod answers;
mod bounds;
mod failures;
mod feed;
mod uploads;

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf, duplex},
    task::LocalSet,
};

use self::feed::{FedBody, Feed};
use super::*;
use crate::headers::{Delimiting, RequestHead};

/// Runs `test` on a worker of its own.
async fn on_a_worker(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

/// A connection, and the service at its other end. Each direction holds so many bytes.
fn connection(capacity: usize) -> (Http1, DuplexStream) {
    let (ours, service) = duplex(capacity);
    (Http1::open(ours, FailedWrite::SentNothing, &Rc::default()), service)
}

fn get(path: &'static str) -> UpstreamRequest<FedBody> {
    request("GET", path, FedBody::default(), Delimiting::Nothing)
}

fn request(
    method: &'static str,
    path: &'static str,
    body: FedBody,
    content: Delimiting,
) -> UpstreamRequest<FedBody> {
    let head = RequestHead::plain(&method.parse().unwrap(), path, content);
    UpstreamRequest::new(head, body, HeaderMap::new())
}

/// What the connection makes of one request: status and content, or where it ended.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    NoHead,
    Invalid,
    /// Of a response that broke off: what came of its content.
    BrokenOff(u16, Vec<u8>),
    Whole(u16, Vec<u8>),
}

/// Sends a request and reads its response.
async fn exchange(connection: &mut Http1, mut request: UpstreamRequest<FedBody>) -> Outcome {
    match connection.send(&mut request, None).await {
        Ok(answered) => outcome_of(answered).await,
        Err(SendError::Invalid(_)) => Outcome::Invalid,
        Err(_) => Outcome::NoHead,
    }
}

async fn outcome_of(answered: Answered) -> Outcome {
    let status = answered.response.status().as_u16();
    let mut body = answered.response.into_body();
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        match frame {
            // Trailers are no content.
            Ok(frame) => content.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Err(_) => return Outcome::BrokenOff(status, content),
        }
    }
    assert!(http_body::Body::is_end_stream(&body));
    Outcome::Whole(status, content)
}

/// Reads what was sent, up to the empty line that ends a head.
async fn read_head(service: &mut DuplexStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(service.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Lets everything else run until it waits.
async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}
