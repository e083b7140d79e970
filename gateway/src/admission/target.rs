//! The target of a request, with its canonical path or with an odd path that a route allows.

use std::borrow::Cow;

use bytes::Bytes;
use http::uri::PathAndQuery;

use super::{
    Refusal,
    odd_path::{self, Odd, Oddities},
    path::canonical_path,
};

/// The canonical path with the unchanged query, and the oddities that its route must allow. `allowed` are
/// those that some route allows.
pub(super) fn canonical_target(
    target: &PathAndQuery,
    allowed: Oddities,
) -> Result<(PathAndQuery, Option<Odd>), Refusal> {
    // An absolute target may have an empty path: `http://host?q` has the path `/` (RFC 9110 §4.2.3).
    let (path, odd) = match canonical_path(target.path()) {
        Ok(path) => (path, None),
        Err(refusal) if allowed != Oddities::NONE => {
            let (path, odd) = odd_path::canonical(target.path(), allowed, refusal)?;
            (Cow::Owned(path), Some(odd))
        }
        Err(refusal) => return Err(refusal),
    };
    let written = target.as_str();
    if matches!(path, Cow::Borrowed(_)) && written.starts_with('/') {
        return Ok((target.clone(), odd));
    }
    let mut text = path.into_owned();
    if let Some(query) = target.query() {
        text.push('?');
        text.push_str(query);
    }
    let target = PathAndQuery::from_maybe_shared(Bytes::from(text));
    target.map(|target| (target, odd)).map_err(|_| Refusal::TargetCharacter)
}
