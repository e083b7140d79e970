//! A certificate that ends soon, or has ended, is in the metrics, the events and the log before clients see it.
//!
//! Before: an expired certificate was served without a word.

use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};

use crate::support::{
    backend::Backend,
    client::{get, json, send, text},
    eventually,
    gateway::TestGateway,
};

const DAY: Duration = Duration::from_hours(24);

/// Writes `NAME.pem` and `NAME.key`, valid from `from` to `until` since the Unix epoch.
fn write(dir: &std::path::Path, name: &str, [from, until]: [Duration; 2]) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![format!("{name}.example")]).unwrap();
    params.not_before = date_time_ymd(1970, 1, 1) + from;
    params.not_after = date_time_ymd(1970, 1, 1) + until;
    std::fs::write(dir.join(format!("{name}.pem")), params.self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

fn config(backend: &Backend) -> String {
    format!(
        "listen: {{http: \"127.0.0.1:0\", admin: \"127.0.0.1:0\", \
         https: {{bind: \"127.0.0.1:0\", cert_file: shop.pem, key_file: shop.key}}}}\n\
         routes:\n  - {{path: /**, service: one}}\n  - {{path: /two, service: two}}\nservices:\n  \
         one: {{hosts: [\"{0}\"]}}\n  \
         two: {{hosts: [\"{0}\"], protocol: https, tls: {{insecure: true, cert_file: client.pem, key_file: client.key}}}}\n",
        backend.addr
    )
}

/// Kind and text of the events about certificates.
async fn events(gateway: &TestGateway) -> Vec<(String, String)> {
    let shown = json(&send(gateway.admin(), get("/api/v1/events")).await);
    let word = |event: &serde_json::Value, field: &str| event[field].as_str().unwrap().to_owned();
    let events = shown["events"].as_array().unwrap().iter();
    let events = events.map(|event| (word(event, "kind"), word(event, "text")));
    events.filter(|(kind, _)| kind.starts_with("certificate_")).collect()
}

#[tokio::test]
async fn a_certificate_that_ends_soon_and_one_that_has_ended_are_events_and_metrics() {
    let backend = Backend::named("one").await;
    let dir = tempfile::tempdir().unwrap();
    let whole = Duration::from_secs(now().as_secs());
    let yesterday = whole.saturating_sub(DAY);
    write(dir.path(), "shop", [Duration::ZERO, whole + 3 * DAY + DAY / 2]);
    write(dir.path(), "client", [Duration::ZERO, yesterday]);
    let gateway = TestGateway::start_in(dir, &config(&backend)).await;
    eventually("both are reported", || async { events(&gateway).await.len() == 2 }).await;
    let reported = events(&gateway).await;
    assert_eq!(reported[0].0, "certificate_expires");
    assert!(reported[0].1.starts_with("https: shop.example (") && reported[0].1.contains("expires in 3days"));
    assert_eq!(reported[1].0, "certificate_expired");
    assert!(reported[1].1.starts_with("services.two: client.example ("), "{}", reported[1].1);
    let series = |listener: &str, name: &str, at: Duration| {
        let labels = format!("listener=\"{listener}\",name=\"{name}\"");
        format!("millgate_certificate_expiry_timestamp_seconds{{{labels}}} {}", at.as_secs())
    };
    assert!(gateway.shows(&series("https", "shop.example", whole + 3 * DAY + DAY / 2)).await);
    assert!(gateway.shows(&series("services.two", "client.example", yesterday)).await);

    write(gateway.dir.path(), "shop", [Duration::ZERO, whole + 90 * DAY]);
    write(gateway.dir.path(), "client", [whole + DAY, whole + 90 * DAY]);
    gateway.reload().await.unwrap();
    assert!(gateway.shows(&series("https", "shop.example", whole + 90 * DAY)).await, "renewed");
    let reported = events(&gateway).await;
    assert_eq!(reported.last().unwrap().0, "certificate_not_yet_valid", "{reported:?}");
    assert!(!reported.last().unwrap().1.contains("shop"));
    let shown = send(gateway.admin(), get("/metrics")).await;
    assert_eq!(text(&shown).matches("\nmillgate_certificate_expiry_timestamp_seconds{").count(), 2);
}
