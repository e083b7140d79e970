//! The query string, and the options of a read in it: consistency, blocking, tags.

use std::time::Duration;

use http::HeaderMap;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::server::answer::Refusal;
use crate::server::go;

/// The parameters of a request. Flags count by presence: `?stale` and `?stale=` are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Params(Vec<(String, String)>);

impl Params {
    pub(crate) fn parse(query: Option<&str>) -> Self {
        let decode = |text: &str| {
            let text = text.replace('+', " ");
            percent_decode_str(&text).decode_utf8_lossy().into_owned()
        };
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The first value; empty if the name stands alone.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The whole query, sorted by name, as errors quote it.
    pub(crate) fn encoded(&self) -> String {
        let mut pairs: Vec<&(String, String)> = self.0.iter().collect();
        pairs.sort_by(|a, b| a.0.cmp(&b.0));
        let encode = |text: &str| utf8_percent_encode(text, ESCAPED).to_string().replace("%20", "+");
        let pairs = pairs.into_iter().map(|(name, value)| format!("{}={}", encode(name), encode(value)));
        pairs.collect::<Vec<_>>().join("&")
    }

    /// The same parameters without an index or a hash to wait for; an index that is not a number stays, so that it is refused.
    pub(crate) fn without_index(mut self) -> Self {
        self.0.retain(|(name, value)| name != "hash" && (name != "index" || value.parse::<u64>().is_err()));
        self
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The options of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadOptions {
    /// Blocks until the answer's index is above it; 0 does not block.
    pub(crate) index: u64,
    /// The longest wait, before jitter.
    pub(crate) wait: Duration,
    /// `leader`, `stale` or `consistent`.
    pub(crate) consistency: &'static str,
    pub(crate) pretty: bool,
}

impl ReadOptions {
    pub(crate) fn parse(params: &Params, datacenter: &str) -> Result<Self, Refusal> {
        let wait = match params.get("wait") {
            None | Some("") => 0,
            Some(text) => go::parse_duration(text).map_err(|_| Refusal::bad_request("Invalid wait time"))?,
        };
        let index = match params.get("index") {
            None | Some("") => 0,
            Some(text) => text.parse().map_err(|_| Refusal::bad_request("Invalid index"))?,
        };
        let consistency = consistency(params)?;
        if let Some(max_stale) = params.get("max_stale").filter(|text| go::parse_duration(text).is_err()) {
            return Err(Refusal::bad_request(format!("Invalid max_stale value {max_stale:?}")));
        }
        if params.get("dc").is_some_and(|dc| !dc.is_empty() && dc != datacenter) {
            return Err(Refusal::internal("No path to datacenter").dispatched());
        }
        let wait = match u64::try_from(wait).unwrap_or(0) {
            0 => WAIT_DEFAULT,
            nanoseconds => Duration::from_nanos(nanoseconds).min(WAIT_MAX),
        };
        Ok(Self { index, wait, consistency, pretty: params.has("pretty") })
    }
}

fn consistency(params: &Params) -> Result<&'static str, Refusal> {
    let conflict = |with: &str| {
        Refusal::bad_request(format!("Cannot specify ?{with} with ?consistent, conflicting semantics."))
    };
    match (params.has("stale"), params.has("consistent"), params.has("cached")) {
        (true, true, _) => Err(conflict("stale")),
        (_, true, true) => Err(conflict("cached")),
        (true, false, _) => Ok("stale"),
        (false, true, false) => Ok("consistent"),
        (false, false, _) => Ok("leader"),
    }
}

/// Namespaces exist in Consul Enterprise only; Consul refuses them in the query and in a header.
pub(crate) fn refuse_namespaces(params: &Params, headers: &HeaderMap) -> Result<(), Refusal> {
    const NAMESPACES: &str = "Namespaces are a Consul Enterprise feature";
    if params.get("ns").is_some_and(|ns| !ns.is_empty()) {
        return Err(Refusal::bad_request(format!(
            "Bad request: Invalid query parameter: \"ns\" - {NAMESPACES}"
        )));
    }
    if headers.get("x-consul-namespace").is_some_and(|value| !value.is_empty()) {
        return Err(Refusal::bad_request(format!(
            "Bad request: Invalid header: \"X-Consul-Namespace\" - {NAMESPACES}"
        )));
    }
    Ok(())
}

/// Consul's `default_query_time` and `max_query_time`.
const WAIT_DEFAULT: Duration = Duration::from_mins(5);
const WAIT_MAX: Duration = Duration::from_mins(10);
/// The characters that Go escapes in a query.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<ReadOptions, String> {
        ReadOptions::parse(&Params::parse(Some(query)), "dc1").map_err(|refusal| refusal.text)
    }

    #[test]
    fn waits_and_indexes_are_read_as_consul_reads_them() {
        for (query, index, wait) in [
            ("", 0, WAIT_DEFAULT),
            ("index=&wait=", 0, WAIT_DEFAULT),
            ("index=7&wait=10s", 7, Duration::from_secs(10)),
            ("wait=-1s&ns=&dc=", 0, WAIT_DEFAULT),
            ("wait=20m", 0, WAIT_MAX),
            ("dc=dc1&wait=1m30s", 0, Duration::from_secs(90)),
        ] {
            let options = read(query).unwrap();
            assert_eq!((options.index, options.wait), (index, wait), "{query}");
        }
    }

    #[test]
    fn bad_parameters_get_consuls_texts() {
        for (query, text) in [
            ("wait=10", "Invalid wait time"),
            ("index=-1", "Invalid index"),
            ("index=abc", "Invalid index"),
            ("index=18446744073709551616", "Invalid index"),
            ("stale&consistent", "Cannot specify ?stale with ?consistent, conflicting semantics."),
            ("cached=&consistent=", "Cannot specify ?cached with ?consistent, conflicting semantics."),
            ("max_stale=junk", "Invalid max_stale value \"junk\""),
            ("dc=dc9", "No path to datacenter"),
        ] {
            assert_eq!(read(query).unwrap_err(), text, "{query}");
        }
    }

    #[test]
    fn parameters_are_decoded_and_may_repeat() {
        let params = Params::parse(Some("tag=a%20b&tag=c+d&passing"));
        assert_eq!(params.all("tag").collect::<Vec<_>>(), ["a b", "c d"]);
        assert_eq!((params.get("passing"), params.get("x")), (Some(""), None));
    }
}
