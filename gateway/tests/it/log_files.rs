//! The access log's file when it is rotated, and which requests a sample writes.

use std::path::Path;

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;

use crate::{
    commands::Serving,
    support::{
        backend::Backend,
        client::{Connection, get, status},
        eventually,
        gateway::{TestGateway, write_config},
    },
};

fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// As logrotate does it: the file is renamed, and the process learns of it by a signal.
#[tokio::test]
async fn a_file_that_was_rotated_is_opened_anew_after_either_signal_and_no_line_is_lost() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let config = format!(
        "access_log: {{format: json, file: access.log}}\nroutes:\n  - {{path: /**, service: one}}\n\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    );
    write_config(dir.path(), &config);
    let gateway = Serving::start(dir.path(), &["run", "--state-dir", "state"], "admin").await;
    let http = gateway.value("http").parse().unwrap();
    let (file, pid) = (dir.path().join("access.log"), gateway.pid().to_string());
    for signal in ["-USR1", "-HUP"] {
        assert_eq!(status(http, "/before").await, 200);
        eventually("it is in the file", || async { lines(&file).len() == 1 }).await;
        let renamed = dir.path().join(format!("access.log{signal}"));
        std::fs::rename(&file, &renamed).unwrap();
        assert_eq!(status(http, "/between").await, 200);
        eventually("it is in the renamed file", || async { lines(&renamed).len() == 2 }).await;
        assert!(!file.exists(), "without a signal the process cannot know");
        assert!(std::process::Command::new("kill").args([signal, &pid]).status().unwrap().success());
        eventually("there is a new file", || async { file.exists() }).await;
        assert_eq!(status(http, "/after").await, 200);
        eventually("it is in the new file", || async { lines(&file).len() == 1 }).await;
        assert_eq!(lines(&file)[0]["path"], "/after");
        assert_eq!(
            lines(&renamed).iter().map(|line| &line["path"]).collect::<Vec<_>>(),
            ["/before", "/between"]
        );
        std::fs::remove_file(&file).unwrap();
        assert!(std::process::Command::new("kill").args(["-USR1", &pid]).status().unwrap().success());
        eventually("there is an empty one again", || async { file.exists() }).await;
    }
    assert_eq!(gateway.terminate().await, Some(0));
}

fn sampled(sample: &str, backend: &Backend) -> String {
    format!(
        "workers: 1\naccess_log: {{format: json, file: access.log, sample: {sample}}}\nroutes:\n  \
         - {{path: /**, service: one, retry: off}}\n  - {{path: /quiet/**, service: one, retry: off, access_log: false}}\n\
         services:\n  one: {{hosts: [\"{}\"], breaker: off, outlier: off}}\n",
        backend.addr
    )
}

/// The numbers at the end of the paths below `/fine/` that were logged.
fn numbers(lines: &[Value]) -> Vec<u32> {
    let paths = lines.iter().filter_map(|line| line["path"].as_str()?.strip_prefix("/fine/"));
    paths.map(|number| number.parse().unwrap()).collect()
}

#[tokio::test]
async fn a_sample_is_evenly_spaced_has_each_failure_and_follows_a_reload() {
    let backend = Backend::with(|request| {
        let mut response = Response::new(Bytes::new());
        if request.uri().path().ends_with("bad") {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    })
    .await;
    let gateway = TestGateway::start(&sampled("10%", &backend)).await;
    let file = gateway.dir.path().join("access.log");
    let mut client = Connection::open(gateway.http).await;
    for number in 1..=100 {
        assert_eq!(client.send(get(&format!("/fine/{number}"))).await.status(), 200);
        if number % 25 == 0 {
            assert_eq!(client.send(get("/bad")).await.status(), 500);
            assert_eq!(client.send(get("/quiet/bad")).await.status(), 500);
        }
    }
    let failures = |lines: &[Value]| lines.iter().filter(|line| line["path"] == "/bad").count();
    // The last request of all.
    eventually("each failure is written", || async { failures(&lines(&file)) == 4 }).await;
    assert_eq!(numbers(&lines(&file)), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
    assert_eq!(lines(&file).len(), 14, "and nothing of the route without a log");
    gateway.rewrite(&sampled("100%", &backend));
    gateway.reload().await.unwrap();
    for number in 101..=103 {
        assert_eq!(client.send(get(&format!("/fine/{number}"))).await.status(), 200);
    }
    eventually("all of them are written", || async { numbers(&lines(&file)).ends_with(&[101, 102, 103]) })
        .await;
    gateway.rewrite(&sampled("0%", &backend));
    gateway.reload().await.unwrap();
    for number in 104..=150 {
        assert_eq!(client.send(get(&format!("/fine/{number}"))).await.status(), 200);
    }
    assert_eq!(client.send(get("/bad")).await.status(), 500);
    eventually("the failure is written", || async { failures(&lines(&file)) == 5 }).await;
    assert_eq!(numbers(&lines(&file)).last(), Some(&103));
}
