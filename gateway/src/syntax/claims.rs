//! Names of claims, and `require: {claim: …}` of a route or of a provider.

use super::{
    diagnostics::{Diagnostic, Diagnostics, code},
    fields::{Fields, Known, key, named_entries, one_or_many, some_text, values},
    tree::Node,
    units::Invalid,
};

/// Reads the name of a claim, or of one inside others: `tenant`, `realm_access.roles`.
pub(crate) fn claim_name(text: &str) -> Result<String, Invalid> {
    if names_a_claim(text) {
        return Ok(text.to_owned());
    }
    let expected = "the name of a claim, such as `tenant` or `realm_access.roles`";
    Err(Invalid::new(code::BAD_VALUE, expected, "a name is missing beside a dot; `\\.` is a dot in a name"))
}

/// Whether the text names a claim: a dot has a name on each of its sides.
pub(crate) fn names_a_claim(written: &str) -> bool {
    steps(written).is_some()
}

/// The names that lead to a claim, outermost first. `None`: one of them is empty.
pub(crate) fn steps(written: &str) -> Option<Vec<String>> {
    let mut steps = vec![String::new()];
    let mut chars = written.chars().peekable();
    while let Some(c) = chars.next() {
        let step = steps.last_mut()?;
        match c {
            '.' => steps.push(String::new()),
            '\\' => step.push(chars.next_if(|next| matches!(next, '.' | '\\')).unwrap_or('\\')),
            _ => step.push(c),
        }
    }
    (!steps.iter().any(String::is_empty)).then_some(steps)
}

/// Required claims, each with the texts that it may have.
pub(crate) type Claims = Vec<(String, Vec<String>)>;

/// Reads the field `claim` of a `require`.
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

/// Reads the field `require` of a provider.
pub(crate) fn of_provider(node: &Node, sink: &mut Diagnostics) -> Claims {
    Fields::of(node, &REQUIRE, sink).map(|fields| read(&fields, sink)).unwrap_or_default()
}

/// The map `require` of a provider.
pub(crate) static REQUIRE: Known =
    Known { what: "`require` of a provider", prefix: "require.", fields: &["claim"], later: &[] };

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dot_leads_deeper_and_an_escaped_dot_is_one_of_the_name() {
        for (written, expected) in [
            ("sub", &["sub"][..]),
            ("realm_access.roles", &["realm_access", "roles"]),
            ("resource_access.api.roles", &["resource_access", "api", "roles"]),
            (r"cognito\.groups", &["cognito.groups"]),
            (r"resource_access.my\.api.roles", &["resource_access", "my.api", "roles"]),
            (r"a\\.b", &[r"a\", "b"]),
            (r"a\b\", &[r"a\b\"]),
        ] {
            assert_eq!(steps(written).unwrap(), expected, "{written}");
        }
        for written in ["", ".", "a.", ".a", "a..b"] {
            assert!(!names_a_claim(written), "{written}");
        }
    }
}
