//! The subjects: measured once as instruction counts with a budget (`instructions.rs`), and once as time, for people
//! (`time.rs`).
//!
//! Inputs are fixed and short, so that neither the branch that a processor takes in vectorised searches nor a random
//! seed matters much. Everything that is made once (configuration, keys, connections) is made before the measurement.

use std::{fmt::Write as _, hint::black_box, path::Path, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version, request::Parts};
use millgate::{
    admission::{self, Admission, Admitted, Arrival, Framing, Scheme},
    auth::{credentials::find_credential, provider::LocalProvider},
    clock,
    headers::{self, Facts, ForwardContext, ResponseContext},
    policy::limit_key,
    snapshot::Snapshot,
    testing::{self, Harness},
    upstream::load_balancer::Cursor,
};
use rand::{SeedableRng, rngs::SmallRng};

/// One call does the work once.
pub(crate) type Subject = Box<dyn FnMut()>;
type Make = fn() -> Subject;

/// The name of each subject, and the function that prepares it. The names are those of `budgets.json`.
pub(crate) const ALL: [(&str, Make); 15] = [
    ("router_10", || router(10)),
    ("router_10000", || router(10_000)),
    ("jwt_hit", jwt_hit),
    ("jwt_miss", jwt_miss),
    ("limiter", limiter),
    ("p2c_2", || balancer("p2c", 2)),
    ("p2c_500", || balancer("p2c", 500)),
    ("p2c_2000", || balancer("p2c", 2000)),
    ("round_robin_2", || balancer("round_robin", 2)),
    ("round_robin_2000", || balancer("round_robin", 2000)),
    ("admission", admission),
    ("headers_request", headers_request),
    ("headers_response", headers_response),
    ("request_plain", || proxied(PLAIN, "")),
    ("request_everything", || proxied(EVERYTHING, &format!("authorization: Bearer {TOKEN}\r\n"))),
];

fn router(routes: usize) -> Subject {
    let mut text = String::from("version: 1\nroutes:\n");
    for route in 0..routes {
        let _ = writeln!(
            text,
            "  - {{path: \"GET /area-{}/part-{route}/items/{{id}}\", service: items}}",
            route / 100
        );
    }
    text.push_str("services: {items: {hosts: [\"192.0.2.1:80\"]}}\n");
    let snapshot = compile(&text);
    // Spread over the whole table.
    let asked = (0..10).map(|step| routes * step / 10);
    let paths: Vec<String> =
        asked.map(|route| format!("/area-{}/part-{route}/items/7", route / 100)).collect();
    let headers = client_headers();
    let mut turn = 0;
    Box::new(move || {
        turn = (turn + 1) % paths.len();
        let path = black_box(&paths[turn]);
        black_box(snapshot.table.router.lookup("http", "api.example", path, &Method::GET, &headers));
    })
}

/// The only provider.
fn provider(snapshot: &Snapshot) -> LocalProvider {
    LocalProvider::new(Arc::clone(&snapshot.table.auth[0]), snapshot.keys[0].clone())
}

fn jwt_hit() -> Subject {
    let provider = provider(&compile(EVERYTHING));
    provider.check(TOKEN, NOW).expect("the token is valid");
    let headers = client_headers();
    Box::new(move || {
        let found = find_credential(black_box(&headers), None, provider.sources(), true);
        let token = found.ok().and_then(|found| found.credential).expect("the request has a token");
        assert!(black_box(provider.known(token, NOW)).is_some());
    })
}

fn jwt_miss() -> Subject {
    let provider = provider(&compile(&EVERYTHING.replace("    audience:", "    cache: 0\n    audience:")));
    Box::new(move || {
        assert!(black_box(provider.check(black_box(TOKEN), NOW)).is_ok());
    })
}

fn limiter() -> Subject {
    let snapshot = compile(EVERYTHING);
    let user = provider(&snapshot).check(TOKEN, NOW).expect("the token is valid");
    let headers = client_headers();
    let mut now = clock::now();
    Box::new(move || {
        // Slower than the limit's rate, so that any number of calls passes.
        now += Duration::from_micros(10);
        let limit = &snapshot.table.routes[0].limits()[0];
        let key = limit_key::of(limit, [192, 0, 2, 7].into(), Some(black_box(&user)), &headers);
        assert!(black_box(limit.check(key, now)).is_ok());
    })
}

fn balancer(balance: &str, endpoints: usize) -> Subject {
    let mut hosts = String::new();
    for endpoint in 0..endpoints {
        let _ = write!(hosts, "\"10.0.{}.{}:80\", ", endpoint / 250, endpoint % 250 + 1);
    }
    let snapshot = compile(&format!(
        "version: 1\nroutes: [{{path: /, service: items}}]\nservices: {{items: {{balance: {balance}, hosts: [{hosts}]}}}}\n"
    ));
    let mut rng = SmallRng::seed_from_u64(1);
    let mut cursor = Cursor::new(&mut rng);
    let now = clock::now();
    Box::new(move || {
        let cluster = &snapshot.clusters[0];
        let picked = cluster.balancer.pick(
            (&cluster.endpoints, cluster.health()),
            &mut cursor,
            black_box(&[]),
            now,
            &mut rng,
        );
        assert!(black_box(picked).is_ok());
    })
}

/// A request in cleartext, from a peer that is not trusted.
const ARRIVAL: Arrival = Arrival { scheme: Scheme::Http, peer_is_trusted: false };

fn admission() -> Subject {
    let snapshot = compile(PLAIN);
    let parts = request_parts();
    let last = admitted(&parts, &snapshot).map(|admitted| Rc::clone(admitted.authority()));
    Box::new(move || {
        // As on a connection that has had a request already.
        let (parts, last) = (black_box(&parts), last.as_ref());
        let admitted = admission::admit(parts, &snapshot.table.admission, ARRIVAL, last);
        assert!(matches!(black_box(admitted), Ok(Admission::Forward(_))));
    })
}

fn admitted(parts: &Parts, snapshot: &Snapshot) -> Option<Admitted> {
    match admission::admit(parts, &snapshot.table.admission, ARRIVAL, None) {
        Ok(Admission::Forward(admitted)) => Some(admitted),
        _ => None,
    }
}

fn headers_request() -> Subject {
    let snapshot = compile(EVERYTHING);
    let admitted = admitted(&request_parts(), &snapshot).expect("the request is valid");
    let identity = [(HeaderName::from_static("x-user-id"), HeaderValue::from_static("user-0001"))];
    let peer = HeaderValue::from_static("192.0.2.7");
    let request_id = HeaderValue::from_static("01939f2e-7c4a-7000-8000-0123456789ab");
    let fields = client_headers();
    Box::new(move || {
        let context = ForwardContext {
            prefix: None,
            host: None,
            has_content: false,
            survey: admitted.survey(),
            peer: &peer,
            peer_is_trusted: false,
            scheme: Scheme::Http,
            authority: admitted.authority(),
            method: &Method::GET,
            version: Version::HTTP_11,
            framing: Framing::None,
            request_id: &request_id,
            names: &snapshot.table.names,
            forward: &identity,
            rules: &snapshot.table.routes[0].header_rules().request,
            certificate: None,
            handshake: None,
            asks: headers::Asks::default(),
            facts: Facts { client: [192, 0, 2, 7].into(), request_id: &request_id, claims: None },
        };
        black_box(headers::write_request(black_box(&fields), "/items/7?fields=name,price", &context));
    })
}

fn headers_response() -> Subject {
    let snapshot = compile(PLAIN);
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("content-length", "120")
        .header("date", "Tue, 24 Nov 2026 17:19:55 GMT")
        .header("cache-control", "no-store")
        .header("etag", "\"5-1\"")
        .body(())
        .expect("the response is valid");
    let request_id = HeaderValue::from_static("01939f2e-7c4a-7000-8000-0123456789ab");
    let mut copies = Copies::of(response.headers().clone());
    Box::new(move || {
        let mut reading = headers::FramingReading::default();
        for (name, value) in black_box(&response).headers() {
            let read = reading.read(name, value.as_bytes(), Version::HTTP_11);
            black_box(read).expect("the response is valid");
        }
        let framing = reading.framing(response.status());
        let rules = &snapshot.table.routes[0].header_rules().response;
        let version = Version::HTTP_11;
        let context =
            ResponseContext { framing, version, request_id: &request_id, has_trailers: false, rules };
        headers::apply_response(black_box(copies.next()), &context);
    })
}

/// A whole request: client, worker and service in one thread, in memory. The number includes the work of client and
/// service, which is the same for all subjects.
fn proxied(routes: &str, header: &str) -> Subject {
    let request = format!("GET /items/7 HTTP/1.1\r\n{CLIENT_LINES}{header}\r\n");
    let mut harness = Harness::new(routes, Path::new(FIXTURES)).expect("the worker starts");
    let mut ask = move || {
        let response = harness.exchange(black_box(request.as_bytes())).expect("the worker answers");
        assert!(black_box(response).starts_with(b"HTTP/1.1 200 "));
    };
    (0..WARM_UP).for_each(|_| ask());
    Box::new(ask)
}

fn compile(routes: &str) -> Snapshot {
    testing::compile(routes, Path::new(FIXTURES)).expect("the configuration is valid").1
}

fn request_parts() -> Parts {
    let mut request =
        Request::builder().uri("/items/7?fields=name,price").body(()).expect("the URI is valid");
    *request.headers_mut() = client_headers();
    request.into_parts().0
}

fn client_headers() -> HeaderMap {
    let lines = CLIENT_LINES.split("\r\n").filter_map(|line| line.split_once(": "));
    let mut headers: HeaderMap = lines
        .map(|(name, value)| {
            let name = name.parse::<HeaderName>().expect("the name is valid");
            (name, HeaderValue::from_static(value))
        })
        .collect();
    let token = HeaderValue::try_from(format!("Bearer {TOKEN}")).expect("the token is visible ASCII");
    headers.insert(http::header::AUTHORIZATION, token);
    headers
}

/// Fresh copies for work that changes its input. They are made before [`BATCH`] calls and not during them; with a clock
/// that keeps running, each call has one copy.
struct Copies {
    original: HeaderMap,
    ready: Vec<HeaderMap>,
    used: Option<HeaderMap>,
}

impl Copies {
    fn of(original: HeaderMap) -> Self {
        let ready = vec![original.clone(); BATCH];
        Self { original, ready, used: None }
    }

    fn next(&mut self) -> &mut HeaderMap {
        let next = self.ready.pop().unwrap_or_else(|| self.original.clone());
        self.used.insert(next)
    }
}

/// The number of calls under one instruction count. Work that is done only now and then (a buffer is full) has its share
/// in it.
pub(crate) const BATCH: usize = 100;
const WARM_UP: usize = 200;

/// Within the token's life, which ends in the year 2100.
const NOW: u64 = 1_795_000_000;
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures");
const PLAIN: &str = include_str!("fixtures/plain.yaml");
const EVERYTHING: &str = include_str!("fixtures/everything.yaml");
const TOKEN: &str = include_str!("fixtures/token.txt");
const CLIENT_LINES: &str = "host: api.example\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0)\r\n\
    accept: application/json\r\naccept-language: en-GB,en;q=0.5\r\naccept-encoding: gzip, br\r\n\
    referer: https://shop.example/items\r\norigin: https://shop.example\r\n";
