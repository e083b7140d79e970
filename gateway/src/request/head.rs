//! The two heads that the gateway writes: of the request as the service gets it, and of the response as the client gets
//! it. The target is the canonical path that was authorised, rewritten if the route has a `rewrite`.

use http::{HeaderMap, Response, Uri, Version, uri::PathAndQuery};

use super::{ConnectionContext, error::Error, exchange::Exchange, grpc};
use crate::{
    admission::{Admitted, Framing},
    auth::Identity,
    certificate::settings::CertificateField,
    headers::{
        self, Asks, ClientCert, ForwardContext, Handshake, RequestHead, ResponseContext, ResponseFraming,
    },
    policy::rewrite::UpstreamHost,
    snapshot::{LocalRoute, LocalSnapshot, Route},
};

/// What was found out about a request.
#[derive(Clone, Copy)]
pub(super) struct HeadFacts<'a> {
    pub(super) admitted: &'a Admitted,
    pub(super) framing: Framing,
    /// The request has a body that is still to come.
    pub(super) has_content: bool,
    pub(super) identity: Option<&'a Identity>,
}

/// Writes the head that the service gets, from what the client sent. `handshake`: that of another protocol.
pub(super) fn write_upstream_head(
    fields: &HeaderMap,
    snapshot: &LocalSnapshot,
    route: &LocalRoute,
    (HeadFacts { admitted, framing, has_content, identity }, handshake): (HeadFacts<'_>, Option<&Handshake>),
    exchange: &Exchange,
    connection: &ConnectionContext,
) -> Result<RequestHead, Error> {
    let (rewritten, prefix) = match rewrite(route.shared(), admitted.target())? {
        Some((target, prefix)) => (Some(target), prefix),
        None => (None, None),
    };
    let target = rewritten.as_ref().map_or(Some(admitted.target()), Uri::path_and_query);
    let context = ForwardContext {
        prefix,
        // If the host is the instance's address, each attempt sets its own.
        host: match route.shared().upstream_host() {
            Some(UpstreamHost::Name(host)) => Some(host),
            Some(UpstreamHost::Instance) | None => None,
        },
        survey: admitted.survey(),
        peer: &connection.peer_text,
        peer_is_trusted: exchange.request.peer_is_trusted,
        scheme: admitted.scheme(),
        authority: admitted.authority(),
        method: &exchange.request.method,
        version: exchange.request.version,
        framing,
        has_content,
        request_id: &exchange.request.id.0,
        names: &snapshot.shared.table.names,
        forward: identity.map_or(&[][..], |identity| &identity.forward),
        rules: &route.request_rules,
        certificate: certificate(snapshot, exchange, connection),
        handshake,
        asks: Asks {
            trailers: exchange.trailers.taken || exchange.is_call,
            invitation: exchange.upload().is_some_and(|upload| upload.is_held()),
        },
        facts: exchange.facts(),
    };
    if exchange.web.is_some() {
        let mut fields = fields.clone();
        grpc::without_web(&mut fields);
        let context = ForwardContext { framing: Framing::Unstated, ..context };
        return Ok(headers::write_request(&fields, target.map_or("/", PathAndQuery::as_str), &context));
    }
    Ok(headers::write_request(fields, target.map_or("/", PathAndQuery::as_str), &context))
}

/// The client's certificate for the service, if the listener passes it on.
///
/// A trusted proxy makes the connection itself, so its own certificate would pass for that of every client behind it. What such a proxy
/// says of its clients in these fields stays.
fn certificate<'a>(
    snapshot: &LocalSnapshot,
    exchange: &Exchange,
    connection: &'a ConnectionContext,
) -> Option<ClientCert<'a>> {
    let certificate = connection.certificate()?;
    let mut listeners = snapshot.shared.table.listen.https.iter();
    let listener = listeners.find(|https| https.name == connection.listener().name)?;
    let clients = listener.tls.clients.as_ref()?;
    if clients.field == CertificateField::Off || exchange.request.peer_is_trusted {
        return None;
    }
    let fields = certificate.fields()?;
    let chain = fields.chain.as_ref().filter(|_| clients.field == CertificateField::Chain);
    Some(ClientCert { certificate: &fields.certificate, chain })
}

/// Turns the service's response head into the one that the client gets.
pub(super) fn write_client_head<B>(
    response: &mut Response<B>,
    (framing, has_trailers): (ResponseFraming, bool),
    route: &LocalRoute,
    exchange: &Exchange,
) {
    let (version, rules) = (response.version(), &route.response_rules);
    let fields = response.headers_mut();
    headers::apply_response(
        fields,
        &ResponseContext { framing, version, request_id: &exchange.request.id.0, has_trailers, rules },
    );
    if !rules.made.is_empty() {
        headers::apply_made(fields, rules, &exchange.facts());
    }
    // RFC 9112 §2.6: an intermediary responds in its own version, not in the service's.
    *response.version_mut() = Version::HTTP_11;
}

/// The rewritten target and the prefix that was stripped from it; `None`: the target is sent as it is.
fn rewrite<'a>(route: &Route, target: &'a PathAndQuery) -> Result<Option<(Uri, Option<&'a str>)>, Error> {
    let policies = &route.policies;
    let rewrite = policies.rewrite.as_ref();
    let rewrite =
        rewrite.map(|rewrite| rewrite.apply(target, policies.spelling.any_case()).ok_or(Error::Internal));
    rewrite.transpose()
}

/// Origin-form target (RFC 9112 §3.2.1), rewritten if the route has a `rewrite`, and the prefix that was stripped from it.
pub(super) fn upstream_target<'a>(
    route: &Route,
    target: &'a PathAndQuery,
) -> Result<(Uri, Option<&'a str>), Error> {
    Ok(rewrite(route, target)?.unwrap_or_else(|| (Uri::from(target.clone()), None)))
}
