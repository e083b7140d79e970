//! A line of the access log that is not on disk is in a counter.

use crate::support::{
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
