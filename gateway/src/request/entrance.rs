//! The first steps of a request, before any policy: it is admitted and gets a route, is answered at once, or is
//! refused.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, request::Parts};

use super::{
    ConnectionContext,
    error::Error,
    exchange::Exchange,
    readings,
    reply::{challenge_reply, no_content, options_reply, redirection},
};
use crate::{
    admission::{self, Admission, Admitted, Oddities, Refusal, Scheme},
    headers,
    listen::Listener,
    message::names,
    policy::{cors, redirect},
    router::Match,
    snapshot::{LocalRoute, LocalSnapshot},
};

/// The result of admission, before a route is looked up.
pub(super) enum Entrance {
    /// The request gets a route.
    Open(Admitted),
    /// The request is answered at once: `OPTIONS *`, the question of an authority that verifies a host, or a redirect of a cleartext
    /// request to HTTPS.
    Answered(Response<Bytes>),
}

/// Checks that the request has one reading only, and answers the requests that need no route.
pub(super) fn admit(
    connection: &ConnectionContext,
    snapshot: &LocalSnapshot,
    parts: &Parts,
    exchange: &mut Exchange,
) -> Result<Entrance, Error> {
    let limits = &snapshot.shared.table.admission;
    let mut last = connection.authority.borrow_mut();
    let is_trusted = exchange.request.peer_is_trusted;
    let verdict = admission::admit(parts, limits, connection.arrival(is_trusted), last.as_ref());
    match verdict {
        Ok(Admission::Forward(admitted)) => {
            if !last.as_ref().is_some_and(|last| Rc::ptr_eq(last, admitted.authority())) {
                if connection.is_misdirected(admitted.authority(), is_trusted) {
                    // `last` is not replaced, so the next request for this host comes here again.
                    exchange.admitted(&admitted);
                    return Err(Error::Refused(Refusal::Misdirected));
                }
                *last = Some(Rc::clone(admitted.authority()));
                last.clone_into(&mut connection.worker.last_authority.borrow_mut());
            }
            exchange.admitted(&admitted);
            // One comparison with `None`, unless an authority is about to verify a host.
            if let Some(answers) = &snapshot.shared.answers
                && let Some(response) =
                    challenge_reply(answers, &parts.method, (connection.listener(), &admitted))
            {
                return Ok(Entrance::Answered(response));
            }
            match snapshot.shared.table.listen.redirect_of(&connection.listener().name) {
                Some(port) if !came_over_tls(&admitted, &parts.headers, is_trusted) => {
                    let location = redirect::to_https(admitted.host(), port, admitted.target());
                    let location = location.ok_or(Error::Internal)?;
                    Ok(Entrance::Answered(redirection(redirect::TO_HTTPS, location)))
                }
                _ => Ok(Entrance::Open(admitted)),
            }
        }
        Ok(Admission::LocalOptions) => {
            exchange.stays_outside(parts.uri.path_and_query());
            Ok(Entrance::Answered(options_reply()))
        }
        Err(refusal) => {
            exchange.stays_outside(parts.uri.path_and_query());
            Err(Error::Refused(refusal))
        }
    }
}

/// Whether the client reached this gateway by TLS, or reached a trusted proxy in front of it so. Without the latter, a
/// proxy that ends TLS would get the same redirect again and again.
fn came_over_tls(admitted: &Admitted, headers: &HeaderMap, peer_is_trusted: bool) -> bool {
    let stated = || headers.get(&names::X_FORWARDED_PROTO).map(HeaderValue::as_bytes);
    admitted.scheme() == Scheme::Https
        || (peer_is_trusted && stated().is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"https")))
}

/// The route of the request. For a preflight request to a route with CORS, it is the route of the announced request,
/// with the announced method.
pub(super) fn find_route_or_preflight<'a>(
    snapshot: &'a LocalSnapshot,
    parts: &Parts,
    (listener, admitted): (&Listener, &Admitted),
) -> Result<(&'a Rc<LocalRoute>, Option<Method>), Error> {
    if let Some(announced) = cors::announced(&parts.method, &parts.headers)
        && let Ok(route) = find_route(snapshot, parts, &announced, (listener, admitted))
        && route.shared().policies.cors.is_some()
    {
        return Ok((route, Some(announced)));
    }
    Ok((find_route(snapshot, parts, &parts.method, (listener, admitted))?, None))
}

/// The response to a preflight request. It comes before authentication, since a browser sends no credential with a
/// preflight.
pub(super) fn preflight_reply(route: &LocalRoute, exchange: &Exchange) -> Response<Bytes> {
    let mut response = no_content();
    headers::apply_rules(response.headers_mut(), &route.response_rules);
    headers::apply_made(response.headers_mut(), &route.response_rules, &exchange.facts());
    response
}

/// The route that takes an admitted request. A path that has two readings needs a route that allows it ([`readings`]).
fn find_route<'a>(
    snapshot: &'a LocalSnapshot,
    parts: &Parts,
    method: &Method,
    (listener, admitted): (&Listener, &Admitted),
) -> Result<&'a Rc<LocalRoute>, Error> {
    let router = &snapshot.shared.table.router;
    let found = match router.lookup(&listener.name, admitted.host(), admitted.path(), method, &parts.headers)
    {
        Match::Route(index) => snapshot.routes.get(index).ok_or(Error::RouteNotFound),
        Match::MethodNotAllowed(allow) => Err(Error::MethodNotAllowed { allow }),
        Match::NotFound => Err(Error::RouteNotFound),
    };
    let Some(odd) = admitted.odd() else { return found };
    let route = found
        .ok()
        .filter(|route| route.shared().policies.allow_in_path.with(Oddities::ALWAYS).contains(odd.found));
    let route = route.ok_or(Error::Refused(odd.refusal))?;
    readings::check(snapshot, route.shared(), (listener, method, &parts.headers), (admitted, odd))?;
    Ok(route)
}
