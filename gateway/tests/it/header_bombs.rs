//! HTTP/2 header sections whose fields cost their sender a byte and the gateway seventy: memory stays bounded, and a
//! client that sends many of them is cut.
//!
//! A process of its own, whose memory is its own.

use std::{net::SocketAddr, time::Duration};

use crate::{
    commands::Serving,
    support::{
        client::{get, send, text},
        eventually,
        frames::{
            Cut, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FrameClient, GOAWAY, HEADERS,
            INITIAL_WINDOW_SIZE, Outcome, PING, frame, ping,
        },
        gateway::write_config,
    },
};

struct Gateway {
    process: Serving,
    http: SocketAddr,
    admin: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Gateway {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = "workers: 1\nroutes: [{path: /here, service: s}]\n\
            services: {s: {hosts: [\"127.0.0.1:1\"]}}\n";
        write_config(dir.path(), config);
        let process = Serving::start(dir.path(), &["run", "--state-dir", "state"], "admin").await;
        let addr = |name| process.value(name).parse().unwrap();
        Self { http: addr("http"), admin: addr("admin"), process, _dir: dir }
    }

    fn memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() / 1024
    }
}

/// `:method: GET`, `:scheme: http`, `:path: /`, and `fields` times a field of the dynamic table (RFC 7541 §6.1).
fn bomb(stream: u32, fields: usize) -> Vec<u8> {
    // The first one puts the field into the table.
    let start: &[u8] =
        if stream == 1 { b"\x82\x86\x84\x01\x02gw\x40\x01x\x01a" } else { b"\x82\x86\x84\x01\x02gw\xbe" };
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &[start, &vec![0xbe; fields]].concat())
}

#[tokio::test]
async fn bombs_from_many_connections_do_not_fill_the_memory() {
    const CONNECTIONS: usize = 200;
    let gateway = Gateway::start().await;
    // What serving needs for the first time is not what bombs need.
    assert_eq!(send(gateway.http, get("/")).await.status(), 404);
    let before = gateway.memory_mib();
    let bombs: Vec<u8> = (1..201).step_by(2).flat_map(|stream| bomb(stream, 2800)).collect();
    let mut most = 0;
    for round in 0..2 {
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            clients.push(FrameClient::open_with(gateway.http, &[(INITIAL_WINDOW_SIZE, 0)]).await);
        }
        let mut sending = tokio::task::JoinSet::new();
        for mut client in clients {
            let bombs = bombs.clone();
            sending.spawn(async move {
                client.try_send(&bombs, Cut::Whole).await;
                // Until it is cut; its goodbye may be lost in the reset.
                let goaway = client.until(|frame| frame.kind == GOAWAY).await;
                let code = goaway.and_then(|frame| frame.error_code());
                assert!(code.is_none_or(|code| code == ENHANCE_YOUR_CALM), "{code:?}");
            });
        }
        while !sending.is_empty() {
            most = most.max(gateway.memory_mib());
            if let Ok(Some(ended)) =
                tokio::time::timeout(Duration::from_millis(10), sending.join_next()).await
            {
                ended.unwrap();
            }
        }
        most = most.max(gateway.memory_mib());
        assert!(most < before + 64, "round {round}: {before} MiB became {most}");
    }
    println!("{before} MiB, {most} at most, {} after", gateway.memory_mib());
    let counted = "millgate_connection_errors_total{listener=\"http\",reason=\"header_flood\"} 400\n";
    eventually("each is counted", || async {
        text(&send(gateway.admin, get("/metrics")).await).contains(counted)
    })
    .await;
}

/// A browser with too many cookies gets its 431, a few times.
#[tokio::test]
async fn a_few_sections_just_past_the_limit_are_refused_one_by_one() {
    let gateway = Gateway::start().await;
    let mut client = FrameClient::open_with(gateway.http, &[(1, 0)]).await;
    for stream in (1..19).step_by(2) {
        client.send(&bomb(stream, 360)).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(431));
    }
    client.send(&ping()).await;
    assert!(client.until(|frame| frame.kind == PING).await.is_some(), "the connection stays");
    let sections: Vec<u8> = (19..61).step_by(2).flat_map(|stream| bomb(stream, 360)).collect();
    client.try_send(&sections, Cut::Halves).await;
    assert_is_cut(&mut client).await;
}

async fn assert_is_cut(client: &mut FrameClient) {
    let goaway = client.until(|frame| frame.kind == GOAWAY).await;
    assert!(goaway.is_none_or(|frame| frame.error_code() == Some(ENHANCE_YOUR_CALM)));
}

/// Decoding one takes as long as serving a dozen requests, which wait for it.
#[tokio::test]
async fn of_large_sections_one_is_decoded_for_each_connection_however_they_come() {
    let gateway = Gateway::start().await;
    let sections: Vec<u8> = (1..11).step_by(2).flat_map(|stream| bomb(stream, 2800)).collect();
    for cut in Cut::ALL {
        let mut client = FrameClient::open_with(gateway.http, &[(1, 0)]).await;
        client.try_send(&sections, cut).await;
        assert_is_cut(&mut client).await;
    }
    let metrics = send(gateway.admin, get("/metrics")).await;
    let refused = text(&metrics).lines().find(|line| line.contains("headers_too_large")).unwrap_or(" 0");
    let refused: usize = refused.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(refused <= Cut::ALL.len(), "{refused}");
}

/// As many fields as admission takes are not a flood, however often they come.
#[tokio::test]
async fn sections_at_the_limit_are_served_for_ever() {
    let gateway = Gateway::start().await;
    let mut client = FrameClient::open_with(gateway.http, &[(1, 0)]).await;
    for stream in (1..401).step_by(2) {
        client.send(&bomb(stream, 90)).await;
        assert_eq!(client.outcome(stream).await, Outcome::Status(404));
    }
}
