//! The account of files as metrics.

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
