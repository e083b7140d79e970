//! A line of the access log that is not on disk is in a counter.

use std::{
    io::{BufRead, BufReader},
    process::Command,
    time::Duration,
};

use crate::support::{
    DEADLINE,
    backend::Backend,
    client::{get, send, status, text},
    eventually,
    gateway::TestGateway,
};

#[tokio::test]
async fn lines_that_a_full_disk_does_not_take_are_counted() {
    let backend = Backend::named("one").await;
    // Takes nothing, as a full disk.
    let gateway = TestGateway::start(&format!(
        "access_log: {{format: json, file: /dev/full}}\nroutes:\n  - {{path: /**, service: one}}\n\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    ))
    .await;
    for _ in 0..5 {
        assert_eq!(status(gateway.http, "/x").await, 200);
    }
    eventually("all five are counted", || async {
        let shown = send(gateway.admin(), get("/metrics")).await;
        text(&shown).contains("millgate_log_dropped_total{reason=\"write\"} 5\n")
    })
    .await;
}

/// A collector that starts later, or never: neither the start nor the end waits for it.
#[tokio::test]
async fn a_named_pipe_without_a_reader_holds_up_nothing_and_gets_its_lines_when_one_comes() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let config = format!(
        "access_log: {{format: json, file: pipe}}\nroutes:\n  - {{path: /**, service: one}}\n\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    );
    let gateway =
        tokio::time::timeout(DEADLINE, TestGateway::start_in(dir, &config)).await.expect("it starts");
    assert_eq!(status(gateway.http, "/first").await, 200);
    gateway.reopen_logs();
    let read = tokio::task::spawn_blocking(move || {
        let mut line = String::new();
        BufReader::new(std::fs::File::open(pipe).unwrap()).read_line(&mut line).unwrap();
        line
    });
    let line = tokio::time::timeout(DEADLINE, read).await.expect("the line comes").unwrap();
    assert!(line.contains("/first"), "{line}");
    assert_eq!(status(gateway.http, "/second").await, 200);
    let stopping = tokio::time::timeout(Duration::from_secs(10), gateway.stop()).await;
    assert_eq!(stopping.expect("it ends"), 0);
}
