//! What a reload cannot do is shown: keys that wait for a restart, and the first error of what was refused, with its place.
//!
//! Before: a changed `listen.http` left an empty event and a metric that said 1, and of a certificate that was replaced before
//! its key the event said "1 error".

use std::{net::SocketAddr, path::Path};

use rcgen::generate_simple_self_signed;
use serde_json::{Value, json as value};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::support::{
    authority::{Authority, Certified},
    backend::{Backend, closed_port},
    client::{get, json, send, status, text},
    eventually,
    gateway::TestGateway,
};

fn config(top: &str, listen: &str, backend: &Backend) -> String {
    format!(
        "{top}listen: {{admin: \"127.0.0.1:0\", {listen}}}\nroutes:\n  - {{path: /**, service: one}}\n\
         services:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    )
}

async fn shown(gateway: &TestGateway) -> Value {
    json(&send(gateway.admin(), get("/api/v1/config")).await)
}

/// The text of the last event of this kind.
async fn last_event(gateway: &TestGateway, kind: &str) -> Option<String> {
    let events = json(&send(gateway.admin(), get("/api/v1/events")).await);
    let mut of_kind = events["events"].as_array().unwrap().iter().filter(|event| event["kind"] == kind);
    of_kind.next_back().map(|event| event["text"].as_str().unwrap().to_owned())
}

/// Writes a certificate, and the key of one that may be another.
fn write_pair(dir: &Path, is_its_own: bool) {
    let made = || generate_simple_self_signed(["shop.example".to_owned()]).unwrap();
    let (one, other) = (made(), made());
    let key = if is_its_own { &one.signing_key } else { &other.signing_key };
    std::fs::write(dir.join("cert.pem"), one.cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

#[tokio::test]
async fn keys_that_wait_for_a_restart_are_in_the_event_the_api_and_the_metric() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config("workers: 1\n", "http: \"127.0.0.1:0\"", &backend)).await;
    assert_eq!(shown(&gateway).await["waiting_for_restart"], value!([]));
    let elsewhere = format!("http: \"{}\"", closed_port());
    gateway.rewrite(&config("workers: 2\n", &elsewhere, &backend));
    gateway.reload().await.unwrap();
    let waiting = ["listen.http", "workers"];
    assert_eq!(shown(&gateway).await["waiting_for_restart"], value!(waiting));
    assert_eq!(last_event(&gateway, "config_waits_for_restart").await, Some(waiting.join(", ")));
    for key in waiting {
        let line = format!("millgate_config_waiting_for_restart{{key=\"{key}\"}} 1");
        assert!(gateway.shows(&line).await, "{line}");
    }
    gateway.rewrite(&config("workers: 1\n", "http: \"127.0.0.1:0\"", &backend));
    gateway.reload().await.unwrap();
    assert_eq!(shown(&gateway).await["waiting_for_restart"], value!([]));
    assert!(!gateway.shows("millgate_config_waiting_for_restart{key=\"workers\"} 1").await);
}

#[tokio::test]
async fn clients_are_not_sent_to_a_listener_that_waits_for_a_restart() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    let gateway = TestGateway::start_in(dir, &config("", "http: \"127.0.0.1:0\"", &backend)).await;
    assert_eq!(status(gateway.http, "/x").await, 200);
    let https = format!(
        "http: {{bind: \"127.0.0.1:0\", redirect: https}}, \
         https: {{bind: \"{}\", cert_file: cert.pem, key_file: key.pem}}",
        closed_port()
    );
    gateway.rewrite(&config("", &https, &backend));
    gateway.reload().await.unwrap();
    assert_eq!(shown(&gateway).await["waiting_for_restart"], value!(["listen.https"]));
    assert_eq!(status(gateway.http, "/x").await, 200, "nothing listens where a redirect would lead");
}

#[tokio::test]
async fn a_certificate_that_was_replaced_before_its_key_is_named_with_its_place() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    write_pair(dir.path(), true);
    let https =
        "http: \"127.0.0.1:0\", https: {bind: \"127.0.0.1:0\", cert_file: cert.pem, key_file: key.pem}";
    let gateway = TestGateway::start_in(dir, &config("", https, &backend)).await;
    assert_eq!(shown(&gateway).await["refused"], Value::Null);
    write_pair(gateway.dir.path(), false);
    gateway.reload().await.unwrap_err();
    let refused = shown(&gateway).await["refused"].clone();
    let place = refused["place"].as_str().unwrap().to_owned();
    assert!(place.contains("routes.yaml:4:"), "{refused}");
    assert_eq!((refused["code"].as_str(), refused["errors"].as_u64()), (Some("E062"), Some(1)));
    assert!(refused["text"].as_str().unwrap().contains("key.pem does not fit"), "{refused}");
    let event = last_event(&gateway, "config_refused").await.unwrap();
    assert!(
        event.starts_with(&format!("{place}: E062 ")) && event.contains("key.pem does not fit"),
        "{event}"
    );
    let line = format!("millgate_config_refused{{place=\"{place}\",code=\"E062\"}} 1");
    assert!(gateway.shows(&line).await, "{line}");
    write_pair(gateway.dir.path(), true);
    gateway.reload().await.unwrap();
    assert_eq!(shown(&gateway).await["refused"], Value::Null);
    assert!(!gateway.shows(&line).await);
}

/// Each file aside first, so that the watcher never sees half of one.
fn replace_pair(dir: &Path, cert: &Certified, key: &Certified) {
    for (name, text) in [("key.pem", &key.key), ("cert.pem", &cert.cert)] {
        std::fs::write(dir.join("aside"), text).unwrap();
        std::fs::rename(dir.join("aside"), dir.join(name)).unwrap();
    }
}

/// Whether the listener proves to be `shop.example` to a client that believes this authority.
async fn is_believed(authority: &Authority, address: SocketAddr) -> bool {
    let connector = TlsConnector::from(authority.client(&[b"http/1.1"]));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect("shop.example".try_into().unwrap(), stream).await.is_ok()
}

#[tokio::test]
async fn a_certificate_that_is_renewed_is_presented_also_while_another_part_of_the_configuration_is_wrong() {
    let (backend, before, after) = (Backend::named("one").await, Authority::new(), Authority::new());
    let dir = tempfile::tempdir().unwrap();
    let pair = before.certify("shop.example");
    replace_pair(dir.path(), &pair, &pair);
    let https =
        "http: \"127.0.0.1:0\", https: {bind: \"127.0.0.1:0\", cert_file: cert.pem, key_file: key.pem}";
    let good = config("", https, &backend);
    let gateway = TestGateway::start_in(dir, &good).await;
    let address = gateway.https_addr().unwrap();
    assert!(is_believed(&before, address).await);
    gateway.rewrite(&format!("{good}oops: 1\n"));
    gateway.reload().await.unwrap_err();
    let pair = after.certify("shop.example");
    replace_pair(gateway.dir.path(), &pair, &pair);
    eventually("the new certificate is presented", || is_believed(&after, address)).await;
    // A pair that cannot be used changes nothing, in a configuration that is wrong elsewhere and in one that is not.
    replace_pair(gateway.dir.path(), &before.certify("shop.example"), &pair);
    for config in [format!("{good}oops: 1\n"), format!("{good}oops: 2\n"), good.clone()] {
        gateway.rewrite(&config);
        gateway.reload().await.unwrap_err();
        assert!(is_believed(&after, address).await, "what was read before stays");
        // The first error of the configuration is another one, and the fault of the file is beside it, once.
        let events = json(&send(gateway.admin(), get("/api/v1/events")).await);
        let of_kind =
            |kind| events["events"].as_array().unwrap().iter().filter(|one| one["kind"] == kind).count();
        assert_eq!((of_kind("file_unusable"), of_kind("files_read_again")), (1, 1), "{config}: {events}");
        assert_eq!(shown(&gateway).await["unusable_files"].as_array().unwrap().len(), 1);
        let metrics = send(gateway.admin(), get("/metrics")).await;
        assert!(text(&metrics).contains("\nmillgate_config_files_unusable 1\n"));
    }
    assert_eq!(shown(&gateway).await["refused"]["code"], "E062");
    let pair = after.certify("shop.example");
    replace_pair(gateway.dir.path(), &pair, &pair);
    gateway.reload().await.unwrap();
    assert_eq!(shown(&gateway).await["unusable_files"].as_array().unwrap().len(), 0);
}

/// A reload refuses a registry that it cannot use: without this, the reload was accepted, and the registry was not queried any
/// more.
#[tokio::test]
async fn a_registry_that_could_not_be_asked_is_no_accepted_reload() {
    let backend = Backend::named("one").await;
    let listen = "http: \"127.0.0.1:0\"";
    let gateway = TestGateway::start(&config("", listen, &backend)).await;
    let consul = "discovery: {consul: {address: \"https://127.0.0.1:1\", ca_file: empty.pem}}\n";
    std::fs::write(gateway.dir.path().join("empty.pem"), "no certificate").unwrap();
    let registered = "routes:\n  - {path: /registered, service: registered}\n";
    gateway.rewrite(&config(consul, listen, &backend).replace("routes:\n", registered));
    let report = gateway.reload().await.unwrap_err();
    assert!(report.contains("empty.pem"), "{report}");
    let event = last_event(&gateway, "config_refused").await.unwrap();
    assert!(
        event.contains("the registry could not be asked any more") && event.contains("empty.pem"),
        "{event}"
    );
}

/// Like clients' connections, those of the admin listener are counted before their first byte.
#[tokio::test]
async fn silent_connections_of_the_admin_listener_are_in_its_gauge() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config("", "http: \"127.0.0.1:0\"", &backend)).await;
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tokio::net::TcpStream::connect(gateway.admin()).await.unwrap());
    }
    // The connection of the request is the fourth.
    eventually("all are counted", || gateway.shows("millgate_admin_connections 4")).await;
}
