//! All spellings of a path that services treat as the same path, against an oracle that shares no code with the router:
//! each segment is percent-decoded as Flask, Django and Starlette do, and cut at `;` as Tomcat does.

use std::fmt::Write as _;

use percent_encoding::percent_decode_str;
use proptest::prelude::*;

use super::*;
use crate::{admission::canonical_path, router::pattern::path_pattern};

/// The segments of a path as a service reads them.
fn seen_by_service(path: &str) -> Vec<String> {
    let decode = |segment: &str| {
        let text = percent_decode_str(segment).decode_utf8().expect("UTF-8").into_owned();
        text.split(';').next().unwrap_or_default().to_owned()
    };
    path[1..].split('/').map(decode).collect()
}

fn taken(router: &Router, path: &str) -> Match {
    router.lookup("http", "gw", path, &Method::GET, &HeaderMap::new())
}

/// The characters of a segment: those of RFC 3986 §3.3, and those that are always encoded.
fn segment_bytes() -> impl Iterator<Item = u8> {
    (0x21..0x7f).filter(|byte| !matches!(byte, b'/' | b'%'))
}

#[test]
fn no_character_of_a_closed_path_has_a_spelling_that_falls_to_an_open_route() {
    for byte in segment_bytes().filter(|byte| !matches!(byte, b'\\' | b'*' | b'{' | b'}')) {
        let plain = char::from(byte);
        let closed = format!("/x{plain}y");
        // A character that is always encoded in requests must be encoded in a pattern, too.
        let encoded = [format!("/x%{byte:02X}y"), format!("/x%{byte:02x}y")];
        let pattern = if canonical_path(&closed).is_ok() { &closed } else { &encoded[0] };
        let router = compile(&[route(pattern), route("/**")]);
        for written in encoded.iter().chain([&closed]) {
            // A path that admission refuses reaches no service.
            let Ok(canonical) = canonical_path(written) else { continue };
            assert_eq!(taken(&router, &canonical), Match::Route(0), "{written} for {pattern}");
        }
    }
}

/// One character in one of its spellings.
fn written() -> impl Strategy<Value = String> {
    let byte = proptest::sample::select(segment_bytes().chain([b'%', b' ']).collect::<Vec<u8>>());
    let letter = proptest::sample::select(vec![b'a', b'A', b'@', b':', b';', b'.']);
    let octet = prop_oneof![3 => letter, 2 => byte];
    prop_oneof![
        9 => (octet, 0_u8..3).prop_map(|(octet, form)| match form {
            0 => char::from(octet).to_string(),
            1 => format!("%{octet:02x}"),
            _ => format!("%{octet:02X}"),
        }),
        1 => Just("%C3%A9".to_owned()),
    ]
}

fn any_path() -> impl Strategy<Value = String> {
    let segment = proptest::collection::vec(written(), 1..3).prop_map(|parts| parts.concat());
    proptest::collection::vec(segment, 1..3).prop_map(|segments| format!("/{}", segments.join("/")))
}

/// The same segments, with every character encoded that may be.
fn encoded(path: &str) -> String {
    let mut text = String::new();
    let mut rest = path.chars();
    while let Some(c) = rest.next() {
        match c {
            '/' => text.push(c),
            '%' => text.extend([c].into_iter().chain(rest.by_ref().take(2))),
            _ => _ = write!(text, "%{:02X}", u32::from(c)),
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_router_tells_paths_apart_exactly_as_services_do(
        closed in any_path(),
        asked in any_path(),
        below in any::<bool>(),
    ) {
        let (Ok(pattern), Ok(path)) = (canonical_path(&closed), canonical_path(&asked)) else { return Ok(()) };
        let suffix = if below { "/**" } else { "" };
        let spec = format!("{pattern}{suffix}");
        // A pattern such as `/*` does not match a literal path.
        prop_assume!(!pattern.split('/').any(|part| matches!(part, "*" | "**")));
        let router = compile(&[route(&spec), route("/**")]);
        let (guarded, seen) = (seen_by_service(&pattern), seen_by_service(&path));
        let is_guarded = if below { seen.starts_with(&guarded) } else { seen == guarded };
        let expected = if is_guarded { Match::Route(0) } else { Match::Route(1) };
        prop_assert_eq!(taken(&router, &path), expected.clone(), "{} for {}", &path, &spec);
        if let Ok(again) = canonical_path(&encoded(&path)) {
            prop_assert_eq!(taken(&router, &again), expected, "{} for {}", &again, &spec);
        }
        // The pattern itself, encoded throughout.
        if let Ok(same) = canonical_path(&encoded(&pattern)) {
            prop_assert_eq!(taken(&router, &same), Match::Route(0));
        }
    }

    /// The pattern is written as `check` reads it; the path is in UTF-8, with all of it encoded or only what must be.
    #[test]
    fn a_closed_path_beyond_ascii_is_what_services_decode_to_it(closed in "\\PC{1,5}", asked in "\\PC{1,5}") {
        let Ok(pattern) = path_pattern(&format!("/{closed}")) else { return Ok(()) };
        prop_assume!(!pattern.path.contains(['*', '{']));
        let router = compile(&[route(&pattern.path), route("/**")]);
        let guarded = seen_by_service(&pattern.path);
        for text in [&closed, &asked] {
            let all = text.bytes().fold(String::new(), |all, byte| all + &format!("%{byte:02x}"));
            for written in [format!("/{all}"), format!("/{all}").to_uppercase(), format!("/{text}")] {
                let Ok(path) = canonical_path(&written) else { continue };
                let expected = if seen_by_service(&path) == guarded { Match::Route(0) } else { Match::Route(1) };
                prop_assert_eq!(taken(&router, &path), expected, "{} for {}", &written, &pattern.path);
            }
        }
    }

    #[test]
    fn a_lenient_closed_route_takes_what_lenient_services_take(
        closed in any_path(),
        turned in proptest::collection::vec(any::<bool>(), 40),
        slash in any::<bool>(),
    ) {
        let Ok(pattern) = canonical_path(&closed) else { return Ok(()) };
        prop_assume!(!pattern.split('/').any(|part| matches!(part, "*" | "**")));
        // Open routes that are as close as possible: everything below each segment of the closed path.
        let (parent, _) = pattern.rsplit_once('/').expect("a slash");
        let mut open = vec![route("/**")];
        if !parent.is_empty() {
            open.push(route(&format!("{parent}/**")));
        }
        let router = compile(&[vec![lenient(true, true, &pattern)], open].concat());
        let turn = |(c, turned): (char, &bool)| if *turned { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        let mut path: String = pattern.chars().zip(&turned).map(turn).collect();
        if slash {
            path.push('/');
        }
        if let Ok(path) = canonical_path(&path) {
            prop_assert_eq!(taken(&router, &path), Match::Route(0), "{} for {}", &path, &pattern);
        }
    }
}
