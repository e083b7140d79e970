//! Services that speak HTTPS: which of them the gateway believes, and what it shows them.

use std::{net::SocketAddr, path::Path};

use crate::support::{
    authority::Authority,
    backend::Backend,
    client::{get, header, json, send, status, text},
    eventually,
    gateway::TestGateway,
};

/// One service `s` at `addr`, all below `/` leads to it.
fn config(addr: SocketAddr, tls: &str) -> String {
    format!(
        "workers: 1\nroutes: [{{path: /**, service: s}}]\n\
         services: {{s: {{hosts: [\"{addr}\"], protocol: https{tls}, breaker: off}}}}\n"
    )
}

/// Written aside and renamed, so that a watcher never reads half a file.
fn write(dir: &Path, name: &str, text: &str) {
    let aside = dir.join(format!("{name}.new"));
    std::fs::write(&aside, text).unwrap();
    std::fs::rename(aside, dir.join(name)).unwrap();
}

fn folder_with_ca(authority: &Authority) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "ca.pem", &authority.pem());
    dir
}

#[tokio::test]
async fn a_service_that_proves_its_name_is_asked_over_one_connection() {
    let authority = Authority::new();
    let backend = Backend::over_tls("secure", authority.server("127.0.0.1")).await;
    let text_of = config(backend.addr, ", tls: {ca_file: ca.pem}");
    let gateway = TestGateway::start_in(folder_with_ca(&authority), &text_of).await;
    for _ in 0..10 {
        let reply = send(gateway.http, get("/x")).await;
        assert_eq!((reply.status().as_u16(), text(&reply)), (200, "secure"));
    }
    assert_eq!(backend.connections(), 1);
    // Nothing about TLS changed, so its connections stay.
    gateway.rewrite(&format!("{text_of}# One line more.\n"));
    gateway.reload().await.unwrap();
    assert_eq!(status(gateway.http, "/x").await, 200);
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_service_that_cannot_prove_its_name_gets_no_request() {
    let (authority, other) = (Authority::new(), Authority::new());
    let named = Backend::over_tls("named", authority.server("orders.internal")).await;
    let strange = Backend::over_tls("strange", other.server("127.0.0.1")).await;
    let clear = Backend::named("clear").await;
    let ca = ", tls: {ca_file: ca.pem}";
    let (certificate, protocol) = ("tls_certificate_error", "tls_protocol_error");
    for (addr, tls, error) in [
        (named.addr, ca, certificate),
        (strange.addr, ca, certificate),
        // Neither is signed by an authority of the system.
        (named.addr, "", certificate),
        (clear.addr, ca, protocol),
        (clear.addr, ", tls: {insecure: true}", protocol),
    ] {
        let gateway = TestGateway::start_in(folder_with_ca(&authority), &config(addr, tls)).await;
        let reply = send(gateway.http, get("/x")).await;
        let told = (reply.status().as_u16(), json(&reply)["code"].as_str().map(str::to_owned));
        assert_eq!(told, (502, Some("upstream_tls_error".to_owned())), "{tls}");
        assert_eq!(header(&reply, "proxy-status"), format!("millgate; error={error}"), "{tls}");
    }
    assert_eq!(named.served() + strange.served(), 0);
    for (addr, tls) in [
        (named.addr, ", tls: {ca_file: ca.pem, server_name: orders.internal}"),
        (strange.addr, ", tls: {insecure: true}"),
    ] {
        let gateway = TestGateway::start_in(folder_with_ca(&authority), &config(addr, tls)).await;
        assert_eq!(status(gateway.http, "/x").await, 200, "{tls}");
    }
}

#[tokio::test]
async fn a_connection_that_trusted_anybody_is_not_used_where_a_proof_is_asked_for() {
    let (authority, other) = (Authority::new(), Authority::new());
    let strange = Backend::over_tls("strange", other.server("127.0.0.1")).await;
    let config = format!(
        "workers: 1\nroutes: [{{path: /any, service: any}}, {{path: /proven, service: proven}}]\n\
         services:\n\
         \x20 any: {{hosts: [\"{0}\"], protocol: https, tls: {{insecure: true}}}}\n\
         \x20 proven: {{hosts: [\"{0}\"], protocol: https, tls: {{ca_file: ca.pem}}}}\n",
        strange.addr
    );
    let gateway = TestGateway::start_in(folder_with_ca(&authority), &config).await;
    assert_eq!(status(gateway.http, "/any").await, 200);
    assert_eq!(status(gateway.http, "/proven").await, 502);
    assert_eq!(status(gateway.http, "/any").await, 200);
    assert_eq!(strange.served(), 2);
}

#[tokio::test]
async fn a_service_that_asks_for_a_certificate_gets_ours() {
    let authority = Authority::new();
    let backend = Backend::over_tls("mutual", authority.server_that_asks("127.0.0.1")).await;
    let without = config(backend.addr, ", tls: {ca_file: ca.pem}");
    let gateway = TestGateway::start_in(folder_with_ca(&authority), &without).await;
    let reply = send(gateway.http, get("/x")).await;
    assert_eq!(json(&reply)["code"], "upstream_tls_error");
    let ours = authority.certify("gateway.internal");
    write(gateway.dir.path(), "gateway.pem", &ours.cert);
    write(gateway.dir.path(), "gateway.key", &ours.key);
    gateway.rewrite(&config(
        backend.addr,
        ", tls: {ca_file: ca.pem, cert_file: gateway.pem, key_file: gateway.key}",
    ));
    gateway.reload().await.unwrap();
    assert_eq!(status(gateway.http, "/x").await, 200);
}

#[tokio::test]
async fn a_file_that_is_replaced_counts_without_a_reload() {
    let (authority, next) = (Authority::new(), Authority::new());
    let backend = Backend::over_tls("next", next.server("127.0.0.1")).await;
    let text = config(backend.addr, ", tls: {ca_file: ca.pem}");
    let gateway = TestGateway::start_in(folder_with_ca(&authority), &text).await;
    assert_eq!(status(gateway.http, "/x").await, 502);
    write(gateway.dir.path(), "ca.pem", &next.pem());
    eventually("the new authority is believed", || async { status(gateway.http, "/x").await == 200 }).await;
    write(gateway.dir.path(), "ca.pem", "not a certificate\n");
    eventually("the file is refused", || async {
        let metrics = send(gateway.admin(), get("/metrics")).await;
        text_has(&metrics, "millgate_config_reloads_total{result=\"refused\"} 1")
    })
    .await;
    assert_eq!(status(gateway.http, "/x").await, 200, "what runs stays");
}

#[tokio::test]
async fn a_file_that_is_replaced_counts_also_while_another_part_of_the_configuration_is_wrong() {
    let (authority, next) = (Authority::new(), Authority::new());
    let backend = Backend::over_tls("next", next.server("127.0.0.1")).await;
    let text = config(backend.addr, ", tls: {ca_file: ca.pem}");
    let gateway = TestGateway::start_in(folder_with_ca(&authority), &text).await;
    gateway.rewrite(&format!("{text}oops: 1\n"));
    gateway.reload().await.unwrap_err();
    assert_eq!(status(gateway.http, "/x").await, 502);
    write(gateway.dir.path(), "ca.pem", &next.pem());
    eventually("the new authority is believed", || async { status(gateway.http, "/x").await == 200 }).await;
    write(gateway.dir.path(), "ca.pem", "not a certificate\n");
    gateway.reload().await.unwrap_err();
    assert_eq!(status(gateway.http, "/x").await, 200, "what runs stays");
}

fn text_has(reply: &crate::support::client::Reply, line: &str) -> bool {
    text(reply).lines().any(|found| found == line)
}
