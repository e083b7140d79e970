//! Entity tags and their conditions (RFC 9110 §8.8.3, §13.1): a record's version number is its tag.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
};

use super::{Problem, Result};

/// The strong entity tag of a version: `"7"`.
pub fn etag(version: i64) -> HeaderValue {
    // Digits and quotes are always a valid header value.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// What `If-Match` and `If-None-Match` hold.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: any version that exists.
    Any,
    List(Vec<Tag>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tag {
    weak: bool,
    /// With its quotes.
    opaque: Vec<u8>,
}

impl Tags {
    /// `None` without the header; 400 where it is there and is neither `*` nor a list of entity tags.
    fn parse(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Self>> {
        let mut tags = Vec::new();
        let (mut lines, mut any) = (0, false);
        // RFC 9110 §5.3: several lines are one list.
        for line in headers.get_all(name) {
            lines += 1;
            if line.as_bytes().trim_ascii() == b"*" {
                any = true;
            } else {
                tags.extend(parse_list(line.as_bytes()).ok_or_else(|| bad(name))?);
            }
        }
        match (any, lines) {
            (_, 0) => Ok(None),
            (true, 1) => Ok(Some(Self::Any)),
            (false, _) if !tags.is_empty() => Ok(Some(Self::List(tags))),
            _ => Err(bad(name)),
        }
    }
}

/// `[W/]"…"`, with commas between them. A comma within the quotes belongs to the tag, so the list cannot be split
/// at commas.
fn parse_list(mut rest: &[u8]) -> Option<Vec<Tag>> {
    let mut tags = Vec::new();
    loop {
        // RFC 9110 §5.6.1.2: empty elements are ignored.
        while let [b' ' | b'\t' | b',', after @ ..] = rest {
            rest = after;
        }
        if rest.is_empty() {
            return Some(tags);
        }
        let (weak, quoted) = rest.strip_prefix(b"W/").map_or((false, rest), |quoted| (true, quoted));
        let inner = quoted.strip_prefix(b"\"")?;
        let length = inner.iter().position(|&byte| byte == b'"')?;
        let (opaque, after) = quoted.split_at_checked(length + 2)?;
        // RFC 9110 §8.8.3: etagc = %x21 / %x23-7E / obs-text.
        if !inner.get(..length)?.iter().all(|&byte| byte == 0x21 || (byte >= 0x23 && byte != 0x7f)) {
            return None;
        }
        tags.push(Tag { weak, opaque: opaque.to_vec() });
        rest = after.trim_ascii_start();
        if !rest.is_empty() && !rest.starts_with(b",") {
            return None;
        }
    }
}

fn bad(name: &HeaderName) -> Problem {
    let (code, header) = if *name == header::IF_MATCH {
        ("bad_if_match", "If-Match")
    } else {
        ("bad_if_none_match", "If-None-Match")
    };
    Problem::bad_request(code, format!("{header} must be `*` or a list of entity tags such as `\"7\"`"))
}

/// The versions that a client is willing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IfMatch(Tags);

impl IfMatch {
    /// `*`, or no condition at all where none is required: any version that exists.
    pub const ANY: Self = Self(Tags::Any);

    /// 412 unless the condition holds for `version`.
    pub fn check(&self, version: i64) -> Result<()> {
        let holds = match &self.0 {
            Tags::Any => true,
            // RFC 9110 §13.1.1: strong comparison, so a weak tag (`W/"7"`) never matches.
            Tags::List(tags) => tags.iter().any(|tag| !tag.weak && tag.opaque == etag(version).as_bytes()),
        };
        if holds { Ok(()) } else { Err(Self::failed()) }
    }

    /// The answer to a writer that came second although its condition held when it was checked.
    pub fn lost_race(&self) -> Problem {
        match &self.0 {
            Tags::Any => {
                Problem::conflict("edit_conflict", "the record was changed meanwhile; read it again")
            }
            Tags::List(_) => Self::failed(),
        }
    }

    fn failed() -> Problem {
        Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "precondition_failed",
            "If-Match does not name the current version; read the record again",
        )
    }

    fn parse(headers: &HeaderMap) -> Result<Option<Self>> {
        Ok(Tags::parse(headers, &header::IF_MATCH)?.map(Self))
    }
}

/// `IfMatch` as an argument: the header is required, 428 without it (RFC 6585 §3).
impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Self::parse(&parts.headers)?.ok_or_else(|| {
            Problem::new(
                StatusCode::PRECONDITION_REQUIRED,
                "precondition_required",
                "send If-Match with the ETag that you read, so that no change of another client is lost",
            )
        })
    }
}

/// `Option<IfMatch>` as an argument: the header may be left out.
impl<S: Sync> OptionalFromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>> {
        Self::parse(&parts.headers)
    }
}

/// The versions that a client has already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IfNoneMatch(Tags);

impl IfNoneMatch {
    pub(super) fn parse(headers: &HeaderMap) -> Result<Option<Self>> {
        Ok(Tags::parse(headers, &header::IF_NONE_MATCH)?.map(Self))
    }

    /// Whether the client has what `etag` names.
    pub(super) fn has(&self, etag: &HeaderValue) -> bool {
        match &self.0 {
            Tags::Any => true,
            // RFC 9110 §13.1.2: weak comparison.
            Tags::List(tags) => {
                let current = etag.as_bytes();
                let current = current.strip_prefix(b"W/").unwrap_or(current);
                tags.iter().any(|tag| tag.opaque == current)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &HeaderName, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        headers
    }

    fn parse(lines: &[&str]) -> Result<Option<IfMatch>> {
        IfMatch::parse(&headers(&header::IF_MATCH, lines))
    }

    #[test]
    fn a_condition_is_met_by_the_current_version_only() {
        for (lines, version, met) in [
            (&["\"7\""] as &[&str], 7, true),
            (&["\"7\""], 8, false),
            (&["\"6\", \"7\""], 7, true),
            (&["\"6\",\"7\""], 7, true),
            (&["\"6\"", "\"7\""], 7, true),
            (&["*"], 7, true),
            (&["W/\"7\""], 7, false),
            (&["\"a,b\", \"7\""], 7, true),
            (&["\"a,7\""], 7, false),
            (&["\"6,\"  ,, \"7\" ,"], 7, true),
            (&["\"é\", \"7\""], 7, true),
            (&["\"\", \"7\""], 7, true),
        ] {
            let condition = parse(lines).unwrap().unwrap();
            assert_eq!(condition.check(version).is_ok(), met, "{lines:?} against {version}");
        }
    }

    #[test]
    fn what_is_neither_a_star_nor_a_list_of_tags_is_refused() {
        for lines in [
            &["7"] as &[&str],
            &["\""],
            &["\"7"],
            &["W/7"],
            &["w/\"7\""],
            &["\"7\" \"8\""],
            &["\"7\"8"],
            &["\"7 8\""],
            &["*, \"7\""],
            &["*", "\"7\""],
            &["*", "*"],
            &[""],
            &[","],
        ] {
            assert_eq!(parse(lines).unwrap_err().status(), StatusCode::BAD_REQUEST, "{lines:?}");
        }
    }

    #[test]
    fn no_header_is_no_condition() {
        assert_eq!(parse(&[]).unwrap(), None);
    }

    #[test]
    fn a_client_has_a_version_under_its_weak_tag_too() {
        for (line, has) in
            [("\"7\"", true), ("W/\"7\"", true), ("*", true), ("\"6\"", false), ("\"6\", W/\"7\"", true)]
        {
            let parsed = IfNoneMatch::parse(&headers(&header::IF_NONE_MATCH, &[line])).unwrap().unwrap();
            assert_eq!(parsed.has(&etag(7)), has, "{line}");
        }
    }
}
