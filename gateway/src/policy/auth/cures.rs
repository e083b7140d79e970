//! Help for files that require tokens, or checked certificates, in the words of other products.
//!
//! A cure never opens what was meant to be closed: it proposes `auth: none` only for a value such as `false` or
//! `off`.

use crate::syntax::tree::{Node, Value};

/// Help for the value `theirs` of a word such as `jwt`; `providers` are the names of the file's providers.
pub(crate) fn auth(theirs: &Node, providers: &[String]) -> String {
    if says_no(theirs) {
        return "write `auth: none` to open the route to everyone".to_owned();
    }
    let named = match &theirs.value {
        Value::Scalar(scalar) => providers.iter().find(|name| **name == scalar.text),
        _ => None,
    };
    format!("{}: this provider checks the token", provider(named.or(providers.first()).map(String::as_str)))
}

/// Help that names a provider; without a name, it proposes to add one.
pub(crate) fn provider(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("write `auth: {name}`"),
        None => "write `auth: main`, and at the top of the file \
                 `auth: {main: {issuer: \"https://issuer.example\", audience: api}}`"
            .to_owned(),
    }
}

/// Help for a word whose usual cure (`example`) would switch a check off although the file wants it. `None`: the
/// usual cure fits.
pub(crate) fn kept_check(example: &str, theirs: &Node) -> Option<&'static str> {
    let checks = [
        ("insecure: true", "leave it away: certificates are checked unless `insecure: true` says otherwise"),
        ("allow_in_path: ", "leave it away: encoded slashes are 400 unless `allow_in_path` lets them in"),
    ];
    let (_, help) = checks.into_iter().find(|(field, _)| example.contains(field))?;
    says_no(theirs).then_some(help)
}

fn says_no(node: &Node) -> bool {
    let words = ["false", "off", "no", "none", "disabled", "0", "public", "open", "anonymous"];
    matches!(&node.value, Value::Scalar(scalar) if words.iter().any(|word| scalar.text.eq_ignore_ascii_case(word)))
}
