//! An honest client, and how long its answers take.
//!
//! Open loop: requests are sent at a constant rate whatever the answers take, and a latency counts from the moment at which
//! the rate says that the request is due. A thread of its own gives the pace, because tokio's timer counts in milliseconds.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinSet, LocalSet},
};

use super::rig::Target;
use crate::support::{
    client::{Connection, get},
    frames::connect_tls,
};

/// Requests a second, half of them HTTP/1.1 in cleartext, half of them HTTP/2 over TLS.
const RATE: u32 = 400;
/// Every so manieth request is the first one of a connection of its own.
const NEW_EVERY: usize = 16;
/// A response that takes longer counts as missing.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the client got.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// On connections that are kept.
    latencies: Vec<Duration>,
    /// The longest of a request with a connection of its own.
    pub(crate) new_ms: f64,
    pub(crate) failed: Vec<String>,
}

impl Seen {
    /// The smallest latency that so many of a thousand are not above, in milliseconds.
    pub(crate) fn quantile_ms(&self, per_mille: usize) -> f64 {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * per_mille).div_ceil(1000);
        sorted.get(rank.saturating_sub(1)).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.new_ms = self.new_ms.max(other.new_ms);
        self.failed.extend(other.failed);
    }

    pub(crate) fn len(&self) -> usize {
        self.latencies.len() + self.failed.len()
    }
}

/// Sends for as long as this, on a thread of its own.
pub(crate) async fn turn(target: &Arc<Target>, lasting: Duration) -> Seen {
    let (said, seen) = oneshot::channel();
    let target = Arc::clone(target);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = said.send(LocalSet::new().block_on(&runtime, send_for(target, lasting)));
    });
    seen.await.expect("the client does not panic")
}

async fn send_for(target: Arc<Target>, lasting: Duration) -> Seen {
    let client = Rc::new(Client { target, kept: RefCell::default(), http2: RefCell::default() });
    // Connections are opened before the time counts.
    let mut seen = Seen::default();
    for number in 0..4 {
        seen.failed.extend(client.ask(number).await.err());
    }
    let (due, mut requests) = mpsc::unbounded_channel();
    let pace = thread::spawn(move || {
        let began = Instant::now();
        let all = (0..).map(|number| began + Duration::from_secs(1) * number / RATE);
        for at in all.take_while(|at| *at < began + lasting) {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if due.send(at).is_err() {
                return;
            }
        }
    });
    let mut asked = JoinSet::new();
    let mut number = 0;
    while let Some(due) = requests.recv().await {
        let client = Rc::clone(&client);
        number += 1;
        asked.spawn_local(async move {
            let answered = tokio::time::timeout(PATIENCE, client.ask(number)).await;
            let is_new = number.is_multiple_of(NEW_EVERY);
            (is_new, due.elapsed(), answered.unwrap_or_else(|_| Err("no answer".to_owned())))
        });
    }
    pace.join().unwrap();
    for (is_new, latency, answered) in asked.join_all().await {
        match answered {
            Ok(()) if is_new => seen.new_ms = seen.new_ms.max(latency.as_secs_f64() * 1e3),
            Ok(()) => seen.latencies.push(latency),
            Err(why) => seen.failed.push(why),
        }
    }
    seen
}

struct Client {
    target: Arc<Target>,
    /// Of HTTP/1.1, free now.
    kept: RefCell<Vec<Connection>>,
    http2: RefCell<Option<http2::SendRequest<Full<Bytes>>>>,
}

impl Client {
    async fn ask(&self, number: usize) -> Result<(), String> {
        if number.is_multiple_of(2) {
            self.http1(number.is_multiple_of(NEW_EVERY)).await.map_err(|why| format!("HTTP/1.1: {why}"))
        } else {
            self.http2().await.map_err(|why| format!("HTTP/2: {why}"))
        }
    }

    /// On a connection that is free, or on a new one.
    async fn http1(&self, is_new: bool) -> Result<(), String> {
        let kept = if is_new { None } else { self.kept.borrow_mut().pop() };
        if let Some(mut open) = kept {
            match open.try_send(get(PATH)).await {
                Ok(reply) => return self.keep(open, reply.status()),
                // The connection was closed while it was idle; no byte of the request was sent.
                Err(error) if error.is_canceled() || error.is_closed() => {}
                Err(error) => return Err(format!("on a kept connection: {error:?}")),
            }
        }
        let mut open = Connection::try_open(self.target.http).await.map_err(|error| error.to_string())?;
        match open.try_send(get(PATH)).await {
            Ok(reply) => self.keep(open, reply.status()),
            Err(error) => Err(format!("on a new connection: {error:?}")),
        }
    }

    fn keep(&self, open: Connection, status: http::StatusCode) -> Result<(), String> {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < KEPT_MAX {
            kept.push(open);
        }
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    }

    async fn http2(&self) -> Result<(), String> {
        let known = self.http2.borrow().as_ref().filter(|sender| !sender.is_closed()).cloned();
        let mut sender = if let Some(sender) = known {
            sender
        } else {
            let stream = connect_tls(self.target.https, &self.target.authority, b"h2").await;
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
            let (sender, connection) = handshake.map_err(|error| error.to_string())?;
            tokio::spawn(connection);
            self.http2.replace(Some(sender.clone()));
            sender
        };
        let request = Request::get(format!("https://gw{PATH}")).body(Full::default()).unwrap();
        let response = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        if status == 200 { Ok(()) } else { Err(status.to_string()) }
    }
}

const PATH: &str = "/honest";
const KEPT_MAX: usize = 8;
