//! Libraries of others on both sides of the gateway: what passes without it passes through it.
//!
//! grpcio runs the cases of gRPC's interoperability tests, and `websockets` messages of all shapes. `.ci/protocol-clients` installs both.

use std::{path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{DEADLINE, authority::Authority, gateway::TestGateway};

/// Where the libraries are; `None`: nowhere, and the test is skipped.
pub(crate) fn installed() -> Option<PathBuf> {
    let found =
        std::env::var_os("MILLGATE_PROTOCOL_CLIENTS").filter(|path| !path.is_empty()).map(PathBuf::from);
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no MILLGATE_PROTOCOL_CLIENTS, and MILLGATE_REQUIRE_SERVERS=1 \
             (MILLGATE_PROTOCOL_CLIENTS=\"$(.ci/protocol-clients)\" is it)"
        );
        println!("skipped: no gRPC and WebSocket in MILLGATE_PROTOCOL_CLIENTS");
    }
    found
}

/// A program of `tests/services`.
fn program(name: &str, libraries: &PathBuf, arguments: &[&str]) -> Command {
    let file: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests", "services", name].iter().collect();
    let mut command = Command::new("python3");
    command.arg(file).args(arguments).env("PYTHONPATH", libraries).kill_on_drop(true);
    command
}

/// Starts the service of a program. It ends with its standard input.
pub(crate) async fn serve(name: &str, libraries: &PathBuf) -> (Child, u16) {
    let mut process = program(name, libraries, &["serve"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(3 * DEADLINE, lines.next_line()).await.unwrap().unwrap();
    (process, line.expect("its port").trim().parse().unwrap())
}

/// The cases that pass, one on each line.
async fn passes(name: &str, libraries: &PathBuf, arguments: &[&str]) -> String {
    let running = program(name, libraries, arguments).output();
    let output = tokio::time::timeout(6 * DEADLINE, running).await.expect("all cases end").unwrap();
    let passed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{passed}{}", String::from_utf8_lossy(&output.stderr));
    passed
}

#[tokio::test]
async fn the_interoperability_cases_of_grpc_pass_with_and_without_the_gateway() {
    let Some(libraries) = installed() else { return };
    let (_service, port) = serve("grpc_calls.py", &libraries).await;
    let gateway = TestGateway::start(&format!(
        "access_log: {{format: off}}\nroutes: [{{path: /grpc.testing.TestService/*, service: s}}]\n\
         services: {{s: {{hosts: [\"127.0.0.1:{port}\"], protocol: grpc}}}}\n"
    ))
    .await;
    let without = passes("grpc_calls.py", &libraries, &["call", &format!("127.0.0.1:{port}")]).await;
    let with = passes("grpc_calls.py", &libraries, &["call", &gateway.http.to_string()]).await;
    assert_eq!((with.lines().count(), with), (14, without));
}

#[tokio::test]
async fn websocket_messages_of_all_shapes_pass_with_and_without_the_gateway() {
    let Some(libraries) = installed() else { return };
    let (_service, port) = serve("websocket_messages.py", &libraries).await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let certified = authority.certify("localhost");
    let files = [("gw.pem", certified.cert), ("gw.key", certified.key), ("ca.pem", authority.pem())];
    for (name, text) in files {
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    let gateway = TestGateway::start_in(
        dir,
        &format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
             https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key}}}}\n\
             access_log: {{format: off}}\nroutes: [{{path: /, service: s}}]\n\
             services: {{s: {{hosts: [\"127.0.0.1:{port}\"]}}}}\n"
        ),
    )
    .await;
    let ca = gateway.dir.path().join("ca.pem");
    let without =
        passes("websocket_messages.py", &libraries, &["call", &format!("ws://127.0.0.1:{port}")]).await;
    let with =
        passes("websocket_messages.py", &libraries, &["call", &format!("ws://{}", gateway.http)]).await;
    let url = format!("wss://localhost:{}", gateway.https_addr().unwrap().port());
    let over_tls = passes("websocket_messages.py", &libraries, &["call", &url, ca.to_str().unwrap()]).await;
    assert_eq!((with.lines().count(), &with, &with), (8, &without, &over_tls));
}
