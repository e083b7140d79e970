//! What to write where a file requires tokens, or checked certificates, in the words of other products.
//!
//! A cure never opens what was meant to be closed: only where the value says no is `auth: none` the word for it.

use crate::syntax::tree::{Node, Value};

/// `theirs`: the value of a word such as `jwt`; `providers`: the names of the file's providers.
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

/// With a token of the provider, or of one that is to be added.
pub(crate) fn provider(name: Option<&str>) -> String {
    match name {
        Some(name) => format!("write `auth: {name}`"),
        None => "write `auth: main`, and at the top of the file \
                 `auth: {main: {issuer: \"https://issuer.example\", audience: api}}`"
            .to_owned(),
    }
}

/// For a word whose cure would switch a check off, where the file wants the check. `None`: it does not.
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
