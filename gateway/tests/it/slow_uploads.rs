//! Uploads hold a slot of their service at the pace of their clients. Slow ones leave room for complete requests, and end
//! when others need their place.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    DEADLINE,
    backend::{Backend, RawBackend},
    client::{Connection, get, send, text},
    eventually,
    gateway::TestGateway,
};

const SLOTS: usize = 20;
/// Of the slots, three quarters.
const PLACES: usize = 15;
/// Past what is gathered before a slot is taken.
const FIRST: usize = 66_000;

async fn gateway(service: SocketAddr, limits: &str) -> TestGateway {
    let config = format!(
        "workers: 1\nlimits: {{{limits}}}\nroutes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [\"{service}\"], max_inflight: {SLOTS}, breaker: off}}}}\n"
    );
    TestGateway::start(&config).await
}

/// Sends `FIRST` bytes at once and then a tenth of `rate` in each tenth of a second, so many times. The status, and when it
/// came.
async fn upload(addr: SocketAddr, rate: usize, tenths: usize) -> (u16, Duration) {
    let mut client = TcpStream::connect(addr).await.unwrap();
    let piece = vec![b'x'; rate / 10];
    let length = FIRST + tenths * piece.len();
    let head = format!("POST /upload HTTP/1.1\r\nhost: gw\r\ncontent-length: {length}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; FIRST]).await.unwrap();
    let since = Instant::now();
    let (mut reader, mut writer) = client.split();
    let mut answer = [0; 12];
    let sending = async {
        let mut pace = tokio::time::interval(Duration::from_millis(100));
        for _ in 0..tenths {
            pace.tick().await;
            if writer.write_all(&piece).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = sending => {}
        read = reader.read_exact(&mut answer) => { read.unwrap(); }
    }
    (std::str::from_utf8(&answer[9..]).unwrap().parse().unwrap(), since.elapsed())
}

async fn uploads_under_way(gateway: &TestGateway) -> usize {
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let line = text(&metrics)
        .lines()
        .find_map(|line| line.strip_prefix("millgate_requests_in_flight{service=\"s\"} "))
        .and_then(|number| number.parse::<f64>().ok());
    line.map_or(0, |number| if number < 0.5 { 0 } else { format!("{number:.0}").parse().unwrap() })
}

#[tokio::test]
async fn slow_uploads_hold_no_service_and_one_from_a_phone_is_served_beside_them() {
    let service = Backend::named("one").await;
    let gateway = gateway(service.addr, "").await;
    // 8 KB/s, for longer than the slow ones are borne.
    let phone = tokio::spawn(upload(gateway.http, 8_000, 140));
    eventually("the phone has its place", || async { uploads_under_way(&gateway).await == 1 }).await;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..SLOTS {
        slow.spawn(upload(gateway.http, 260, 1_000));
    }
    eventually("as many as there are places for", || async { uploads_under_way(&gateway).await == PLACES })
        .await;
    let mut honest = Connection::open(gateway.http).await;
    let mut ended = Vec::new();
    while !slow.is_empty() {
        assert_eq!(honest.send(get("/honest")).await.status(), 200);
        if let Ok(joined) = tokio::time::timeout(Duration::from_millis(20), slow.join_next()).await {
            ended.extend(joined.map(Result::unwrap));
        }
    }
    let refused = ended.iter().filter(|(status, _)| *status == 503).count();
    let late: Vec<_> = ended.iter().filter(|(status, _)| *status == 408).collect();
    assert_eq!((refused, late.len()), (SLOTS + 1 - PLACES, PLACES - 1), "{ended:?}");
    assert!(late.iter().all(|(_, after)| (9..20).contains(&after.as_secs())), "{ended:?}");
    assert_eq!(phone.await.unwrap().0, 200);
    let metrics = send(gateway.admin(), get("/metrics")).await;
    let counted =
        format!("millgate_local_replies_total{{route=\"/**\",reason=\"uploads_share\"}} {refused}\n");
    assert!(text(&metrics).contains(&counted));
}

#[tokio::test]
async fn uploads_have_all_slots_where_the_operator_says_so() {
    let service = Backend::named("one").await;
    let gateway = gateway(service.addr, "uploads: off").await;
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..SLOTS {
        slow.spawn(upload(gateway.http, 260, 1_000));
    }
    eventually("all have a slot", || async { uploads_under_way(&gateway).await == SLOTS }).await;
    assert_eq!(send(gateway.http, get("/x")).await.status(), 503);
}

/// Fast uploads give their place back when they are there, long before their slot.
#[tokio::test]
async fn uploads_that_are_there_hold_no_place() {
    let service = RawBackend::answering(b"", false).await;
    let gateway = gateway(service.addr, "uploads: 5%").await;
    let mut all = tokio::task::JoinSet::new();
    for number in 1..=SLOTS {
        all.spawn(upload(gateway.http, 100_000, 1));
        eventually("it is sent", || async { uploads_under_way(&gateway).await == number }).await;
        // The first of them is whole; 5 % is one place.
        eventually("it is there", || async {
            service.received.lock().unwrap().len() >= number * (FIRST + 10_000)
        })
        .await;
    }
    assert!(all.try_join_next().is_none(), "none was refused");
}

/// A body that its client keeps until it is invited cannot be gathered before a slot is taken, however small it is.
#[tokio::test]
async fn clients_that_wait_to_be_invited_and_then_send_nothing_leave_a_quarter_of_the_slots_free() {
    let service = Backend::named("one").await;
    let gateway = gateway(service.addr, "").await;
    let head = b"POST /upload HTTP/1.1\r\nhost: gw\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let mut waiting = Vec::new();
    for place in 1..=SLOTS {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client.write_all(head).await.unwrap();
        let mut answer = [0; 12];
        tokio::time::timeout(DEADLINE, client.read_exact(&mut answer)).await.unwrap().unwrap();
        let expected = if place <= PLACES { "HTTP/1.1 100" } else { "HTTP/1.1 503" };
        assert_eq!(std::str::from_utf8(&answer).unwrap(), expected, "client {place}");
        waiting.push(client);
    }
    assert_eq!(uploads_under_way(&gateway).await, PLACES);
    assert_eq!(send(gateway.http, get("/honest")).await.status(), 200);
    // Those that are invited lose nothing by it.
    let first = &mut waiting[0];
    first.write_all(b"hello").await.unwrap();
    let mut answer = vec![0; 27];
    tokio::time::timeout(DEADLINE, first.read_exact(&mut answer)).await.unwrap().unwrap();
    assert!(
        String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
}
