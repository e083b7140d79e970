//! The account of files, and the connections of the admin listener, as metrics.

use std::sync::atomic::Ordering;

use millgate_registry::SideCounts;

use super::exposition::{Families, count};
use crate::file_account::{FileAccount, Scarce};

const PARTS: [(Scarce, &str); 3] =
    [(Scarce::Clients, "clients"), (Scarce::Upstreams, "upstreams"), (Scarce::Files, "all")];

pub(super) fn families(out: &mut Families, account: &FileAccount) {
    let mut family =
        out.gauge("millgate_file_places", "Connections that the account of files allows, by part");
    for (part, label) in PARTS {
        family.add(&[("part", label)], count(account.places(part) as u64));
    }
    let mut family = out.gauge("millgate_file_places_used", "Connections that are open, by part");
    for (part, label) in PARTS {
        family.add(&[("part", label)], count(account.used(part) as u64));
    }
    let mut family = out.gauge("millgate_file_places_waiting", "Connections that wait for a place, by part");
    for (part, label) in PARTS {
        family.add(&[("part", label)], count(account.waiting(part) as u64));
    }
}

pub(super) fn admin(out: &mut Families, counts: &SideCounts) {
    out.gauge("millgate_admin_connections", "Open connections of the admin listener")
        .add(&[], count(counts.open.load(Ordering::Relaxed) as u64));
    let mut family = out.counter(
        "millgate_admin_refusals_total",
        "Connections and requests that the admin listener ended itself, by reason",
    );
    for (reason, number) in [
        ("shed", &counts.shed),
        ("full", &counts.refused),
        ("timeout", &counts.timed_out),
        ("host", &counts.misdirected),
    ] {
        family.add(&[("reason", reason)], count(number.load(Ordering::Relaxed)));
    }
}
