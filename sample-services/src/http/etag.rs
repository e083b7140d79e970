//! Entity tags and `If-Match` (RFC 9110 §8.8.3, §13.1.1): a record's version number is its tag.

use axum::{
    extract::{FromRequestParts, OptionalFromRequestParts},
    http::{HeaderMap, HeaderValue, StatusCode, header, request::Parts},
};

use super::{Problem, Result};

/// The strong entity tag of a version: `"7"`.
pub fn etag(version: i64) -> HeaderValue {
    // Digits and quotes are always a valid header value.
    HeaderValue::try_from(format!("\"{version}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"0\""))
}

/// The versions that a client is willing to change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IfMatch {
    /// `*`, or no condition at all where none is required: any version that exists.
    Any,
    Tags(Vec<String>),
}

impl IfMatch {
    /// 412 unless the condition holds for `version`.
    pub fn check(&self, version: i64) -> Result<()> {
        let holds = match self {
            Self::Any => true,
            // RFC 9110 §13.1.1: strong comparison, so a weak tag (`W/"7"`) never matches.
            Self::Tags(tags) => tags.iter().any(|tag| tag.as_bytes() == etag(version).as_bytes()),
        };
        if holds { Ok(()) } else { Err(Self::failed()) }
    }

    /// What a writer hears who came second although its condition held when it was checked.
    pub fn lost_race(&self) -> Problem {
        match self {
            Self::Any => {
                Problem::conflict("edit_conflict", "the record was changed meanwhile; read it again")
            }
            Self::Tags(_) => Self::failed(),
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
        let mut tags = Vec::new();
        // RFC 9110 §5.3: several lines are one list.
        for line in headers.get_all(header::IF_MATCH) {
            let line = line.to_str().map_err(|_| bad_if_match())?;
            if line.trim() == "*" {
                return Ok(Some(Self::Any));
            }
            for tag in line.split(',').map(str::trim).filter(|tag| !tag.is_empty()) {
                let opaque = tag.strip_prefix("W/").unwrap_or(tag);
                if opaque.len() < 2 || !opaque.starts_with('"') || !opaque.ends_with('"') {
                    return Err(bad_if_match());
                }
                tags.push(tag.to_owned());
            }
        }
        Ok((!tags.is_empty()).then_some(Self::Tags(tags)))
    }
}

fn bad_if_match() -> Problem {
    Problem::bad_request("bad_if_match", "If-Match must be `*` or a list of entity tags such as `\"7\"`")
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

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Result<Option<IfMatch>> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::IF_MATCH, line.parse().unwrap());
        }
        IfMatch::parse(&headers)
    }

    #[test]
    fn a_condition_is_met_by_the_current_version_only() {
        for (lines, version, met) in [
            (&["\"7\""] as &[&str], 7, true),
            (&["\"7\""], 8, false),
            (&["\"6\", \"7\""], 7, true),
            (&["\"6\"", "\"7\""], 7, true),
            (&["*"], 7, true),
            (&["W/\"7\""], 7, false),
        ] {
            let condition = parse(lines).unwrap().unwrap();
            assert_eq!(condition.check(version).is_ok(), met, "{lines:?} against {version}");
        }
    }

    #[test]
    fn a_tag_without_quotes_is_refused() {
        for line in ["7", "\"", "\"7", "W/7"] {
            assert_eq!(parse(&[line]).unwrap_err().status(), StatusCode::BAD_REQUEST, "{line}");
        }
    }

    #[test]
    fn no_header_is_no_condition() {
        assert_eq!(parse(&[]).unwrap(), None);
    }
}
