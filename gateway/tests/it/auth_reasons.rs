//! The access log says why a token was refused, in the word of the metric, and which claim it is about. The client learns less.
//!
//! Before: the log had `"flags":"token_invalid"` for all of them.

use crate::support::{
    backend::Backend,
    client::{get, send, text},
    eventually,
    gateway::TestGateway,
    tokens::{self, GOOD, WRONG, bearing, token, token_with},
};

#[tokio::test]
async fn the_log_line_of_a_refused_token_has_its_reason_and_its_claim() {
    let backend = Backend::named("one").await;
    let config = format!(
        "workers: 1\naccess_log: {{format: json, file: access.log}}\n\
         auth: {{main: {{hs256_secret_file: secret.key, audience: api, issuer: https://issuer.test, from: [bearer, query:t]}},\n\
         \x20 other: {{hs256_secret_file: wrong.key, audience: api}},\n\
         \x20 client: {{hs256_secret_file: secret.key, audience: none, require: {{claim: {{client_id: web}}}}, forward: {{act: X-Act}}}}}}\n\
         routes:\n  - {{path: /any, service: one, auth: main, require: {{scope: read}}}}\n\
         \x20 - {{path: /role, service: one, auth: main, require: {{role: staff}}}}\n\
         \x20 - {{path: /claim, service: one, auth: main, require: {{claim: {{sub: ann, org.unit: [red, blue]}}}}}}\n\
         \x20 - {{path: /client, service: one, auth: client}}\n\
         \x20 - {{path: /two, service: one, auth: [main, other]}}\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    let gateway = TestGateway::start_in(tokens::folder(), &config).await;
    let dir = gateway.dir.path();
    let good = |audience: &str, issuer: &str| {
        token_with(dir, GOOD, |options| {
            options.subject = "ann".into();
            options.audience = Some(audience.into());
            options.issuer = Some(issuer.into());
        })
    };
    let issuer = "https://issuer.test";
    let of_client = |client: &str, act: &str| {
        token_with(dir, GOOD, |options| {
            options.audience = None;
            options.claims = [("client_id", client), ("act", act)].map(|(n, v)| (n.into(), v.into())).into();
        })
    };
    let rows = [
        ("/client", of_client("web", "bob"), 200, "", ""),
        ("/client", of_client("app", "bob"), 401, "wrong_claim", "client_id"),
        ("/client", of_client("web", " bob"), 401, "not_forwardable", "act"),
        ("/client", good("api", "https://issuer.test"), 401, "wrong_audience", "aud"),
        ("/any", good("api", "https://evil.test"), 401, "wrong_issuer", "iss"),
        ("/any", good("other", issuer), 401, "wrong_audience", "aud"),
        ("/any", token(dir, WRONG, "ann"), 401, "bad_signature", ""),
        ("/any", "a.b.c".to_owned(), 401, "malformed", ""),
        ("/any", good("api", issuer), 403, "insufficient_scope", "scope"),
        ("/role", good("api", issuer), 403, "insufficient_scope", "role"),
        ("/claim", good("api", issuer), 403, "insufficient_scope", "org.unit"),
        ("/any?t=x", good("api", issuer), 400, "token_repeated", ""),
        // A token that one provider refuses and another accepts is not a failure.
        ("/two", token(dir, WRONG, "ann"), 200, "", ""),
    ];
    for (path, token, status, reason, claim) in &rows {
        let reply = send(gateway.http, bearing(get(path), token)).await;
        assert_eq!(reply.status(), *status, "{path} {reason}");
        if !reason.is_empty() && *reason != "insufficient_scope" {
            assert!(!text(&reply).contains(reason), "{}", text(&reply));
        }
        assert!(!claim.contains('.') || !text(&reply).contains(claim));
        assert!(claim.is_empty() || *status == 403 || !text(&reply).contains(&format!("\"{claim}\"")));
    }
    let log = dir.join("access.log");
    let lines = || -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    eventually("all lines are written", || async { lines().len() >= rows.len() }).await;
    for (line, (path, _, _, reason, claim)) in lines().iter().zip(&rows) {
        let field = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        assert_eq!(
            (field("auth_failure"), field("auth_claim")),
            ((*reason).into(), (*claim).into()),
            "{path}: {line}"
        );
    }
}
