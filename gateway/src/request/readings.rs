//! Paths that programs read in more than one way. Their senders must gain nothing by that.
//!
//! A route that has `allow_in_path` takes such a path, and a service may read it as another one. The path passes only if each
//! of these readings is one that its sender could have had with a plain path: by this route, or by another one of the same
//! service that requires no more. Where no route has the plain path, the reading must stay beneath the literal beginning of
//! the route's own path, and must not be what another route of the service makes of a plain path and that requires more.
//! The readings are those of the path that the service gets, after `rewrite`.

use http::{HeaderMap, Method};

use super::{error::Error, head::upstream_target};
use crate::{
    admission::{self, Admitted, Odd, Refusal},
    listen::Listener,
    policy::rewrite::{Rewrite, without_added},
    router::Match,
    snapshot::{LocalSnapshot, Route},
};

/// Checks that the sender of an odd path gains nothing by it.
///
/// # Errors
/// A plain path would not give the sender each reading of the path.
pub(super) fn check(
    snapshot: &LocalSnapshot,
    route: &Route,
    (listener, method, headers): (&Listener, &Method, &HeaderMap),
    (admitted, odd): (&Admitted, Odd),
) -> Result<(), Error> {
    // Nothing reaches a service; the next request of the client is checked by itself.
    if route.policies.redirect.is_some() {
        return Ok(());
    }
    let (sent, prefix) = upstream_target(route, admitted.target())?;
    let plain = Plain {
        snapshot,
        route,
        listener: &listener.name,
        method,
        headers,
        host: admitted.host(),
        prefix: prefix.unwrap_or_default(),
    };
    let readings = admission::lenient_readings(sent.path(), odd.found).map_err(Error::Refused)?;
    if readings.iter().all(|reading| plain.gives(reading)) {
        Ok(())
    } else {
        Err(Error::Refused(Refusal::TargetAmbiguous))
    }
}

/// The readings that plain paths give to the sender of a request.
struct Plain<'a> {
    snapshot: &'a LocalSnapshot,
    route: &'a Route,
    /// The plain paths come through the same listener.
    listener: &'a str,
    method: &'a Method,
    headers: &'a HeaderMap,
    host: &'a str,
    /// The prefix that the route strips, as it is written in this request.
    prefix: &'a str,
}

/// The result of a path's look-up in the route table.
enum Taken<'a> {
    /// This route takes the path.
    Here,
    /// Another route takes it.
    By(&'a Route),
    /// These routes take it, for other methods.
    Otherwise(Vec<&'a Route>),
    /// No route takes it.
    Nowhere,
}

impl Plain<'_> {
    /// Whether a plain path brings `reading` to the service, without more than this route requires.
    fn gives(&self, reading: &str) -> bool {
        let written = written_for(self.route.policies.rewrite.as_deref(), self.prefix, reading);
        let is_beneath = match written.as_deref().map(|path| (path, self.lookup(path))) {
            Some((_, Taken::Here)) => return true,
            Some((_, Taken::By(other))) if !self.is_weaker_than(other) => true,
            Some((path, Taken::Nowhere)) => is_beneath(&self.route.view.path, path),
            Some((path, Taken::Otherwise(others))) => {
                is_beneath(&self.route.view.path, path)
                    && !others.iter().any(|other| self.is_weaker_than(other))
            }
            Some((_, Taken::By(_))) | None => false,
        };
        is_beneath && self.is_nowhere_dearer(reading)
    }

    /// Whether no route of the service that brings `reading` to it requires more than this one.
    fn is_nowhere_dearer(&self, reading: &str) -> bool {
        let allows = |path: &str| match self.lookup(path) {
            Taken::Here | Taken::Nowhere => true,
            Taken::By(other) => other.service != self.route.service || !self.is_weaker_than(other),
            Taken::Otherwise(others) => {
                !others.iter().any(|other| other.service == self.route.service && self.is_weaker_than(other))
            }
        };
        let mut seen: Vec<&Rewrite> = Vec::new();
        allows(reading)
            && self.snapshot.routes.iter().filter(|other| other.shared().service == self.route.service).all(
                |other| {
                    let Some(rewrite) = other.shared().policies.rewrite.as_deref() else { return true };
                    if seen.contains(&rewrite) {
                        return true;
                    }
                    seen.push(rewrite);
                    let prefix = rewrite.strip.as_deref().unwrap_or_default();
                    written_for(Some(rewrite), prefix, reading).is_none_or(|path| allows(&path))
                },
            )
    }

    /// Whether plain paths of the other route are not for this route to give: it redirects, leads to another service, or has
    /// stricter rules.
    fn is_weaker_than(&self, other: &Route) -> bool {
        other.policies.redirect.is_some()
            || other.service != self.route.service
            || !self.route.is_as_strict_as(other)
    }

    fn lookup(&self, path: &str) -> Taken<'_> {
        let router = &self.snapshot.shared.table.router;
        match router.lookup(self.listener, self.host, path, self.method, self.headers) {
            Match::Route(index) => match self.snapshot.routes.get(index) {
                Some(found) if std::ptr::eq(found.shared(), self.route) => Taken::Here,
                Some(found) => Taken::By(found.shared()),
                None => Taken::Nowhere,
            },
            Match::MethodNotAllowed(allow) => {
                let methods = allow.to_str().unwrap_or_default().split(',').map(str::trim);
                let methods = methods.filter_map(|method| Method::from_bytes(method.as_bytes()).ok());
                let found = methods
                    .map(|method| router.lookup(self.listener, self.host, path, &method, self.headers));
                let found = found.filter_map(|found| match found {
                    Match::Route(index) => self.snapshot.routes.get(index),
                    Match::MethodNotAllowed(_) | Match::NotFound => None,
                });
                Taken::Otherwise(found.map(|route| route.shared()).collect())
            }
            Match::NotFound => Taken::Nowhere,
        }
    }
}

/// The path that a rewrite turns into `sent`. `None`: the rewrite makes no such path.
fn written_for(rewrite: Option<&Rewrite>, prefix: &str, sent: &str) -> Option<String> {
    let Some(rewrite) = rewrite else { return Some(sent.to_owned()) };
    let rest = without_added(rewrite.add.as_deref(), sent)?;
    Some(format!("{}{rest}", prefix.trim_end_matches('/')))
}

/// Whether a path begins with the literal part of `pattern` before its first wildcard, which must be more than a slash.
fn is_beneath(pattern: &str, path: &str) -> bool {
    let literal = pattern.split(['{', '*', '$']).next().unwrap_or_default();
    let last_slash = literal.rfind('/').unwrap_or_default();
    last_slash > 0 && literal.get(..=last_slash).is_some_and(|literal| path.starts_with(literal))
}
