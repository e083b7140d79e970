//! `millgate registry --data`: what was acknowledged is there, however the process ended.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::Notify;

use crate::{
    commands::{Serving, run},
    support::client::{Connection, get, header, json, request, send, text},
};

async fn registry(dir: &Path) -> (Serving, SocketAddr) {
    let args = ["registry", "--listen", "127.0.0.1:0", "--host", "gw", "--data", "data"];
    let registry = Serving::start(dir, &args, "registry").await;
    let address = registry.value("registry").parse().unwrap();
    (registry, address)
}

/// Writes `<name>/0`, `<name>/1`, … until the registry is gone; returns how many were acknowledged.
async fn write(address: SocketAddr, name: String, acknowledged: Arc<AtomicU64>, enough: Arc<Notify>) -> u64 {
    let mut connection = Connection::open(address).await;
    for number in 0.. {
        let put = request("PUT", &format!("/v1/kv/{name}/{number}"), "value");
        match connection.try_send(put).await {
            Ok(reply) if reply.status() == 200 => {}
            _ => return number,
        }
        if acknowledged.fetch_add(1, SeqCst) + 1 >= ENOUGH {
            enough.notify_one();
        }
    }
    unreachable!("the loop has no end")
}

#[tokio::test]
async fn every_acknowledged_write_survives_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeSet::new();
    let mut index_seen = 0;
    for round in 0..3 {
        let (registry, address) = registry(dir.path()).await;
        let (acknowledged, enough) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let name = format!("round-{round}/writer-{writer}");
                let writing = write(address, name.clone(), Arc::clone(&acknowledged), Arc::clone(&enough));
                (name, tokio::spawn(writing))
            })
            .collect();
        enough.notified().await;
        index_seen = index_seen.max(index(address).await);
        // In the middle of writing: all four go on until their connections break.
        registry.kill().await;
        for (name, writer) in writers {
            let count = writer.await.unwrap();
            expected.extend((0..count).map(|number| format!("{name}/{number}")));
        }

        let (registry, address) = self::registry(dir.path()).await;
        let reply = send(address, get("/v1/kv/?keys")).await;
        let kept: BTreeSet<String> = serde_json::from_value(json(&reply)).unwrap();
        let lost: Vec<&String> = expected.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round}: {} of {} are lost: {lost:?}", lost.len(), expected.len());
        assert!(index(address).await >= index_seen, "the index went back");
        registry.kill().await;
    }
}

async fn index(address: SocketAddr) -> u64 {
    let reply = send(address, get("/v1/kv/nothing")).await;
    header(&reply, "x-consul-index").parse().unwrap()
}

#[tokio::test]
async fn a_torn_record_is_said_in_one_line_and_a_directory_in_use_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (registry, address) = self::registry(dir.path()).await;
    for key in ["one", "two"] {
        assert_eq!(send(address, request("PUT", &format!("/v1/kv/{key}"), "x")).await.status(), 200);
    }
    let second = ["registry", "--listen", "127.0.0.1:0", "--data", "data"];
    run(dir.path(), &second).await.expect(1, &["data is in use by another process"]);
    registry.kill().await;

    let log = dir.path().join("data/log.1");
    let whole = std::fs::read(&log).unwrap();
    std::fs::write(&log, &whole[..whole.len() - 1]).unwrap();
    let (registry, address) = self::registry(dir.path()).await;
    let said: Vec<&String> =
        registry.lines.iter().filter(|line| line.contains("unfinished record")).collect();
    assert_eq!(said.len(), 1, "{:?}", registry.lines);
    assert_eq!(text(&send(address, get("/v1/kv/?keys")).await), r#"["one"]"#);
    assert_eq!(registry.terminate().await, Some(0));
}

#[tokio::test]
async fn with_a_token_file_only_requests_with_the_token_may_write() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "a-token-for-tests\n").unwrap();
    let args = ["registry", "--listen", "127.0.0.1:0", "--host", "gw", "--token-file", "token"];
    let registry = Serving::start(dir.path(), &args, "registry").await;
    let address = registry.value("registry").parse().unwrap();
    assert!(registry.lines.iter().all(|line| !line.contains("a-token-for-tests")), "{:?}", registry.lines);
    let put = |token: &str| {
        let mut put = request("PUT", "/v1/kv/a", "x");
        put.headers_mut().insert("x-consul-token", token.parse().unwrap());
        put
    };
    assert_eq!(send(address, put("")).await.status(), 403);
    assert_eq!(send(address, put("another")).await.status(), 403);
    assert_eq!(send(address, put("a-token-for-tests")).await.status(), 200);
    registry.kill().await;

    std::fs::write(dir.path().join("token"), "two words").unwrap();
    run(dir.path(), &args).await.expect(1, &["token: a token has 1 to 512 letters"]);
    let missing = ["registry", "--listen", "127.0.0.1:0", "--token-file", "missing"];
    run(dir.path(), &missing).await.expect(1, &["cannot read the token missing: No such file"]);
}

/// Acknowledged writes in a round before the registry is killed.
const ENOUGH: u64 = 300;
