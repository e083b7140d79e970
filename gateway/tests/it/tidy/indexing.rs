//! No indexing by a peer's value: `list[i]` and `text[a..b]` panic when the index is out of range, so in the data plane each is
//! listed with the reason why its index is always in range. `get`, `first`, `split_at_checked` and patterns need no reason.

use std::collections::BTreeSet;

use super::sources;

/// The file in `gateway/src`, what is indexed, and why the index is in range. A row without a use fails, so that the list only
/// shrinks.
const IN_RANGE: &[(&str, &str, &str)] = &[
    ("access_log/writer.rs", "last", "an array of one byte"),
    ("admission/odd_path.rs", "PATH_BYTES", "a table of 256, by a byte"),
    ("admission/path.rs", "PATH_BYTES", "a table of 256, by a byte"),
    ("admission/path.rs", "canonical", "behind a match in the text"),
    ("admission/path.rs", "segment", "where a search in the text ended"),
    ("admission/path.rs", "table", "a table of 256, by a byte"),
    ("downstream/frames.rs", "self.prefix", "an array, by a constant"),
    ("file_account.rs", "]", "an array, by an enum with as many variants"),
    ("file_account.rs", "self.places", "an array, by an enum with as many variants"),
    ("file_account.rs", "self.waiting", "an array, by an enum with as many variants"),
    ("headers/made.rs", "braced", "the text begins with a brace"),
    ("message/authority.rs", "text", "the length of a part of the text, with its brackets"),
    ("message/prefilter.rs", "PLACES", "a table of 256, by a byte"),
    ("message/prefilter.rs", "places", "a table of 256, by a byte"),
    ("message/prefilter.rs", "self.first_letters", "a table of 32, by a number from a table of such"),
    ("metrics.rs", "out", "an array, below its length"),
    ("metrics.rs", "seconds_e4", "an array of the same length"),
    ("policy/circuit_breaker/window.rs", "self.0", "the remainder of a division by the length"),
    ("auth/cache.rs", "self.places", "a number that the cache itself gave"),
    ("auth/claims.rs", "pair", "windows of two"),
    ("auth/jwt/header.rs", "message", "where a search in the text ended"),
    ("auth/jwt/header.rs", "token", "where a search in the text ended"),
    ("auth/jwt/unusable.rs", "big_endian", "where a search in the bytes ended"),
    ("auth/jwt/unusable.rs", "minus_one", "an array, by a constant"),
    ("auth/jwt/unusable.rs", "prime", "an array, by a constant"),
    ("auth/jwt/unusable.rs", "y", "an array, by a constant"),
    ("auth/credentials.rs", "bytes", "where a search in the bytes ended"),
    ("auth/credentials.rs", "key", "where a search in the bytes ended"),
    ("policy/of_route.rs", "all", "in a constant, at compile time"),
    ("policy/of_route.rs", "lists", "in a constant, at compile time"),
    ("policy/of_route.rs", "]", "in a constant, at compile time"),
    ("request/error.rs", "body", "an object, by a constant key"),
    ("router/mod.rs", "precedences", "a number of a route, which the router itself gave"),
    ("router/mod.rs", "routes", "a number of a route, which the router itself gave"),
    ("router/mod.rs", "self.routes", "a number of a route, which the router itself gave"),
    ("router/mod.rs", "written", "a number of a route, which the router itself gave"),
    ("router/precedence.rs", "host", "where a search in the text ended"),
    ("router/reading.rs", "part", "behind a prefix of this length"),
    ("router/reading.rs", "segment", "where a search in the text ended"),
    ("router/tree.rs", "rest", "where a search in the text ended"),
    ("router/tree.rs", "self.lists", "a range that the tree itself gave"),
    ("router/tree.rs", "self.nodes", "a number that the tree itself gave"),
    ("upstream/load_balancer.rs", "pair", "windows of two"),
];

#[test]
fn nothing_in_the_data_plane_is_indexed_without_a_reason() {
    let mut unused: BTreeSet<(&str, &str)> = IN_RANGE.iter().map(|(file, what, _)| (*file, *what)).collect();
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.is_of_the_data_plane()) {
        let file = source.name.strip_prefix("gateway/src/").unwrap_or_default();
        for (line, code) in source.code() {
            for what in indexed(code) {
                match IN_RANGE.iter().find(|(listed, base, _)| *listed == file && *base == what) {
                    Some((listed, base, _)) => drop(unused.remove(&(*listed, *base))),
                    None => wrong.push(format!("{}:{line}: {}", source.name, code.trim())),
                }
            }
        }
    }
    wrong.extend(
        unused.iter().map(|(file, what)| format!("{file}: `{what}` is not indexed: take the row off")),
    );
    assert!(wrong.is_empty(), "indexing without a reason:\n{}", wrong.join("\n"));
}

/// What is indexed in a line, as its last path: `self.routes`, or the bracket or parenthesis that ends another expression.
/// `[..]` takes everything and cannot fail.
fn indexed(code: &str) -> Vec<String> {
    let code = without_literals(code);
    let mut found = Vec::new();
    for (at, _) in code.match_indices('[').filter(|(at, _)| !code[*at..].starts_with("[..]")) {
        let before = &code[..at];
        let is_of_path = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
        let base = match before.chars().next_back() {
            Some(last @ (')' | ']' | '?')) => last.to_string(),
            Some(last) if is_of_path(last) => {
                let start = before.rfind(|c| !is_of_path(c)).map_or(0, |at| at + 1);
                before[start..].trim_start_matches('.').to_owned()
            }
            _ => continue,
        };
        found.push(base);
    }
    found
}

/// The code with empty strings and without characters.
fn without_literals(code: &str) -> String {
    let mut out = String::new();
    let mut rest = code.chars();
    while let Some(c) = rest.next() {
        match c {
            '"' => {
                while let Some(inner) = rest.next().filter(|inner| *inner != '"') {
                    if inner == '\\' {
                        rest.next();
                    }
                }
                out.push_str("\"\"");
            }
            '\'' if rest.as_str().starts_with('\\') || rest.as_str().chars().nth(1) == Some('\'') => {
                let literal = rest.as_str();
                let skipped = usize::from(literal.starts_with('\\'));
                let end = literal.char_indices().skip(skipped + 1).find(|(_, c)| *c == '\'');
                rest = literal[end.map_or(literal.len(), |(at, _)| at + 1)..].chars();
            }
            c => out.push(c),
        }
    }
    out
}

#[test]
fn every_form_of_indexing_is_seen() {
    for (code, expected) in [
        ("let x = list[i];", vec!["list"]),
        ("self.a.b[i as usize].c[0]", vec!["self.a.b", "c"]),
        ("f(x)[1] + [1, 2][i] + g()?[a..b]", vec![")", "]", "?"]),
        ("&all[..], &text[1..]", vec!["text"]),
        ("#[test] fn f(x: &[u8]) -> Vec<[u8; 4]> { vec![1]; matches!(x, [a, ..]); return [1]; }", vec![]),
        (r#"format!("a[b] \"c[d]"); '['; '\''; x['a']"#, vec!["x"]),
    ] {
        assert_eq!(indexed(code), expected, "{code}");
    }
}
