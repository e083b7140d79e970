//! From a request to its handler, and Consul's answers to wrong paths and methods, for which no handler is called.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Incoming};
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::server::acl;
use crate::server::answer::{self, Answer, Refusal, Response};
use crate::server::call::Call;
use crate::server::gzip;
use crate::server::limits::Peer;
use crate::server::paths::{self, Handler};
use crate::server::query::{Params, refuse_namespaces};
use crate::server::{Compat, Shared};

/// Answers one request, whatever it is.
pub(crate) async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Response {
    // Decoded before it is matched: some clients send `/v1/kv/a%2Fb`, others `/v1/agent/check/pass/service%3Aw`.
    let path = match percent_decode_str(request.uri().path()).decode_utf8() {
        Ok(path) if !path.chars().any(char::is_control) => path.into_owned(),
        _ => return Refusal::bad_request("").into_response(),
    };
    if let Some(moved) = moved(&path, request.method(), request.uri().query()) {
        return moved;
    }
    let zipped = gzip::is_accepted(request.headers());
    let mut response = match paths::find(&path) {
        None => no_such_path(&shared, &path),
        Some((handler, allow, argument)) => {
            let reads = request.method() == Method::GET;
            let answered = admit(&shared, handler, allow, &path, argument, request).await;
            // Every answer waits until its data is on disk. After the journal failed, reads are still answered and writes are not.
            let settled = shared.settle().await;
            let answered = if reads { answered } else { settled.and(answered) };
            if let Err(Refusal { limit: Some(limit), .. }) = &answered {
                shared.usage.hit(limit);
            }
            let mut response = answered.unwrap_or_else(Refusal::into_response);
            response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            acl::mark_default(&shared, &mut response);
            response
        }
    };
    if zipped && response.headers().contains_key(header::VARY) {
        response = zip(response).await;
    }
    response
}

/// Checks the method and reads the body, the same way for every path.
async fn admit(
    shared: &Shared,
    handler: &Handler,
    allow: &'static str,
    path: &str,
    argument: &str,
    request: Request<Incoming>,
) -> Answer {
    let (parts, body) = request.into_parts();
    let method = parts.method;
    if method == Method::OPTIONS {
        let mut response = answer::done();
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        return Ok(response);
    }
    if !allow.split(',').any(|allowed| allowed == method.as_str()) {
        let text = format!("method {method} not allowed");
        let mut response = answer::text(StatusCode::METHOD_NOT_ALLOWED, text);
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
        return Ok(response);
    }
    let params = Params::parse(parts.uri.query());
    refuse_namespaces(&params, &parts.headers)?;
    let body = read_body(shared.limits.body_bytes_for(path), body).await?;
    let mut call = Call { shared, method, params, headers: parts.headers, path, argument, body };
    if call.method != Method::GET {
        shared.admit_change()?;
    }
    let view = acl::admit(&call)?;
    if !view.blocks() {
        call.params = call.params.without_index();
    }
    let _place = match parts.extensions.get::<Peer>() {
        Some(Peer(client)) if call.waits() => {
            Some(shared.waiting.admit(*client, shared.limits.blocked_queries_per_client)?)
        }
        _ => None,
    };
    view.restrict(match handler {
        Handler::Always(handler) => handler(&call),
        Handler::Now(handler) => handler(&call)?,
        Handler::Later(handler) => handler(&call).await?,
    })
}

/// Paths with `//`, `.` or `..`, and those that lack their last slash, are redirected as Go's router does it.
fn moved(path: &str, method: &Method, query: Option<&str>) -> Option<Response> {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" || paths::lacks_slash(&clean) {
        clean.push('/');
    }
    if clean == path {
        return None;
    }
    let mut target = utf8_percent_encode(&clean, ESCAPED).to_string();
    if let Some(query) = query {
        target = format!("{target}?{query}");
    }
    let reads = *method == Method::GET || *method == Method::HEAD;
    let body = if reads {
        format!("<a href=\"{}\">Moved Permanently</a>.\n\n", target.replace('&', "&amp;"))
    } else {
        String::new()
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    response.headers_mut().insert(header::LOCATION, HeaderValue::try_from(target).ok()?);
    if reads {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, html);
    }
    Some(response)
}

fn no_such_path(shared: &Shared, path: &str) -> Response {
    if path == "/" {
        let text = "Consul Agent: the embedded registry of Millgate; its API is under /v1/\n";
        return answer::text(StatusCode::OK, text.to_owned());
    }
    let text = match shared.identity.compat {
        Compat::Current => "Invalid URL path: not a recognized HTTP API endpoint\n",
        Compat::V1_8 => "",
    };
    answer::text(StatusCode::NOT_FOUND, text.to_owned())
}

/// Compresses an answer of any size, as Consul does; an empty body stays empty.
async fn zip(response: Response) -> Response {
    let (mut parts, body) = response.into_parts();
    // A whole body in memory: collecting it neither waits nor fails.
    let Ok(whole) = body.collect().await;
    let bytes = whole.to_bytes();
    if bytes.is_empty() {
        return Response::from_parts(parts, Full::new(bytes));
    }
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    Response::from_parts(parts, Full::from(gzip::compress(&bytes)))
}

/// Bodies of reads are read as well, and ignored: some clients send one with a GET.
async fn read_body(limit: usize, body: Incoming) -> Result<Bytes, Refusal> {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(Refusal::too_large(announced, limit));
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, limit).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            Err(Refusal::too_large(limit + 1, limit))
        }
        Ok(Err(error)) => Err(Refusal::bad_request(format!("the body cannot be read: {error}"))),
        Err(_) => Err(Refusal::bad_request(format!("no complete body within {BODY_TIMEOUT:?}"))),
    }
}

/// Bodies are a few kilobytes from the same machine.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Characters that a path cannot have unescaped.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'<').add(b'>').add(b'?').add(b'#').add(b'%');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crooked_paths_are_redirected_to_straight_ones() {
        for (path, target) in [
            ("/v1//kv/a", Some("/v1/kv/a")),
            ("/v1/kv/../agent/self", Some("/v1/agent/self")),
            ("/v1/kv", Some("/v1/kv/")),
            ("/v1/kv/a b//", Some("/v1/kv/a%20b/")),
            ("/v1/kv/a/", None),
            ("/v1/agent/self", None),
            ("/v1", None),
            ("/", None),
        ] {
            let moved = moved(path, &Method::GET, None);
            let location =
                moved.as_ref().map(|response| response.headers()[header::LOCATION].to_str().unwrap());
            assert_eq!(location, target, "{path}");
        }
    }
}
