//! Loading: from `routes.yaml` on disk to [`Settings`], or to a report of all errors.
//!
//! Loading is all or nothing and changes no state, so a reload may try it at any time and keep the running
//! configuration. It reads the file itself and the files that it names (secrets, keys, certificates), and no
//! other files.

use std::path::{Path, PathBuf};

use super::{
    advice::ADVICE,
    raw,
    resolve::{self, files::Files},
    settings::Settings,
    twins,
};
use crate::{
    bounded_file,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Report, Severity, Source, Span, code},
        environment::Environment,
    },
};

/// A configuration that can run.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub settings: Settings,
    pub warnings: Vec<Diagnostic>,
    pub source: Source,
    /// The files that the configuration names, to be watched together with the file itself.
    pub secrets_and_files: Vec<PathBuf>,
}

impl Loaded {
    /// The warnings as a report, for printing.
    pub fn report(&self) -> Report {
        self.refuse(self.warnings.clone())
    }

    /// A report of errors that a later stage found, with the same text.
    pub fn refuse(&self, diagnostics: Vec<Diagnostic>) -> Report {
        Report::new(self.source.clone(), diagnostics).with_files(self.secrets_and_files.clone())
    }
}

/// Loads a configuration file. `env` looks up environment variables: those of `${NAME}`, and Consul's own.
///
/// # Errors
/// The file cannot be read, or its configuration is not valid; the report has all errors.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Report> {
    let text = read_text(path).map_err(|reason| unreadable(path, &reason))?;
    let base_dir = path.parent().unwrap_or(Path::new(""));
    let source = Source::of_path(path, text);
    parse(&source.name, &source.text, base_dir, env)
}

/// Loads a configuration from its text, as [`load()`] does. Relative names of files start at `base_dir`.
pub fn parse(
    name: &str,
    text: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Report> {
    parse_in(name, text, base_dir, Environment::of_file(env))
}

/// Loads a configuration as [`parse`] does, with the environment that the text may use.
pub(super) fn parse_in(
    name: &str,
    text: &str,
    base_dir: &Path,
    env: Environment<'_>,
) -> Result<Loaded, Report> {
    let mut sink = Diagnostics::with(&ADVICE);
    let mut files = Files::new(base_dir);
    let source = Source::new(name, text);
    let settings =
        raw::read(text, env, &mut sink).map(|file| resolve::resolve(&file, &mut files, env, &mut sink));
    let failed = sink.has_errors();
    let mut diagnostics = without_echoes(sink.into_vec());
    if let (Some(settings), false) = (&settings, failed) {
        diagnostics.extend(twins::warnings(settings));
    }
    match settings {
        Some(settings) if !failed => {
            debug_assert!(diagnostics.iter().all(|d| d.severity == Severity::Warning));
            Ok(Loaded { settings, warnings: diagnostics, source, secrets_and_files: files.into_paths() })
        }
        _ => Err(Report::new(source, diagnostics).with_files(files.into_paths())),
    }
}

/// Removes warnings that a value is taken as text if the same value is also refused.
fn without_echoes(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let refused: Vec<Span> =
        diagnostics.iter().filter(|d| d.severity == Severity::Error).map(|d| d.span).collect();
    diagnostics.retain(|d| d.code != code::TAKEN_AS_TEXT || !refused.contains(&d.span));
    diagnostics
}

fn read_text(path: &Path) -> Result<String, String> {
    let bytes = bounded_file::read_any(path).map_err(|error| error.to_string())?;
    String::from_utf8(bytes).map_err(|_| "the file is not UTF-8 text".to_owned())
}

fn unreadable(path: &Path, reason: &str) -> Report {
    let finding = Diagnostic::error(
        code::UNREADABLE,
        Span::default(),
        format!("cannot read the configuration: {reason}"),
    )
    .help("name another file with `-c FILE`; the smallest one has `version: 1` and one route");
    Report::new(Source::of_path(path, String::new()), vec![finding])
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use http::{HeaderName, HeaderValue, Method};

    use super::*;
    use crate::{
        auth::provider::Provider,
        clock, compile,
        config::settings::{
            ConsulSource, EndpointSource, Http2Settings, HttpSettings, ListenSettings, RouteSettings,
        },
        policy::{
            auth,
            balance::Balance,
            rate_limit::{KeyBudget, RateLimitKey, RateLimitSpec},
            rate_limits::specs,
            require::Requirement,
            timeout::{self, Timeouts},
        },
        proxy_protocol::ProxyProtocol,
        router::{HeaderCondition, HostPattern},
    };

    const AUTH: &str = "auth: {main: {issuer: https://issuer.test, audience: api}}\n";

    fn no_env(_: &str) -> Option<String> {
        None
    }

    fn check(text: &str) -> Settings {
        parse("routes.yaml", text, Path::new(""), &no_env)
            .unwrap_or_else(|report| panic!("{report}"))
            .settings
    }

    /// One route from the text of its fields, with `top` in front of `routes`.
    fn check_route(top: &str, fields: &str) -> RouteSettings {
        check(&format!("version: 1\n{top}routes:\n  - {{path: /a, service: a, {fields}}}\n")).routes.remove(0)
    }

    fn limits(route: &RouteSettings, is_open: bool) -> Vec<RateLimitSpec> {
        specs(route.policies.rate_limit.as_deref(), is_open)
    }

    fn timeouts(route: &RouteSettings) -> Timeouts {
        Timeouts::of(&route.policies.timeout)
    }

    fn check_listen(fields: &str) -> ListenSettings {
        check(&format!("version: 1\nlisten: {{{fields}}}\nroutes: [{{path: /, service: s}}]\n")).listen
    }

    fn codes(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Vec<&'static str> {
        match parse("routes.yaml", text, Path::new(""), env) {
            Ok(loaded) => loaded.warnings.iter().map(|d| d.code).collect(),
            Err(report) => report.diagnostics.iter().map(|d| d.code).collect(),
        }
    }

    #[test]
    fn an_api_key_is_in_no_finding_wherever_it_was_pasted() {
        let key = crate::auth::api_key::new_key().unwrap();
        for line in [
            "auth: {main: {api_keys: [{name: a, key: KEY}]}}",
            "auth: {main: {api_keys_file: KEY, from: KEY}}",
            "auth: {main: {KEY: 1}}",
            "auth: {main: {issuer: KEY, audience: a}}",
            "KEY: 1",
            "listen: {http: KEY}",
            "services: {KEY: {hosts: [KEY], protocol: KEY}}",
        ] {
            let text = format!("version: 1\n{}\nroutes: []\n", line.replace("KEY", &key));
            let report = parse("routes.yaml", &text, Path::new(""), &|_| None).err().unwrap();
            let shown = report.render(false);
            assert!(report.errors() > 0 && !shown.contains(&key), "{line}: {shown}");
            assert!(report.diagnostics.iter().all(|found| !found.message.contains(&key)), "{line}");
        }
    }

    #[test]
    fn the_plain_case_is_two_lines_and_everything_else_has_a_default() {
        let settings = check("version: 1\nroutes:\n  - path: /users/**\n    service: users\n");
        let bind = "0.0.0.0:8080".parse().unwrap();
        let http = HttpSettings { name: "http".into(), bind, proxy_protocol: ProxyProtocol::Off };
        assert_eq!(settings.listen.http, [http]);
        assert_eq!(settings.listen.admin, Some("127.0.0.1:9900".parse().unwrap()));
        assert_eq!(settings.consul.unwrap().address, "http://127.0.0.1:8500");
        let route = &settings.routes[0];
        assert_eq!((route.name.as_str(), timeouts(route).total()), ("/users/**", Duration::from_secs(15)));
        assert_eq!((route.policies.retry.retries(), route.policies.body_limit), (1, None));
        let service = &settings.services[route.service.unwrap()];
        let source = EndpointSource::Consul(ConsulSource::service("users"));
        assert_eq!((service.name.as_str(), &service.source), ("users", &source));
        assert!(service.policies.breaker.is_some());
    }

    #[test]
    fn the_example_configuration_loads() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../routes.yaml");
        let loaded = load(&path, &no_env).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.warnings, []);
        let names: Vec<_> = loaded.settings.services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["users", "products", "orders"]);
    }

    #[test]
    fn the_file_that_tests_and_benchmarks_write_loads() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("jwks.json"), "{\"keys\": []}").unwrap();
        let path = dir.path().join("routes.yaml");
        std::fs::write(
            &path,
            "version: 1\n\
             workers: 1\n\
             listen: {http: 127.0.0.1:0, admin: 127.0.0.1:0}\n\
             auth:\n  main: {issuer: https://issuer.test, audience: api, jwks_file: jwks.json}\n\
             routes:\n\
             \x20 - {path: /open/**, service: products, auth: none}\n\
             \x20 - {path: /products/**, service: products, auth: main, rate_limit: 100000/s per user}\n\
             services:\n  products: {hosts: [\"127.0.0.1:9001\", \"127.0.0.1:9002\"], balance: p2c}\n\
             access_log: {format: off}\n",
        )
        .unwrap();
        let loaded = load(&path, &no_env).unwrap_or_else(|report| panic!("{report}"));
        let settings = loaded.settings;
        assert!(settings.consul.is_none(), "no service needs a registry");
        assert_eq!(settings.auth[0].keys, crate::auth::jwt::tests::jwks_file(dir.path().join("jwks.json")));
        let shown = Provider::compile(&settings.auth[0], vec![]).unwrap();
        assert_eq!(shown.authenticator.shown_issuer(), Some("https://issuer.test"));
        assert_eq!(settings.services[0].policies.balance, Balance::P2c);
        let providers =
            |at: usize| auth::names(settings.routes[at].policies.auth.as_ref()).collect::<Vec<_>>();
        assert_eq!((providers(0), providers(1)), (vec![], vec!["main"]));
        assert_eq!(limits(&settings.routes[1], false)[0].key, RateLimitKey::User);
        assert_eq!(loaded.secrets_and_files, [dir.path().join("jwks.json")]);
    }

    #[test]
    fn defaults_then_policies_then_the_route_decide() {
        let top = "defaults: {timeout: {total: 20s, connect: 2s}, retry: 3, rate_limit: [1/s, 2/m]}\n\
                   policies:\n  slow: {timeout: 40s, retry: {budget: 10%}}\n  slower: {timeout: 50s}\n";
        let route = check_route(top, "use: [slower, slow], rate_limit: 9/s, timeout: {idle: 5s}");
        let now = clock::now();
        assert_eq!(timeouts(&route).total(), Duration::from_secs(40), "the later policy wins");
        let connect = timeouts(&route).apply(now).connect(now);
        assert_eq!(connect, now + Duration::from_secs(2), "maps merge by key");
        assert_eq!(timeouts(&route).idle(), Duration::from_secs(5), "the route's own keys are kept");
        assert_eq!((route.policies.retry.retries(), route.policies.retry.budget()), (3, 0.1));
        assert_eq!(limits(&route, true).len(), 1, "lists replace");
        let route = check_route(top, "use: [slow, slower], rate_limit: off, retry: off");
        assert_eq!((timeouts(&route).total(), limits(&route, true).len()), (Duration::from_secs(50), 0));
        assert_eq!(route.policies.retry.retries(), 0);
    }

    #[test]
    fn header_rules_merge_by_name() {
        let top = "defaults: {headers: {request: {set: {X-A: 1, X-B: 1}, remove: [X-C]}}}\n";
        let rules = check_route(top, "headers: {request: {set: {x-b: 2}}}").policies.headers.request.rules();
        let set: Vec<_> = rules.set.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(set, [("x-a", &b"1"[..]), ("x-b", &b"2"[..])]);
        assert_eq!(rules.remove.len(), 1);
    }

    #[test]
    fn a_requirement_is_inherited_by_key_and_can_be_taken_back() {
        let top =
            format!("{AUTH}defaults: {{auth: main, require: {{scope: read, claim: {{a: 1, b: 1}}}}}}\n");
        let required =
            |top: &str, fields: &str| Requirement::of(check_route(top, fields).policies.require.as_ref());
        let inherited = required(&top, "require: {role: staff, claim: {b: 2}}");
        let whole = "auth: main, require: {scope: read, role: staff, claim: {a: 1, b: 2}}";
        assert_eq!(inherited, required(AUTH, whole));
        assert!(!inherited.is_empty() && required(&top, "require: none").is_empty());
    }

    #[test]
    fn a_short_form_means_the_same_as_its_long_form() {
        let top = AUTH;
        for (short, long) in [
            ("timeout: 3s", "timeout: {total: 3s}"),
            ("retry: 2", "retry: {retries: 2}"),
            ("retry: off", "retry: {retries: 0}"),
            ("rate_limit: 5/m burst 3 per ip", "rate_limit: {rate: 5/m, burst: 3, per: ip}"),
            ("rate_limit: 5/m", "rate_limit: [5/m per user]"),
            ("require: {scope: a b}", "require: {scope: [a, b]}"),
            ("methods: GET|PUT", "methods: [GET, PUT]"),
        ] {
            let read = |fields: &str| {
                let text =
                    format!("version: 1\n{top}routes:\n  - {{path: /a, service: a, auth: main, {fields}}}\n");
                let budget = Arc::new(KeyBudget::new(1, clock::now()));
                let table = compile::table(&check(&text), None, &budget).unwrap();
                serde_json::to_string(&*table.routes[0].view).unwrap()
            };
            assert_eq!(read(short), read(long), "{short}");
        }
    }

    #[test]
    fn a_limit_without_a_key_is_per_user_behind_auth_and_per_ip_on_open_routes() {
        assert_eq!(
            limits(&check_route(AUTH, "auth: main, rate_limit: 1/s"), false)[0].key,
            RateLimitKey::User
        );
        let text =
            format!("version: 1\n{AUTH}routes: [{{path: /a, service: a, auth: none, rate_limit: 1/s}}]\n");
        assert_eq!(limits(&check(&text).routes[0], true)[0].key, RateLimitKey::Ip);
    }

    #[test]
    fn each_of_several_limits_has_its_own_name() {
        let route = check_route("", "rate_limit: [1/s per ip, 9/m per ip, \"5/s per header:X-Key\"]");
        let all = limits(&route, true);
        let names: Vec<_> = all.iter().map(|limit| limit.name.as_str()).collect();
        assert_eq!(names, ["ip", "ip-2", "header-x-key"]);
        assert_eq!(limits(&check_route("", "rate_limit: 1/s"), true)[0].name, "default");
    }

    #[test]
    fn an_inherited_attempt_timeout_never_exceeds_the_total() {
        let route = check_route("defaults: {timeout: {try: 10s}}\n", "timeout: 3s");
        let alone = timeout::Written::total(Some(Duration::from_secs(3)));
        assert_eq!(timeouts(&route), Timeouts::of(&alone), "without a time for each attempt");
    }

    #[test]
    fn what_can_be_switched_off_can_be_switched_on() {
        let settings = |limits: &str, service: &str| {
            let text = format!(
                "version: 1\nroutes: [{{path: /a, service: a}}]\n{limits}services: {{a: {{hosts: [\"127.0.0.1:1\"]{service}}}}}\n"
            );
            parse("routes.yaml", &text, Path::new(""), &no_env).unwrap_or_else(|e| panic!("{e}")).settings
        };
        let usual = settings("", "");
        let on = settings(
            "limits: {per_connection: on, per_client: on, uploads: on}\n",
            ", breaker: on, outlier: on",
        );
        let [on_shares, usual_shares] = [&on, &usual].map(|settings| settings.services[0].shares);
        assert_eq!(
            on_shares,
            crate::policy::concurrency::ShareSettings { per_client: Some(125), ..usual_shares }
        );
        let policies = |settings: &Settings| {
            let one = &settings.services[0];
            format!("{:?} {:?}", one.policies.breaker, one.policies.outlier)
        };
        assert_eq!(policies(&on), policies(&usual));
    }

    #[test]
    fn a_list_that_takes_the_place_of_a_default_that_protects_is_said() {
        for (list, is_said) in
            [("[X-Foo]", true), ("[default, X-Foo]", false), ("[X-Foo, client-cert]", false), ("[]", false)]
        {
            let text = format!(
                "version: 1\nlisten: {{headers: {{untrusted: {list}}}}}\nroutes: [{{path: /a, service: a}}]\n"
            );
            let loaded =
                parse("routes.yaml", &text, Path::new(""), &no_env).unwrap_or_else(|e| panic!("{e}"));
            let said = loaded.warnings.iter().any(|warning| warning.code == code::DEFAULT_REPLACED);
            assert_eq!(said, is_said, "{list}");
        }
    }

    #[test]
    fn what_can_have_no_effect_is_said_once_where_it_stands() {
        let found = |top: &str, fields: &str| {
            let route = format!("path: /a, service: a, {fields}");
            let text = format!("version: 1\n{top}routes:\n  - {{{route}}}\n  - {{{route}, methods: GET}}\n");
            let loaded =
                parse("routes.yaml", &text, Path::new(""), &no_env).unwrap_or_else(|e| panic!("{e}"));
            let of_kind = loaded.warnings.iter().filter(|warning| warning.code == code::NO_EFFECT);
            of_kind.map(|warning| (warning.span.line, warning.message.clone())).collect::<Vec<_>>()
        };
        let longer = |name: &str| format!("`timeout.{name}` is longer than `timeout.total`");
        for (top, fields, expected) in [
            ("", "timeout: {connect: 20s}", vec![(3, longer("connect")), (4, longer("connect"))]),
            ("", "timeout: {total: 2s, connect: 5s}", vec![(3, longer("connect")), (4, longer("connect"))]),
            ("defaults: {timeout: {try: 20s}}\n", "priority: 1", vec![(2, longer("try"))]),
            (
                "policies: {p: {timeout: {try: 20s, connect: 30s}}}\n",
                "use: p",
                vec![(2, longer("connect")), (2, longer("try"))],
            ),
            // The shorter total is the route's own; what it inherits is right elsewhere.
            ("defaults: {timeout: {try: 10s, connect: 5s}}\n", "timeout: 3s", vec![]),
            ("", "timeout: 500ms", vec![]),
            ("", "timeout: {total: 60s, try: 20s, connect: 20s}", vec![]),
            (
                "defaults: {retry: {methods: [GET, POST], body: 0B}}\n",
                "priority: 1",
                vec![(
                    2,
                    "`retry.methods` has `POST`, and `retry.body` keeps no body to send again".to_owned(),
                )],
            ),
            ("", "retry: {methods: [GET], body: off}", vec![]),
            ("", "retry: {body: off}", vec![]),
            ("", "retry: {retries: 0, methods: [POST], body: off}", vec![]),
            (
                "defaults: {retry: {retries: 0, on: [connect]}}\n",
                "priority: 1",
                vec![(2, "`retry.on` beside `retries: 0`".to_owned())],
            ),
            (
                "defaults: {retry: {on: []}}\n",
                "priority: 1",
                vec![(2, "`retry.on` is an empty list".to_owned())],
            ),
            (
                "services: {a: {hosts: [\"127.0.0.1:1\"], breaker: {count: []}}}\n",
                "priority: 1",
                vec![(2, "`breaker.count` is an empty list".to_owned())],
            ),
            ("", "retry: {methods: [POST]}", vec![]),
        ] {
            assert_eq!(found(top, fields), expected, "{top}{fields}");
        }
    }

    #[test]
    fn a_refusal_names_the_unit_and_the_reason() {
        let refused = |text: &str| {
            let text = format!("version: 1\n{text}");
            parse("routes.yaml", &text, Path::new(""), &no_env).unwrap_err().to_string()
        };
        for rate in ["240", "0B/s", "9TB/s", "fast"] {
            let report =
                refused(&format!("routes: [{{path: /a, service: a, timeout: {{min_rate: {rate}}}}}]\n"));
            assert!(report.contains("bytes per second such as `240B/s`"), "{report}");
        }
        for (name, reason) in [
            ("Host", "the gateway writes it anew whoever sends it"),
            ("Connection", "it ends at this gateway"),
            ("Authorization", "which `auth` checks"),
            ("X-Forwarded-For", "removed unless a trusted proxy sends it"),
            ("X-Request-Id", "the gateway writes it itself"),
            ("defaults", "write `default`"),
            ("Default", "write `default`"),
        ] {
            let report = refused(&format!("listen: {{headers: {{untrusted: [{name}]}}}}\nroutes: []\n"));
            assert!(report.contains(reason), "{name}: {report}");
        }
    }

    #[test]
    fn headers_of_plain_values_are_conditions_and_headers_of_maps_are_rules() {
        let beta = HeaderName::from_static("x-beta");
        let one = HeaderCondition { name: beta.clone(), value: Some(HeaderValue::from_static("1")) };
        assert_eq!(check_route("", "headers: {X-Beta: \"1\"}").headers, std::slice::from_ref(&one));
        let route = check_route(
            "",
            "match_headers: {X-Beta: 1}, headers: {request: {set: {X-Beta: 2}, remove: X-Old}}",
        );
        assert_eq!(route.headers, [one]);
        let rules = route.policies.headers.request.rules();
        assert_eq!(rules.set, [(beta.clone(), HeaderValue::from_static("2"))]);
        assert_eq!(rules.remove, [HeaderName::from_static("x-old")]);
        let any = HeaderCondition { name: beta, value: None };
        assert_eq!(check_route("", "match_headers: {X-Beta: \"*\"}").headers, [any]);
    }

    #[test]
    fn names_are_made_from_what_a_route_matches() {
        let settings = check(
            "version: 1\nroutes:\n\
             \x20 - {path: GET|HEAD /a, service: a, host: \"*.Shop.example\", headers: {X-Beta: 1}}\n\
             \x20 - {path: /a, service: a, name: mine}\n",
        );
        assert_eq!(settings.routes[0].name, "GET|HEAD *.shop.example/a [x-beta]");
        assert_eq!(settings.routes[0].methods, [Method::GET, Method::HEAD]);
        assert_eq!(settings.routes[0].host, HostPattern::Suffix(".shop.example".to_owned()));
        assert_eq!(settings.routes[1].name, "mine");
    }

    #[test]
    fn with_https_alone_there_is_no_cleartext_listener() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let text = "version: 1\nlisten: {https: {bind: 127.0.0.1:0, cert_file: cert.pem, key_file: key.pem}}\n\
                    routes: [{path: /a, service: a}]\n";
        let loaded =
            parse("routes.yaml", text, dir.path(), &no_env).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(loaded.settings.listen.http, []);
        assert_eq!(loaded.settings.listen.https[0].tls.certificates[0].key_file, dir.path().join("key.pem"));
        assert_eq!(loaded.secrets_and_files.len(), 2);
    }

    #[test]
    fn listeners_have_the_names_of_the_file_or_those_of_their_protocol() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let tls = "cert_file: cert.pem, key_file: key.pem";
        let text = format!(
            "version: 1\nlisten:\n  http:\n    - 127.0.0.1:1\n    - {{bind: [\"127.0.0.1:2\", \"[::1]:2\"], name: internal}}\n    \
             - {{bind: 127.0.0.1:3, redirect: \"https:443\"}}\n  https:\n    - {{bind: 127.0.0.1:4, name: http-2, {tls}}}\n    \
             - {{bind: 127.0.0.1:5, {tls}}}\n    - {{bind: 127.0.0.1:6, {tls}}}\n\
             routes:\n  - {{path: /a, service: a, listener: [internal, http, internal]}}\n  - {{path: /a, service: a}}\n"
        );
        let settings =
            parse("routes.yaml", &text, dir.path(), &no_env).unwrap_or_else(|e| panic!("{e}")).settings;
        let listen = &settings.listen;
        let http: Vec<_> = listen.http.iter().map(|http| (&*http.name, http.bind.port())).collect();
        assert_eq!(http, [("http", 1), ("internal", 2), ("internal", 2), ("http-3", 3)]);
        let https: Vec<_> = listen.https.iter().map(|https| (&*https.name, https.bind.port())).collect();
        assert_eq!(https, [("http-2", 4), ("https", 5), ("https-2", 6)]);
        assert_eq!((listen.redirect_of("http-3"), listen.redirect_of("http")), (Some(443), None));
        assert_eq!(*settings.routes[0].listeners, ["http".into(), "internal".into()]);
        assert_eq!((&*settings.routes[0].name, &*settings.routes[1].name), ("/a on http,internal", "/a"));
    }

    #[test]
    fn budgets_of_http2_frames_are_numbers_or_off() {
        let budgets = |fields: &str| check_listen(fields).http2;
        let both = |frames_per_second, resets| Http2Settings { frames_per_second, resets };
        assert_eq!(budgets(""), both(Some(1000), Some(256)));
        assert_eq!(budgets("http2: {frames_per_second: 50}"), both(Some(50), Some(256)));
        assert_eq!(budgets("http2: {frames_per_second: off, resets: 100000}"), both(None, Some(100_000)));
        assert_eq!(budgets("http2: {resets: off}"), both(Some(1000), None));
    }

    #[test]
    fn consul_is_found_by_its_own_variables_unless_the_file_says_otherwise() {
        let env = |name: &str| match name {
            "CONSUL_HTTP_ADDR" => Some("consul:8500".to_owned()),
            "CONSUL_HTTP_TOKEN" => Some("from-env".to_owned()),
            "CONSUL_HTTP_SSL" => Some("true".to_owned()),
            _ => None,
        };
        let consul = |text: &str| {
            let text = format!("version: 1\n{text}routes: [{{path: /a, service: a}}]\n");
            parse("routes.yaml", &text, Path::new(""), &env).unwrap().settings.consul.unwrap()
        };
        let from_env = consul("");
        assert_eq!(from_env.address, "https://consul:8500");
        assert_eq!(from_env.token.unwrap().expose(), "from-env");
        let from_file = consul("discovery: {consul: {address: http://10.0.0.1:8500/, token: t}}\n");
        assert_eq!(
            (from_file.address.as_str(), from_file.further_addresses.len()),
            ("http://10.0.0.1:8500", 0)
        );
        let several = consul("discovery: {consul: {address: [http://a:8500, https://b:8501]}}\n");
        assert_eq!(several.address, "http://a:8500");
        assert_eq!(several.further_addresses, ["https://b:8501"]);
        assert!(several.flap_damping && several.unready_after.is_none());
        assert_eq!(several.doubt, Duration::from_secs(30));
        let changed = consul(
            "discovery: {consul: {flap_damping: off, unready_after: 10m, max_watches: 7, doubt: 5s}}\n",
        );
        assert!(!changed.flap_damping);
        assert_eq!(changed.doubt, Duration::from_secs(5));
        assert!(consul("discovery: {consul: {doubt: off}}\n").doubt.is_zero());
        assert_eq!((changed.unready_after, changed.max_watches), (Some(Duration::from_mins(10)), 7));
        assert_eq!(from_file.token.unwrap().expose(), "t");
    }

    #[test]
    fn consuls_switch_for_tls_is_read_as_consul_and_our_commands_read_it() {
        for (address, ssl, url) in [
            (None, None, "http://127.0.0.1:8500"),
            (None, Some("true"), "https://127.0.0.1:8500"),
            (Some("consul:8501"), Some("T"), "https://consul:8501"),
            (Some("consul:8501"), Some("TRUE"), "https://consul:8501"),
            (Some("consul:8501"), Some("0"), "http://consul:8501"),
            (Some("http://consul:8500"), Some("1"), "http://consul:8500"),
        ] {
            let env = |name: &str| match name {
                "CONSUL_HTTP_ADDR" => address.map(str::to_owned),
                "CONSUL_HTTP_SSL" => ssl.map(str::to_owned),
                _ => None,
            };
            let text = "version: 1\nroutes: [{path: /a, service: a}]\n";
            let settings = parse("routes.yaml", text, Path::new(""), &env).unwrap().settings;
            assert_eq!(settings.consul.unwrap().address, url, "{address:?} {ssl:?}");
        }
    }

    #[test]
    fn values_of_variables_are_never_shown() {
        let env = |_: &str| Some("hunter2".to_owned());
        let text = "version: 1\nworkers: ${A}\nlisten: {http: \"${B}\", idle_timeout: \"${C}\"}\n\
                    discovery: {consul: {address: \"${D}\"}}\n\
                    routes:\n  - path: ${E}\n    service: ${F} x\n    timeout: ${G}\n    rate_limit: ${H}\n    auth: ${I}\n\
                    \x20   use: ${J}\n    host: ${K}:1\n    methods: ${L}\n    retry: ${M}\n    body_limit: ${N}\n";
        let report = parse("routes.yaml", text, Path::new(""), &env).unwrap_err();
        assert!(report.errors() >= 12, "{report}");
        assert!(!report.to_string().contains("hunter2"), "{report}");
        assert!(!report.to_json().to_string().contains("hunter2"));
        let text = "version: 1\nlisten: {https: {bind: \"127.0.0.1:0\", cert_file: \"${A}\", key_file: \"${A}\"}}\n\
                    auth: {a: {jwks_file: \"${A}\", audience: a, forward: {a: \"${A}\", b: \"${A}\"}}}\n\
                    discovery: {consul: {token: \"${A}\", token_file: \"${A}\"}}\n\
                    routes:\n  - {path: /a, service: a, name: \"${A}\", auth: \"${A}\"}\n\
                    \x20 - {path: /b, service: \"${A}\", name: \"${A}\", use: \"${A}\", auth: [\"${A}\", none]}\n";
        let report = parse("routes.yaml", text, Path::new(""), &env).unwrap_err();
        assert!(report.errors() >= 9, "{report}");
        assert!(!report.to_string().contains("hunter2"), "{report}");
    }

    #[test]
    fn nothing_that_a_value_can_be_makes_the_reader_panic() {
        let values = [
            "",
            "~",
            "[]",
            "{}",
            "[[]]",
            "{a: {b: c}}",
            "-1",
            "99999999999999999999",
            "\"\\u0000\"",
            "${",
            "off",
            "ü",
        ];
        let fields = [
            "version",
            "workers",
            "listen",
            "discovery",
            "auth",
            "defaults",
            "policies",
            "routes",
            "services",
            "access_log",
            "drain",
            "limits",
        ];
        let inner = [
            "path",
            "service",
            "auth",
            "require",
            "use",
            "rate_limit",
            "timeout",
            "retry",
            "body_limit",
            "body",
            "rewrite",
            "headers",
            "match_headers",
            "host",
            "methods",
            "name",
            "priority",
            "access_log",
        ];
        for value in values {
            for field in fields {
                drop(codes(&format!("{field}: {value}\n"), &no_env));
            }
            for field in inner {
                drop(codes(&format!("version: 1\nroutes:\n  - {field}: {value}\n"), &no_env));
            }
        }
    }

    #[test]
    fn line_ends_and_marks_of_other_systems_are_understood() {
        check("\u{feff}version: 1\r\nroutes:\r\n  - path: /a\r\n    service: a\r\n");
        let text = "version: 1\r\nroutes:\r\n  - path: /a\r\n    servise: a\r\n";
        let report = parse("routes.yaml", text, Path::new(""), &no_env).unwrap_err().to_string();
        assert!(report.contains("routes.yaml:4:5\n") && !report.contains('\r'), "{report}");
    }

    #[test]
    fn endless_nesting_is_an_error_and_not_an_overflow() {
        for text in [
            "[".repeat(100_000),
            "{a: ".repeat(100_000),
            "- ".repeat(100_000),
            "a:\n".to_owned() + &"? ".repeat(100_000),
        ] {
            assert_eq!(codes(&text, &no_env)[0], code::SYNTAX);
        }
    }

    #[test]
    fn an_environment_that_nobody_needs_is_not_looked_at() {
        let env = |name: &str| name.starts_with("CONSUL").then(|| "no/such/thing".to_owned());
        let text = "version: 1\nroutes: [{path: /a, service: a}]\nservices: {a: {hosts: \"127.0.0.1:1\"}}\n";
        assert_eq!(codes(text, &env), [""; 0]);
    }

    #[test]
    fn a_file_that_is_missing_too_large_or_not_text_is_reported_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("routes.yaml");
        assert!(load(&path, &no_env).unwrap_err().to_string().contains("routes.yaml"));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(load(&path, &no_env).unwrap_err().to_string().contains("not UTF-8"));
        std::fs::write(&path, vec![b'#'; usize::try_from(bounded_file::BYTES_MAX).unwrap() + 1]).unwrap();
        assert!(load(&path, &no_env).unwrap_err().to_string().contains("larger than 4MiB"));
    }

    #[test]
    fn clients_are_sent_to_the_port_of_the_tls_listener_or_to_the_one_that_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for file in ["cert.pem", "key.pem"] {
            std::fs::write(dir.path().join(file), "").unwrap();
        }
        let port = |http: &str, https: &str| {
            let text =
                format!("version: 1\nlisten: {{http: {http}{https}}}\nroutes: [{{path: /, service: s}}]\n");
            let loaded = parse("routes.yaml", &text, dir.path(), &no_env);
            loaded
                .map(|loaded| loaded.settings.listen)
                .map(|listen| (listen.http[0].bind.port(), listen.redirect_of("http")))
        };
        let https = ", https: {bind: \"127.0.0.1:8443\", cert_file: cert.pem, key_file: key.pem}";
        assert_eq!(port("{bind: \"127.0.0.1:80\", redirect: https}", https).unwrap(), (80, Some(8443)));
        assert_eq!(port("{bind: \"127.0.0.1:80\", redirect: \"https:443\"}", "").unwrap(), (80, Some(443)));
        assert_eq!(port("{bind: [\"127.0.0.1:80\"]}", https).unwrap(), (80, None));
        assert_eq!(port("{redirect: https}", https).unwrap(), (8080, Some(8443)));
        for wrong in ["{redirect: https}", "{redirect: http}", "{redirect: \"https:0\"}", "{redirct: https}"]
        {
            assert!(port(wrong, "").is_err(), "{wrong}");
        }
    }

    #[test]
    fn unused_entries_are_warnings() {
        let text = "version: 1\npolicies: {p: {}}\nservices: {s: {}}\n\
                    auth: {main: {issuer: https://issuer.test, audience: api}}\n\
                    routes: [{path: /a, service: a, auth: none}]\n";
        assert_eq!(codes(text, &no_env), ["W001", "W002", "W003"]);
    }

    #[test]
    fn keys_in_clear_text_are_a_warning_unless_they_are_on_this_machine() {
        let with = |auth: &str| {
            let text = format!(
                "version: 1\nauth: {{main: {{{auth}, audience: api}}}}\nroutes: [{{path: /a, service: a, auth: main}}]\n"
            );
            codes(&text, &no_env)
        };
        assert_eq!(with("jwks: http://keys.example/jwks"), ["W011"]);
        assert_eq!(with("issuer: http://keys.example"), ["W011"]);
        for safe in
            ["jwks: http://127.0.0.1:1/jwks", "issuer: http://localhost:1", "issuer: https://keys.example"]
        {
            assert_eq!(with(safe), [""; 0], "{safe}");
        }
    }
}
