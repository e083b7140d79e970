//! HTTP/1.1 framing, live: every request of `tests/cases/http1-framing.json` that this version decides goes through
//! a real gateway, whole and cut into pieces, and a recording service counts what arrives.
//!
//! `http1-framing-expected.json` has the expected results; cases marked `later` belong to checks that are not
//! built.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    backend::{Backend, RawBackend},
    client::{Connection, get, raw, text},
    gateway::TestGateway,
};

/// A gateway that answers does so at once; one that waits for more bytes is cut off here.
const PATIENCE: Duration = Duration::from_secs(1);

/// How many gateways run beside each other; mostly they wait for [`PATIENCE`] to be over.
const GROUPS: usize = 48;

/// Cases of this size take longer to read than that.
const LONG: usize = 100_000;
const PATIENCE_LONG: Duration = Duration::from_secs(8);

struct Case {
    id: String,
    bytes: Vec<u8>,
    /// The client closes its side after the bytes.
    half_close: bool,
    expect: Vec<String>,
    then: Option<String>,
    after_100: Option<String>,
}

fn cases() -> Vec<Case> {
    let cases: Value = serde_json::from_str(include_str!("../cases/http1-framing.json")).unwrap();
    let expected: Value = serde_json::from_str(include_str!("../cases/http1-framing-expected.json")).unwrap();
    let expected = expected["cases"].as_array().unwrap();
    let requests = cases["requests"].as_array().unwrap();
    let decided = requests.iter().filter_map(|case| {
        let id = case["id"].as_str().unwrap();
        let row =
            expected.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id} has no expectation"));
        if row.get("later").is_some() {
            return None;
        }
        let text = case["request"].as_str().map_or_else(|| long(id), str::to_owned);
        let (text, half_close) =
            text.strip_suffix("<FIN>").map_or((text.as_str(), false), |text| (text, true));
        let expect = match &row["expect"] {
            Value::Array(any) => any.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
            one => vec![one.as_str().unwrap().to_owned()],
        };
        let text_of = |key: &str| row.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Case {
            id: id.to_owned(),
            bytes: text.chars().map(|c| u8::try_from(u32::from(c)).expect("latin-1")).collect(),
            half_close,
            expect,
            then: text_of("then"),
            after_100: text_of("after_100"),
        })
    });
    decided.collect()
}

/// The cases that are too long for the file; its notes describe how they are made.
fn long(id: &str) -> String {
    match id {
        "D16" => "\r\n".repeat(20_000) + "GET /a HTTP/1.1\r\nHost: gw\r\n\r\n",
        "D29" => "A".repeat(9_000) + " /a HTTP/1.1\r\nHost: gw\r\n\r\n",
        "D30" => format!("GET /{} HTTP/1.1\r\nHost: gw\r\n\r\n", "a".repeat(70_000)),
        "D31" => format!("GET /a HTTP/1.1\r\nHost: gw\r\nX: {}\r\n\r\n", "b".repeat(100_000)),
        "F18" => {
            let head = "POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n";
            head.to_owned() + &"1\r\na\r\n".repeat(200_000) + "0\r\n\r\n"
        }
        "F14" => {
            let head = "POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n";
            format!("{head}5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000))
        }
        "F17" => {
            let head =
                "POST /a HTTP/1.1\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n";
            let trailers: Vec<String> = (0..100).map(|n| format!("X-{n}: {}", "y".repeat(200))).collect();
            head.to_owned() + &trailers.join("\r\n") + "\r\n\r\n"
        }
        "G9" => format!("GET /a HTTP/1.1\r\nHost: gw\r\nConnection: {}b\r\n\r\n", "a,".repeat(8_000)),
        "H7" => {
            let head = "POST /a HTTP/1.1\r\nHost: gw\r\nContent-Length: 10485760\r\n\r\n";
            head.to_owned() + &"z".repeat(65_536)
        }
        other => panic!("{other} has no bytes"),
    }
}

/// What happened, in the words of the table.
struct Observed {
    statuses: Vec<u16>,
    closed: bool,
    upstream: usize,
}

impl Observed {
    fn is(&self, expect: &str, case: &Case) -> bool {
        // A second request in the same bytes has its own expectation.
        let first = self.statuses.first().copied();
        let second = matches!(case.then.as_deref(), Some("F" | "own"));
        let upstream_max = usize::from(expect.starts_with('F')) + usize::from(second);
        match expect {
            "F" => first == Some(200) && self.upstream >= 1 && self.upstream <= upstream_max.max(1),
            "F_close" => first == Some(200) && self.closed && self.upstream == 1,
            "X" => self.closed && first.is_none_or(|status| status == 400 || status == 408 || status >= 500),
            "none" => self.statuses.is_empty() && self.upstream == 0,
            "local_options" => first == Some(204) && self.upstream == 0,
            refused => {
                let status: u16 = refused
                    .strip_prefix('R')
                    .and_then(|code| code.parse().ok())
                    .expect("a word of the table");
                first == Some(status) && self.closed && self.upstream == 0 && self.statuses.len() == 1
            }
        }
    }
}

/// Status lines in what came back; interim responses are not answers.
fn statuses(answer: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answer);
    let lines = text.split("HTTP/1.").skip(1);
    lines.filter_map(|line| line.get(2..5)?.parse().ok()).filter(|status| *status >= 200).collect()
}

async fn run(case: &Case, pieces: &[&[u8]], gateway: &TestGateway, backend: &Backend) -> Observed {
    backend.take_seen();
    let mut all: Vec<&[u8]> = pieces.to_vec();
    if let Some(body) = &case.after_100 {
        all.push(body.as_bytes());
    }
    let patience = if case.bytes.len() > LONG { PATIENCE_LONG } else { PATIENCE };
    let (answer, closed) = raw(gateway.http, &all, case.half_close, patience).await;
    Observed { statuses: statuses(&answer), closed, upstream: backend.take_seen().len() }
}

/// The same bytes whole, cut after every 7th, and cut in the middle of each line end.
fn segmentations(bytes: &[u8]) -> Vec<Vec<&[u8]>> {
    if bytes.len() > 4096 {
        return vec![vec![bytes]];
    }
    vec![vec![bytes], bytes.chunks(7).collect(), bytes.split_inclusive(|byte| *byte == b'\r').collect()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_framing_case_that_is_decided_gets_its_answer() {
    let config = |addr| {
        format!(
            "workers: 1\nroutes:\n  - {{path: /**, service: one, body_limit: 1MiB}}\nservices:\n  one: {{hosts: [\"{addr}\"]}}\n"
        )
    };
    let cases = cases();
    assert!(cases.len() > 90, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    // Cases wait for bytes that never come, so several run side by side, each group with its own service.
    let mut groups = tokio::task::JoinSet::new();
    let per_group = cases.len().div_ceil(GROUPS);
    let mut cases = cases.into_iter().peekable();
    while cases.peek().is_some() {
        let group: Vec<Case> = cases.by_ref().take(per_group).collect();
        groups.spawn(async move {
            let backend = Backend::named("one").await;
            let gateway = TestGateway::start(&config(backend.addr)).await;
            let mut wrong = Vec::new();
            for case in group {
                for (cut, pieces) in segmentations(&case.bytes).into_iter().enumerate() {
                    let observed = run(&case, &pieces, &gateway, &backend).await;
                    if !case.expect.iter().any(|expect| observed.is(expect, &case)) {
                        let Observed { statuses, closed, upstream } = observed;
                        wrong.push(format!(
                            "{} (cut {cut}): expected {:?}, got {statuses:?}, closed: {closed}, upstream: {upstream}",
                            case.id, case.expect
                        ));
                    }
                }
            }
            wrong
        });
    }
    while let Some(group) = groups.join_next().await {
        wrong.extend(group.unwrap());
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A response that a service gives, and what must become of it.
struct Answer {
    id: String,
    bytes: &'static [u8],
    closes: bool,
    expect: Vec<String>,
    upstream_closed: bool,
}

fn answers() -> Vec<Answer> {
    let cases: Value = serde_json::from_str(include_str!("../cases/http1-framing.json")).unwrap();
    let expected: Value = serde_json::from_str(include_str!("../cases/http1-framing-expected.json")).unwrap();
    let expected = expected["cases"].as_array().unwrap();
    let responses = cases["responses"].as_array().unwrap();
    let decided = responses.iter().filter_map(|case| {
        let id = case["id"].as_str().unwrap();
        let row =
            expected.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id} has no expectation"));
        let text = case["response"].as_str()?;
        // Two cases are about when bytes come, not about which: `policies` has the stale connection, and an answer
        // that no request asked for is the test below.
        if row.get("later").is_some() || text.starts_with('<') {
            return None;
        }
        let (text, closes) = match text.strip_suffix("<FIN>").or_else(|| text.strip_suffix("<RST>")) {
            Some(text) => (text, true),
            None => (text, false),
        };
        let bytes: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).expect("latin-1")).collect();
        Some(Answer {
            id: id.to_owned(),
            bytes: Vec::leak(bytes),
            closes,
            expect: match &row["expect"] {
                Value::Array(any) => any.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
                one => vec![one.as_str().unwrap().to_owned()],
            },
            upstream_closed: row["upstream"] == "closed",
        })
    });
    decided.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_of_a_service_that_is_decided_is_passed_on_cut_off_or_refused() {
    let answers = answers();
    assert!(answers.len() > 12, "only {} answers", answers.len());
    let mut wrong = Vec::new();
    let mut groups = tokio::task::JoinSet::new();
    let per_group = answers.len().div_ceil(GROUPS);
    let mut answers = answers.into_iter().peekable();
    while answers.peek().is_some() {
        let group: Vec<Answer> = answers.by_ref().take(per_group).collect();
        groups.spawn(async move {
            let mut wrong = Vec::new();
            for answer in group {
                wrong.extend(what_is_wrong_with(&answer).await);
            }
            wrong
        });
    }
    while let Some(group) = groups.join_next().await {
        wrong.extend(group.unwrap());
    }
    wrong.sort();
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What became of a service's answer, if it is not what must become of it.
async fn what_is_wrong_with(answer: &Answer) -> Option<String> {
    let backend = RawBackend::answering(answer.bytes, answer.closes).await;
    let config = format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: one, retry: off, timeout: 2s}}\nservices:\n  one: {{hosts: [\"{}\"], breaker: off}}\n",
        backend.addr
    );
    let gateway = TestGateway::start(&config).await;
    // R11 is about HEAD: the length of what GET would get.
    let method = if answer.id == "R11" { "HEAD" } else { "GET" };
    let request = format!("{method} /a HTTP/1.1\r\nHost: gw\r\n\r\n");
    let (reply, cut) = raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
    raw(gateway.http, &[request.as_bytes()], false, PATIENCE).await;
    let status = statuses(&reply).first().copied();
    let fits = |expect: &String| match expect.as_str() {
        "F" => matches!(status, Some(200 | 304)) && !reply.ends_with(b"EVIL"),
        "X" => cut && !reply.ends_with(b"0\r\n\r\n"),
        refused => status == refused.strip_prefix('R').and_then(|code| code.parse().ok()),
    };
    let is_used_again = answer.upstream_closed && backend.connections() < 2;
    (!answer.expect.iter().any(fits) || is_used_again).then(|| {
        let text = String::from_utf8_lossy(&reply);
        format!(
            "{}: expected {:?}, got {text:?}, connection used again: {is_used_again}",
            answer.id, answer.expect
        )
    })
}

#[tokio::test]
async fn bytes_that_no_request_asked_for_never_answer_the_next_one() {
    // The service sends a 408 on an idle connection, as some do before they close it.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let service = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
            stream.write_all(b"HTTP/1.1 408 Timeout\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            open.push(stream);
        }
    });
    let config = format!(
        "workers: 1\nroutes:\n  - {{path: /**, service: one}}\nservices:\n  one: {{hosts: [\"{addr}\"]}}\n"
    );
    let gateway = TestGateway::start(&config).await;
    let mut client = Connection::open(gateway.http).await;
    for n in 0..20 {
        let reply = client.send(get("/x")).await;
        assert_eq!((reply.status().as_u16(), text(&reply)), (200, "ok"), "request {n}");
    }
    service.abort();
}
