//! `require: {claim: …}`, of a route or of a provider.

use super::{
    fields::{Fields, Known, key, named_entries, one_or_many, some_text, values},
    tree::Node,
};
use crate::config::{
    diagnostics::{Diagnostic, Diagnostics, code},
    units::claim_name,
};

/// Claims, and of each the texts of which it must have one.
pub(crate) type Claims = Vec<(String, Vec<String>)>;

/// The field `claim` of a `require`.
pub(crate) fn read(require: &Fields<'_>, sink: &mut Diagnostics) -> Claims {
    let Some(node) = require.get("claim") else { return Vec::new() };
    let mut claims = Vec::new();
    for entry in named_entries(node, "`require.claim`", sink) {
        let name = key(&entry.key, "a key of `require.claim`", sink, claim_name);
        if one_or_many(&entry.value).is_empty() {
            sink.push(
                Diagnostic::error(code::BAD_VALUE, entry.value.span, "no text of the claim is accepted")
                    .help("write one, or a list of them"),
            );
        }
        let wanted = values(&entry.value, "require.claim", sink, some_text);
        claims.extend(name.map(|name| (name, wanted.into_iter().map(|at| at.value).collect())));
    }
    claims
}

/// The field `require` of a provider.
pub(crate) fn of_provider(node: &Node, sink: &mut Diagnostics) -> Claims {
    Fields::of(node, &REQUIRE, sink).map(|fields| read(&fields, sink)).unwrap_or_default()
}

pub(crate) static REQUIRE: Known =
    Known { what: "`require` of a provider", prefix: "require.", fields: &["claim"], later: &[] };
