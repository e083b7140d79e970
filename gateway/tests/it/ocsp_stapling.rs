//! OCSP responses from files: stapled while they are good, and visible when they are not.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, prelude::FromDer};

use crate::support::{
    authority::{Authority, Certified, blind_client_that_keeps},
    backend::Backend,
    client::{get, json, send},
    eventually,
    gateway::TestGateway,
    tls::{connect, replace, replace_pair},
};

const DAY: Duration = Duration::from_hours(24);

/// A value of DER: tag, length, content (X.690 §8.1).
fn value(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&[tag, 0x82][..], &length, &content].concat()
}

/// A short value, whose length is one byte.
fn short(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, u8::try_from(content.len()).unwrap()][..], content].concat()
}

fn time(at: Duration) -> Vec<u8> {
    let text = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + at).to_string();
    let digits: String = text.chars().filter(char::is_ascii_digit).collect();
    short(0x18, format!("{digits}Z").as_bytes())
}

/// A response (RFC 6960 §4.2.1) that the certificate is good from yesterday until `end`. Nobody checks its signature here.
fn response(about: &Certified, end: Duration) -> Vec<u8> {
    let der = CertificateDer::from_pem_slice(about.cert.as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&der).unwrap();
    let sha256 = short(0x30, &short(6, &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1]));
    let name = short(4, digest(&SHA256, certificate.issuer().as_raw()).as_ref());
    let id = value(0x30, &[&sha256, &name, &short(4, &[7; 32]), &short(2, certificate.raw_serial())]);
    let begin = time(now().saturating_sub(DAY));
    let single = value(0x30, &[&id, &[0x80, 0], &begin, &value(0xa0, &[&time(end)])]);
    let data = value(0x30, &[&value(0xa2, &[&short(4, &[7; 20])]), &begin, &value(0x30, &[&single])]);
    let basic = value(0x30, &[&data, &sha256, &short(3, &[0, 1])]);
    let kind = short(6, &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1]);
    let bytes = value(0xa0, &[&value(0x30, &[&kind, &value(4, &[&basic])])]);
    value(0x30, &[&short(0x0a, &[0]), &bytes])
}

fn now() -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    Duration::from_secs(now.as_secs())
}

/// The response that a client gets with the certificate for this name; empty if there is none.
async fn stapled(gateway: &TestGateway, name: &str) -> Vec<u8> {
    let kept = Arc::new(Mutex::new(Vec::new()));
    let client = blind_client_that_keeps(Arc::clone(&kept));
    connect(&client, gateway.https_addr().unwrap(), name).await.unwrap();
    kept.lock().unwrap().clone()
}

async fn counts(gateway: &TestGateway, [stapled, stale, unusable]: [usize; 3]) -> bool {
    let mut all = true;
    for (state, number) in [("stapled", stapled), ("stale", stale), ("unusable", unusable)] {
        all &= gateway.shows(&format!("millgate_ocsp_responses{{state=\"{state}\"}} {number}")).await;
    }
    all
}

#[tokio::test]
async fn a_response_is_stapled_while_it_is_good_and_about_its_certificate() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (authority.certify("a.example"), authority.certify("b.example"));
    replace_pair(dir.path(), "a", &a);
    replace_pair(dir.path(), "b", &b);
    let of_a = response(&a, now() + 7 * DAY);
    replace(dir.path(), "a.ocsp", &of_a);
    let backend = Backend::named("one").await;
    let config = format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {{bind: \"127.0.0.1:0\", \
         cert_file: a.pem, key_file: a.key, ocsp_file: a.ocsp, \
         certificates: [{{cert_file: b.pem, key_file: b.key, ocsp_file: b.ocsp}}]}}}}\n\
         routes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{}\"]}}\n",
        backend.addr
    );
    // The second file is not there yet, which stops nothing.
    let gateway = TestGateway::start_in(dir, &config).await;
    let dir = gateway.dir.path();
    assert_eq!(
        (stapled(&gateway, "a.example").await, stapled(&gateway, "b.example").await),
        (of_a.clone(), vec![])
    );
    assert!(counts(&gateway, [1, 0, 1]).await);
    assert!(gateway.warnings().to_string().contains("W019"), "{}", gateway.warnings());
    // A job writes it.
    let of_b = response(&b, now() + 7 * DAY);
    replace(dir, "b.ocsp", &of_b);
    eventually("it is stapled", || async { stapled(&gateway, "b.example").await == of_b }).await;
    assert!(counts(&gateway, [2, 0, 0]).await);
    let series = format!(
        "millgate_certificate_expiry_timestamp_seconds{{listener=\"https.ocsp_file\",name=\"b.example\"}} {}",
        (now() + 7 * DAY).as_secs()
    );
    let at = series.rsplit_once(' ').unwrap().0.to_owned();
    let metrics = send(gateway.admin(), get("/metrics")).await;
    assert!(crate::support::client::text(&metrics).contains(&at), "{at}");
    // That of another certificate, and one that is out of date.
    replace(dir, "b.ocsp", &of_a);
    eventually("it is not stapled", || async { stapled(&gateway, "b.example").await.is_empty() }).await;
    assert!(counts(&gateway, [1, 0, 1]).await);
    replace(dir, "b.ocsp", response(&b, now().saturating_sub(DAY / 2)));
    eventually("it is out of date", || counts(&gateway, [1, 1, 0])).await;
    assert!(stapled(&gateway, "b.example").await.is_empty());
    eventually("this is an event", || async {
        let events = json(&send(gateway.admin(), get("/api/v1/events")).await).to_string();
        events.contains("certificate_expired") && events.contains("https.ocsp_file")
    })
    .await;
}

/// It ends while the gateway runs: no file changes, and no reload is needed.
#[tokio::test]
async fn a_response_that_ends_is_not_stapled_any_more() {
    let authority = Authority::new();
    let dir = tempfile::tempdir().unwrap();
    let a = authority.certify("a.example");
    replace_pair(dir.path(), "a", &a);
    replace(dir.path(), "a.ocsp", response(&a, now() + Duration::from_secs(4)));
    let gateway = TestGateway::start_in(
        dir,
        "listen: {http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", https: {bind: \"127.0.0.1:0\", cert_file: a.pem, \
         key_file: a.key, ocsp_file: a.ocsp}}\nroutes:\n  - {path: /**, service: one}\n\
         services:\n  one: {hosts: [\"127.0.0.1:1\"]}\n",
    )
    .await;
    assert!(!stapled(&gateway, "a.example").await.is_empty());
    eventually("it has ended", || async { stapled(&gateway, "a.example").await.is_empty() }).await;
    assert!(counts(&gateway, [0, 1, 0]).await);
}
