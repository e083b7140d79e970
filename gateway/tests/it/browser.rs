//! A page in headless Chromium whose gateway is another origin: gRPC-Web with Google's library, and a WebSocket, over HTTP/2.
//!
//! `.ci/browser` installs what it needs. The page is `tests/services/page.js`.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{process::Command, sync::mpsc};

use crate::{
    real_clients::{installed, serve},
    support::{DEADLINE, authority::Authority, backend::Backend, gateway::TestGateway, tls, tokens},
};

/// Where the browser and its library are; `None`: nowhere, and the test is skipped.
fn browser() -> Option<PathBuf> {
    let found = std::env::var_os("MILLGATE_BROWSER").filter(|path| !path.is_empty()).map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no MILLGATE_BROWSER, and MILLGATE_REQUIRE_SERVERS=1 (MILLGATE_BROWSER=\"$(.ci/browser)\" is it)"
        );
        println!("skipped: no browser in MILLGATE_BROWSER");
    }
    found
}

/// Serves the page, and passes on what the page reports.
async fn page(browser: &Path) -> (Backend, mpsc::UnboundedReceiver<String>) {
    let script: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "services", "page.js"].iter().collect();
    let script = Bytes::from(std::fs::read(script).unwrap());
    let library = Bytes::from(std::fs::read(browser.join("grpc-web.js")).unwrap());
    let (report, reports) = mpsc::unbounded_channel();
    let answer = move |request: &Request<Bytes>| {
        let (kind, content) = match request.uri().path() {
            "/page.js" => ("text/javascript", script.clone()),
            "/grpc-web.js" => ("text/javascript", library.clone()),
            "/report" => {
                let _gone = report.send(String::from_utf8_lossy(request.body()).into_owned());
                ("text/plain", Bytes::new())
            }
            _ => ("text/html", Bytes::from_static(b"<script type=module src=page.js></script>")),
        };
        Response::builder().header("content-type", kind).body(content).unwrap()
    };
    (Backend::with(answer).await, reports)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_makes_calls_of_grpc_web_and_opens_a_websocket_over_http2() {
    let (Some(browser), Some(libraries)) = (browser(), installed()) else { return };
    let (_calls, calls) = serve("grpc_calls.py", &libraries).await;
    let (_messages, messages) = serve("websocket_messages.py", &libraries).await;
    let (page, mut reports) = page(&browser).await;
    let dir = tokens::folder();
    tls::replace_pair(dir.path(), "gw", &Authority::new().certify("localhost"));
    let gateway = TestGateway::start_in(
        dir,
        &format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
             https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key}}}}\n\
             access_log: {{format: off}}\n\
             auth: {{main: {{hs256_secret_file: secret.key, audience: api}}}}\n\
             defaults: {{cors: {{origins: [\"http://{}\"], expose: [Grpc-Status, Grpc-Message]}}}}\n\
             routes:\n\
             \x20 - {{path: /grpc.testing.TestService/Closed, service: calls, auth: main}}\n\
             \x20 - {{path: /grpc.testing.TestService/*, service: calls, auth: none}}\n\
             \x20 - {{path: /socket, service: messages, auth: none}}\n\
             services:\n\
             \x20 calls: {{hosts: [\"127.0.0.1:{calls}\"], protocol: grpc}}\n\
             \x20 messages: {{hosts: [\"127.0.0.1:{messages}\"]}}\n",
            page.addr
        ),
    )
    .await;

    let profile = tempfile::tempdir().unwrap();
    let https = gateway.https_addr().unwrap().port();
    let _running = Command::new(browser.join("chromium"))
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
        ])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/?gateway=https://localhost:{https}", page.addr))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let report = tokio::time::timeout(6 * DEADLINE, reports.recv()).await.expect("the page reports").unwrap();
    let lines = [
        "text: unary",
        "text: errors of the service",
        "text: an error of the gateway",
        "text: a deadline",
        "text: a stream of messages",
        "binary: unary",
        "binary: errors of the service",
        "binary: an error of the gateway",
        "binary: a deadline",
        "a WebSocket that came by 2 millgate",
        "a close with the service's code and reason",
    ];
    assert_eq!(report.lines().collect::<Vec<_>>(), lines);
}
