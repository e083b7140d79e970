//! Tags that declare routes: our own form, and the part of Fabio's `urlprefix-` that has the same meaning here.
//!
//! Native: `millgate.route=[METHODS ]HOST/PATH [OPTION=VALUE …]`. Methods are separated by `,` or `|`; `*` or none means
//! any method. Without a host, the route matches any host. The path is a pattern as in the file: `/orders` is exact, `/orders/**`
//! includes everything below. Options: `strip`, `add`, `host`, `redirect`, `allow`, `deny`, `timeout`, `weight`,
//! `proto=http|https|h2c|h2|grpc|grpcs`, `tlsskipverify`.
//!
//! Fabio (<https://fabiolb.net/feature/>): `urlprefix-HOST/PATH [OPTION …]`. The path is a prefix and becomes a subtree
//! here, so `/orders` matches `/orders/1` and not `/orders-old`. Options: `strip`, `prepend`, `host`, `redirect`, `allow`, `deny`,
//! `weight`, `proto`, `tlsskipverify`. Every other option (`auth`, `pxyproto`, …) changes how a request is treated, so a
//! tag with one is refused as a whole.
//!
//! An instance with the bare tag `millgate` may declare the same in its metadata: `millgate-route`, `millgate-route-1`, … with
//! the text that follows `millgate.route=`.
//!
//! `weight` is Fabio's: the share of the route's requests that each instance with the tag gets. `proto` and `tlsskipverify`
//! concern the instances with the tag, too.

use std::{borrow::Cow, collections::BTreeMap};

use http::Method;

use super::{Declaration, Reason, Rejection};
use crate::{
    policy::{self, of_route::BadOption},
    router::{HostPattern, pattern},
    syntax::units::Invalid,
    upstream::settings::{HttpVersion, SHARE_UNITS},
};

/// The forms of tags that declare routes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagForms {
    /// The prefix of native tags, such as `millgate` in `millgate.route=`; `None`: native tags are ignored.
    pub native: Option<String>,
    /// The prefix of Fabio's tags, such as `urlprefix-`; `None`: Fabio's tags are ignored.
    pub fabio: Option<String>,
}

impl Default for TagForms {
    /// Both forms with their default prefixes.
    fn default() -> Self {
        Self { native: Some(NATIVE_PREFIX.to_owned()), fabio: Some(FABIO_PREFIX.to_owned()) }
    }
}

impl TagForms {
    /// Reads a tag. `None`: the tag does not declare a route. `datacenter` is the value of Fabio's `$DC`, if it is known.
    pub fn read(&self, tag: &str, datacenter: Option<&str>) -> Option<Result<Declaration, Rejection>> {
        let tag = tag.trim();
        if let Some(text) = self.native_text(tag).or_else(|| self.metadata_text(tag)) {
            return Some(bounded(text).and_then(native));
        }
        let text = tag.strip_prefix(self.fabio.as_deref()?)?;
        Some(bounded(text).and_then(|text| fabio(text, datacenter)))
    }

    /// Whether the tag declares a route, valid or not.
    pub fn is_route(&self, tag: &str) -> bool {
        let tag = tag.trim();
        self.native_text(tag).is_some() || self.fabio.as_deref().is_some_and(|prefix| tag.starts_with(prefix))
    }

    /// Whether the tag announces that the instance's metadata declares routes, too. The list of services does not contain
    /// metadata, so a tag must point to it.
    pub fn points_to_metadata(&self, tag: &str) -> bool {
        self.native.as_deref() == Some(tag.trim())
    }

    /// Whether the text is metadata that declares a route, as [`TagForms::in_metadata`] returns it.
    pub fn is_metadata(&self, text: &str) -> bool {
        self.metadata_text(text).is_some()
    }

    /// The declarations in an instance's metadata as `KEY=VALUE`, which [`TagForms::read`] reads.
    pub fn in_metadata<'m>(
        &self,
        meta: &'m BTreeMap<String, String>,
    ) -> impl Iterator<Item = String> + use<'m, '_> {
        meta.iter().map(|(key, value)| format!("{key}={value}")).filter(|text| self.is_metadata(text))
    }

    fn native_text<'t>(&self, tag: &'t str) -> Option<&'t str> {
        tag.strip_prefix(self.native.as_deref()?)?.strip_prefix(".route=")
    }

    /// The text of `millgate-route=…` or `millgate-route-1=…`: keys of metadata cannot contain dots.
    fn metadata_text<'t>(&self, text: &'t str) -> Option<&'t str> {
        let (key, value) =
            text.strip_prefix(self.native.as_deref()?)?.strip_prefix("-route")?.split_once('=')?;
        let number = if key.is_empty() { "0" } else { key.strip_prefix('-')? };
        (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(value)
    }
}

fn bounded(text: &str) -> Result<&str, Rejection> {
    if text.len() > TAG_BYTES_MAX {
        return Err(invalid(format!("the tag is longer than {TAG_BYTES_MAX} bytes")));
    }
    Ok(text.trim())
}

fn native(text: &str) -> Result<Declaration, Rejection> {
    let mut words = text.split_whitespace();
    let mut target = words.next().ok_or_else(|| invalid("it names no path"))?;
    let mut methods = Vec::new();
    // Neither a method nor `*` contains a slash, and every target contains one.
    if !target.contains('/') {
        methods = read_methods(target)?;
        target = words
            .next()
            .filter(|word| word.contains('/'))
            .ok_or_else(|| invalid("it names no path; write for example `GET shop.example/orders/**`"))?;
    }
    let (host, path) = split_target(target)?;
    let path = pattern::path_pattern(path).map_err(|why| refused("the path", &why))?.path;
    let mut declaration = plain(methods, host, path);
    for (option, value) in options(words)? {
        read_option(&mut declaration, option, value)?;
    }
    Ok(declaration)
}

fn fabio(text: &str, datacenter: Option<&str>) -> Result<Declaration, Rejection> {
    let mut words = text.split_whitespace();
    let target = words.next().ok_or_else(|| invalid("it names no path"))?;
    if !target.contains('/') {
        return Err(unsupported("it is about a TCP port; only HTTP routes with a path are taken"));
    }
    let target = expanded(target, datacenter)?;
    let (host, path) = split_target(&target)?;
    if path.contains(['*', '{', '}']) {
        return Err(unsupported("a glob in the path is not taken"));
    }
    let below = format!("{}/**", path.trim_end_matches('/'));
    let path = pattern::path_pattern(&below).map_err(|why| refused("the path", &why))?.path;
    let mut declaration = plain(Vec::new(), host, path);
    for (option, value) in options(words)? {
        let (option, value) = in_our_words(option, value)?;
        read_option(&mut declaration, option, &value)?;
    }
    Ok(declaration)
}

/// Translates an option of Fabio that has the same meaning here.
fn in_our_words<'t>(option: &'t str, value: &'t str) -> Result<(&'t str, Cow<'t, str>), Rejection> {
    let value = Cow::Borrowed(value);
    match (option, &*value) {
        ("prepend", _) => Ok(("add", value)),
        ("redirect", text) => {
            Ok(("redirect", text.replace("$path", "{path}").replace("$host", "{host}").into()))
        }
        ("host", "dst") => Ok(("host", "{instance}".into())),
        ("strip" | "host" | "allow" | "deny" | "weight" | "proto" | "tlsskipverify", _) => {
            Ok((option, value))
        }
        _ => Err(not_taken(option)),
    }
}

/// Replaces `$DC` or `${DC}` in the host by the datacenter; Fabio has no other variable.
fn expanded<'t>(target: &'t str, datacenter: Option<&str>) -> Result<Cow<'t, str>, Rejection> {
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    if !host.contains('$') {
        return Ok(Cow::Borrowed(target));
    }
    let mut text = String::new();
    for (at, part) in host.split('$').enumerate() {
        if at == 0 {
            text.push_str(part);
            continue;
        }
        let is_of_name = |rest: &&str| rest.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let bare = || part.strip_prefix("DC").filter(|rest| !is_of_name(rest));
        let Some(rest) = part.strip_prefix("{DC}").or_else(bare) else {
            return Err(unsupported("of variables only `$DC` is replaced"));
        };
        let Some(datacenter) = datacenter else {
            return Err(unsupported("the datacenter, which `$DC` stands for, is not known"));
        };
        text.push_str(datacenter);
        text.push_str(rest);
    }
    text.push_str(path);
    Ok(Cow::Owned(text))
}

/// A declaration without options.
fn plain(methods: Vec<Method>, host: HostPattern, path: String) -> Declaration {
    Declaration {
        methods,
        host,
        path,
        policies: policy::Written::default(),
        weight: None,
        tls: None,
        version: None,
    }
}

/// Reads an option about instances, or one of a policy. Options may be in any order.
fn read_option(declaration: &mut Declaration, option: &str, value: &str) -> Result<(), Rejection> {
    match (option, value) {
        ("weight", _) => declaration.weight = share(value)?,
        ("proto", "http") | ("tlsskipverify", "false") => {}
        ("proto", "https") => drop(declaration.tls.get_or_insert_default()),
        ("proto", "h2c") => declaration.version = Some(HttpVersion::Http2),
        ("proto", "grpc") => declaration.version = Some(HttpVersion::Grpc),
        ("proto", "h2" | "grpcs") => {
            let is_grpc = value == "grpcs";
            declaration.version = Some(if is_grpc { HttpVersion::Grpc } else { HttpVersion::Http2 });
            declaration.tls.get_or_insert_default();
        }
        ("tlsskipverify", "true") => declaration.tls.get_or_insert_default().insecure = true,
        ("tlsskipverify", _) => {
            return Err(invalid(format!("`{option}` must be `true` or `false`: `{value}`")));
        }
        ("proto", other) => {
            return Err(unsupported(format!(
                "requests go to services as `http`, `https`, `h2c`, `h2`, `grpc` or `grpcs`, not as `{other}`"
            )));
        }
        _ => {
            let read = declaration.policies.read_option(option, value).ok_or_else(|| not_taken(option))?;
            read.map_err(|BadOption { what, why }| refused(&what, &why))?;
        }
    }
    Ok(())
}

fn not_taken(option: &str) -> Rejection {
    unsupported(format!("the option `{option}` is not taken from a tag"))
}

/// Reads a share such as `0.05`. As in Fabio, 0 means that the instance has no share of its own.
fn share(value: &str) -> Result<Option<u32>, Rejection> {
    let refuse = || invalid(format!("`weight` must be a share from 0 to 1, such as `0.05`: `{value}`"));
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = whole.bytes().chain(fraction.bytes());
    if (whole.is_empty() && fraction.is_empty()) || !digits.clone().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse());
    }
    let whole = match whole.trim_start_matches('0') {
        "" => 0,
        "1" => SHARE_UNITS,
        _ => return Err(refuse()),
    };
    let places = fraction.bytes().chain(std::iter::repeat(b'0')).take(SHARE_PLACES);
    let units = whole + places.fold(0, |units, digit| units * 10 + u32::from(digit - b'0'));
    let is_less_than_a_unit = units == 0 && fraction.bytes().any(|digit| digit != b'0');
    match units {
        0 if is_less_than_a_unit => Ok(Some(1)),
        0 => Ok(None),
        SHARE_UNITS if fraction.bytes().all(|digit| digit == b'0') => Ok(Some(SHARE_UNITS)),
        units if units < SHARE_UNITS => Ok(Some(units)),
        _ => Err(refuse()),
    }
}

/// Reads the options. An option that is given twice is refused, since one of its values would be ignored.
fn options<'t>(words: impl Iterator<Item = &'t str>) -> Result<Vec<(&'t str, &'t str)>, Rejection> {
    let mut options: Vec<(&str, &str)> = Vec::new();
    for word in words {
        let (option, value) =
            word.split_once('=').ok_or_else(|| invalid(format!("`{word}` is not `option=value`")))?;
        if options.iter().any(|(known, _)| *known == option) {
            return Err(invalid(format!("the option `{option}` stands there twice")));
        }
        options.push((option, value));
    }
    let uses_tls = ["https", "h2", "grpcs"].iter().any(|proto| options.contains(&("proto", proto)));
    if options.contains(&("tlsskipverify", "true")) && !uses_tls {
        return Err(invalid("`tlsskipverify` is about `proto=https`, `h2` and `grpcs`"));
    }
    Ok(options)
}

fn read_methods(word: &str) -> Result<Vec<Method>, Rejection> {
    if word == "*" {
        return Ok(Vec::new());
    }
    let mut methods = Vec::new();
    for name in word.split([',', '|']) {
        let method = pattern::method(name).map_err(|why| refused("a method", &why))?;
        if !methods.contains(&method) {
            methods.push(method);
        }
    }
    // The same methods in another order are the same declaration.
    methods.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    Ok(methods)
}

/// Splits `shop.example/orders` into host and path. Without a host, any host matches.
fn split_target(target: &str) -> Result<(HostPattern, &str), Rejection> {
    let (host, path) = target.split_at(target.find('/').unwrap_or(target.len()));
    let host = match host {
        "" => HostPattern::Any,
        host => pattern::host_pattern(host).map_err(|why| refused("the host", &why))?,
    };
    Ok((host, path))
}

fn refused(what: &str, why: &Invalid) -> Rejection {
    invalid(format!("{what} must be {}: {}", why.expected, why.label))
}

fn invalid(detail: impl Into<String>) -> Rejection {
    Rejection::new(Reason::Invalid, detail)
}

fn unsupported(detail: impl Into<String>) -> Rejection {
    Rejection::new(Reason::Unsupported, detail)
}

/// The default prefix of native tags, in front of `.route=`.
pub const NATIVE_PREFIX: &str = "millgate";
/// Fabio's default for `registry.consul.tagprefix`.
pub const FABIO_PREFIX: &str = "urlprefix-";
/// The same limit as Consul's for a value of service metadata; Consul limits tags only by the size of a request.
const TAG_BYTES_MAX: usize = 512;
/// Decimal places of [`SHARE_UNITS`].
const SHARE_PLACES: usize = 4;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(tag: &str) -> Result<String, (Reason, String)> {
        let read = TagForms::default().read(tag, Some("DC1")).expect("it is about a route");
        read.map(|declaration| declaration.to_string()).map_err(|why| (why.reason, why.detail))
    }

    #[test]
    fn native_tags_say_methods_host_path_and_options() {
        for (tag, meaning) in [
            ("millgate.route=/orders/**", "/orders/**"),
            ("millgate.route=* /orders", "/orders"),
            (
                "millgate.route=POST,GET Shop.Example/orders/** strip=/orders timeout=5s",
                "GET,POST shop.example/orders/** strip=/orders timeout=5000ms",
            ),
            (
                "millgate.route=GET|HEAD *.shop.example/{id} add=/v2 proto=http",
                "GET,HEAD *.shop.example/{id} add=/v2",
            ),
        ] {
            assert_eq!(read(tag), Ok(meaning.to_owned()), "{tag}");
        }
    }

    #[test]
    fn a_prefix_of_fabio_is_a_subtree() {
        for (tag, meaning) in [
            ("urlprefix-/", "/**"),
            ("urlprefix-/orders", "/orders/**"),
            (
                " urlprefix-Shop.Example/orders/ strip=/orders prepend=/v2 ",
                "shop.example/orders/** strip=/orders add=/v2",
            ),
            ("urlprefix-*.example/ proto=http", "*.example/**"),
            ("urlprefix-/a weight=0.05", "/a/** weight=0.0500"),
            ("urlprefix-/a weight=.25", "/a/** weight=0.2500"),
            ("urlprefix-/a weight=0.00001", "/a/** weight=0.0001"),
            ("urlprefix-/a weight=1", "/a/** weight=1.0000"),
            ("urlprefix-/a weight=0.0", "/a/**"),
            ("urlprefix-$DC.example/a$DC", "dc1.example/a$DC/**"),
            ("urlprefix-a.${DC}-b.$DC/a", "a.dc1-b.dc1/a/**"),
            ("urlprefix-/a redirect=301,https://$host/b/$path", "/a/** redirect=301,https://{host}/b{path}"),
            ("urlprefix-/a proto=https tlsskipverify=false", "/a/** proto=https"),
            ("urlprefix-/a tlsskipverify=true proto=https", "/a/** proto=https tlsskipverify=true"),
            ("urlprefix-/a proto=grpc", "/a/** proto=grpc"),
            ("urlprefix-/a proto=grpcs tlsskipverify=true", "/a/** proto=grpcs tlsskipverify=true"),
            ("urlprefix-/a proto=h2", "/a/** proto=h2"),
            ("urlprefix-/a host=dst", "/a/** host={instance}"),
            ("urlprefix-/a host=a.internal:80 strip=/a", "/a/** strip=/a host=a.internal:80"),
            ("urlprefix-/a allow=ip:10.0.0.0/8,ip:fe80::1", "/a/** allow=10.0.0.0/8,fe80::1/128"),
            ("urlprefix-/a deny=ip:192.0.2.7", "/a/** deny=192.0.2.7/32"),
            (
                "urlprefix-/a allow=IP:192.0.2.7,10.0.0.0/8,ip:192.0.2.7",
                "/a/** allow=10.0.0.0/8,192.0.2.7/32",
            ),
        ] {
            assert_eq!(read(tag), Ok(meaning.to_owned()), "{tag}");
        }
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_whole_and_named() {
        for (tag, reason, words) in [
            ("urlprefix-:3306", Reason::Unsupported, "TCP"),
            ("urlprefix-/a weight=1.1", Reason::Invalid, "from 0 to 1"),
            ("urlprefix-/a weight=1.00001", Reason::Invalid, "from 0 to 1"),
            ("urlprefix-/a weight=-0.1", Reason::Invalid, "from 0 to 1"),
            ("urlprefix-/a weight=.", Reason::Invalid, "from 0 to 1"),
            ("urlprefix-/a weight=5%", Reason::Invalid, "from 0 to 1"),
            ("urlprefix-/a redirect=/b", Reason::Invalid, "a status and a target"),
            ("urlprefix-/a redirect=200,/b", Reason::Invalid, "`301`"),
            ("urlprefix-/a redirect=301,b", Reason::Invalid, "neither a URL nor a path"),
            ("urlprefix-/a host=a/b", Reason::Invalid, "`host`"),
            ("urlprefix-/a host=*.b", Reason::Invalid, "`host`"),
            ("urlprefix-/a allow=ip:10.0.0.0/33", Reason::Invalid, "`allow`"),
            ("urlprefix-/a deny=", Reason::Invalid, "`deny`"),
            ("urlprefix-/a deny=host:a", Reason::Invalid, "`deny`"),
            ("urlprefix-/a auth=basic", Reason::Unsupported, "`auth`"),
            ("urlprefix-/a proto=http3", Reason::Unsupported, "`http3`"),
            ("urlprefix-/a tlsskipverify=true", Reason::Invalid, "`proto=https`"),
            ("urlprefix-/a proto=https tlsskipverify=yes", Reason::Invalid, "`true` or `false`"),
            ("urlprefix-$dc.example/a", Reason::Unsupported, "variables"),
            ("urlprefix-$DCS.example/a", Reason::Unsupported, "variables"),
            ("urlprefix-a$.example/a", Reason::Unsupported, "variables"),
            ("urlprefix-/a/*", Reason::Unsupported, "glob"),
            ("urlprefix-/a bare", Reason::Invalid, "`bare`"),
            ("urlprefix-", Reason::Invalid, "no path"),
            ("millgate.route=", Reason::Invalid, "no path"),
            ("millgate.route=GET", Reason::Invalid, "no path"),
            ("millgate.route=GTE /a", Reason::Invalid, "did you mean `GET`"),
            ("millgate.route=/a/", Reason::Invalid, "does not end with `/`"),
            ("millgate.route=shop.example:80/a", Reason::Invalid, "without its port"),
            ("millgate.route=/a auth=none", Reason::Unsupported, "`auth`"),
            ("millgate.route=/a timeout=5", Reason::Invalid, "unit is missing"),
            ("millgate.route=/a timeout=2h", Reason::Invalid, "`timeout`"),
            ("millgate.route=/a strip=a", Reason::Invalid, "begins with `/`"),
            ("millgate.route=/a strip=/a strip=/b", Reason::Invalid, "`strip` stands there twice"),
            ("urlprefix-/a proto=http proto=http", Reason::Invalid, "`proto` stands there twice"),
        ] {
            let (found, detail) = read(tag).unwrap_err();
            assert!(found == reason && detail.contains(words), "{tag}: {found:?} {detail}");
        }
    }

    #[test]
    fn metadata_says_what_native_tags_say_if_a_tag_points_to_it() {
        let forms = TagForms::default();
        let meta = [
            "millgate-route",
            "millgate-route-2",
            "millgate-route-x",
            "millgate-route-",
            "route",
            "millgate",
        ];
        let meta = meta.map(|key| (key.to_owned(), "GET /a strip=/a".to_owned())).into();
        let texts: Vec<String> = forms.in_metadata(&meta).collect();
        assert_eq!(texts, ["millgate-route=GET /a strip=/a", "millgate-route-2=GET /a strip=/a"]);
        for text in texts {
            assert_eq!(read(&text), Ok("GET /a strip=/a".to_owned()));
            assert!(!forms.is_route(&text), "it is no tag");
        }
        assert!(forms.points_to_metadata("millgate") && !forms.points_to_metadata("millgate.route=/a"));
        let fabio = TagForms { native: None, ..forms };
        assert!(fabio.in_metadata(&meta).next().is_none() && !fabio.points_to_metadata("millgate"));
    }

    #[test]
    fn a_datacenter_that_is_not_known_is_no_part_of_a_host() {
        let why = TagForms::default().read("urlprefix-$DC.example/a", None).unwrap().unwrap_err();
        assert!(why.detail.contains("not known"), "{}", why.detail);
    }

    #[test]
    fn other_tags_are_about_something_else() {
        let forms = TagForms { fabio: None, ..TagForms::default() };
        for tag in ["v1", "millgate", "millgate.route", "traefik.enable=true", "urlprefix-/a", ""] {
            assert!(forms.read(tag, None).is_none() && !forms.is_route(tag), "{tag}");
        }
    }

    fn words() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop::sample::select(vec![
                "GET",
                "*",
                "POST,PUT",
                "/",
                "/a",
                "/a/**",
                "/{x}",
                "shop.example",
                "*.b.c",
                "strip=/a",
                "add=/b",
                "prepend=/c",
                "timeout=5s",
                "proto=http",
                "weight=1",
                "redirect=301,",
                "allow=ip:",
                "host=",
                " ",
                "=",
                ":80",
                "é",
                "\u{0}",
            ]),
            0..8,
        )
        .prop_map(|words| words.join(""))
    }

    proptest! {
        #[test]
        fn no_tag_makes_the_parser_fail(tag in ".{0,80}", near in words()) {
            for text in [tag.clone(), format!("millgate.route={tag}"), format!("urlprefix-{near}"), format!("millgate.route={near}")] {
                let _ = TagForms::default().read(&text, Some("dc1"));
            }
        }

        #[test]
        fn what_was_read_is_read_again_from_its_own_text(
            methods in "(|\\* |GET |POST,GET |PUT\\|DELETE )",
            host in "(|shop\\.example|\\*\\.a-b\\.test)",
            path in "(/|/[a-z]{1,5}(/\\{id\\}|/\\*)?(/\\*\\*)?)",
            options in "( strip=/[a-z]{1,3})?( add=/[a-z]{1,3})?( host=(a\\.b|\\{instance\\}))?( redirect=30[12378],(/b|https://a\\.b|https://\\{host\\})(\\{path\\})?)?( allow=10\\.0\\.0\\.0/[1-8],::1)?( deny=192\\.0\\.2\\.[1-9])?( timeout=[1-9]s)?( weight=0\\.[0-9]{1,4})?( proto=https)?( tlsskipverify=false)?",
        ) {
            let forms = TagForms::default();
            let first = forms.read(&format!("millgate.route={methods}{host}{path}{options}"), None).unwrap().unwrap();
            let again = forms.read(&format!("millgate.route={first}"), None).unwrap();
            prop_assert_eq!(again, Ok(first));
        }
    }
}
