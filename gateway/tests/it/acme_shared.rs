//! Gateways that share their certificates, by Consul or by a folder: one orders, any of them answers the authority, and a gateway that
//! dies is replaced. And an authority that others have written.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millgate_registry::{
    Client, ClientConfig, EmbeddedRegistry, RegistryOptions,
    testing::{ConsulProcess, restartable_port},
};
use rustls::ClientConfig as TlsClient;

use crate::support::{
    acme::AcmeServer,
    authority::{Authority, blind_client},
    backend::Backend,
    client::{get, send},
    eventually,
    gateway::TestGateway,
    tls::{Session, connect},
    within,
};

/// A gateway that shares the storage. `listen` and `acme` have further fields.
async fn start(server: &AcmeServer, backend: &Backend, acme: &str, rest: &str) -> TestGateway {
    let dir = tempfile::tempdir().unwrap();
    server.write_ca(dir.path());
    let config = format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {{bind: \"127.0.0.1:0\", \
         acme: {{directory: \"{}\", ca_file: ca.pem, terms_accepted: true, {acme}}}}}}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n{rest}",
        server.directory(),
        backend.addr
    );
    TestGateway::start_in(dir, &config).await
}

async fn serves(client: &Arc<TlsClient>, at: SocketAddr, host: &str) -> bool {
    let Ok(stream) = connect(client, at, host).await else { return false };
    let Ok(mut session) = Session::over(stream).await else { return false };
    session.get(host, "/x", &[]).await.is_ok_and(|reply| reply.status() == 200)
}

async fn number(gateway: &TestGateway, name: &str) -> f64 {
    let text = send(gateway.admin(), get("/metrics")).await;
    let text = String::from_utf8_lossy(text.body()).into_owned();
    let values = text.lines().filter(|line| line.starts_with(name));
    values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// Two gateways, of which the authority asks one after the other, for four hosts by this challenge.
async fn two_share(acme: &str, rest: &str, challenge: &str) {
    let server = AcmeServer::start().await;
    let backend = Backend::named("one").await;
    let acme =
        format!("hosts: [[a.example, b.example], [c.example, d.example]], challenge: {challenge}, {acme}");
    let one = start(&server, &backend, &acme, rest).await;
    let other = start(&server, &backend, &acme, rest).await;
    server.state().http = vec![one.http, other.http];
    server.state().https = vec![one.https_addr().unwrap(), other.https_addr().unwrap()];
    let client = server.issuing().client(&[b"h2"]);
    for gateway in [&one, &other] {
        for host in ["a.example", "b.example", "c.example", "d.example"] {
            let what = format!("{challenge}: {host} is served; {:?}", server.state().failures);
            eventually(&what, || serves(&client, gateway.https_addr().unwrap(), host)).await;
        }
    }
    assert_eq!(server.state().counts(), (1, 2, 2), "one account, one order for each certificate");
    let asked = server.state().asked.clone();
    assert_eq!(asked.len(), 4);
    assert!(asked[0] != asked[1], "both gateways answered: {asked:?}");
    let orders = [
        number(&one, "millgate_acme_orders_total").await,
        number(&other, "millgate_acme_orders_total").await,
    ];
    assert!((orders[0] + orders[1] - 2.0).abs() < 0.5, "{orders:?}");
    // The one that has ordered nothing more goes away, and the other one renews nothing that is good.
    one.stop().await;
    assert!(serves(&client, other.https_addr().unwrap(), "a.example").await);
    assert_eq!(server.state().counts(), (1, 2, 2));
}

fn consul(address: &str) -> (String, String) {
    (
        "storage: {consul: millgate/acme}".to_owned(),
        format!("discovery: {{consul: {{address: \"{address}\"}}}}\n"),
    )
}

async fn embedded() -> (EmbeddedRegistry, String) {
    let options = RegistryOptions { listen: "127.0.0.1:0".parse().unwrap(), ..RegistryOptions::default() };
    let registry = EmbeddedRegistry::start(options).await.unwrap();
    let address = registry.url().clone();
    (registry, address)
}

#[tokio::test]
async fn gateways_share_certificates_by_the_embedded_registry() {
    let (_registry, address) = embedded().await;
    let (acme, rest) = consul(&address);
    two_share(&acme, &rest, "tls-alpn-01").await;
}

#[tokio::test]
async fn gateways_share_certificates_by_consul() {
    let Some(process) = ConsulProcess::start().await else { return };
    let (acme, rest) = consul(&process.url());
    two_share(&acme, &rest, "http-01").await;
}

#[tokio::test]
async fn gateways_share_certificates_by_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    two_share(
        &format!("storage: {{folder: \"{}\"}}", dir.path().join("shared").display()),
        "",
        "tls-alpn-01",
    )
    .await;
}

#[tokio::test]
async fn a_gateway_that_died_with_the_lock_is_replaced() {
    let (_registry, address) = embedded().await;
    let client = Client::new(ClientConfig::new(&address)).unwrap();
    // As a gateway takes it, that is killed before it can say anything.
    let session =
        client.session_create("dead", Duration::from_secs(10), Duration::from_secs(1)).await.unwrap();
    assert!(client.kv_acquire("millgate/acme/lock", &session, "dead").await.unwrap());
    let server = AcmeServer::start().await;
    let backend = Backend::named("one").await;
    let (acme, rest) = consul(&address);
    let gateway = start(&server, &backend, &format!("hosts: [a.example], {acme}"), &rest).await;
    server.state().https = vec![gateway.https_addr().unwrap()];
    gateway.ready().await;
    assert_eq!(server.state().orders, 0, "somebody else orders, as far as this gateway knows");
    let trust = server.issuing().client(&[b"h2"]);
    within(Duration::from_mins(1), "the lock has ended with its session", || {
        serves(&trust, gateway.https_addr().unwrap(), "a.example")
    })
    .await;
    assert_eq!(server.state().orders, 1);
}

#[tokio::test]
async fn a_start_without_consul_has_the_certificates_of_the_last_run() {
    let (registry, address) = embedded().await;
    let server = AcmeServer::start().await;
    let backend = Backend::named("one").await;
    let (acme, rest) = consul(&address);
    let mut gateway = start(&server, &backend, &format!("hosts: [a.example], {acme}"), &rest).await;
    server.state().https = vec![gateway.https_addr().unwrap()];
    let trust = server.issuing().client(&[b"h2"]);
    eventually("served", || serves(&trust, gateway.https_addr().unwrap(), "a.example")).await;
    // The copy is written after the handshakes have the certificate.
    let copies = async || {
        let mut folders = std::fs::read_dir(gateway.dir.path().join("state")).unwrap().flatten();
        folders.any(|folder| {
            std::fs::read_dir(folder.path().join("acme")).is_ok_and(|mut files| files.next().is_some())
        })
    };
    eventually("it is kept", copies).await;
    registry.shutdown().await;
    gateway.restart().await;
    gateway.ready().await;
    assert!(serves(&trust, gateway.https_addr().unwrap(), "a.example").await);
    assert_eq!(server.state().orders, 1);
    eventually("the storage is away", async || {
        number(&gateway, "millgate_acme_storage_unreadable").await > 0.5
    })
    .await;
}

#[tokio::test]
async fn the_keys_in_consul_are_those_of_the_folder_and_end_with_the_order() {
    let (_registry, address) = embedded().await;
    let client = Client::new(ClientConfig::new(&address)).unwrap();
    let server = AcmeServer::start().await;
    let backend = Backend::named("one").await;
    let (acme, rest) = consul(&address);
    let gateway = start(&server, &backend, &format!("hosts: [a.example], {acme}"), &rest).await;
    server.state().https = vec![gateway.https_addr().unwrap()];
    let trust = server.issuing().client(&[b"h2"]);
    eventually("served", || serves(&trust, gateway.https_addr().unwrap(), "a.example")).await;
    let ends = async || {
        let listed =
            client.kv_list("millgate/acme/", &millgate_registry::QueryOptions::default()).await.unwrap();
        let names = listed.values.keys().map(|key| key.rsplit_once(['.', '/']).unwrap().1.to_owned());
        names.collect::<Vec<_>>()
    };
    eventually("the challenge is gone", async || ends().await == ["pem", "json", "lock"]).await;
    // Deleting a key asks for another certificate.
    let listed =
        client.kv_list("millgate/acme/a", &millgate_registry::QueryOptions::default()).await.unwrap();
    let pem = listed.values.keys().find(|key| key.rsplit('.').next() == Some("pem")).unwrap();
    client.kv_delete(pem).await.unwrap();
    eventually("another one is ordered", async || server.state().issued == 2).await;
    assert!(serves(&trust, gateway.https_addr().unwrap(), "a.example").await, "the old one stays meanwhile");
}

/// Pebble, the test authority of Let's Encrypt: `$PEBBLE_BIN`, or `pebble` on `PATH`. `None`: neither, and the test is skipped.
fn pebble() -> Option<std::path::PathBuf> {
    let named = std::env::var_os("PEBBLE_BIN").filter(|path| !path.is_empty()).map(std::path::PathBuf::from);
    let found = named.or_else(|| {
        let folders = std::env::var_os("PATH")?;
        std::env::split_paths(&folders).map(|folder| folder.join("pebble")).find(|file| file.is_file())
    });
    if found.is_none() {
        assert!(
            std::env::var_os("MILLGATE_REQUIRE_SERVERS").is_none_or(|value| value != "1"),
            "no pebble on PATH, and MILLGATE_REQUIRE_SERVERS=1 (apt-get install pebble)"
        );
        println!("skipped: no pebble on PATH");
    }
    found
}

/// It resolves the hosts by a server of this test.
#[tokio::test]
async fn pebble_certifies_by_both_challenges() {
    let Some(binary) = pebble() else { return };
    for challenge in ["http-01", "tls-alpn-01"] {
        let [http, https, directory, management] = std::array::from_fn(|_| restartable_port());
        let dir = tempfile::tempdir().unwrap();
        let own = Authority::new();
        let pair = own.certify("localhost");
        for (name, text) in [("ca.pem", own.pem()), ("own.pem", pair.cert), ("own.key", pair.key)] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let path = |name: &str| dir.path().join(name).display().to_string();
        let settings = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{directory}"), "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": path("own.pem"), "privateKey": path("own.key"), "httpPort": http, "tlsPort": https,
        }});
        std::fs::write(dir.path().join("pebble.json"), settings.to_string()).unwrap();
        let names = dns().await;
        let mut pebble = tokio::process::Command::new(&binary);
        pebble.args(["-strict", "-config", &path("pebble.json"), "-dnsserver", &names.to_string()]);
        // It refuses 5 of 100 nonces, as it does by itself, and waits less than it does by itself.
        pebble.env("PEBBLE_VA_SLEEPTIME", "1").kill_on_drop(true).stdout(std::process::Stdio::null());
        let _pebble = pebble.stderr(std::process::Stdio::null()).spawn().unwrap();
        let at = SocketAddr::from(([127, 0, 0, 1], directory));
        eventually("Pebble listens", async || tokio::net::TcpStream::connect(at).await.is_ok()).await;
        let backend = Backend::named("one").await;
        let config = format!(
            "listen: {{http: \"127.0.0.1:{http}\", admin: \"127.0.0.1:0\", https: {{bind: \"127.0.0.1:{https}\", \
             acme: {{directory: \"https://localhost:{directory}/dir\", ca_file: ca.pem, terms_accepted: true, \
             email: ops@a.example, hosts: [[a.example, b.example], c.example], storage: {{folder: acme}}, challenge: {challenge}}}}}}}\n\
             routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
            backend.addr
        );
        let gateway = TestGateway::start_in(dir, &config).await;
        let client = blind_client(&[b"h2"]);
        for host in ["a.example", "b.example", "c.example"] {
            within(Duration::from_mins(1), &format!("{challenge}: {host}"), || {
                serves(&client, gateway.https_addr().unwrap(), host)
            })
            .await;
        }
        assert!(gateway.shows(r#"millgate_acme_orders_total{result="issued"} 2"#).await);
        gateway.stop().await;
    }
}

/// A server of the DNS for which every name is this machine.
async fn dns() -> SocketAddr {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut query).await {
            let name = query[12..length].iter().position(|byte| *byte == 0).unwrap();
            let question = &query[12..12 + name + 5];
            let is_address = question[name + 1..name + 3] == [0, 1];
            // The same id; a response without an error; one question, and one answer if an IPv4 address is asked for.
            let mut answer = vec![query[0], query[1], 0x84, 0, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0];
            answer.extend(question);
            if is_address {
                // The name of the question, A, IN, one minute, four bytes.
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 127, 0, 0, 1]);
            }
            let _ = socket.send_to(&answer, peer).await;
        }
    });
    address
}
