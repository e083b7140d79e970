//! The canonical path: examples, and the property that all programs read it alike.

use std::borrow::Cow;

use proptest::prelude::*;

use super::*;

#[test]
fn a_path_has_one_canonical_form() {
    for (path, canonical) in [
        ("/", "/"),
        ("/a/b/", "/a/b/"),
        ("/%61dmin", "/admin"),
        ("/adm%69n", "/admin"),
        ("/%7e/%2D%2e%5f", "/~/-._"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/%c2%a0/%C3%80", "/%C2%A0/%C3%80"),
        ("/admin%20", "/admin%20"),
        ("/admin+", "/admin+"),
        ("/a;v=1/b;w", "/a;v=1/b;w"),
        ("/.well-known/x", "/.well-known/x"),
        ("/a/...", "/a/..."),
        ("/a/..b", "/a/..b"),
        ("/a/b..", "/a/b.."),
        ("/100%25", "/100%25"),
        ("/100%25zz", "/100%25zz"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
        ("/@:!$&'()*+,=[]", "/@:!$&'()*+,=[]"),
    ] {
        assert_eq!(canonical_path(path).as_deref(), Ok(canonical), "{path}");
    }
}

#[test]
fn a_canonical_path_is_not_copied() {
    for path in ["/", "/users/42/orders", "/a%20b", "/a;b", "/a/.b"] {
        assert!(matches!(canonical_path(path), Ok(Cow::Borrowed(_))), "{path}");
    }
}

#[test]
fn a_path_with_two_readings_is_refused() {
    use Refusal::{TargetCharacter, TargetDotSegment, TargetEmptySegment, TargetEncoding, TargetForm};
    for (refusal, paths) in [
        (
            TargetDotSegment,
            &["/..", "/.", "/public/../admin", "/public/%2e%2e/admin", "/.%2e/x", "/%2E./x"][..],
        ),
        (
            TargetDotSegment,
            &["/a/..;/admin", "/a/..;x=y/b", "/a/.;/b", "/a/..%3bx/b", "/admin/.", "/a/%2e%2e%3B"],
        ),
        (
            TargetEmptySegment,
            &["//", "//admin", "/a//b", "/admin//", "/;/admin", "/a/;x", "/%3B/a", "//evil/a"],
        ),
        (TargetEncoding, &["/%2f", "/a%2F..%2fadmin", "/%5c", "/a%00.png", "/%0d%0aX:1", "/%09", "/%7f"]),
        // Also U+0080 to U+009F, which terminals obey.
        (TargetEncoding, &["/%C2%80", "/a/%c2%9F", "/%C2%85x", "/caf%C3%A9%C2%9B31m", "/%C2%90;a"]),
        (
            TargetEncoding,
            &["/%252e%252e/", "/%2561dmin", "/%25%34%31", "/%", "/%2", "/%g1", "/%uff0e", "/%zz"],
        ),
        (TargetEncoding, &["/%c0%af", "/%ff", "/%e2%82", "/%ed%a0%80", "/a%c3/%a9"]),
        (
            TargetCharacter,
            &["/a\\b", "/a|b", "/{a}", "/a^", "/`", "/\"", "/<a>", "/é", "/a b", "/a\tb", "/a?b", "/#"],
        ),
        (TargetForm, &["", "a", "*", "?a"]),
    ] {
        for path in paths {
            assert_eq!(canonical_path(path), Err(refusal), "{path}");
        }
    }
}

const ALL: Oddities = Oddities::ALWAYS
    .with(Oddities::ENCODED_SLASH)
    .with(Oddities::ENCODED_PERCENT)
    .with(Oddities::DOUBLE_SLASH)
    .with(Oddities::RAW);

fn odd(path: &str, allowed: Oddities) -> Result<String, Refusal> {
    odd_path::canonical(path, allowed, Refusal::TargetForm).map(|(path, _)| path)
}

#[test]
fn what_a_route_allows_passes_in_one_form_and_nothing_else() {
    use Oddities as O;
    for (needs, path, canonical) in [
        (O::ENCODED_SLASH, "/api/queues/%2f/q", "/api/queues/%2F/q"),
        (O::ENCODED_SLASH, "/@scope%2fn%61me", "/@scope%2Fname"),
        (O::ENCODED_PERCENT, "/100%2541", "/100%2541"),
        (O::ENCODED_PERCENT, "/%25%34%31", "/%2541"),
        (O::DOUBLE_SLASH, "/a//b", "/a//b"),
        (O::DOUBLE_SLASH, "//a", "//a"),
        (O::DOUBLE_SLASH, "/a///", "/a///"),
        (O::RAW, "/a|b", "/a|b"),
        (O::ONLY_PARAMETERS, "/;%6Asessionid=A", "/;jsessionid=A"),
        (O::ONLY_PARAMETERS, "/a/;", "/a/;"),
        (O::RAW, "/{\"^\"}", "/{\"^\"}"),
        (O::ENCODED_SLASH.with(O::DOUBLE_SLASH), "/https:%2F%2Fx//y", "/https:%2F%2Fx//y"),
    ] {
        assert_eq!(odd(path, needs).as_deref(), Ok(canonical), "{path}");
        assert_eq!(odd(path, ALL).as_deref(), Ok(canonical), "{path}");
        for other in [O::ENCODED_SLASH, O::ENCODED_PERCENT, O::DOUBLE_SLASH, O::RAW] {
            if !other.contains(needs) {
                assert_eq!(odd(path, other), Err(Refusal::TargetForm), "{path}");
            }
        }
    }
}

#[test]
fn no_route_can_allow_a_path_that_some_reading_leads_out_of_its_place() {
    for path in [
        "/a/../b",
        "/a%2F..%2Fadmin",
        "/%2F..",
        "/a/..%2fb",
        "/a/%252e%252e/b",
        "/a/..%252fadmin",
        "/%25252e%25252e/x",
        "/a//../b",
        "/..;x%2fa",
        "/%2525252541",
        "/%5c",
        "/a%255c..%255cb",
        "/a\\b",
        "/%00",
        "/%2500",
        "/%0a",
        "/%ff",
        "/%25ff",
        "/%",
        "/%zz",
        "/;x/a",
        "/a//;x/b",
        "/é",
        "a",
    ] {
        assert!(odd(path, ALL).is_err(), "{path}: {:?}", odd(path, ALL));
    }
}

/// RFC 3986 as another program may read it: decode everything, drop parameters, resolve dots, merge slashes.
fn lenient_reading(path: &str) -> Vec<String> {
    let decoded = percent_encoding::percent_decode_str(path).decode_utf8_lossy().replace('\\', "/");
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => _ = segments.pop(),
            name => segments.push(name.to_owned()),
        }
    }
    segments
}

/// The same without any leniency: split, then decode.
fn strict_reading(path: &str) -> Vec<String> {
    let decode =
        |segment: &str| percent_encoding::percent_decode_str(segment).decode_utf8_lossy().into_owned();
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    segments.map(|segment| decode(segment.split(';').next().unwrap_or_default())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn an_accepted_path_reads_the_same_to_a_strict_and_to_a_lenient_program(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("/"), Just("."), Just(".."), Just("a"), Just("%2e"), Just("%2F"), Just("%5c"), Just("%25"),
                Just("%61"), Just("%"), Just("2"), Just("f"), Just(";"), Just("%3B"), Just("\\"), Just("%c3%A9"), Just("%C3"), Just("%7E"),
            ],
            0..10,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        if let Ok(canonical) = canonical_path(&path) {
            let again = canonical_path(&canonical);
            prop_assert_eq!(again.as_deref(), Ok(&*canonical), "idempotent");
            // `;` inside an encoding is data to the strict program, and a delimiter to the lenient one.
            if !canonical.contains("%3B") {
                prop_assert_eq!(strict_reading(&canonical), lenient_reading(&canonical));
            }
            prop_assert_eq!(lenient_reading(&path), lenient_reading(&canonical));
        }
    }

    #[test]
    fn an_allowed_path_is_its_own_form_and_stays_in_its_place_in_every_reading(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("/"), Just("."), Just(".."), Just("a"), Just("%2e"), Just("%2F"), Just("%5c"), Just("%25"),
                Just("2F"), Just("2e"), Just("%61"), Just(";"), Just("|"), Just("%C3%A9"), Just("%"),
            ],
            0..10,
        ),
    ) {
        let path = format!("/{}", pieces.concat());
        if let Ok(canonical) = odd(&path, ALL) {
            prop_assert_eq!(odd(&canonical, ALL), Ok(canonical.clone()), "idempotent");
            let mut reading = canonical.clone();
            for _ in 0..5 {
                let names = reading.split(['/', '\\']).map(|name| name.split(';').next().unwrap_or_default());
                prop_assert!(!names.clone().any(|name| matches!(name, "." | "..")), "{} reads {}", path, reading);
                reading = percent_encoding::percent_decode_str(&reading).decode_utf8_lossy().into_owned();
            }
            // A path that needs no permission has the same form with one.
            if let Ok(strict) = canonical_path(&path) {
                prop_assert_eq!(&*strict, &*canonical);
            }
        }
    }

    #[test]
    fn no_target_makes_admission_panic(target in "/[!-~]{0,40}", host in "[!-~]{0,20}") {
        if let Some(parts) = parse(&format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n")) {
            let _ = admit(&parts, &limits(), DIRECT, None);
        }
    }
}
