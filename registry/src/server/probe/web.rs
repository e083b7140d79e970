//! HTTP checks: one request on a connection of its own, redirects followed as Go's client follows them. 2xx passes,
//! 429 warns, any other status is critical.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::ext::ReasonPhrase;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::server::probe::dial::{self, Stream};
use crate::store::ProbeDefinition;
use crate::types::CheckStatus;

pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) url: &'a str,
    pub(super) headers: &'a [(String, String)],
    pub(super) body: &'a str,
}

/// The next request to send: the check's own, or the one of a redirect.
struct Hop {
    url: String,
    method: Method,
    with_body: bool,
    /// Whether a `Host` of the registration still counts.
    own_host: bool,
    /// Whether it still goes to the host that the registration's credentials are for.
    with_secrets: bool,
    referer: Option<String>,
}

pub(super) async fn check(request: &Request<'_>, probe: &ProbeDefinition) -> (CheckStatus, String) {
    let give_up = Instant::now() + probe.timeout;
    let Ok(method) = Method::from_bytes(request.method.as_bytes()) else {
        return (CheckStatus::Critical, format!("net/http: invalid method {:?}", request.method));
    };
    let mut hop = Hop {
        url: request.url.to_owned(),
        method,
        with_body: true,
        own_host: true,
        with_secrets: true,
        referer: None,
    };
    let critical = |url: &str, text: &str| (CheckStatus::Critical, failure(request.method, url, text));
    for redirects in 0.. {
        let sent = tokio::time::timeout_at(give_up, send(request, &hop, probe.tls_skip_verify)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(text)) => return critical(&hop.url, &text),
            Err(_) => return critical(&hop.url, TIMED_OUT),
        };
        let status = response.status();
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return judge(request, response, probe, give_up).await;
        }
        let Some(location) = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok())
        else {
            let text = format!("{} response missing Location header", status.as_u16());
            return critical(&hop.url, &text);
        };
        if redirects + 1 >= REDIRECTS_MAX {
            return critical(location, &format!("stopped after {REDIRECTS_MAX} redirects"));
        }
        hop = match follow(&hop, request.url, status, location) {
            Some(next) => next,
            None => return critical(&hop.url, &format!("failed to parse Location header {location:?}")),
        };
    }
    critical(&hop.url, TIMED_OUT)
}

async fn judge(
    request: &Request<'_>,
    response: http::Response<Incoming>,
    probe: &ProbeDefinition,
    give_up: Instant,
) -> (CheckStatus, String) {
    let status = match response.status() {
        status if status.is_success() => CheckStatus::Passing,
        StatusCode::TOO_MANY_REQUESTS => CheckStatus::Warning,
        _ => CheckStatus::Critical,
    };
    let own = response.extensions().get::<ReasonPhrase>();
    let reason = match own {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => response.status().canonical_reason().unwrap_or_default().to_owned(),
    };
    let code = response.status().as_u16();
    let body = tail(response.into_body(), probe.output_bytes_max, give_up).await;
    let Request { method, url, .. } = request;
    (status, format!("HTTP {method} {url}: {code} {reason} Output: {body}"))
}

/// The last bytes of a body. An early end does not matter to the check, which knows the status.
async fn tail(mut body: Incoming, bytes_max: usize, give_up: Instant) -> String {
    let mut tail = Vec::new();
    while let Ok(Some(Ok(frame))) = tokio::time::timeout_at(give_up, body.frame()).await {
        if let Ok(data) = frame.into_data() {
            tail.extend_from_slice(&data);
            tail.drain(..tail.len().saturating_sub(bytes_max));
        }
    }
    String::from_utf8_lossy(&tail).into_owned()
}

/// Sends one request and returns the head of its answer, or the error in Go's words.
async fn send(
    request: &Request<'_>,
    hop: &Hop,
    skip_verify: bool,
) -> Result<http::Response<Incoming>, String> {
    let scheme = hop.url.split_once("://").map_or("", |(scheme, _)| scheme).to_ascii_lowercase();
    let secure = match scheme.as_str() {
        "http" => false,
        "https" => true,
        _ => return Err(format!("unsupported protocol scheme {scheme:?}")),
    };
    let uri: Uri = hop.url.parse().map_err(|error| format!("invalid URL: {error}"))?;
    let authority = uri.authority().ok_or("http: no Host in request URL")?;
    let host = authority.host();
    let port = authority.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let stream = dial::tcp(&format!("{host}:{port}")).await?;
    let ends = stream.local_addr().and_then(|local| Ok((local, stream.peer_addr()?)));
    let stream: Box<dyn Stream> = if secure {
        let name = host.trim_matches(['[', ']']);
        let stream = dial::tls(stream, name, skip_verify, &[b"http/1.1"]).await;
        // A server that answers a TLS client without TLS speaks HTTP.
        stream.map_err(|text| match text.as_str() {
            dial::NO_TLS => "http: server gave HTTP response to HTTPS client".to_owned(),
            _ => text,
        })?
    } else {
        Box::new(stream)
    };
    let message = message(request, hop, &uri)?;
    let broken = |error: &hyper::Error| {
        if error.is_incomplete_message() || error.is_closed() {
            return "EOF".to_owned();
        }
        match (source(error), &ends) {
            (Some(error), Ok((local, peer))) => {
                format!("read tcp {local}->{peer}: read: {}", dial::words(error))
            }
            _ => format!("net/http: HTTP/1.x transport connection broken: {error}"),
        }
    };
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    // Ends with the answer, or with this future: then the sender and the body are gone.
    tokio::spawn(connection);
    sender.send_request(message).await.map_err(|error| broken(&error))
}

fn source(error: &hyper::Error) -> Option<&std::io::Error> {
    std::error::Error::source(error)?.downcast_ref()
}

fn message(request: &Request<'_>, hop: &Hop, uri: &Uri) -> Result<http::Request<Full<Bytes>>, String> {
    let body = if hop.with_body { request.body.to_owned() } else { String::new() };
    let mut message = http::Request::new(Full::new(Bytes::from(body)));
    *message.method_mut() = hop.method.clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *message.uri_mut() = path.parse().map_err(|error| format!("invalid URL: {error}"))?;
    let headers = message.headers_mut();
    for (name, value) in request.headers {
        let lower = name.to_ascii_lowercase();
        if (lower == "host" && !hop.own_host) || (SECRETS.contains(&lower.as_str()) && !hop.with_secrets) {
            continue;
        }
        let (Ok(name), Ok(value)) = (HeaderName::try_from(&lower), HeaderValue::try_from(value)) else {
            return Err(format!("net/http: invalid header field {name:?}"));
        };
        headers.append(name, value);
    }
    let mut default = |name: HeaderName, value: &str| {
        if !headers.contains_key(&name)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            headers.insert(name, value);
        }
    };
    default(header::HOST, uri.authority().map_or("", |authority| authority.as_str()));
    default(header::USER_AGENT, "Consul Health Check");
    default(header::ACCEPT, "text/plain, text/*, */*");
    default(header::CONNECTION, "close");
    if let Some(referer) = &hop.referer {
        default(header::REFERER, referer);
    }
    Ok(message)
}

/// `first`: the URL of the registration.
fn follow(hop: &Hop, first: &str, status: StatusCode, location: &str) -> Option<Hop> {
    let url = resolve(&hop.url, location)?;
    // Only 307 and 308 repeat the same request.
    let same = matches!(status.as_u16(), 307 | 308);
    let method = if same || hop.method == Method::HEAD { hop.method.clone() } else { Method::GET };
    let leaves_https = hop.url.starts_with("https:") && url.starts_with("http:");
    Some(Hop {
        own_host: hop.own_host && !is_absolute(location),
        with_secrets: hop.with_secrets && is_same_or_below(&url, first),
        with_body: hop.with_body && same,
        referer: (!leaves_https).then(|| hop.url.clone()),
        method,
        url,
    })
}

/// Where a redirect leads: RFC 3986 §5.2, without the removal of dots, which servers do as well.
fn resolve(from: &str, location: &str) -> Option<String> {
    if is_absolute(location) {
        return Some(location.to_owned());
    }
    let from: Uri = from.parse().ok()?;
    let (scheme, authority) = (from.scheme_str()?, from.authority()?);
    if let Some(rest) = location.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    let path = match location.strip_prefix('/') {
        Some(rest) => format!("/{rest}"),
        None if location.starts_with('?') => format!("{}{location}", from.path()),
        None => format!("{}/{location}", from.path().rsplit_once('/').map_or("", |(folder, _)| folder)),
    };
    Some(format!("{scheme}://{authority}{path}"))
}

/// A scheme (RFC 3986 §3.1) stands at the beginning; `/login?next=http://…` does not have one.
fn is_absolute(location: &str) -> bool {
    location.split_once("://").is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    })
}

/// The same host, whatever the port, or a host in its domain: where Go's client sends credentials along as well.
fn is_same_or_below(url: &str, of: &str) -> bool {
    let host = |url: &str| Some(url.parse::<Uri>().ok()?.host()?.to_ascii_lowercase());
    let (Some(host), Some(of)) = (host(url), host(of)) else { return false };
    host.strip_suffix(&of).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

/// `Get "http://…": connection refused`: Go writes the method in lower case, except for the first letter.
fn failure(method: &str, url: &str, text: &str) -> String {
    let mut letters = method.chars();
    let first = letters.next();
    let method: String = first.into_iter().chain(letters.map(|letter| letter.to_ascii_lowercase())).collect();
    format!("{method} {url:?}: {text}")
}

const TIMED_OUT: &str = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
/// Header fields that Go's client keeps from other hosts.
const SECRETS: [&str; 4] = ["authorization", "cookie", "cookie2", "www-authenticate"];
/// Go's limit.
const REDIRECTS_MAX: usize = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_their_location_says() {
        let from = "http://h:1/a/health?x=1";
        for (location, target) in [
            ("/ready", "http://h:1/ready"),
            ("ready", "http://h:1/a/ready"),
            ("?y=2", "http://h:1/a/health?y=2"),
            ("//other/x", "http://other/x"),
            ("https://other/", "https://other/"),
            ("/login?next=http://other/", "http://h:1/login?next=http://other/"),
            ("login?next=http://other/", "http://h:1/a/login?next=http://other/"),
        ] {
            assert_eq!(resolve(from, location).as_deref(), Some(target), "{location}");
        }
    }

    fn hop() -> Hop {
        Hop {
            url: "http://h/".to_owned(),
            method: Method::POST,
            with_body: true,
            own_host: true,
            with_secrets: true,
            referer: None,
        }
    }

    #[test]
    fn credentials_do_not_follow_a_redirect_to_another_host() {
        let hop = hop();
        let headers = ["Authorization", "Cookie", "X-A"].map(|name| (name.to_owned(), "secret".to_owned()));
        let request = Request { method: "POST", url: "http://h/", headers: &headers, body: "" };
        let uri: Uri = hop.url.parse().unwrap();
        assert!(message(&request, &hop, &uri).unwrap().headers().contains_key("authorization"));
        for (location, kept) in [
            ("/x", true),
            ("http://h:8080/", true),
            ("https://sub.H/", true),
            ("http://other/", false),
            ("//other/", false),
            ("http://notH/", false),
        ] {
            let next = follow(&hop, "http://h/", StatusCode::FOUND, location).unwrap();
            let headers = message(&request, &next, &uri).unwrap().headers().clone();
            assert_eq!(
                (headers.contains_key("authorization"), headers.contains_key("cookie")),
                (kept, kept),
                "{location}"
            );
            assert!(headers.contains_key("x-a"), "{location}");
            // Once away, nothing brings them back.
            let back = follow(&next, "http://h/", StatusCode::FOUND, "http://h/").unwrap();
            assert_eq!(back.with_secrets, kept, "{location}");
        }
    }

    #[test]
    fn only_307_and_308_repeat_method_and_body() {
        let hop = hop();
        for (status, method, with_body) in [(302, Method::GET, false), (307, Method::POST, true)] {
            let next = follow(&hop, "http://h/", StatusCode::from_u16(status).unwrap(), "/x").unwrap();
            assert_eq!((next.method, next.with_body, next.own_host), (method, with_body, true), "{status}");
        }
        let away = follow(&hop, "http://h/", StatusCode::FOUND, "http://other/").unwrap();
        assert!(!away.own_host);
    }

    #[test]
    fn failures_read_as_gos() {
        assert_eq!(failure("GET", "http://h/", "EOF"), "Get \"http://h/\": EOF");
        assert_eq!(failure("post", "http://h/", "EOF"), "post \"http://h/\": EOF");
    }
}
