//! API keys beside tokens: one identity for limits, requirements and forwarded header fields, whatever it comes from.

use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};

use crate::{
    commands::run,
    support::{
        backend::Backend,
        client::{Reply, get, header, http2, json, send, text},
        eventually,
        gateway::{TestGateway, write_config},
        tokens::{self, bearing, folder, token},
    },
};

/// A gateway with the providers `main` (tokens) and `partners` (API keys).
struct Guarded {
    gateway: TestGateway,
    backend: Backend,
    /// The key of `acme`, which may read orders. `slow` is the key of a client that may not.
    acme: String,
    slow: String,
}

impl Guarded {
    async fn start(route: &str) -> Self {
        let (dir, backend) = (folder(), Backend::named("one").await);
        let new = async |args: &[&str]| {
            let said = run(dir.path(), &[&["key", "new"], args, &["--file", "keys.yaml"]].concat()).await;
            said.expect(0, &["the key is shown this once"]);
            said.out.trim_end().to_owned()
        };
        let acme =
            new(&["acme", "--scope", "orders:read", "--role", "partner", "--claim", "tenant=blue"]).await;
        let slow = new(&["slow"]).await;
        let config = format!(
            "auth:\n  main: {{hs256_secret_file: {}, audience: api}}\n  \
             partners: {{api_keys_file: keys.yaml, from: [header:X-Api-Key, query:key], \
             forward: {{sub: X-Client, tenant: X-Tenant}}}}\n\
             routes:\n  - {{path: /**, service: one, {route}}}\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
            tokens::GOOD,
            backend.addr
        );
        let gateway = TestGateway::start_in(dir, &config).await;
        Self { gateway, backend, acme, slow }
    }

    async fn ask(&self, request: Request<Full<bytes::Bytes>>) -> Reply {
        send(self.gateway.http, request).await
    }
}

fn with_key(path: &str, key: &str) -> Request<Full<bytes::Bytes>> {
    let mut request = get(path);
    request.headers_mut().insert("x-api-key", key.parse().unwrap());
    request
}

fn code(reply: &Reply) -> (u16, String) {
    (reply.status().as_u16(), json(reply)["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_key_lets_its_client_in_and_the_service_learns_who_it_is() {
    let guarded = Guarded::start("auth: partners, require: {scope: orders:read}").await;
    let mut request = with_key("/orders", &guarded.acme);
    request.headers_mut().insert("x-client", "root".parse().unwrap());
    assert_eq!(guarded.ask(request).await.status(), 200);
    let seen = guarded.backend.only_seen();
    assert_eq!(
        (&seen.headers()["x-client"], &seen.headers()["x-tenant"]),
        (&"acme".parse().unwrap(), &"blue".parse().unwrap())
    );
    assert_eq!(guarded.ask(get(&format!("/orders?key={}", guarded.acme))).await.status(), 200);

    let missing = guarded.ask(get("/orders")).await;
    assert_eq!(code(&missing), (401, "token_missing".into()));
    assert_eq!(header(&missing, "www-authenticate"), r#"ApiKey realm="api""#);
    assert!(text(&missing).contains("An API key is required."), "{}", text(&missing));
    for wrong in ["mgk_wrong", &guarded.acme[..guarded.acme.len() - 1], "acme"] {
        let refused = guarded.ask(with_key("/orders", wrong)).await;
        assert_eq!(code(&refused), (401, "token_invalid".into()), "{wrong}");
    }
    let lacking = guarded.ask(with_key("/orders", &guarded.slow)).await;
    assert_eq!(code(&lacking), (403, "insufficient_scope".into()));
    let twice = guarded.ask(with_key(&format!("/orders?key={}", guarded.slow), &guarded.acme)).await;
    assert_eq!(code(&twice), (400, "bad_request".into()), "two different keys");
    for reason in ["unknown_key", "insufficient_scope", "token_repeated"] {
        let line = format!("millgate_auth_failures_total{{provider=\"partners\",reason=\"{reason}\"}}");
        let metrics = send(guarded.gateway.admin(), get("/metrics")).await;
        assert!(text(&metrics).contains(&line), "{line}");
    }
}

#[tokio::test]
async fn a_route_takes_a_token_or_a_key_and_says_so() {
    let guarded = Guarded::start("auth: [main, partners]").await;
    let token = token(guarded.gateway.dir.path(), tokens::GOOD, "ann");
    assert_eq!(guarded.ask(bearing(get("/x"), &token)).await.status(), 200);
    assert_eq!(guarded.ask(with_key("/x", &guarded.acme)).await.status(), 200);
    let missing = guarded.ask(get("/x")).await;
    assert_eq!(header(&missing, "www-authenticate"), r#"Bearer realm="api", ApiKey realm="api""#);
    assert!(text(&missing).contains("A bearer token or an API key is required."), "{}", text(&missing));
    // A key is not looked for where tokens stand, and the other way round. What was refused is named first.
    let no_token = guarded.ask(bearing(get("/x"), &guarded.acme)).await;
    assert_eq!(code(&no_token), (401, "token_invalid".into()));
    assert_eq!(
        header(&no_token, "www-authenticate"),
        r#"Bearer realm="api", error="invalid_token", ApiKey realm="api""#
    );
    let no_key = guarded.ask(with_key("/x", &token)).await;
    assert_eq!(code(&no_key), (401, "token_invalid".into()));
    assert_eq!(header(&no_key, "www-authenticate"), r#"ApiKey realm="api", Bearer realm="api""#);
    assert!(text(&no_key).contains("The API key is not acceptable."), "{}", text(&no_key));
    let odd = guarded.ask(with_key("/x", "$odd")).await;
    assert_eq!(code(&odd), (400, "bad_request".into()));
    assert!(text(&odd).contains("must have only letters, digits and"), "{}", text(&odd));
}

#[tokio::test]
async fn each_client_has_its_own_limit_and_no_part_of_a_users_with_the_same_name() {
    let guarded = Guarded::start("auth: [main, partners], rate_limit: 2/h per user").await;
    let token = token(guarded.gateway.dir.path(), tokens::GOOD, "acme");
    for _ in 0..2 {
        assert_eq!(guarded.ask(with_key("/x", &guarded.acme)).await.status(), 200);
    }
    assert_eq!(guarded.ask(with_key("/x", &guarded.acme)).await.status(), 429);
    assert_eq!(guarded.ask(with_key("/x", &guarded.slow)).await.status(), 200);
    assert_eq!(guarded.ask(bearing(get("/x"), &token)).await.status(), 200);
}

#[tokio::test]
async fn a_key_that_is_removed_stops_and_a_damaged_file_changes_nothing() {
    let guarded = Guarded::start("auth: partners").await;
    let file = guarded.gateway.dir.path().join("keys.yaml");
    let status = async |key: &str| guarded.ask(with_key("/x", key)).await.status().as_u16();
    assert_eq!((status(&guarded.acme).await, status(&guarded.slow).await), (200, 200));
    let before = std::fs::read_to_string(&file).unwrap();
    let (_, rest) = before.split_once("  - name: \"slow\"").unwrap();
    let replace = |text: &str| {
        let aside = file.with_extension("new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, &file).unwrap();
    };
    replace(&format!("keys:\n  - name: \"slow\"{rest}"));
    eventually("the removed key is refused", async || status(&guarded.acme).await == 401).await;
    assert_eq!(status(&guarded.slow).await, 200);
    replace("keys: [{name: slow}]");
    let events = async || text(&send(guarded.gateway.admin(), get("/api/v1/events")).await).to_owned();
    eventually("the damaged file is reported", async || events().await.contains("keys.yaml")).await;
    assert_eq!(status(&guarded.slow).await, 200);
}

#[tokio::test]
async fn a_key_that_is_removed_stops_also_while_another_part_of_the_configuration_is_wrong() {
    let guarded = Guarded::start("auth: partners").await;
    let status = async || guarded.ask(with_key("/x", &guarded.acme)).await.status().as_u16();
    assert_eq!(status().await, 200);
    let config = std::fs::read_to_string(guarded.gateway.dir.path().join("routes.yaml")).unwrap();
    let path = |name: &str| guarded.gateway.dir.path().join(name);
    std::fs::write(path("aside"), format!("{config}oops: 1\n")).unwrap();
    std::fs::rename(path("aside"), path("routes.yaml")).unwrap();
    std::fs::write(path("aside"), "keys: []\n").unwrap();
    std::fs::rename(path("aside"), path("keys.yaml")).unwrap();
    eventually("the removed key is refused", async || status().await == 401).await;
}

#[tokio::test]
async fn a_key_that_is_removed_stops_at_every_gateway_that_has_its_file() {
    let one = Guarded::start("auth: partners").await;
    let file = one.gateway.dir.path().join("keys.yaml");
    let config = format!(
        "auth: {{partners: {{api_keys_file: {}}}}}\nroutes: [{{path: /**, service: one, auth: partners}}]\n\
         services: {{one: {{hosts: [\"{}\"]}}}}\n",
        file.display(),
        one.backend.addr
    );
    let other = TestGateway::start(&config).await;
    let status = async |key: &str| {
        let replies = [one.ask(with_key("/x", key)).await, send(other.http, with_key("/x", key)).await];
        replies.map(|reply| reply.status().as_u16())
    };
    assert_eq!((status(&one.acme).await, status(&one.slow).await), ([200; 2], [200; 2]));
    let before = std::fs::read_to_string(&file).unwrap();
    let (_, rest) = before.split_once("  - name: \"slow\"").unwrap();
    std::fs::write(file.with_extension("new"), format!("keys:\n  - name: \"slow\"{rest}")).unwrap();
    std::fs::rename(file.with_extension("new"), &file).unwrap();
    eventually("both refuse the removed key", async || status(&one.acme).await == [401; 2]).await;
    assert_eq!(status(&one.slow).await, [200; 2]);
}

#[tokio::test]
async fn keys_count_over_http2_as_they_do_over_http1() {
    let guarded = Guarded::start("auth: partners, require: {scope: orders:read}").await;
    let mut client = http2::<Empty<bytes::Bytes>>(guarded.gateway.http).await;
    let mut ask = async |path: &str, keys: &[&str]| {
        let request = keys
            .iter()
            .fold(Request::get(format!("http://gw{path}")), |request, key| request.header("x-api-key", *key));
        client.ready().await.unwrap();
        let reply = client.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        let (parts, body) = reply.into_parts();
        Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
    };
    let (acme, slow) = (guarded.acme.as_str(), guarded.slow.as_str());
    assert_eq!(ask("/x", &[acme]).await.status(), 200);
    assert_eq!(guarded.backend.only_seen().headers()["x-client"], "acme");
    assert_eq!(ask(&format!("/x?key={acme}"), &[]).await.status(), 200);
    let missing = ask("/x", &[]).await;
    assert_eq!(code(&missing), (401, "token_missing".into()));
    assert_eq!(header(&missing, "www-authenticate"), r#"ApiKey realm="api""#);
    assert_eq!(code(&ask("/x", &["mgk_wrong"]).await), (401, "token_invalid".into()));
    assert_eq!(code(&ask("/x", &[slow]).await), (403, "insufficient_scope".into()));
    assert_eq!(code(&ask("/x", &[acme, slow]).await), (400, "bad_request".into()), "two different keys");
}

#[tokio::test]
async fn a_claim_that_no_header_can_carry_is_refused_when_its_file_is_read() {
    let guarded = Guarded::start("auth: partners").await;
    let dir = guarded.gateway.dir.path();
    let claim = format!("note={}", "x".repeat(5000));
    let words = ["`bob`: the claim `note` has more than 4096 bytes"];
    run(dir, &["key", "new", "bob", "--claim", &claim, "--file", "keys.yaml"]).await.expect(1, &words);
    let file = dir.join("keys.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(r#""tenant":"blue""#, r#""tenant":"blue\nX-Role: root""#)).unwrap();
    let words =
        ["the keys of `partners` cannot be used", "`acme`: the claim `tenant` has a control character"];
    run(dir, &["check", "-c", "routes.yaml"]).await.expect(1, &words);
    let report = guarded.gateway.reload().await.unwrap_err();
    assert!(report.contains(words[1]), "{report}");
    assert_eq!(guarded.ask(with_key("/x", &guarded.acme)).await.status(), 200, "the keys from before stay");
}

#[tokio::test]
async fn a_key_in_a_cookie_counts_beside_another_one() {
    let (dir, backend) = (folder(), Backend::named("one").await);
    let mut keys = Vec::new();
    for name in ["acme", "bob"] {
        keys.push(
            run(dir.path(), &["key", "new", name, "--file", "keys.yaml"]).await.out.trim_end().to_owned(),
        );
    }
    let config = format!(
        "auth: {{partners: {{api_keys_file: keys.yaml, from: [header:X-Api-Key, cookie:key]}}}}\n\
         routes: [{{path: /**, service: one, auth: partners}}]\nservices: {{one: {{hosts: [\"{}\"]}}}}\n",
        backend.addr
    );
    let gateway = TestGateway::start_in(dir, &config).await;
    let ask = async |header: Option<&str>, cookie: &str| {
        let mut request = header.map_or_else(|| get("/x"), |key| with_key("/x", key));
        request.headers_mut().insert("cookie", format!("key={cookie}").parse().unwrap());
        send(gateway.http, request).await.status().as_u16()
    };
    assert_eq!(ask(None, &keys[1]).await, 200);
    assert_eq!(ask(Some(&keys[0]), &keys[0]).await, 200, "the same one twice");
    assert_eq!(ask(Some(&keys[0]), &keys[1]).await, 400);
}

#[tokio::test]
async fn commands_that_add_keys_at_once_lose_none_and_follow_a_link() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real/keys.yaml", dir.path().join("keys.yaml")).unwrap();
    let mut commands = tokio::task::JoinSet::new();
    for number in 0..12 {
        let dir = dir.path().to_owned();
        commands.spawn(async move {
            run(&dir, &["key", "new", &format!("k{number}"), "--file", "keys.yaml"])
                .await
                .expect(0, &["is added"]);
        });
    }
    commands.join_all().await;
    assert!(std::fs::symlink_metadata(dir.path().join("keys.yaml")).unwrap().is_symlink());
    let text = std::fs::read_to_string(dir.path().join("real/keys.yaml")).unwrap();
    assert_eq!(text.matches("- name:").count(), 12, "{text}");
    assert_eq!(std::fs::read_dir(dir.path().join("real")).unwrap().count(), 1, "nothing is left beside it");
    run(dir.path(), &["key", "new", "a", "--file", "real"]).await.expect(1, &["real: "]);
    run(dir.path(), &["key", "new", "a", "--ttl", "100000y"]).await.expect(2, &["1s to 3650d"]);
    for file in [&[][..], &["--file", "fresh.yaml"]] {
        let args = [&["key", "new", "a", "--claim", "sub=root"], file].concat();
        run(dir.path(), &args).await.expect(1, &["the field `name`"]);
    }
    assert!(!dir.path().join("fresh.yaml").exists());
}

#[tokio::test]
async fn a_provider_has_keys_of_one_kind_and_the_command_leaves_a_wrong_file_alone() {
    let dir = folder();
    run(dir.path(), &["key", "new", "a", "--ttl", "1d"])
        .await
        .expect(0, &["- name: \"a\"", "sha256: ", "expires: "]);
    std::fs::write(dir.path().join("keys.yaml"), "keys: [{name: a}]\n").unwrap();
    run(dir.path(), &["key", "new", "b", "--file", "keys.yaml"])
        .await
        .expect(1, &["cannot be added", "sha256"]);
    assert_eq!(std::fs::read_to_string(dir.path().join("keys.yaml")).unwrap(), "keys: [{name: a}]\n");
    let routes =
        "routes: [{path: /, service: a, auth: partners}]\nservices: {a: {hosts: [\"192.0.2.1:1\"]}}\n";
    write_config(
        dir.path(),
        &format!("auth: {{partners: {{api_keys_file: keys.yaml, audience: api}}}}\n{routes}"),
    );
    let words = ["`audience` belongs to a provider that checks tokens"];
    run(dir.path(), &["check", "-c", "routes.yaml"]).await.expect(1, &words);
    for (fields, words) in [
        ("issuer: \"https://issuer.test\"", "`issuer` belongs to a provider that checks tokens"),
        ("from: []", "`from` names no place"),
        ("from: [header:Host]", "about the connection or the length"),
    ] {
        write_config(
            dir.path(),
            &format!("auth: {{partners: {{api_keys_file: keys.yaml, {fields}}}}}\n{routes}"),
        );
        run(dir.path(), &["check", "-c", "routes.yaml"]).await.expect(1, &[words]);
    }
    write_config(dir.path(), &format!("auth: {{partners: {{api_keys_file: keys.yaml}}}}\n{routes}"));
    let words = ["the keys of `partners` cannot be used", "keys.yaml", "sha256"];
    run(dir.path(), &["check", "-c", "routes.yaml"]).await.expect(1, &words);
}
