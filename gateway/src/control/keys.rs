//! Keys of providers: read from files at a reload, fetched from URLs in the background.
//!
//! A set that was fetched stays in use until a newer one arrives, even if the issuer is down, and across restarts ([`kept`]). The
//! gateway fetches at start, when the answer's `Cache-Control: max-age` is over, and when a request needs a newer set because no
//! known key verifies its token (the provider's [desk](crate::auth::desk)). [`pace`] bounds how often the last may happen.

pub mod kept;
pub mod left_out;
mod pace;
pub mod report;

use std::{sync::Arc, time::Duration};

use http::{Uri, header};
use millgate_registry::HttpClient;
use serde::Deserialize;
use tokio::sync::mpsc;

use self::pace::Pace;
use super::event::{Event, Fetched};
use crate::{
    auth::{
        Keys,
        desk::{Asker, KeyDesk},
        jwt::{KeySet, written::is_on_loopback},
        mtls::NoKeys,
        settings::{KeySource, ProviderSettings},
    },
    bounded_file, clock,
    printable::printable,
    syntax::{
        diagnostics::{Diagnostic, code},
        hidden::Hidden,
    },
};

/// The shortest time between two fetches that `max-age` can set.
const REFRESH_MIN: Duration = Duration::from_secs(10);
/// The time without `max-age`, and the longest that it can set: a rotation must be noticed.
const REFRESH_DEFAULT: Duration = Duration::from_mins(5);
const REFRESH_MAX: Duration = Duration::from_hours(1);
/// The pause after a failure; it doubles with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(1);
/// The longest pause while there is no set: tokens get 503, so the gateway tries often.
const RETRY_MAX_WITHOUT_KEYS: Duration = Duration::from_secs(5);
/// After a failure, a token that needs a newer set can cause the next try after this time.
const RETRY_ASKED: Duration = Duration::from_secs(2);
const DEADLINE: Duration = Duration::from_secs(10);
const DOCUMENT_BYTES_MAX: usize = 1024 * 1024;

/// Reads the keys of a provider that has them in a file; `None`: they are fetched.
///
/// # Errors
/// The file cannot be read or has no usable key; the text names the file.
pub fn read(source: &KeySource) -> Result<Option<Arc<Keys>>, String> {
    let (path, format) = match source {
        KeySource::File(path, format) => (path, format),
        KeySource::Listener => return Ok(Some(Arc::new(Keys::Mtls(NoKeys)))),
        KeySource::Issuer(_) | KeySource::JwksUrl(_) => return Ok(None),
    };
    let bytes = bounded_file::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let keys = (format.parse)(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Some(Arc::new(keys)))
}

/// Fetches keys once and returns their number. `None`: they are in a file.
///
/// # Errors
/// The source does not answer, or has no usable key; the text names the URL.
pub async fn try_fetch(auth: &ProviderSettings, http: &HttpClient) -> Option<Result<usize, String>> {
    if !auth.keys.is_fetched() {
        return None;
    }
    let fetched = Http(http).keys(&auth.keys).await;
    Some(fetched.map(|(keys, _)| keys.len()).map_err(|reason| auth.hidden.shown(&printable(&reason))))
}

/// The finding for a provider whose keys cannot be fetched, because of `reason`.
pub fn unanswered(auth: &ProviderSettings, reason: &str) -> Diagnostic {
    let message = format!("the keys of `{}` cannot be fetched: {reason}", auth.name);
    Diagnostic::error(code::KEYS, auth.span, message)
}

/// Fetches one provider's keys in the background, until dropped.
pub struct KeyFetch {
    source: KeySource,
    task: tokio::task::JoinHandle<()>,
}

impl KeyFetch {
    /// Starts fetching. Requests that need a newer set wait at `desk`.
    pub fn start(
        auth: &ProviderSettings,
        desk: Arc<KeyDesk>,
        http: HttpClient,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let source = auth.keys.clone();
        let have_keys = desk.report().fetched.is_some();
        let fetch = Fetch {
            provider: Arc::from(auth.name.as_str()),
            source: source.clone(),
            hidden: auth.hidden.clone(),
            desk,
            http,
            events,
            have_keys,
        };
        Self { source, task: tokio::spawn(fetch.run()) }
    }

    pub fn is_from(&self, source: &KeySource) -> bool {
        self.source == *source
    }

    /// Whether it fetches from the source of `auth`, so that it can go on after a reload.
    pub fn serves(&self, auth: &ProviderSettings) -> bool {
        self.source == auth.keys
    }
}

impl Drop for KeyFetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The part of an issuer's discovery document that is used (OpenID Connect Discovery 1.0 §4).
#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

struct Fetch {
    provider: Arc<str>,
    source: KeySource,
    hidden: Hidden,
    desk: Arc<KeyDesk>,
    http: HttpClient,
    events: mpsc::Sender<Event>,
    have_keys: bool,
}

impl Fetch {
    async fn run(mut self) {
        let mut retry = FIRST_RETRY;
        let mut pace = Pace::new(clock::now());
        let mut asker = None;
        loop {
            let number = self.desk.begin();
            pace.begin(asker, clock::now());
            let fetched = Http(&self.http).keys(&self.source).await;
            let failed = fetched.is_err();
            let (keys, wait) = match fetched {
                Ok((keys, max_age)) => {
                    retry = FIRST_RETRY;
                    self.have_keys = true;
                    self.desk.record(|report| {
                        report.good += 1;
                        report.error = None;
                        report.fetched = Some(clock::unix_now());
                        report.is_kept = false;
                    });
                    (Some(Arc::new(keys)), max_age)
                }
                Err(reason) => (None, self.failed(&reason, &mut retry)),
            };
            let next = Some(clock::unix_now() + wait);
            self.desk.record(|report| report.next = next);
            let event = Event::Keys {
                provider: Arc::clone(&self.provider),
                source: self.source.clone(),
                keys,
                fetched: Fetched::new(Arc::clone(&self.desk), number, failed),
            };
            if self.events.send(event).await.is_err() {
                return;
            }
            asker = self.rest(wait, failed, &pace).await;
        }
    }

    /// How long until the next try.
    fn failed(&self, reason: &str, retry: &mut Duration) -> Duration {
        // The reason may quote what the issuer wrote.
        let reason = self.hidden.shown(&printable(reason));
        tracing::warn!(provider = %self.provider, %reason, have_keys = self.have_keys, "keys could not be fetched");
        self.desk.record(|report| {
            report.failed += 1;
            report.error = Some(reason);
        });
        let max = if self.have_keys { RETRY_MAX } else { RETRY_MAX_WITHOUT_KEYS };
        let wait = (*retry).min(max);
        *retry = (*retry * 2).min(RETRY_MAX);
        wait
    }

    /// Waits until the next fetch is due, by time or because a request needs it; returns the kind of request that caused it.
    async fn rest(&self, wait: Duration, failed: bool, pace: &Pace) -> Option<Asker> {
        let now = clock::now();
        let end = now + wait;
        let soonest = if failed { now + RETRY_ASKED } else { now };
        loop {
            let asker = self.desk.asker();
            let due = asker.map_or(end, |asker| pace.due(asker).max(soonest).min(end));
            tokio::select! {
                () = tokio::time::sleep_until(tokio::time::Instant::from_std(due)) => return asker.filter(|_| due < end),
                () = self.desk.asked() => {}
            }
        }
    }
}

/// One fetch of keys.
struct Http<'a>(&'a HttpClient);

impl Http<'_> {
    /// The set, and the time until the next fetch.
    async fn keys(&self, source: &KeySource) -> Result<(Keys, Duration), String> {
        let url = match source {
            KeySource::Issuer(issuer) => self.discover(issuer).await?,
            KeySource::JwksUrl(url) => url.clone(),
            KeySource::File(path, _) => {
                return Err(format!("{} is a file, which a reload reads", path.display()));
            }
            KeySource::Listener => return Err("the listener verifies certificates".to_owned()),
        };
        let (body, max_age) = self.get(&url).await?;
        let keys = KeySet::from_jwks(&body).map_err(|error| format!("{url}: {error}"))?;
        Ok((Keys::Jwt(keys), max_age))
    }

    async fn discover(&self, issuer: &str) -> Result<String, String> {
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let (body, _) = self.get(&url).await?;
        let document: DiscoveryDocument =
            serde_json::from_slice(&body).map_err(|error| format!("{url}: {error}"))?;
        // OpenID Connect Discovery 1.0 §4.3: the issuer in the document MUST be the one that was asked.
        if document.issuer != issuer {
            return Err(format!("{url}: the document is of issuer `{}`, not `{issuer}`", document.issuer));
        }
        if !is_as_safe(&document.jwks_uri, issuer) {
            return Err(format!(
                "{url}: the keys are at `{}`, which is read in clear text: whoever is between could replace them",
                document.jwks_uri
            ));
        }
        Ok(document.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<(bytes::Bytes, Duration), String> {
        let answer =
            self.0.get(url, DEADLINE, DOCUMENT_BYTES_MAX).await.map_err(|error| format!("{url}: {error}"))?;
        if !answer.status.is_success() {
            return Err(format!("{url}: answered {}", answer.status));
        }
        Ok((answer.body, max_age(&answer.headers)))
    }
}

/// Whether a key URL that an issuer names is as safe as the issuer. RFC 8414 §2: key URLs are `https`. One in clear text is
/// accepted only if the issuer is no better protected: the configuration names it with `http`, and it is not on this machine
/// while its keys are elsewhere. Redirects are not followed.
fn is_as_safe(url: &str, issuer: &str) -> bool {
    let parse = |text: &str| text.parse::<Uri>().ok();
    let (Some(keys), Some(issuer)) = (parse(url), parse(issuer)) else { return false };
    match keys.scheme_str() {
        Some("https") => true,
        Some("http") => {
            issuer.scheme_str() == Some("http") && (!is_on_loopback(&issuer) || is_on_loopback(&keys))
        }
        _ => false,
    }
}

fn max_age(headers: &http::HeaderMap) -> Duration {
    headers
        .get(header::CACHE_CONTROL)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(',').find_map(|part| part.trim().strip_prefix("max-age=")))
        .and_then(|seconds| seconds.parse().ok())
        .map_or(REFRESH_DEFAULT, |seconds| Duration::from_secs(seconds).clamp(REFRESH_MIN, REFRESH_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_clear_text_only_where_their_issuer_is() {
        for (issuer, keys, is_safe) in [
            ("https://a.example", "https://b.example/keys", true),
            ("https://a.example", "http://a.example/keys", false),
            ("https://a.example", "HTTP://a.example/keys", false),
            ("https://127.0.0.1", "http://127.0.0.1/keys", false),
            ("https://a.example", "/keys", false),
            ("https://a.example", "file:///keys", false),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8081/keys", true),
            ("http://localhost", "http://[::1]/keys", true),
            ("http://[::1]", "http://a.example/keys", false),
            ("http://localhost.evil.example", "http://a.example/keys", true),
            ("http://keycloak:8080/realms/x", "http://keycloak:8080/keys", true),
        ] {
            assert_eq!(is_as_safe(keys, issuer), is_safe, "{keys} of {issuer}");
        }
    }

    #[test]
    fn max_age_is_kept_within_bounds() {
        let age = |text: &'static str| {
            let mut headers = http::HeaderMap::new();
            headers.insert(header::CACHE_CONTROL, http::HeaderValue::from_static(text));
            max_age(&headers)
        };
        assert_eq!(age("public, max-age=600"), Duration::from_mins(10));
        assert_eq!(age("max-age=0"), REFRESH_MIN);
        assert_eq!(age("max-age=999999"), REFRESH_MAX);
        assert_eq!(age("no-store"), REFRESH_DEFAULT);
        assert_eq!(max_age(&http::HeaderMap::new()), REFRESH_DEFAULT);
    }
}
