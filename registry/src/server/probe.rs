//! What happens by itself in the registry: TTLs expire, HTTP checks are made, services that stay critical go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use rand::RngExt;
use tokio::task::AbortHandle;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::info;

use crate::http::{HttpClient, HttpError, HttpResponse};
use crate::server::Shared;
use crate::store::{CheckKind, HttpProbe, Store};
use crate::types::CheckStatus;

/// Runs until it is dropped. Woken by the clock, or by any change.
pub(crate) async fn run(shared: Arc<Shared>, http: HttpClient) {
    // Dropped with this future, and all probes with it.
    let mut tasks = JoinSet::new();
    let mut probes: HashMap<String, (HttpProbe, AbortHandle)> = HashMap::new();
    let mut reap_at = Instant::now() + REAP_INTERVAL;
    loop {
        shared.apply(Store::expire);
        if Instant::now() >= reap_at {
            reap_at = Instant::now() + REAP_INTERVAL;
            for id in shared.apply(Store::reap) {
                info!(service = id, "removed: it was critical for too long");
            }
        }
        reconcile(&shared, &http, &mut tasks, &mut probes);
        // Tasks that ended are taken out; otherwise they would pile up.
        while tasks.try_join_next().is_some() {}
        let expiry = shared.store().next_expiry().map(Instant::from_std);
        let wake_at = expiry.map_or(reap_at, |expiry| expiry.min(reap_at));
        tokio::select! {
            () = tokio::time::sleep_until(wake_at) => {}
            () = shared.timers.notified() => {}
        }
    }
}

/// One task per HTTP check; a check that changed starts over.
fn reconcile(
    shared: &Arc<Shared>,
    http: &HttpClient,
    tasks: &mut JoinSet<()>,
    probes: &mut HashMap<String, (HttpProbe, AbortHandle)>,
) {
    let mut wanted = HashMap::new();
    for check in shared.store().own_checks() {
        if let CheckKind::Http(probe) = &check.definition.kind {
            wanted.insert(check.definition.id.clone(), probe.clone());
        }
    }
    probes.retain(|id, (probe, task)| {
        let keep = wanted.get(id) == Some(probe);
        if !keep {
            task.abort();
        }
        keep
    });
    for (id, probe) in wanted {
        probes.entry(id).or_insert_with_key(|id| {
            let task = tasks.spawn(repeat(Arc::clone(shared), http.clone(), id.clone(), probe.clone()));
            (probe, task)
        });
    }
}

async fn repeat(shared: Arc<Shared>, http: HttpClient, id: String, probe: HttpProbe) {
    // Spread over the interval, as Consul does, so that a hundred checks do not fire together.
    let first = probe.interval.mul_f64(rand::rng().random::<f64>());
    tokio::time::sleep(first).await;
    loop {
        let (status, output) = run_once(&http, &probe).await;
        shared.change(|store, now| store.set_status(&id, status, output, now));
        tokio::time::sleep(probe.interval).await;
    }
}

/// Status and output in Consul's form: 2xx passes, 429 warns, everything else is critical.
async fn run_once(http: &HttpClient, probe: &HttpProbe) -> (CheckStatus, String) {
    let give_up = Instant::now() + probe.timeout;
    let mut url = probe.url.clone();
    let mut redirects = 0;
    loop {
        let left = give_up.saturating_duration_since(Instant::now());
        let response = match send(http, probe, &url, left).await {
            Ok(response) => response,
            Err(error) => return (CheckStatus::Critical, failure(probe, &url, &error)),
        };
        let target = redirect_target(&response, &url);
        if let Some(target) = target.filter(|_| redirects < REDIRECTS_MAX) {
            redirects += 1;
            url = target;
            continue;
        }
        let status = match response.status {
            status if status.is_success() => CheckStatus::Passing,
            StatusCode::TOO_MANY_REQUESTS => CheckStatus::Warning,
            _ => CheckStatus::Critical,
        };
        let body: String = String::from_utf8_lossy(&response.body).chars().take(OUTPUT_CHARS_MAX).collect();
        let reason = response.status.canonical_reason().unwrap_or_default();
        let code = response.status.as_u16();
        return (status, format!("HTTP {} {}: {code} {reason} Output: {body}", probe.method, probe.url));
    }
}

async fn send(
    http: &HttpClient,
    probe: &HttpProbe,
    url: &str,
    deadline: Duration,
) -> Result<HttpResponse, HttpError> {
    let invalid = |detail: &str| HttpError::InvalidUrl { url: url.to_owned(), detail: detail.to_owned() };
    let method =
        Method::from_bytes(probe.method.as_bytes()).map_err(|_| invalid("the method is not valid"))?;
    let mut headers = HeaderMap::new();
    headers.insert(header::USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/plain, text/*, */*"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    for (name, value) in &probe.headers {
        let name = HeaderName::try_from(name).map_err(|_| invalid("a header name is not valid"))?;
        let value = HeaderValue::try_from(value).map_err(|_| invalid("a header value is not valid"))?;
        headers.insert(name, value);
    }
    http.send(method, url, headers, probe.body.clone().into(), deadline, BODY_BYTES_MAX).await
}

/// Where a redirect leads: an absolute URL, or a path on the same server.
fn redirect_target(response: &HttpResponse, from: &str) -> Option<String> {
    if !matches!(response.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers.get(header::LOCATION)?.to_str().ok()?;
    if location.starts_with("http://") || location.starts_with("https://") {
        return Some(location.to_owned());
    }
    let from: http::Uri = from.parse().ok()?;
    let path = location.strip_prefix('/')?;
    Some(format!("{}://{}/{path}", from.scheme_str()?, from.authority()?))
}

/// `Get "http://…": connection refused`, as Go writes it.
fn failure(probe: &HttpProbe, url: &str, error: &HttpError) -> String {
    let mut letters = probe.method.chars();
    let first = letters.next().map(|letter| letter.to_ascii_uppercase());
    let method: String = first.into_iter().chain(letters.map(|letter| letter.to_ascii_lowercase())).collect();
    format!("{method} {url:?}: {error}")
}

/// Consul looks this often for services that are critical for too long.
const REAP_INTERVAL: Duration = Duration::from_secs(30);
/// Go's limit.
const REDIRECTS_MAX: usize = 10;
/// Consul keeps the first 4 KiB of an answer.
const OUTPUT_CHARS_MAX: usize = 4096;
/// A health check that answers more is none; it turns critical and says so.
const BODY_BYTES_MAX: usize = 1024 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, location: &'static str) -> HttpResponse {
        let mut headers = HeaderMap::new();
        if !location.is_empty() {
            headers.insert(header::LOCATION, HeaderValue::from_static(location));
        }
        let status = StatusCode::from_u16(status).unwrap();
        HttpResponse { status, version: http::Version::HTTP_11, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn redirects_are_followed_to_urls_and_to_paths() {
        for (status, location, target) in [
            (302, "/ready", Some("http://h:1/ready")),
            (307, "https://other/", Some("https://other/")),
            (302, "", None),
            (200, "/ready", None),
            (302, "relative", None),
        ] {
            let got = redirect_target(&response(status, location), "http://h:1/health?x=1");
            assert_eq!(got.as_deref(), target, "{status} {location}");
        }
    }
}
