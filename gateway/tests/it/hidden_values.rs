//! What may be a secret stands in no name: values of conditions are neither in metrics nor in logs, the admin API or errors.
//!
//! Before: `match_headers: {X-Api-Key: "${KEY}"}` put the key into the name that is made for the route.

use std::{path::Path, process::Stdio};

use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    commands::millgate,
    support::{
        DEADLINE,
        backend::Backend,
        client::{get, header, json, send, text},
        eventually,
        gateway::TestGateway,
        tokens::{self, GOOD, bearing, token},
    },
};

fn config(backend: &Backend, keys: [&str; 2]) -> String {
    let route = |key: &str, limit: u32| {
        format!(
            "  - {{path: /x, service: one, match_headers: {{X-Api-Key: {key}}}, rate_limit: {limit}/h per route}}\n"
        )
    };
    let limit = |key: &str| if key == "correct-horse" { 1 } else { 2 };
    format!(
        "access_log: {{format: json, file: access.log}}\nroutes:\n{}{}services: {{one: {{hosts: [\"{}\"]}}}}\n",
        route(keys[0], limit(keys[0])),
        route(keys[1], limit(keys[1])),
        backend.addr
    )
}

#[tokio::test]
async fn the_value_of_a_condition_is_shown_nowhere_and_its_route_keeps_its_name() {
    let backend = Backend::named("one").await;
    let gateway = TestGateway::start(&config(&backend, ["correct-horse", "battery-staple"])).await;
    let ask = |key: &'static str| {
        let mut request = get("/x");
        request.headers_mut().insert("x-api-key", key.parse().unwrap());
        send(gateway.http, request)
    };
    assert_eq!(ask("correct-horse").await.status(), 200);
    let refused = ask("correct-horse").await;
    assert_eq!(
        (refused.status().as_u16(), json(&refused)["route"].as_str()),
        (429, Some("/x [x-api-key] #2"))
    );
    assert_eq!(header(&ask("battery-staple").await, "ratelimit").split(';').nth(1), Some("r=1"));
    // Written in the other order, it is the same route: its limit is used up.
    gateway.rewrite(&config(&backend, ["battery-staple", "correct-horse"]));
    gateway.reload().await.unwrap();
    let again = ask("correct-horse").await;
    assert_eq!((again.status().as_u16(), json(&again)["route"].as_str()), (429, Some("/x [x-api-key] #2")));
    let log = gateway.dir.path().join("access.log");
    let written = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually("the log is written", || async { written().lines().count() >= 4 }).await;
    let mut shown = vec![written(), text(&refused).to_owned()];
    for path in ["/metrics", "/api/v1/routes", "/api/v1/services", "/api/v1/events"] {
        shown.push(text(&send(gateway.admin(), get(path)).await).to_owned());
    }
    assert!(shown[0].contains("/x [x-api-key]"), "{}", shown[0]);
    for shown in shown {
        assert!(!shown.contains("horse") && !shown.contains("staple"), "{shown}");
    }
}

/// A configuration whose texts come from variables. Names of services and addresses are shown by their nature.
fn from_variables(backend: &Backend) -> String {
    format!(
        r#"version: 1
workers: 1
listen: {{http: "127.0.0.1:0", admin: "127.0.0.1:0"}}
discovery: {{consul: {{address: "http://127.0.0.1:1", token: "${{M_TOKEN}}"}}}}
access_log: {{format: json, file: access.log}}
auth:
  remote:
    issuer: "http://127.0.0.1:1/${{M_ISSUER}}"
    jwks: "http://127.0.0.1:1/${{M_JWKS}}?key=${{M_QUERY}}"
    audience: ["${{M_AUDIENCE}}"]
    from: [bearer, "cookie:${{M_COOKIE}}", "header:X-${{M_FROM}}"]
    forward: {{sub: "X-${{M_FORWARD}}"}}
  found: {{issuer: "http://127.0.0.1:1/${{M_FOUND}}", audience: none, require: {{claim: {{azp: "${{M_AZP}}"}}}}}}
  local: {{hs256_secret_file: secret.key, audience: api}}
policies:
  strict: {{require: {{role: "${{M_ROLE}}", claim: {{tenant: ["${{M_TENANT}}", "${{M_OTHER}}"]}}}}}}
routes:
  - path: "/hooks/${{M_PATH}}/**"
    host: "${{M_HOST}}.example"
    match_headers: {{X-Key: "${{M_KEY}}"}}
    service: one
    use: strict
    auth: [local, remote, found]
    rate_limit: "${{M_RATE}}/h per header:X-Any"
    rewrite: {{add: "/${{M_ADD}}"}}
    headers: {{request: {{set: {{X-Set: "${{M_SET}}"}}}}, response: {{set: {{X-Answer: "${{M_ANSWER}}"}}}}}}
  - {{path: "/moved", redirect: "https://x.test/${{M_REDIRECT}}", auth: none}}
  - {{path: "/closed/${{M_CLOSED}}", service: one, auth: local}}
  - {{path: "/**", service: one, auth: none}}
services:
  one: {{hosts: ["{}"]}}
"#,
        backend.addr
    )
}

const VARIABLES: [&str; 20] = [
    "TOKEN", "ISSUER", "JWKS", "QUERY", "AUDIENCE", "COOKIE", "FROM", "FORWARD", "FOUND", "AZP", "ROLE",
    "TENANT", "OTHER", "PATH", "HOST", "KEY", "ADD", "SET", "ANSWER", "REDIRECT",
];

/// A name that stands nowhere else, whatever becomes of its letters.
fn marker(variable: &str) -> String {
    format!("Zq7{}", variable.to_lowercase())
}

fn command(dir: &Path, args: &[&str]) -> tokio::process::Command {
    let mut command = millgate(dir, args);
    for variable in VARIABLES.iter().chain(&["CLOSED"]) {
        command.env(format!("M_{variable}"), marker(variable));
    }
    command.env("M_RATE", "1");
    command
}

#[track_caller]
fn assert_hidden(what: &str, shown: &str) {
    let is_shown = shown.to_lowercase().contains("zq7");
    assert!(!is_shown, "{what} shows what came from a variable:\n{shown}");
}

#[tokio::test]
async fn what_came_from_a_variable_is_shown_nowhere_but_as_it_is_written() {
    let backend = Backend::named("one").await;
    let dir = tokens::folder();
    std::fs::write(dir.path().join("routes.yaml"), from_variables(&backend)).unwrap();
    for args in
        [&["check"][..], &["check", "--json"], &["check", "--online"], &["routes"], &["routes", "--json"]]
    {
        let output = command(dir.path(), args).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert_hidden(&args.join(" "), &said);
        let word = match args {
            ["check", "--online"] => "${M_JWKS}?key=${M_QUERY}",
            ["check", ..] => "/closed/${M_CLOSED}/",
            _ => "/hooks/${M_PATH}/**",
        };
        assert!(said.contains(word), "{args:?}: {said}");
    }

    let mut run = command(dir.path(), &["run", "--state-dir", "state"]);
    let mut child =
        run.env("RUST_LOG", "millgate=trace,millgate_registry=trace").stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut log, mut http, mut admin) = (String::new(), None, None);
    while http.is_none() || admin.is_none() {
        let line = tokio::time::timeout(DEADLINE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let address = |name: &str| {
            line.strip_prefix(name).and_then(|rest| rest.trim().strip_prefix("http://")?.parse().ok())
        };
        (http, admin) = (http.or(address("http ")), admin.or(address("admin ")));
        log.push_str(&(line + "\n"));
    }
    let (http, admin) = (http.unwrap(), admin.unwrap());
    let log = std::sync::Arc::new(std::sync::Mutex::new(log));
    let written = std::sync::Arc::clone(&log);
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            written.lock().unwrap().push_str(&(line + "\n"));
        }
    });
    let good = token(dir.path(), GOOD, "ann");
    let ask = async |path: &str, token: &str| {
        let mut request = bearing(get(path), token);
        let fields = [("host", format!("{}.example", marker("HOST"))), ("x-key", marker("KEY"))];
        for (name, value) in fields {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        send(http, request).await
    };
    let hook = format!("/hooks/{}/x", marker("PATH"));
    for (path, token, status) in
        [(&*hook, "a.b.c", 401), (&hook, &good, 429), ("/moved", "", 308), ("/x", "", 200)]
    {
        let reply = ask(path, token).await;
        assert_eq!(reply.status(), status, "{path}");
        // What answers are made of is for their clients.
        if status != 308 {
            assert_hidden(path, text(&reply));
        }
    }
    for (path, word) in [
        ("/metrics", "route=\"${M_HOST}.example/hooks/${M_PATH}/** [x-key]\""),
        ("/readyz?verbose", ""),
        ("/api/v1/routes", "https://x.test/${M_REDIRECT}"),
        ("/api/v1/services", "one"),
        ("/api/v1/keys", "http://127.0.0.1:1/${M_ISSUER}"),
        ("/api/v1/events", ""),
        ("/", ""),
    ] {
        let mut request = get(path);
        request.headers_mut().insert("host", "localhost".parse().unwrap());
        let reply = send(admin, request).await;
        assert!(word.is_empty() || reply.status() == 200, "{path}");
        assert_hidden(path, text(&reply));
        assert!(text(&reply).contains(word), "{path}: {}", text(&reply));
    }
    let access = || std::fs::read_to_string(dir.path().join("access.log")).unwrap_or_default();
    eventually("each request has its line", || async { access().lines().count() == 4 }).await;
    for line in access().lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        // The request's own.
        for field in ["path", "host"] {
            line.as_object_mut().unwrap().remove(field);
        }
        assert_hidden("the access log", &line.to_string());
    }
    eventually("the keys could not be fetched", || async {
        log.lock().unwrap().matches("keys could not be fetched").count() >= 2
    })
    .await;
    let log = log.lock().unwrap().clone();
    assert!(log.contains("/${M_JWKS}?key=${M_QUERY}") && log.contains("/${M_FOUND}/"), "{log}");
    assert_hidden("the log", &log);
}

/// Wrong everywhere: each value is refused, none is quoted.
#[tokio::test]
async fn no_refusal_of_a_value_quotes_what_came_from_a_variable() {
    let dir = tempfile::tempdir().unwrap();
    let fields = [
        "path",
        "service",
        "host",
        "methods",
        "match_headers: {X-Key",
        "redirect",
        "auth",
        "require",
        "require: {claim: {a",
        "use",
        "rate_limit",
        "timeout",
        "retry",
        "body_limit",
        "body",
        "allow_in_path",
        "subset",
        "clients",
        "cors",
        "priority",
        "rewrite",
        "headers: {request: {set: {Host",
        "headers: {request: {remove",
        "access_log",
        "case_insensitive",
        "trailing_slash",
    ];
    let mut config = String::from(
        "version: 1\nlisten: {http: \"${M_HOST}\", admin: \"${M_HOST}\", trusted_proxies: \"${M_KEY}\", https: {bind: \"${M_KEY}\", \
         cert_file: \"${M_KEY}\", key_file: \"${M_KEY}\"}}\ndiscovery: {consul: {address: \"http://${M_KEY}:${M_TOKEN}@127.0.0.1:1\", \
         token: \"${M_TOKEN}\", token_file: \"${M_TOKEN}\", ca_file: \"${M_KEY}\"}}\naccess_log: {format: \"${M_KEY}\", file: \"${M_KEY}/x\"}\n\
         auth:\n  a: {hs256_secret: \"${M_KEY}\", audience: x}\n  b: {hs256_secret_file: \"${M_KEY}\", audience: \"${M_KEY}\"}\n  \
         c: {jwks: \"http://${M_KEY}:${M_TOKEN}@127.0.0.1:1/\", algorithms: \"${M_KEY}\", from: \"${M_KEY}\", audience: x}\nroutes:\n",
    );
    for field in fields {
        let ends = "}".repeat(field.matches('{').count());
        let path = if field == "path" { "" } else { "path: /x, " };
        let value = "\"${M_PATH} ${M_KEY}\"";
        config.extend(["  - {", path, field, ": ", value, &ends, "}\n"]);
    }
    std::fs::write(dir.path().join("routes.yaml"), config).unwrap();
    for args in [&["check"][..], &["check", "--json"], &["run"], &["routes"]] {
        let output = command(dir.path(), args).output().await.unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!output.status.success() && said.matches("E0").count() > 20, "{said}");
        assert_hidden(&args.join(" "), &said);
    }
    let mut command = command(dir.path(), &["services", "list"]);
    let output =
        command.env("CONSUL_HTTP_ADDR", "http://zq7user:zq7password@127.0.0.1:1").output().await.unwrap();
    assert!(!output.status.success());
    assert_hidden("services list", &String::from_utf8([output.stdout, output.stderr].concat()).unwrap());
}
