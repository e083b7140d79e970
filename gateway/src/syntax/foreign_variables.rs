//! Variables of other products in a value: parts of the request, such as `$host`, `$1`, `{uri}`, `%REQ(:path)%`, and environment
//! variables, such as `$NAME`. In our format they are plain text, or have another form.

/// A variable of another product in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found<'a> {
    /// The variable as it is written.
    pub(crate) text: &'a str,
    meaning: Meaning,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Path,
    Host,
    Port,
    Scheme,
    Query,
    Client,
    ForwardedFor,
    RequestId,
    Subject,
    /// A group of a regular expression.
    Capture,
    Other,
}

/// The name of an environment variable as shells, Caddy, Windows and KrakenD write it: `$NAME`, `{$NAME}`, `{env.NAME}`, `%NAME%`,
/// `{{ env "NAME" }}`.
pub(crate) fn of_environment(text: &str) -> Option<&str> {
    let inner = |before: &str, after: &str| text.strip_prefix(before)?.strip_suffix(after);
    let name = inner("{$", "}")
        .or_else(|| inner("{env.", "}"))
        .or_else(|| {
            inner("{{", "}}").map(|inside| {
                let inside = inside.trim();
                inside.strip_prefix("env").unwrap_or(inside).trim().trim_matches('"').trim_start_matches('.')
            })
        })
        .or_else(|| inner("%", "%"))
        .or_else(|| text.strip_prefix('$'))?;
    let is_name = name.len() > 1
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        && name.starts_with(|c: char| c.is_ascii_uppercase());
    // Envoy's variables of this form are parts of a request.
    let is_requests =
        text.starts_with('%') && (name.starts_with("DOWNSTREAM_") || name.starts_with("UPSTREAM_"));
    (is_name && !is_requests).then_some(name)
}

/// The first foreign variable in a target of `redirect`, where `{path}`, `{host}` and `{port}` are ours.
pub(crate) fn in_redirect(text: &str) -> Option<Found<'_>> {
    all(text).into_iter().find(|found| !["{path}", "{host}", "{port}"].contains(&found.text))
}

/// The first foreign variable in the value of a header.
pub(crate) fn in_header(text: &str) -> Option<Found<'_>> {
    let is_ours = |found: &Found<'_>| ["{client}", "{request_id}"].contains(&found.text);
    // `$1` may be a price.
    all(text).into_iter().find(|found| found.meaning != Meaning::Capture && !is_ours(found))
}

/// Help for a target of `redirect`: the target in our words if `is_target` accepts it, otherwise the list of our words.
pub(crate) fn redirect_cure(text: &str, is_target: impl FnOnce(&str) -> bool) -> String {
    const OURS: &str =
        "only `{path}`, `{host}` and `{port}` are replaced; the query goes along with `{path}`";
    let mut target = text.to_owned();
    let mut captures = 0;
    for found in all(text) {
        let ours = match found.meaning {
            Meaning::Path => "{path}",
            Meaning::Host => "{host}",
            Meaning::Port => "{port}",
            Meaning::Scheme => "https",
            Meaning::Query => "",
            Meaning::Capture => {
                captures += 1;
                "{path}"
            }
            _ => return OURS.to_owned(),
        };
        target = target.replacen(found.text, ours, 1);
    }
    let target = target.trim_end_matches('?');
    if captures > 1 || !is_target(target) {
        return OURS.to_owned();
    }
    let path = if captures == 1 {
        "`{path}` is the whole path after `rewrite`, since there are no regular expressions"
    } else {
        "the query goes along with `{path}`"
    };
    format!("write `\"{target}\"`: {path}")
}

/// Help for a foreign variable in the value of a header rule.
pub(crate) fn header_cure(value: &str, found: Found<'_>) -> String {
    let ours = match found.meaning {
        Meaning::Client => "{client}",
        Meaning::RequestId => "{request_id}",
        Meaning::Subject => "{claim:sub}",
        Meaning::ForwardedFor => {
            return "leave it away: the gateway writes `X-Forwarded-For` itself".to_owned();
        }
        Meaning::Host => {
            return "leave it away: the service gets the client's `Host`, and `X-Forwarded-Host` has it"
                .to_owned();
        }
        Meaning::Scheme => return "leave it away: the gateway writes `X-Forwarded-Proto` itself".to_owned(),
        Meaning::Port => return "leave it away: the gateway writes `X-Forwarded-Port` itself".to_owned(),
        Meaning::Path | Meaning::Query => {
            return "leave it away: the service gets path and query with the request".to_owned();
        }
        Meaning::Capture | Meaning::Other => {
            return "leave it away: headers of the client are passed on; only `{client}`, `{request_id}` and `{claim:NAME}` are \
                    replaced"
                .to_owned();
        }
    };
    if found.text == value { format!("write `\"{ours}\"`") } else { format!("put `{ours}` in its place") }
}

/// All foreign variables in a text, from left to right.
fn all(text: &str) -> Vec<Found<'_>> {
    let mut all = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(['$', '{', '%']) {
        rest = &rest[at..];
        // `{{` stands for a brace.
        if let Some(after) = rest.strip_prefix("{{") {
            rest = after;
            continue;
        }
        let length = length_of(rest);
        let (written, after) = rest.split_at(length.unwrap_or(1));
        if let Some(meaning) = length.and_then(|_| meaning(written)) {
            all.push(Found { text: written, meaning });
            rest = after;
        } else {
            rest = &rest[1..];
        }
    }
    all
}

/// Length in bytes of a possible variable at the beginning of the text.
fn length_of(text: &str) -> Option<usize> {
    let end = |from: usize, is_in: fn(char) -> bool| {
        text[from..].find(|c: char| !is_in(c)).map_or(text.len(), |end| from + end)
    };
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match text.as_bytes() {
        [b'$', b'1'..=b'9', ..] => Some(2),
        [b'$', b'a'..=b'z', ..] => Some(end(1, is_word)),
        [b'{', ..] => text.find('}').map(|end| end + 1),
        [b'%', b'[', ..] => text.find(']').map(|end| end + 1),
        [b'%', b'A'..=b'Z', ..] => text[1..].find('%').map(|end| end + 2),
        _ => None,
    }
}

fn meaning(written: &str) -> Option<Meaning> {
    let name = written.trim_matches(['$', '{', '}', '%', '[', ']']);
    let is_digit = name.len() == 1 && name.bytes().all(|byte| byte.is_ascii_digit());
    if written.starts_with('$') && is_digit {
        return Some(Meaning::Capture);
    }
    // Caddy has these words without `$`, and OData has `/$query`.
    if written.starts_with('$') && ["query", "path", "port", "remote", "hostport"].contains(&name) {
        return None;
    }
    let row = |row: &&(Meaning, &str)| row.1.split(' ').any(|known| known == name);
    if let Some((meaning, _)) = WORDS.iter().find(row) {
        return Some(*meaning);
    }
    let families = match written.as_bytes()[0] {
        b'$' => &["http_", "arg_", "cookie_", "sent_http_", "upstream_", "ssl_", "jwt_claim_", "time_"][..],
        b'{' => &["http.request.", "http.auth.", "http.vars.", "http.regexp.", "header.", "query."][..],
        _ => &["REQ(", "RESP(", "DOWNSTREAM_", "UPSTREAM_", "req.", "src", "ssl_", "path", "hdr("][..],
    };
    families.iter().any(|family| name.starts_with(family)).then_some(Meaning::Other)
}

/// Words of nginx, Caddy, Envoy, HAProxy and Traefik.
const WORDS: [(Meaning, &str); 10] = [
    (
        Meaning::Path,
        "request_uri uri document_uri request_path path orig_uri http.request.uri http.request.uri.path http.request.orig_uri REQ(:path) \
         REQ(:PATH)",
    ),
    (
        Meaning::Host,
        "host http_host server_name hostport http.request.host http.request.hostport REQ(:authority) REQ(:AUTHORITY) hdr(host) req.hdr(host)",
    ),
    (Meaning::Port, "server_port port proxy_port http.request.port"),
    (Meaning::Scheme, "scheme http_x_forwarded_proto http.request.scheme"),
    (Meaning::Query, "args is_args query_string query ?query http.request.uri.query"),
    (
        Meaning::Client,
        "remote_addr binary_remote_addr realip_remote_addr remote_host remote client_ip http.request.remote.host http.request.remote \
         DOWNSTREAM_REMOTE_ADDRESS DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT src",
    ),
    (Meaning::ForwardedFor, "proxy_add_x_forwarded_for http_x_forwarded_for proxy_protocol_addr"),
    (Meaning::RequestId, "request_id http_x_request_id http.request.uuid REQ(X-REQUEST-ID)"),
    (Meaning::Subject, "remote_user http.auth.user.id"),
    (
        Meaning::Other,
        "request_method remote_port hostname server_addr server_protocol connection msec pid status content_type content_length \
         request_length request_time http_user_agent",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_others_are_known_by_their_form() {
        for text in [
            "$CONSUL_ADDR",
            "{$CONSUL_ADDR}",
            "{env.CONSUL_ADDR}",
            "%CONSUL_ADDR%",
            "{{ env \"CONSUL_ADDR\" }}",
            "{{ .CONSUL_ADDR }}",
        ] {
            assert_eq!(of_environment(text), Some("CONSUL_ADDR"), "{text}");
        }
        for text in [
            "",
            "$",
            "$1",
            "$A",
            "$host",
            "$A-B",
            "100%",
            "%%",
            "${CONSUL_ADDR}",
            "{client}",
            "{{x}}",
            "CONSUL_ADDR",
        ] {
            assert_eq!(of_environment(text), None, "{text}");
        }
    }

    #[test]
    fn a_literal_sign_is_no_variable() {
        for text in [
            "https://a.example/$metadata{path}",
            "/odata/$query",
            "https://{host}{path}",
            "/a%20b",
            "/{path}",
            "/100%",
            "$",
            "/a%2Fb%2F",
        ] {
            assert_eq!(in_redirect(text), None, "{text}");
        }
        for text in
            ["{client}", "{request_id}", "{claim:sub}", "$1", "$5.00", "100%", "{{host}", "a$b", "$", "%41%"]
        {
            assert_eq!(in_header(text).map(|found| found.text), None, "{text}");
        }
    }

    #[test]
    fn each_variable_of_a_header_has_its_cure() {
        for (value, cure) in [
            ("$remote_addr", "write `\"{client}\"`"),
            ("for=$remote_addr", "put `{client}` in its place"),
            ("{remote_host}", "write `\"{client}\"`"),
            ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "write `\"{client}\"`"),
            ("%[src]", "write `\"{client}\"`"),
            ("$request_id", "write `\"{request_id}\"`"),
            ("$remote_user", "write `\"{claim:sub}\"`"),
            ("$proxy_add_x_forwarded_for", "leave it away: the gateway writes `X-Forwarded-For` itself"),
            ("$scheme", "leave it away: the gateway writes `X-Forwarded-Proto` itself"),
            ("$http_x", "leave it away: headers of the client are passed on"),
        ] {
            let found = in_header(value).unwrap_or_else(|| panic!("{value}"));
            assert!(header_cure(value, found).starts_with(cure), "{value}: {}", header_cure(value, found));
        }
    }
}
