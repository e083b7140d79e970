//! The embedded registry beside Consul 1.8.7: the same requests, the same answers.
//!
//! The requests are the files of `same_answers/`, one after the other; see [`Request::parse`] for their form.
//! Compared are status, headers and body, byte for byte, after [`Answer::normalised`] has taken out what differs
//! from run to run. Where the answers differ on purpose, the request names the difference, which
//! `docs/CONSUL-API.md` explains; a difference that is gone, or that the page does not explain, fails as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::Read;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use millgate_registry::{HttpClient, HttpOptions};
use regex::{Captures, Regex};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::support::PATIENCE;

const SCRIPTS: &[(&str, &str)] = &[
    ("requests", include_str!("same_answers/requests.http")),
    ("methods", include_str!("same_answers/methods.http")),
    ("registration", include_str!("same_answers/registration.http")),
    ("agent", include_str!("same_answers/agent.http")),
    ("checks", include_str!("same_answers/checks.http")),
    ("catalog", include_str!("same_answers/catalog.http")),
    ("again", include_str!("same_answers/again.http")),
    ("filters", include_str!("same_answers/filters.http")),
    ("sessions", include_str!("same_answers/sessions.http")),
    ("keys", include_str!("same_answers/keys.http")),
    ("transactions", include_str!("same_answers/transactions.http")),
    ("encoding", include_str!("same_answers/encoding.http")),
    ("around", include_str!("same_answers/around.http")),
];
const DIFFERENCES: &str = include_str!("../../../docs/CONSUL-API.md");
/// Fewer would mean that a script is not read.
const REQUESTS_MIN: usize = 1000;

#[tokio::test]
async fn the_embedded_registry_answers_as_consul_does() {
    let Some(consul) = Backend::consul().await else { return };
    let embedded = Backend::embedded().await;
    let (mut theirs, mut ours) = (Side::new(&consul), Side::new(&embedded));
    let (mut count, mut on_purpose, mut different, mut wrong) = (0, 0, BTreeSet::new(), Vec::new());
    for (script, text) in SCRIPTS {
        for request in text.split("\n\n").filter_map(Request::parse) {
            count += 1;
            let answers = both(&request, &mut theirs, &mut ours).await;
            let Some(difference) = &request.difference else {
                wrong.extend(answers.map(|answers| format!("{script}: {request}\n{answers}")));
                continue;
            };
            on_purpose += 1;
            different.insert(difference.clone());
            if answers.is_none() {
                wrong.push(format!(
                    "{script}: {request}\n  the answers are the same: {difference} is no more"
                ));
            }
        }
    }
    let explained: BTreeSet<String> = DIFFERENCES
        .lines()
        .filter_map(|line| line.strip_prefix("| D")?.split_once(' '))
        .map(|(number, _)| format!("D{number}"))
        .collect();
    println!("{count} requests; {on_purpose} answers differ on purpose, in {} ways", explained.len());
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
    assert_eq!(different, explained, "requests and docs/CONSUL-API.md name the same differences");
    assert!(count >= REQUESTS_MIN, "only {count} requests");
}

/// Sends the request to both; `Some` says how the answers differ. What was registered at an agent reaches its
/// catalog a moment later, so reads are repeated until they agree or patience ends.
async fn both(request: &Request, theirs: &mut Side, ours: &mut Side) -> Option<String> {
    let give_up = Instant::now() + if request.difference.is_some() { Duration::ZERO } else { SYNC_PATIENCE };
    loop {
        let (their, our) = (theirs.send(request).await, ours.send(request).await);
        let (left, right) = (their.normalised(request, &theirs.ids), our.normalised(request, &ours.ids));
        if left == right || request.method != Method::GET || Instant::now() >= give_up {
            theirs.keep(request, &their);
            ours.keep(request, &our);
            return (left != right).then(|| contrast(&left, &right));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One request. In a script it is a block of lines, set off by empty ones:
///
/// ```text
/// # a comment
/// PUT /v1/kv/lock?acquire={session}      {name}: an id kept before; {index}: the latest ModifyIndex
/// Accept: text/plain                     headers
/// a body                                 of any number of lines
/// > name                                 keeps the first id of the answer
/// ~ D7                                   the answers differ on purpose
/// ~ unordered                            Consul answers in no particular order
/// ```
struct Request {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: String,
    keep: Option<String>,
    difference: Option<String>,
    unordered: bool,
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {:?} {}", self.method, self.path, self.headers, self.body)
    }
}

impl Request {
    /// `None`: there are only comments.
    fn parse(block: &str) -> Option<Self> {
        let mut lines = block.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let (method, path) = lines.next()?.split_once(' ').expect("a method and a path");
        let mut request = Self {
            method: method.parse().expect("a method"),
            path: path.trim().to_owned(),
            headers: Vec::new(),
            body: String::new(),
            keep: None,
            difference: None,
            unordered: false,
        };
        for line in lines {
            let header = line.split_once(':').filter(|(name, _)| {
                request.body.is_empty()
                    && name.starts_with(|c: char| c.is_ascii_uppercase())
                    && !name.contains(' ')
            });
            if let Some(name) = line.strip_prefix("> ") {
                request.keep = Some(name.to_owned());
            } else if line == "~ unordered" {
                request.unordered = true;
            } else if let Some(difference) = line.strip_prefix("~ ") {
                request.difference = Some(difference.to_owned());
            } else if let Some((name, value)) = header {
                request.headers.push((name.to_owned(), value.trim().to_owned()));
            } else {
                let separator = if request.body.is_empty() { "" } else { "\n" };
                request.body = format!("{}{separator}{line}", request.body);
            }
        }
        Some(request)
    }
}

/// One of the two registries, and what its answers said that later requests need.
struct Side {
    url: String,
    client: HttpClient,
    kept: BTreeMap<String, String>,
    /// In the order in which they were first seen.
    ids: Vec<String>,
    /// Its ports, and what they are called.
    ports: Vec<(String, &'static str)>,
}

impl Side {
    fn new(backend: &Backend) -> Self {
        let names = ["8500", "8300", "8301", "8302"];
        let ports = backend.ports().map(|ports| ports.map(|port| port.to_string()));
        Self {
            url: backend.url(),
            client: HttpClient::new(&HttpOptions::default()).unwrap(),
            kept: BTreeMap::new(),
            ids: Vec::new(),
            ports: ports.map(|ports| ports.into_iter().zip(names).collect()).unwrap_or_default(),
        }
    }

    async fn send(&mut self, request: &Request) -> Answer {
        let fill = |text: &str| {
            let mut text = text.to_owned();
            for (name, value) in &self.kept {
                text = text.replace(&format!("{{{name}}}"), value);
            }
            text
        };
        let headers: HeaderMap = request
            .headers
            .iter()
            .map(|(name, value)| (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap()))
            .collect();
        let url = format!("{}{}", self.url, fill(&request.path));
        let body = Bytes::from(fill(&request.body));
        let sent = self.client.send(request.method.clone(), &url, headers, body, PATIENCE, 1 << 20).await;
        let response = sent.unwrap_or_else(|error| panic!("{request}: {error}"));
        let mut body = response.body.to_vec();
        if response.headers.contains_key("content-encoding") {
            let zipped = std::mem::take(&mut body);
            GzDecoder::new(&*zipped).read_to_end(&mut body).unwrap();
        }
        let mut body = String::from_utf8_lossy(&body).into_owned();
        for (port, name) in &self.ports {
            body = body.replace(&format!("\"{port}\""), &format!("\"{name}\""));
            body = body.replace(&format!(":{port}\""), &format!(":{name}\""));
            body = body.replace(&format!(": {port},"), &format!(": {name},"));
        }
        Answer { status: response.status.as_u16(), headers: response.headers, body }
    }

    /// Remembers ids and indexes of an answer that counts.
    fn keep(&mut self, request: &Request, answer: &Answer) {
        if request.difference.is_some() {
            return;
        }
        let location =
            answer.headers.get("location").and_then(|location| location.to_str().ok()).unwrap_or_default();
        for id in UUID.find_iter(&format!("{location}{}", answer.body)) {
            if !self.ids.iter().any(|known| known == id.as_str()) {
                self.ids.push(id.as_str().to_owned());
            }
        }
        if let Some(name) = &request.keep {
            let id = UUID.find(&answer.body).unwrap_or_else(|| panic!("{request}: no id in {}", answer.body));
            self.kept.insert(name.clone(), id.as_str().to_owned());
        }
        if let Some(found) = MODIFY_INDEX.captures_iter(&answer.body).last() {
            self.kept.insert("index".to_owned(), found[1].to_owned());
        }
    }
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    /// Status, headers and body, without indexes, ids, dates, and the indentation that `-dev` gives to every
    /// answer.
    fn normalised(&self, request: &Request, ids: &[String]) -> String {
        let is_json = self.headers.get("content-type").is_some_and(|kind| kind == "application/json");
        let pretty = request.path.contains("pretty");
        let mut body = if is_json && !pretty { compact(&self.body) } else { self.body.clone() };
        for (pattern, plain) in VARYING.iter() {
            body = pattern.replace_all(&body, *plain).into_owned();
        }
        let mut headers: Vec<String> = self
            .headers
            .iter()
            .filter_map(|(name, value)| {
                let value = value.to_str().unwrap_or("?");
                match name.as_str() {
                    "date" | "content-length" | "transfer-encoding" => None,
                    "x-consul-index" if value != "1" => Some(format!("{name}: N")),
                    "x-consul-contenthash" => Some(format!("{name}: hash")),
                    _ => Some(format!("{name}: {value}")),
                }
            })
            .collect();
        headers.sort();
        let text = format!("{} [{}] {body}", self.status, headers.join("; "));
        let mut ids = ids.to_vec();
        let text = UUID.replace_all(&text, |id: &Captures<'_>| {
            let known = ids.iter().position(|known| *known == id[0]);
            let number = known.unwrap_or_else(|| {
                ids.push(id[0].to_owned());
                ids.len() - 1
            });
            format!("id {number}")
        });
        if !request.unordered {
            return text.into_owned();
        }
        // What is in no order is compared as the bag of its pieces.
        let mut pieces: Vec<&str> = text.split([',', '{', '}', '[', ']']).collect();
        pieces.sort_unstable();
        pieces.join(",")
    }
}

/// JSON without the blanks and line feeds between its tokens; everything else stays as it is.
fn compact(json: &str) -> String {
    let (mut text, mut quoted, mut escaped) = (String::new(), false, false);
    for c in json.chars() {
        if quoted || !c.is_ascii_whitespace() {
            text.push(c);
        }
        quoted ^= c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
    }
    text
}

fn contrast(theirs: &str, ours: &str) -> String {
    let same = theirs.chars().zip(ours.chars()).take_while(|(a, b)| a == b).count();
    let part = |text: &str| text.chars().skip(same.saturating_sub(60)).take(260).collect::<String>();
    let mut text = String::new();
    let _infallible = write!(text, "  consul:   …{}\n  embedded: …{}", part(theirs), part(ours));
    text
}

static UUID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}").unwrap());
static MODIFY_INDEX: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#""ModifyIndex": ?([0-9]+)"#).unwrap());
/// What differs from run to run, and what stands for it.
static VARYING: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    PATTERNS.iter().map(|(pattern, plain)| (Regex::new(pattern).unwrap(), *plain)).collect()
});
const PATTERNS: &[(&str, &str)] = &[
    (r#""(CreateIndex|ModifyIndex|LastIndex)":( ?)[1-9][0-9]*"#, "\"$1\":${2}N"),
    (r"current modify index [0-9]+", "current modify index N"),
    (r#""ContentHash":"[0-9a-f]+""#, "\"ContentHash\":\"hash\""),
    (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}Z", "date"),
    // Go prints the whole type; that it is a structure is enough.
    (r"(?s)of type struct \{.*", "of type struct"),
];
/// Consul's agent tells its catalog within milliseconds.
const SYNC_PATIENCE: Duration = Duration::from_secs(3);
