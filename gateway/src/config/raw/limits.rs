//! `limits` as written: limits of the process and of all services together.

use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{Fields, Known, is_word, value},
    tree::Node,
    units::{count, share_per_mille},
};

/// `limits`.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub(crate) rate_keys_max: Option<usize>,
    /// `auto` reads as `None`.
    pub(crate) files: Option<usize>,
    pub(crate) per_connection: Option<Share>,
    pub(crate) per_client: Option<Share>,
    pub(crate) uploads: Option<Share>,
}

/// A share of a service's slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    Off,
    PerMille(u16),
}

impl Limits {
    /// Reads the map `limits`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &LIMITS, sink) else { return Self::default() };
        let files = fields.get("files").filter(|node| !is_word(node, "auto"));
        Self {
            rate_keys_max: fields.plain("rate_keys", sink, |text| count(text, RATE_KEYS)),
            files: files
                .and_then(|node| value(node, "limits.files", sink, |text| count(text, FILES)))
                .map(|at| at.value),
            per_connection: read_share(&fields, "per_connection", None, sink),
            per_client: read_share(&fields, "per_client", Some(PER_CLIENT_ON), sink),
            uploads: read_share(&fields, "uploads", None, sink),
        }
    }
}

/// Reads a share. `on` is the share that the word `on` stands for; `None` is the default.
fn read_share(fields: &Fields<'_>, name: &str, on: Option<Share>, sink: &mut Diagnostics) -> Option<Share> {
    let node = fields.get(name)?;
    if is_word(node, "off") {
        return Some(Share::Off);
    }
    if is_word(node, "on") {
        return on;
    }
    value(node, &fields.full_name(name), sink, share_per_mille).map(|at| Share::PerMille(at.value))
}

/// An eighth, which is also the default share of a connection.
const PER_CLIENT_ON: Share = Share::PerMille(125);

pub(crate) static LIMITS: Known = Known {
    what: "`limits`",
    prefix: "limits.",
    fields: &["rate_keys", "files", "per_connection", "per_client", "uploads"],
    later: &[],
};

/// A key takes about 100 bytes, so the largest number takes 10 GB.
const RATE_KEYS: std::ops::RangeInclusive<usize> = 1..=100_000_000;
/// The smallest number is enough for the gateway itself and a few clients.
const FILES: std::ops::RangeInclusive<usize> = 64..=100_000_000;
