//! The checks that a registry makes by itself: the same checks at the embedded registry and at Consul 1.8.7, against
//! the same servers, end with the same status and the same words.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use millgate_registry::{HttpClient, HttpOptions};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use crate::backend::Backend;
use crate::support::PATIENCE;

/// Answers by path, with bytes as they are, and closes.
async fn web_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_web(stream));
        }
    });
    address
}

async fn answer_web(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    let mut first = [0; 1];
    if let Ok(1) = stream.peek(&mut first).await
        && first == [TLS_HANDSHAKE]
    {
        let _sent = stream.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\nno TLS here").await;
        return;
    }
    while !request.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        match stream.read(&mut chunk).await {
            Ok(0) | Err(_) => return,
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let with = |status: &str, headers: &str, body: &str| {
        format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let answer = match path {
        "/ok" => with("200 OK", "", "fine"),
        "/busy" => with("429 Too Many Requests", "", "slow down"),
        "/broken" => with("500 Internal Server Error", "", "oops"),
        "/odd" => with("299 Odd", "", ""),
        "/long" => {
            with("200 OK", "", &(0..2000).map(|number| format!("{number:06},")).collect::<Vec<_>>().concat())
        }
        "/to-path" => with("302 Found", "Location: /echo\r\n", ""),
        "/to-relative" => with("302 Found", "Location: ok\r\n", ""),
        "/to-login" => with("302 Found", "Location: /login?next=http://other.test/\r\n", ""),
        "/to-nowhere" => with("302 Found", "", "x"),
        "/to-itself" => with("302 Found", "Location: /to-itself\r\n", ""),
        "/again" => with("307 Temporary Redirect", "Location: /echo\r\n", ""),
        // Method, headers that the check may set, and body, as they came.
        "/echo" => {
            let (head, body) = head.split_once("\r\n\r\n").unwrap();
            let mut lines = head.lines();
            let method = lines.next().unwrap().split(' ').next().unwrap();
            let shown = ["x-a:", "host:", "user-agent:", "accept:", "referer:", "connection:"];
            let mut headers: Vec<String> = lines
                .filter(|line| shown.iter().any(|name| line.to_lowercase().starts_with(name)))
                .map(|line| {
                    let (name, value) = line.split_once(':').unwrap();
                    format!("{}:{value}", name.to_lowercase())
                })
                .collect();
            headers.sort();
            with("200 OK", "", &format!("{method} {headers:?} {body}"))
        }
        "/half" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_owned(),
        "/gone" => return,
        "/silent" => {
            // Until the check gives up.
            let _closed = stream.read(&mut chunk).await;
            return;
        }
        _ => with("404 Not Found", "", "nothing"),
    };
    let _sent = stream.write_all(answer.as_bytes()).await;
}

/// The first byte of whoever speaks TLS.
const TLS_HANDSHAKE: u8 = 0x16;

/// gRPC's health service: `good` serves, `bad` does not, `cut` says that it serves and nothing of how that ended, others are
/// not known; the server as a whole serves.
async fn grpc_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let serving = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer_grpc));
            tokio::spawn(serving);
        }
    });
    address
}

async fn answer_grpc(
    request: http::Request<Incoming>,
) -> Result<http::Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let question = request.into_body().collect().await.unwrap().to_bytes();
    let service = String::from_utf8_lossy(question.get(7..).unwrap_or_default()).into_owned();
    let response = http::Response::builder().header("content-type", "application/grpc");
    let status = match service.as_str() {
        "" | "good" | "cut" => 1,
        "bad" => 2,
        _ => {
            let response = response.header("grpc-status", "5").header("grpc-message", "unknown service");
            return Ok(response.body(Full::new(Bytes::new()).boxed()).unwrap());
        }
    };
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let message = Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 0x08, status]);
    if service == "cut" {
        return Ok(response.body(Full::new(message).boxed()).unwrap());
    }
    let body = Full::new(message).with_trailers(async move { Some(Ok(trailers)) });
    Ok(response.body(BodyExt::boxed(body)).unwrap())
}

async fn call(url: &str, method: Method, path: &str, body: &Value) -> (u16, String) {
    let client = HttpClient::new(&HttpOptions::default()).unwrap();
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let url = format!("{url}{path}");
    let response = client.send(method, &url, HeaderMap::new(), body, PATIENCE, 1 << 20).await.unwrap();
    (response.status.as_u16(), String::from_utf8_lossy(&response.body).into_owned())
}

async fn register(url: &str, check: &Value) {
    let (status, text) = call(url, Method::PUT, "/v1/agent/check/register", check).await;
    assert_eq!(status, 200, "{check}: {text}");
}

/// Type, status and output of each check, by id.
async fn results(url: &str) -> BTreeMap<String, [String; 3]> {
    let (_, text) = call(url, Method::GET, "/v1/agent/checks", &Value::Null).await;
    let checks: HashMap<String, Value> = serde_json::from_str(&text).unwrap();
    let field = |check: &Value, name: &str| check[name].as_str().unwrap().to_owned();
    checks
        .into_iter()
        .map(|(id, check)| (id, ["Type", "Status", "Output"].map(|name| field(&check, name))))
        .collect()
}

/// The results once they are as wanted.
async fn until(
    url: &str,
    what: &str,
    wanted: impl Fn(&BTreeMap<String, [String; 3]>) -> bool,
) -> BTreeMap<String, [String; 3]> {
    let begin = Instant::now();
    loop {
        let results = results(url).await;
        if wanted(&results) {
            return results;
        }
        assert!(begin.elapsed() < PATIENCE, "never seen at {url}: {what}; latest {results:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One check of each kind and each way to fail. `nobody`: an address at which nobody listens.
fn checks(web: SocketAddr, grpc: SocketAddr, nobody: SocketAddr) -> Vec<Value> {
    let mut checks = Vec::new();
    for path in [
        "ok",
        "busy",
        "broken",
        "missing",
        "odd",
        "long",
        "to-path",
        "to-relative",
        "to-login",
        "to-nowhere",
        "to-itself",
        "half",
        "gone",
        "silent",
        "echo",
    ] {
        checks.push(json!({"ID": path, "HTTP": format!("http://{web}/{path}"), "Timeout": "1s"}));
    }
    let extra = json!({"X-A": ["1", "2"], "Host": ["own.test"]});
    for path in ["echo", "to-path", "again"] {
        checks.push(json!({
            "ID": format!("post-{path}"), "HTTP": format!("http://{web}/{path}"),
            "Method": "POST", "Body": "a body", "Header": extra,
        }));
    }
    checks.push(json!({"ID": "head", "HTTP": format!("http://{web}/ok"), "Method": "HEAD"}));
    checks.push(json!({"ID": "short-output", "HTTP": format!("http://{web}/long"), "OutputMaxSize": 10}));
    for (id, url) in [
        ("refused", format!("http://{nobody}/")),
        ("no-scheme", "nowhere".to_owned()),
        ("other-scheme", "ftp://nowhere/".to_owned()),
        ("no-tls", format!("https://{web}/ok")),
        ("no-name", "http://name.invalid/".to_owned()),
    ] {
        checks.push(json!({"ID": id, "HTTP": url}));
    }
    checks.push(json!({"ID": "no-tls-skip", "HTTP": format!("https://{web}/ok"), "TLSSkipVerify": true}));
    checks.push(json!({"ID": "no-method", "HTTP": format!("http://{web}/ok"), "Method": "A B"}));
    checks.push(json!({"ID": "small-method", "HTTP": format!("http://{nobody}/"), "Method": "post"}));
    for (id, address) in [
        ("tcp", web.to_string()),
        ("tcp-localhost", format!("localhost:{}", web.port())),
        ("tcp-refused", nobody.to_string()),
        ("tcp-no-port", "127.0.0.1".to_owned()),
        ("tcp-bad-port", "127.0.0.1:99999".to_owned()),
        ("tcp-no-name", "name.invalid:1".to_owned()),
    ] {
        checks.push(json!({"ID": id, "TCP": address}));
    }
    for (id, target) in [
        ("grpc", grpc.to_string()),
        ("grpc-good", format!("{grpc}/good")),
        ("grpc-bad", format!("{grpc}/bad")),
        ("grpc-cut", format!("{grpc}/cut")),
        ("grpc-unknown", format!("{grpc}/nobody/knows")),
        ("grpc-refused", nobody.to_string()),
        ("grpc-no-port", "127.0.0.1".to_owned()),
    ] {
        checks.push(json!({"ID": id, "GRPC": target, "Timeout": "1s"}));
    }
    for check in &mut checks {
        check["Name"] = json!("a name");
        check["Interval"] = json!("1s");
    }
    checks
}

/// The server that a resolver asked is not known to us.
fn without_resolver(mut results: BTreeMap<String, [String; 3]>) -> BTreeMap<String, [String; 3]> {
    for [_, _, output] in results.values_mut() {
        if let Some((before, after)) = output.split_once(" on ")
            && let Some((_, after)) = after.split_once(": no such host")
        {
            *output = format!("{before}: no such host{after}");
        }
    }
    results
}

#[tokio::test]
async fn probes_end_with_consuls_status_and_consuls_words() {
    let Some(consul) = Backend::consul().await else { return };
    let embedded = Backend::embedded().await;
    let (web, grpc) = (web_server().await, grpc_server().await);
    let nobody = SocketAddr::from(([127, 0, 0, 1], millgate_registry::testing::restartable_port()));
    let checks = checks(web, grpc, nobody);
    let mut both = Vec::new();
    for url in [consul.url(), embedded.url()] {
        for check in &checks {
            register(&url, check).await;
        }
    }
    for url in [consul.url(), embedded.url()] {
        let ran = |results: &BTreeMap<String, [String; 3]>| {
            results.values().all(|[_, _, output]| !output.is_empty())
        };
        both.push(without_resolver(until(&url, "every check ran", ran).await));
    }
    let (theirs, ours) = (&both[0], &both[1]);
    let mut differences = Vec::new();
    for (id, expected) in theirs {
        if ours.get(id) != Some(expected) {
            differences.push(format!("{id}\n  consul:   {expected:?}\n  embedded: {:?}", ours.get(id)));
        }
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    assert_eq!(ours.len(), checks.len());
}

/// Nothing says that what came is all that the server wanted to say.
#[tokio::test]
async fn a_grpc_answer_without_its_status_is_not_believed() {
    let embedded = Backend::embedded().await;
    let target = format!("{}/cut", grpc_server().await);
    let check = json!({"ID": "cut", "Name": "cut", "GRPC": target, "Interval": "1s", "Timeout": "1s"});
    register(&embedded.url(), &check).await;
    let ran =
        |results: &BTreeMap<String, [String; 3]>| results.values().all(|[_, _, output]| !output.is_empty());
    let results = until(&embedded.url(), "the check ran", ran).await;
    let [_, status, output] = &results["cut"];
    assert_eq!(status, "critical");
    assert!(output.contains("without sending trailers"), "{output}");
}

/// What an alias says, step by step, at both.
#[tokio::test]
async fn aliases_say_what_consuls_say() {
    let Some(consul) = Backend::consul().await else { return };
    let embedded = Backend::embedded().await;
    let put = Method::PUT;
    let steps: &[(&str, Value)] = &[
        ("/v1/agent/service/register", json!({"ID": "s", "Name": "s"})),
        ("/v1/agent/service/register", json!({"ID": "t", "Name": "t", "Check": {"AliasService": "s"}})),
        ("/v1/agent/service/register", json!({"ID": "u", "Name": "u", "Check": {"AliasService": "nobody"}})),
        ("/v1/agent/check/register", json!({"ID": "one", "Name": "one", "TTL": "1h", "ServiceID": "s"})),
        ("/v1/agent/check/warn/one?note=so-so", Value::Null),
        ("/v1/agent/check/pass/one", Value::Null),
        ("/v1/agent/check/register", json!({"ID": "two", "Name": "two", "TTL": "1h", "ServiceID": "s"})),
        ("/v1/agent/check/pass/two", Value::Null),
        ("/v1/agent/check/fail/two?note=bad", Value::Null),
        ("/v1/agent/check/pass/two?note=well", Value::Null),
        ("/v1/agent/check/fail/one?note=bad", Value::Null),
    ];
    for (number, (path, body)) in steps.iter().enumerate() {
        let theirs = call(&consul.url(), put.clone(), path, body).await;
        let ours = call(&embedded.url(), put.clone(), path, body).await;
        assert_eq!(ours, theirs, "{path}");
        // Consul's aliases follow a moment later.
        let ours = results(&embedded.url()).await;
        until(&consul.url(), &format!("after step {number}, {path}: {ours:#?}"), |theirs| *theirs == ours)
            .await;
    }
}

#[tokio::test]
async fn which_checks_may_be_registered_is_as_with_consul() {
    let Some(consul) = Backend::consul().await else { return };
    let embedded = Backend::embedded().await;
    for check in [
        json!({"AliasService": "nope"}),
        json!({"AliasService": "nope", "Interval": "1s"}),
        json!({"AliasService": "nope", "TTL": "1s"}),
        json!({"AliasService": "nope", "TCP": "a:1", "Interval": "1s"}),
        json!({"DockerContainerID": "abc", "Interval": "1s"}),
        json!({"DockerContainerID": "abc", "Args": ["x"], "Interval": "1s"}),
        json!({"Args": ["x"], "TTL": "1s"}),
        json!({"Args": ["x"], "Interval": "1s"}),
        json!({"Shell": "sh", "TTL": "1h"}),
        json!({"TCP": "a:1"}),
        json!({"GRPC": "a:1"}),
        json!({"HTTP": "http://127.0.0.1:1/", "TCP": "b:1", "Interval": "1h"}),
        json!({"TTL": "10s", "TCP": "b:1"}),
        json!({"TTL": "1h", "OutputMaxSize": -1}),
        json!({"TCP": "127.0.0.1:1", "Interval": "1h", "SuccessBeforePassing": -1}),
        json!({"HTTP": "http://a/", "TTL": "1s", "Interval": "10s"}),
        json!({"Interval": "10s"}),
        json!({"HTTP": "http://a/", "AliasService": "x", "Interval": "10s"}),
        json!({"TTL": "1h", "Timeout": "5s", "SuccessBeforePassing": 3}),
    ] {
        let mut check = check;
        check["Name"] = json!("a name");
        let theirs = call(&consul.url(), Method::PUT, "/v1/agent/check/register", &check).await;
        let ours = call(&embedded.url(), Method::PUT, "/v1/agent/check/register", &check).await;
        assert_eq!(ours, theirs, "{check}");
    }
}
