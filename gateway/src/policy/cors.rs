//! CORS: which pages of other origins may read a route's responses (Fetch standard,
//! <https://fetch.spec.whatwg.org/#http-cors-protocol>).
//!
//! The gateway speaks the protocol alone. It answers preflights itself, for the route that the announced method would take and
//! before authentication, since a browser sends no credentials with them. It writes the fields of every response of the
//! route, its own refusals included, because a browser hides a response without them from the script. CORS fields of the service
//! are removed. Where the fields depend on the origin, the response has `Vary: Origin`, also if the request has no origin.
//!
//! An origin is compared byte by byte, as it is serialised: scheme and host in lower case, without the scheme's default port. `*.`
//! stands for one or more labels in front of a host and for nothing else. `null` is refused in lists, since every sandboxed page
//! has it.
//! Unit of `max_age`: seconds. Limits: [`ASKED_BYTES_MAX`], [`MAX_AGE_MAX`].

mod origin;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use self::origin::{AllowedOrigin, origin};
use super::of_route::{Check, Compile, RoutePolicy, View, replace};
use crate::{
    router::pattern::method,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, Span, code},
        fields::{Fields, Known, is_word, one_or_many, values},
        tree::{At, Node, Value},
        units::{Invalid, boolean, duration_in},
    },
};

/// `cors` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    /// Empty: `off`.
    origins: Option<At<Vec<AllowedOrigin>>>,
    methods: Option<Vec<Method>>,
    headers: Option<Vec<HeaderName>>,
    expose: Option<Vec<At<HeaderName>>>,
    credentials: Option<At<bool>>,
    max_age: Option<Duration>,
    /// The place of a map without `origins`.
    rest: Option<Span>,
}

/// The policy of a route.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Cors {
    origins: Box<[AllowedOrigin]>,
    /// `None`: the method that is announced, since the route takes it.
    methods: Option<HeaderValue>,
    /// `None`: the requested headers are allowed.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

/// The CORS fields of the response to one request.
#[derive(Debug)]
pub struct Answer {
    fields: Vec<(HeaderName, HeaderValue)>,
    /// Another origin would get other fields.
    depends_on_origin: bool,
}

impl RoutePolicy for Cors {
    type Written = Written;
    /// `None`: the gateway leaves the protocol to the service.
    type Compiled = Option<Arc<Cors>>;
    const KEYS: &'static [&'static str] = &["cors"];
    const MAPS: &'static [&'static Known] = &[&CORS];
    const IS_FOR_NO_ROUTE: bool = true;

    /// Reads `off`, one origin, a list of origins, or a map.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        let Some(node) = fields.get("cors") else { return Written::default() };
        if is_word(node, "off") {
            return Written {
                origins: Some(At { value: Vec::new(), span: node.span }),
                ..Written::default()
            };
        }
        if !matches!(node.value, Value::Map(_)) {
            return Written { origins: Some(origins(node, "cors", sink)), ..Written::default() };
        }
        let Some(fields) = Fields::of(node, &CORS, sink) else { return Written::default() };
        Written {
            origins: fields.get("origins").map(|node| origins(node, "cors.origins", sink)),
            methods: fields.values("methods", sink, method).map(bare),
            headers: fields.values("headers", sink, asked_header).map(bare),
            expose: fields.values("expose", sink, header_name),
            credentials: fields.value("credentials", sink, boolean),
            max_age: fields.plain("max_age", sink, |text| duration_in(text, Duration::ZERO..=MAX_AGE_MAX)),
            rest: (fields.get("origins").is_none() && !fields.is_misspelt("origins")).then_some(node.span),
        }
    }

    fn overlay(under: &mut Written, top: &Written) {
        replace(&mut under.origins, top.origins.as_ref());
        replace(&mut under.methods, top.methods.as_ref());
        replace(&mut under.headers, top.headers.as_ref());
        replace(&mut under.expose, top.expose.as_ref());
        replace(&mut under.credentials, top.credentials.as_ref());
        replace(&mut under.max_age, top.max_age.as_ref());
        replace(&mut under.rest, top.rest.as_ref());
    }

    fn check(written: &Written, with: &mut Check<'_>) {
        let Some(At { value: origins, span }) = &written.origins else {
            if let Some(span) = written.rest {
                let finding = Diagnostic::error(code::MISSING_FIELD, span, "`cors` needs `origins`");
                with.sink.push_once(
                    finding
                        .label("`origins` is missing here")
                        .help("add `origins: [\"https://app.example\"]`"),
                );
            }
            return;
        };
        let Some(credentials) = written.credentials.as_ref().filter(|at| at.value) else { return };
        // Fetch, "CORS protocol and credentials": with credentials a browser takes no `*`.
        let all_fields = written.expose.iter().flatten().find(|name| name.value == "*");
        let finding = if origins.contains(&AllowedOrigin::Any) {
            Diagnostic::error(code::CONFLICT, *span, "`cors.credentials` does not go with the origin `*`")
                .label("every page could use what a browser has stored for its user, so browsers refuse it")
                .help(
                    "name the origins, such as `origins: [\"https://app.example\"]`, or write `credentials: false`",
                )
        } else if let Some(wide) = origins.iter().find(|origin| origin.is_below_one_label()) {
            let message = format!("`cors.credentials` does not go with the origin `{wide}`");
            Diagnostic::error(code::CONFLICT, *span, message)
                .label("anyone can register a host below this label")
                .help("name your own domain, such as `https://*.shop.example`, or write `credentials: false`")
        } else if let Some(all_fields) = all_fields.filter(|_| !origins.is_empty()) {
            let message = "`cors.credentials` does not go with `*` in `cors.expose`";
            Diagnostic::error(code::CONFLICT, all_fields.span, message)
                .label("with credentials, browsers take `*` for the name of one header")
                .help("name the headers, such as `expose: [X-Total]`, or write `credentials: false`")
        } else {
            return;
        };
        with.sink.push_once(finding.related(credentials.span, "`credentials` is set here"));
    }

    fn compile(written: &Written, with: &mut Compile<'_, '_>) -> Option<Arc<Cors>> {
        let cors = Self::of(written).filter(|cors| !cors.origins.is_empty());
        cors.map(|cors| with.shared.share(Arc::new(cors)))
    }

    fn show(cors: &Option<Arc<Cors>>, view: &mut View<'_>) {
        if let Some(cors) = cors {
            view.items("cors", cors.origins.iter().map(ToString::to_string));
            view.flag("cors_credentials", cors.credentials);
        }
    }
}

impl Cors {
    /// Compiles the policy. `None`: no origins are written.
    fn of(written: &Written) -> Option<Self> {
        let max_age = written.max_age.unwrap_or(MAX_AGE).as_secs();
        Some(Self {
            origins: written.origins.as_ref()?.value.as_slice().into(),
            methods: written.methods.as_ref().and_then(|list| joined(list.iter().map(Method::as_str))),
            headers: written.headers.as_ref().and_then(|list| joined(list.iter().map(HeaderName::as_str))),
            expose: written.expose.as_ref().and_then(|list| joined(list.iter().map(|at| at.value.as_str()))),
            credentials: written.credentials.as_ref().is_some_and(|at| at.value),
            max_age: HeaderValue::from(max_age),
        })
    }

    /// The CORS fields of the response to a request with these fields, if there is a policy. `announced` is the method of a
    /// preflight, if the response answers one.
    pub fn answer(policy: Option<&Self>, request: &HeaderMap, announced: Option<&Method>) -> Option<Answer> {
        let policy = policy?;
        let mut fields = Vec::new();
        if let Some(origin) = policy.allowed(request) {
            fields.push((header::ACCESS_CONTROL_ALLOW_ORIGIN, origin));
            if policy.credentials {
                let yes = HeaderValue::from_static("true");
                fields.push((header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes));
            }
            match (announced, &policy.expose) {
                (Some(method), _) => fields.extend(policy.of_preflight(request, method)),
                (None, Some(expose)) => fields.push((header::ACCESS_CONTROL_EXPOSE_HEADERS, own(expose))),
                (None, None) => {}
            }
        }
        Some(Answer { fields, depends_on_origin: !policy.allows_any() })
    }

    fn of_preflight(&self, request: &HeaderMap, announced: &Method) -> Vec<(HeaderName, HeaderValue)> {
        // A method is a token, and so it is a header value.
        let methods =
            self.methods.as_ref().map(own).or_else(|| HeaderValue::from_str(announced.as_str()).ok());
        let asked =
            || request.get(header::ACCESS_CONTROL_REQUEST_HEADERS).filter(|asked| is_list(asked)).cloned();
        let headers = self.headers.as_ref().map(own).or_else(asked);
        let fields = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, methods),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, headers),
            (header::ACCESS_CONTROL_MAX_AGE, Some(own(&self.max_age))),
        ];
        fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn allows_any(&self) -> bool {
        self.origins.contains(&AllowedOrigin::Any)
    }

    /// The origin as the response allows it.
    fn allowed(&self, request: &HeaderMap) -> Option<HeaderValue> {
        // Also for a request without an origin: a cache may use its response for a page (Fetch, "CORS protocol and HTTP caches").
        if self.allows_any() {
            return Some(HeaderValue::from_static("*"));
        }
        let mut lines = request.get_all(header::ORIGIN).iter();
        // A browser sends one line, so several lines are not from a browser.
        let origin = lines.next().filter(|_| lines.next().is_none())?;
        self.allows(origin.as_bytes()).then(|| origin.clone())
    }

    /// Whether pages of this origin may act with the user's cookies.
    pub(crate) fn allows_cookies(&self, origin: &[u8]) -> bool {
        self.credentials && self.allows(origin)
    }

    fn allows(&self, origin: &[u8]) -> bool {
        self.origins.iter().any(|known| known.is(origin))
    }
}

/// The method that a preflight announces (Fetch, "CORS-preflight request"). `None`: the request is not a preflight.
pub fn announced(request: &Method, fields: &HeaderMap) -> Option<Method> {
    if *request != Method::OPTIONS || !fields.contains_key(header::ORIGIN) {
        return None;
    }
    Method::from_bytes(fields.get(header::ACCESS_CONTROL_REQUEST_METHOD)?.as_bytes()).ok()
}

impl Answer {
    /// Replaces the service's CORS fields in a response.
    pub fn apply(self, headers: &mut HeaderMap) {
        for name in &OURS {
            headers.remove(name);
        }
        headers.extend(self.fields);
        // RFC 9110 §12.5.5: a cache must not use the response for one origin for another.
        if self.depends_on_origin && !varies_by_origin(headers) {
            headers.append(header::VARY, HeaderValue::from_static("Origin"));
        }
    }
}

fn varies_by_origin(headers: &HeaderMap) -> bool {
    let lines = headers.get_all(header::VARY).iter();
    let names = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    names.map(<[u8]>::trim_ascii).any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
}

/// Copies the bytes of a value, since a clone would count references on a cache line that all workers share.
fn own(value: &HeaderValue) -> HeaderValue {
    HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|_| value.clone())
}

/// Whether the value is a list of names with commas, as browsers write `Access-Control-Request-Headers`.
fn is_list(value: &HeaderValue) -> bool {
    let is_in = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~, ".contains(byte);
    value.len() <= ASKED_BYTES_MAX && value.as_bytes().iter().all(is_in)
}

fn bare<T>(list: Vec<At<T>>) -> Vec<T> {
    list.into_iter().map(|at| at.value).collect()
}

/// Joins names with commas. `None`: there are no names.
fn joined<'a>(names: impl Iterator<Item = &'a str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

fn origins(node: &Node, what: &str, sink: &mut Diagnostics) -> At<Vec<AllowedOrigin>> {
    if one_or_many(node).is_empty() {
        let message = format!("`{what}` is empty");
        sink.push(
            Diagnostic::error(code::BAD_VALUE, node.span, message).help("write `cors: off` to allow none"),
        );
    }
    let list = values(node, what, sink, origin);
    At { value: bare(list), span: node.span }
}

fn header_name(text: &str) -> Result<HeaderName, Invalid> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Invalid::new(code::BAD_VALUE, "a header name such as `X-Total`", "not a header name"))
}

/// Reads a header name. `*` is refused: for browsers it does not include `Authorization`, and means nothing with credentials.
fn asked_header(text: &str) -> Result<HeaderName, Invalid> {
    let refuse = || Invalid::new(code::BAD_VALUE, "a header name such as `X-Api-Key`", "not a header name");
    let help = "leave `headers` out: then a page may send what its browser asks for";
    if text == "*" { Err(refuse().help(help)) } else { header_name(text) }
}

static CORS: Known = Known {
    what: "`cors`",
    prefix: "cors.",
    fields: &["origins", "methods", "headers", "expose", "credentials", "max_age"],
    later: &[],
};
/// Fields that only the gateway writes where a route has the policy.
const OURS: [HeaderName; 6] = [
    header::ACCESS_CONTROL_ALLOW_ORIGIN,
    header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
    header::ACCESS_CONTROL_EXPOSE_HEADERS,
    header::ACCESS_CONTROL_ALLOW_METHODS,
    header::ACCESS_CONTROL_ALLOW_HEADERS,
    header::ACCESS_CONTROL_MAX_AGE,
];
/// A longer list of requested headers is not repeated in the response. Browsers write some hundred bytes.
const ASKED_BYTES_MAX: usize = 1024;
/// docs/DEFAULTS.md has the reason.
const MAX_AGE: Duration = Duration::from_mins(10);
/// Firefox caches a preflight's response for no longer than this, other browsers for less.
const MAX_AGE_MAX: Duration = Duration::from_hours(24);

#[cfg(test)]
mod tests {
    use super::*;

    fn cors(texts: &[&str], credentials: bool) -> Arc<Cors> {
        let value = texts.iter().map(|text| origin(text).unwrap()).collect();
        let origins = Some(At { value, span: Span::default() });
        let credentials = Some(At { value: credentials, span: Span::default() });
        Arc::new(Cors::of(&Written { origins, credentials, ..Written::default() }).unwrap())
    }

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn answer(cors: &Arc<Cors>, request: &HeaderMap, announced: Option<&Method>) -> Answer {
        Cors::answer(Some(cors), request, announced).unwrap()
    }

    #[test]
    fn credentials_do_not_go_with_a_wildcard_directly_below_one_label() {
        for (text, is_refused) in [
            ("https://*.com", true),
            ("https://*.Com:8443", true),
            ("https://*.shop.example", false),
            ("https://com", false),
            ("http://*.localhost:3000", false),
        ] {
            for credentials in [true, false] {
                let file = format!(
                    "version: 1\nroutes: [{{path: /a, service: s, cors: {{origins: [\"{text}\"], credentials: {credentials}}}}}]\n\
                     services: {{s: {{hosts: [\"127.0.0.1:1\"]}}}}\n"
                );
                let read =
                    crate::config::load::parse("routes.yaml", &file, std::path::Path::new(""), &|_| None);
                assert_eq!(read.is_err(), is_refused && credentials, "{file}");
            }
        }
    }

    #[test]
    fn an_origin_is_allowed_as_it_is_written_and_below_a_host_with_its_port() {
        let cors = cors(
            &[
                "https://app.example",
                "https://*.Shop.example",
                "http://*.dev.example:3000",
                "HTTP://a.example:80",
            ],
            false,
        );
        for (origin, is_allowed) in [
            ("https://app.example", true),
            ("https://x.shop.example", true),
            ("https://x.y.shop.example", true),
            ("http://x.dev.example:3000", true),
            ("http://a.example", true),
            ("http://app.example", false),
            ("https://app.example:8443", false),
            ("https://App.example", false),
            ("https://app.example.evil.test", false),
            ("https://app.exampleevil", false),
            ("https://shop.example", false),
            ("https://evilshop.example", false),
            ("https://.shop.example", false),
            ("https://evil.test/.shop.example", false),
            ("https://a@b.shop.example", false),
            ("https://x..shop.example", false),
            ("http://x.shop.example", false),
            ("http://x.dev.example", false),
            ("http://a.example:80", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(cors.allows(origin.as_bytes()), is_allowed, "{origin}");
        }
    }

    #[test]
    fn what_is_not_an_origin_is_refused_with_its_cure() {
        for (text, cure) in [
            ("app.example", Some("write `https://app.example`")),
            ("https://app.example/", Some("write `https://app.example`")),
            ("https://app.example:443/x", Some("write `https://app.example:443`")),
            ("null", None),
            ("https://", None),
            ("https://*", Some("write `*` for every origin")),
            ("https://*.", None),
            ("https://a.*.example", None),
            ("https://app.example:0", None),
            ("https://app.example:99999", None),
            ("https://app.example:*", None),
            ("1x://app.example", None),
            ("https://bücher.example", Some("write it as `xn--…`")),
            (
                "https://a.example, https://b.example",
                Some(r#"write a list: `["https://a.example", "https://b.example"]`"#),
            ),
            ("https://a.example b.example", None),
            ("http://[0:0::1]:3000", Some("write `http://[::1]:3000`")),
            ("http://[::ffff:192.0.2.1]", Some("write `http://[::ffff:c000:201]`")),
            ("http://127.1", None),
            ("http://0x7f000001", None),
            ("http://*.168.0.1", None),
            ("http://192.168.0.256", None),
            ("", None),
        ] {
            assert_eq!(
                origin(text).map_err(|refusal| refusal.help),
                Err(cure.map(str::to_owned)),
                "{text:?}"
            );
        }
        for (text, shown) in [
            ("https://App.example:443", "https://app.example"),
            ("http://[::1]:3000", "http://[::1]:3000"),
            ("capacitor://localhost", "capacitor://localhost"),
            ("http://192.168.0.1:8080", "http://192.168.0.1:8080"),
            ("https://a1.example2.x9", "https://a1.example2.x9"),
            ("https://*.a.example:8443", "https://*.a.example:8443"),
            ("*", "*"),
        ] {
            assert_eq!(origin(text).map(|origin| origin.to_string()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_response_has_one_answer_whatever_the_service_says() {
        let cors = cors(&["https://app.example"], true);
        let of_service =
            [("access-control-allow-origin", "*"), ("access-control-max-age", "1"), ("vary", "Accept")];
        let answered = |origin: &[(&'static str, &str)]| {
            let mut headers = fields(&of_service);
            answer(&cors, &fields(origin), None).apply(&mut headers);
            headers
        };
        let allowed = answered(&[("origin", "https://app.example")]);
        assert_eq!(
            allowed.get_all("access-control-allow-origin").iter().collect::<Vec<_>>(),
            ["https://app.example"]
        );
        assert_eq!(allowed.get("access-control-allow-credentials").unwrap(), "true");
        assert!(!allowed.contains_key("access-control-max-age"));
        for origin in [&[("origin", "https://evil.test")][..], &[("origin", "null")], &[]] {
            let refused = answered(origin);
            assert!(!refused.keys().any(|name| name.as_str().starts_with("access-control")), "{refused:?}");
            assert_eq!(refused.get_all("vary").iter().collect::<Vec<_>>(), ["Accept", "Origin"]);
        }
        let mut two = fields(&[("origin", "https://app.example")]);
        two.append("origin", HeaderValue::from_static("https://app.example"));
        assert!(answer(&cors, &two, None).fields.is_empty(), "a browser sends one");
    }

    #[test]
    fn any_origin_needs_no_vary_and_what_varies_already_is_not_said_twice() {
        let mut headers = HeaderMap::new();
        answer(&cors(&["*"], false), &fields(&[("origin", "null")]), None).apply(&mut headers);
        assert_eq!(headers, fields(&[("access-control-allow-origin", "*")]));
        for vary in ["accept, ORIGIN", "*"] {
            let mut headers = fields(&[("vary", vary)]);
            answer(&cors(&["https://a.example"], false), &HeaderMap::new(), None).apply(&mut headers);
            assert_eq!(headers.get_all("vary").iter().collect::<Vec<_>>(), [vary]);
        }
    }

    #[test]
    fn a_preflight_is_told_what_it_asks_for_unless_there_are_lists() {
        let request = fields(&[
            ("origin", "https://app.example"),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "authorization,x-a"),
        ]);
        let answered = |cors: &Arc<Cors>| {
            let mut headers = HeaderMap::new();
            let method = announced(&Method::OPTIONS, &request).unwrap();
            answer(cors, &request, Some(&method)).apply(&mut headers);
            let text = |name: &str| {
                headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
            };
            ["allow-methods", "allow-headers", "max-age"].map(|name| text(&format!("access-control-{name}")))
        };
        let plain = cors(&["https://app.example"], false);
        assert_eq!(answered(&plain), ["PUT", "authorization,x-a", "600"]);
        let listed = Arc::new(Cors {
            origins: plain.origins.clone(),
            expose: None,
            credentials: false,
            methods: joined(["GET", "PUT"].into_iter()),
            headers: joined(["x-a"].into_iter()),
            max_age: 5.into(),
        });
        assert_eq!(answered(&listed), ["GET, PUT", "x-a", "5"]);
        assert_eq!(answered(&cors(&["https://other.example"], false)), ["", "", ""]);
    }

    #[test]
    fn only_options_with_an_origin_and_a_method_is_a_preflight() {
        let lines = [("origin", "null"), ("access-control-request-method", "PATCH")];
        assert_eq!(announced(&Method::OPTIONS, &fields(&lines)), Some(Method::PATCH));
        for (method, lines) in
            [(Method::GET, &lines[..]), (Method::OPTIONS, &lines[..1]), (Method::OPTIONS, &lines[1..])]
        {
            assert_eq!(announced(&method, &fields(lines)), None);
        }
    }
}
