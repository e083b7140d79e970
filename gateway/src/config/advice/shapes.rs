//! Help where the file has a map, a list or a single value, as other products have it, and another kind is
//! needed.

use crate::{config::raw::listeners::address, syntax::tree::Value};

/// Help for `what`, named as in the message: "a route", "`listen`". `wants_value`: neither a map nor a list
/// is accepted.
pub(super) fn cure(what: &str, wants_value: bool, found: &Value) -> Option<String> {
    if let ("`listen`", Value::Scalar(scalar)) = (what, found)
        && !scalar.from_variable
        && let Some(address) = listen_address(&scalar.text)
    {
        return Some(format!("write `listen: {{http: \"{address}\"}}`"));
    }
    let found = Found::of(found);
    let row =
        |row: &&(&str, bool, &[Found], &str)| row.0 == what && row.1 == wants_value && row.2.contains(&found);
    SHAPES.iter().find(row).map(|(.., cure)| (*cure).to_owned())
}

/// The address in `80`, `:80` or `127.0.0.1:80`.
fn listen_address(text: &str) -> Option<String> {
    let port = text.trim_start_matches(['*', ':']);
    let with_any_address = format!("0.0.0.0:{port}");
    [text, &with_any_address].into_iter().find(|text| address(text).is_ok()).map(str::to_owned)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    One,
    List,
    Map,
}

impl Found {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null | Value::Broken => Self::Nothing,
            Value::Scalar(_) => Self::One,
            Value::List(_) => Self::List,
            Value::Map(_) => Self::Map,
        }
    }
}

use Found::{List, Map, One};

/// The map or field, whether it needs a single value, the kind that was found instead, and the cure.
const SHAPES: [(&str, bool, &[Found], &str); 26] = [
    (
        "the file",
        false,
        &[One, List],
        "the smallest file is `version: 1` and `routes: [{path: /users/**, service: users}]`",
    ),
    ("`listen`", false, &[One, List], "write `listen: {http: [\"0.0.0.0:8080\"]}`"),
    (
        "`listen.https`",
        false,
        &[One, List],
        "write `https: {bind: \"0.0.0.0:8443\", cert_file: cert.pem, key_file: key.pem}`",
    ),
    ("`discovery`", false, &[One, List], "write `discovery: {consul: {address: \"http://127.0.0.1:8500\"}}`"),
    ("`discovery.consul`", false, &[One, List], "write `consul: {address: \"http://127.0.0.1:8500\"}`"),
    (
        "`auth`",
        false,
        &[One, List],
        "write `auth: {main: {issuer: \"https://issuer.example\", audience: api}}`: providers have names",
    ),
    ("an auth provider", false, &[One, List], "write `{issuer: \"https://issuer.example\", audience: api}`"),
    (
        "`routes`",
        false,
        &[One, Map],
        "write `routes: [{path: /users/**, service: users}]`, or begin each route with `- `; a name is `name: NAME` in it",
    ),
    ("a route", false, &[One, List], "write `{path: /users/**, service: users}`"),
    (
        "`services`",
        false,
        &[One, List],
        "write `services: {users: {hosts: [\"127.0.0.1:9001\"]}}`: services have names",
    ),
    (
        "a service",
        false,
        &[One, List],
        "write `{hosts: [\"127.0.0.1:9001\"]}`, or `{}` for a service that Consul knows",
    ),
    (
        "`policies`",
        false,
        &[One, List],
        "write `policies: {strict: {rate_limit: 20/s}}`: policies have names",
    ),
    ("`headers`", false, &[One, List], "write `headers: {request: {set: {X-Shop: main}}}`"),
    ("header rules", false, &[One, List], "write `{set: {X-Shop: main}, remove: [X-Debug]}`"),
    ("`set`", false, &[One, List], "write `set: {X-Shop: main}`"),
    ("`add`", false, &[One, List], "write `add: {X-Shop: main}`"),
    ("`match_headers`", false, &[One, List], "write `match_headers: {X-Beta: \"1\"}`"),
    ("`rewrite`", false, &[One, List], "write `rewrite: {strip: /api}`"),
    ("`require`", false, &[One, List], "write `require: {role: staff}`"),
    ("`split`", false, &[One, List], "write `split: {v1: 95, canary: 5}`: names of `subsets` of the service"),
    (
        "`breaker`",
        false,
        &[One, List],
        "write `breaker: {errors: 50%}`, or `breaker: off`; it is on by default",
    ),
    (
        "`outlier`",
        false,
        &[One, List],
        "write `outlier: {pause: 5s}`, or `outlier: off`; it is on by default",
    ),
    (
        "`tls`",
        false,
        &[One, List],
        "write `protocol: https`; `tls` is needed only where certificate or name do not fit",
    ),
    ("`drain`", false, &[One, List], "write `drain: {timeout: 30s}`"),
    (
        "`hosts`",
        true,
        &[Map, List],
        "write each address as one text: `hosts: [\"127.0.0.1:9001\", \"127.0.0.1:9002\"]`",
    ),
    (
        "`auth`",
        true,
        &[Map],
        "write the provider's name, such as `auth: main`, and describe it in `auth` at the top of the file",
    ),
];
