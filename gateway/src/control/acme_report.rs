//! The state of certificates from ACME, for `/metrics` and `/api/v1/certificates`.

use serde_json::{Value, json};

use super::exposition::{Families, count};
use crate::tls::acme_report::AcmeReport;

pub(super) fn families(report: &AcmeReport, out: &mut Families) {
    let mut orders =
        out.counter("millgate_acme_orders_total", "Orders of certificates by this gateway, by their results");
    for (result, number) in report.orders() {
        orders.add(&[("result", result)], count(number));
    }
    let certificates = report.certificates();
    let mut next = out.gauge(
        "millgate_acme_next_order_timestamp_seconds",
        "When a certificate is ordered next: its renewal, or the next attempt",
    );
    for (id, one) in &certificates {
        next.add(&[("id", id)], one.next.unwrap_or_default().as_secs_f64());
    }
    let mut failures =
        out.gauge("millgate_acme_failures", "Orders of a certificate that failed since the last success");
    for (id, one) in &certificates {
        failures.add(&[("id", id)], f64::from(one.failures));
    }
    let mut awaited = out
        .gauge("millgate_acme_awaited", "1: there is no certificate yet, and handshakes for its names fail");
    for (id, one) in &certificates {
        awaited.add(&[("id", id)], f64::from(u8::from(one.not_after.is_none())));
    }
    let mut storages = out.gauge("millgate_acme_storage_unreadable", "1: the storage cannot be read now");
    for storage in report.storages().keys() {
        storages.add(&[("storage", storage)], 1.0);
    }
}

pub(super) fn json(report: &AcmeReport) -> Value {
    let time =
        |at: std::time::Duration| humantime::format_rfc3339_seconds(std::time::UNIX_EPOCH + at).to_string();
    let certificates = report.certificates();
    let certificates = certificates.iter().map(|(id, one)| {
        json!({
            "id": **id,
            "names": one.names,
            "directory": one.directory,
            "state": if one.is_ordering { "ordering" } else if one.not_after.is_some() { "issued" } else { "awaited" },
            "not_after": one.not_after.map(time),
            "next_order": one.next.map(time),
            "failures": one.failures,
            "last_error": one.last_error,
        })
    });
    let storages = report.storages();
    let storages = storages.iter().map(|(storage, error)| json!({"storage": storage, "error": error}));
    json!({ "acme": certificates.collect::<Vec<_>>(), "unreadable": storages.collect::<Vec<_>>() })
}
