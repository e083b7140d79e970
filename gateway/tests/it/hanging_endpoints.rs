//! An endpoint that takes requests and answers none of them is out before they time out, and slow services are not taken for
//! such a one.
//!
//! No peer has this: nginx (`proxy_read_timeout`, 60 s), HAProxy (`timeout server`) and Envoy (15 s) find out when requests have
//! timed out, and none of them has a shorter default for one attempt.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
};

use crate::{
    dead_endpoints::{endpoint, hosts, metric, to},
    support::{
        backend::Backend,
        client::{Connection, get, send, status, text},
        eventually,
        gateway::TestGateway,
    },
};

/// An HTTP/1.1 service that reads requests; while it `hangs` it answers none, and later all that it has. Paths that begin with
/// `/slow` take `slow`.
struct Hanging {
    addr: SocketAddr,
    hangs: watch::Sender<bool>,
    /// What hangs now stays so.
    forgets: watch::Sender<bool>,
    task: tokio::task::JoinHandle<()>,
}

impl Hanging {
    async fn start(slow: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let hangs = watch::Sender::new(false);
        let seen = hangs.subscribe();
        let forgets = watch::Sender::new(false);
        let forgotten = forgets.subscribe();
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut hangs = seen.clone();
                let forgotten = forgotten.clone();
                open.spawn(async move {
                    let mut head = Vec::new();
                    while stream.read_buf(&mut head).await.is_ok_and(|read| read > 0) {
                        if !head.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        if head.starts_with(b"GET /slow") {
                            tokio::time::sleep(slow).await;
                        }
                        if !*forgotten.borrow() && hangs.wait_for(|hangs| !hangs).await.is_err() {
                            return;
                        }
                        head.clear();
                        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err()
                        {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, hangs, forgets, task }
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A gateway with one worker, which has had enough answers to have a usual time.
async fn gateway(instances: [SocketAddr; 2], route: &str, service: &str) -> TestGateway {
    let config = format!("workers: 1\n{}", to(&hosts(instances), route, &format!(", breaker: off{service}")));
    let gateway = TestGateway::start(&config).await;
    let mut client = Connection::open(gateway.http).await;
    for _ in 0..40 {
        assert_eq!(client.send(get("/x")).await.status(), 200);
    }
    gateway
}

/// `count` requests for `path` at once; those that come later do not wait for them.
fn many(http: SocketAddr, path: &'static str, count: usize) -> JoinSet<u16> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        running.spawn(async move { status(http, path).await.as_u16() });
    }
    running
}

#[tokio::test]
async fn an_instance_that_hangs_is_out_within_seconds_and_no_get_is_lost_to_it() {
    let (hanging, good) = (Hanging::start(Duration::ZERO).await, Backend::named("good").await);
    // Time for a whole second attempt is left after half of it, on a slow machine, too.
    let route = ", timeout: 8s, retry: {budget: 100%}";
    let gateway = gateway([hanging.addr, good.addr], route, ", outlier: {pause: 1m}").await;
    hanging.hangs.send_replace(true);
    let began = Instant::now();
    let mut lost = many(gateway.http, "/x", 12);
    eventually("it is ejected", || async {
        let _ = tokio::time::timeout(Duration::from_millis(50), status(gateway.http, "/x")).await;
        metric(&gateway, "millgate_ejections_total{service=\"s\",reason=\"unanswered_requests\"}").await
            >= 1.0
    })
    .await;
    let out = began.elapsed();
    assert!(out > Duration::from_millis(900), "{out:?}");
    let events = send(gateway.admin(), get("/api/v1/events")).await;
    assert!(
        text(&events).contains("unanswered requests in a row where 95 % wait for less than "),
        "{}",
        text(&events)
    );
    assert_eq!(endpoint(&gateway, hanging.addr).await["outlier"]["reason"], "unanswered_requests");
    while let Some(answer) = lost.join_next().await {
        assert_eq!(answer.unwrap(), 200);
    }
    assert!(began.elapsed() < Duration::from_millis(7_500), "{:?}", began.elapsed());
}

/// It had a long pause: whatever it answers brings it back at once.
#[tokio::test]
async fn an_instance_that_goes_on_is_back_with_its_first_answer() {
    let (hanging, good) = (Hanging::start(Duration::ZERO).await, Backend::named("good").await);
    let gateway = gateway([hanging.addr, good.addr], ", timeout: 60s", ", outlier: {pause: 1m}").await;
    hanging.hangs.send_replace(true);
    let waiting = many(gateway.http, "/x", 12);
    eventually("it is ejected", || async {
        // The other one answers meanwhile.
        let _ = tokio::time::timeout(Duration::from_millis(50), status(gateway.http, "/x")).await;
        metric(&gateway, "millgate_endpoint_ejected").await > 0.0
    })
    .await;
    hanging.hangs.send_replace(false);
    eventually("it is back", || async { metric(&gateway, "millgate_endpoint_ejected").await < 1.0 }).await;
    assert_eq!(waiting.join_all().await, [200; 12]);
}

/// What it answers then are new requests; those that it had lost go elsewhere.
#[tokio::test]
async fn requests_that_an_instance_has_lost_go_elsewhere_also_when_it_is_back() {
    let (hanging, good) = (Hanging::start(Duration::ZERO).await, Backend::named("good").await);
    let route = ", timeout: 8s, retry: {budget: 100%}";
    let gateway = gateway([hanging.addr, good.addr], route, ", outlier: {pause: 500ms}").await;
    hanging.hangs.send_replace(true);
    let mut lost = many(gateway.http, "/x", 12);
    let out = async || metric(&gateway, "millgate_endpoint_ejected").await;
    eventually("it is ejected", || async {
        let _ = tokio::time::timeout(Duration::from_millis(50), status(gateway.http, "/x")).await;
        out().await > 0.0
    })
    .await;
    // From now on it answers new connections, and never what it has.
    hanging.forgets.send_replace(true);
    eventually("it is back", || async {
        assert_eq!(status(gateway.http, "/x").await, 200);
        out().await < 1.0
    })
    .await;
    while let Some(answer) = lost.join_next().await {
        assert_eq!(answer.unwrap(), 200);
    }
}

/// All are slow, or only one kind of request is: nothing is concluded.
#[tokio::test]
async fn what_is_only_slow_is_not_left_out() {
    let slow = Duration::from_millis(2_500);
    let (a, b) = (Hanging::start(slow).await, Hanging::start(slow).await);
    let (all, some) = (gateway([a.addr, b.addr], "", "").await, gateway([a.addr, b.addr], "", "").await);
    let (of_all, of_some) = (many(all.http, "/slow", 20), many(some.http, "/slow", 20));
    // Quick ones are answered meanwhile by both.
    let ends = Arc::new(AtomicBool::new(false));
    let (http, ended) = (some.http, Arc::clone(&ends));
    let quick = tokio::spawn(async move {
        let mut client = Connection::open(http).await;
        while !ended.load(Ordering::SeqCst) {
            assert_eq!(client.send(get("/x")).await.status(), 200);
        }
    });
    assert_eq!(of_all.join_all().await, [200; 20]);
    assert_eq!(of_some.join_all().await, [200; 20]);
    ends.store(true, Ordering::SeqCst);
    quick.await.unwrap();
    for gateway in [&all, &some] {
        assert!(metric(gateway, "millgate_ejections_total").await < 1.0);
    }
}

#[tokio::test]
async fn it_can_be_switched_off_by_itself() {
    let (hanging, good) = (Hanging::start(Duration::ZERO).await, Backend::named("good").await);
    let gateway = gateway([hanging.addr, good.addr], ", timeout: 3s", ", outlier: {unanswered: off}").await;
    hanging.hangs.send_replace(true);
    let mut waiting = many(gateway.http, "/x", 12);
    eventually("some have waited until their end", || async {
        let _ = tokio::time::timeout(Duration::from_millis(50), status(gateway.http, "/x")).await;
        waiting.len() > 6
            && metric(&gateway, "millgate_upstream_requests_total{service=\"s\",code=\"none\"}").await >= 1.0
    })
    .await;
    let ejections = "millgate_ejections_total{service=\"s\",reason=\"unanswered_requests\"}";
    assert!(metric(&gateway, ejections).await < 1.0);
    waiting.abort_all();
}
