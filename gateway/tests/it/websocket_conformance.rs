//! The cases of the Autobahn test suite for WebSocket: a service gets the same verdicts with and without the gateway.
//!
//! The runner is kosoku, which has the suite's own case files; `.ci/protocol-clients` installs it. It plays the client: frames of all
//! kinds, fragments, lies about lengths, reserved bits, UTF-8 that breaks off, closes of all kinds. What it sends and receives must pass
//! the gateway unseen, because only the service may judge it.
//!
//! Messages of megabytes and the 216 cases of compression take minutes and add nothing for who does not look into frames. They run
//! with `MILLGATE_WEBSOCKET_CASES=all`.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc};

use rustls::ClientConfig;
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
};

use crate::{
    real_clients::{installed, serve},
    support::{DEADLINE, authority::Authority, gateway::TestGateway, tls},
};

/// Framing, pings, reserved bits, opcodes, fragments, UTF-8, closes, and one of each kind of compression.
const SHORT: [&str; 16] = [
    "1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", "12.1.1", "12.3.5", "13.1.1", "13.2.1",
    "13.3.1", "13.4.1", "13.5.1", "13.7.1",
];
/// As many as the suite has of these.
const SHORT_CASES: usize = 255;
const ALL_CASES: usize = 517;
/// The service stands in nobody's way: what fails is known to, and fails without the gateway too.
const FAILURES_MAX: usize = 8;

/// What the suite says of one case. `None`: the peer closed without a code.
type Verdict = (String, String, Option<u64>);

/// Plays the client of all cases at an address.
async fn judge(libraries: &Path, at: SocketAddr) -> BTreeMap<String, Verdict> {
    let report = tempfile::tempdir().unwrap();
    let all = std::env::var_os("MILLGATE_WEBSOCKET_CASES").is_some_and(|cases| cases == "all");
    let mut command = Command::new("python3");
    command.args(["-c", "from kosoku._cli import main; main()", "--parallelism", "4", "--outdir"]);
    command.arg(report.path()).arg(at.to_string()).env("PYTHONPATH", libraries).kill_on_drop(true);
    if !all {
        command.args(SHORT.iter().flat_map(|case| ["--include", case]));
    }
    let deadline = DEADLINE * if all { 120 } else { 6 };
    // It says with its exit code whether the service has passed each case, which this test does not ask.
    let output = tokio::time::timeout(deadline, command.output()).await.expect("all cases end").unwrap();
    let index = std::fs::read(report.path().join("index.json"))
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    let agents: BTreeMap<String, BTreeMap<String, Value>> = serde_json::from_slice(&index).unwrap();
    let verdicts: BTreeMap<String, Verdict> = agents
        .into_values()
        .flatten()
        .map(|(case, said)| {
            let word = |field: &str| said[field].as_str().unwrap().replace("NON-STRICT", "OK");
            (case, (word("behavior"), word("behaviorClose"), said["remoteCloseCode"].as_u64()))
        })
        .collect();
    assert_eq!(verdicts.len(), if all { ALL_CASES } else { SHORT_CASES });
    verdicts
}

/// A port behind which TLS begins, for a client that has none.
async fn over_tls(client: Arc<ClientConfig>, to: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let accept = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(pass_on(stream, Arc::clone(&client), to));
        }
    });
    (at, accept)
}

async fn pass_on(mut plain: TcpStream, client: Arc<ClientConfig>, to: SocketAddr) {
    let mut encrypted = tls::connect(&client, to, "localhost").await.unwrap();
    // The suite closes connections as it likes.
    let _ended = tokio::io::copy_bidirectional(&mut plain, &mut encrypted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cases_of_autobahn_get_the_same_verdicts_with_and_without_the_gateway() {
    let Some(libraries) = installed() else { return };
    let (_service, port) = serve("websocket_messages.py", &libraries).await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    tls::replace_pair(dir.path(), "gw", &authority.certify("localhost"));
    let gateway = TestGateway::start_in(
        dir,
        &format!(
            "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
             https: {{bind: \"127.0.0.1:0\", cert_file: gw.pem, key_file: gw.key}}}}\n\
             access_log: {{format: off}}\nroutes: [{{path: /**, service: s}}]\n\
             services: {{s: {{hosts: [\"127.0.0.1:{port}\"]}}}}\n"
        ),
    )
    .await;
    let (encrypted, accept) = over_tls(authority.client(&[b"http/1.1"]), gateway.https_addr().unwrap()).await;

    let without = judge(&libraries, ([127, 0, 0, 1], port).into()).await;
    let failures: Vec<_> = without.iter().filter(|(_, verdict)| verdict.0 == "FAILED").collect();
    assert!(failures.len() <= FAILURES_MAX, "{failures:?}");
    assert_eq!(judge(&libraries, gateway.http).await, without);
    assert_eq!(judge(&libraries, encrypted).await, without);
    accept.abort();
}
