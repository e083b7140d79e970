//! `rewrite`: the path and the host that a service gets: without a prefix, with another prefix, with another `Host`.

use std::fmt;

use http::{
    HeaderValue, Uri,
    uri::{Authority, PathAndQuery},
};

use super::of_route::{BadOption, Compile, RoutePolicy, replace};
use crate::{
    router::{path_cures::prefix_or_cure, reading},
    syntax::{
        diagnostics::{Diagnostics, Span, code},
        fields::{Fields, Known},
        tree::At,
        units::Invalid,
    },
};

/// `rewrite` as written.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Written {
    pub(crate) strip: Option<At<String>>,
    add: Option<String>,
    host: Option<UpstreamHost>,
}

impl Written {
    /// The prefix that is removed.
    pub(crate) fn stripped(&self) -> Option<&str> {
        self.strip.as_ref().map(|at| at.value.as_str())
    }

    /// The prefix that is added.
    pub(crate) fn added(&self) -> Option<&str> {
        self.add.as_deref()
    }

    pub(crate) fn upstream_host(&self) -> Option<&UpstreamHost> {
        self.host.as_ref()
    }
}

/// The rewriting of one route's requests.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rewrite {
    /// Prefix to remove, e.g. `/api`.
    pub strip: Option<String>,
    /// Prefix to add after stripping.
    pub add: Option<String>,
    /// `None`: the service gets the client's `Host`.
    pub host: Option<UpstreamHost>,
}

/// The `Host` of requests to a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamHost {
    /// A fixed name.
    Name(HeaderValue),
    /// The instance's own address and port.
    Instance,
}

impl Rewrite {
    /// The target that a service gets, and the prefix that was stripped from it. `any_case`: the prefix is compared without regard
    /// to case, as the route's path was. Never `None` in practice: the parts were valid in a target, so the result is valid.
    pub fn apply<'a>(&self, target: &'a PathAndQuery, any_case: bool) -> Option<(Uri, Option<&'a str>)> {
        let written = target.path();
        let path = rewritten(self.strip.as_deref(), self.add.as_deref(), written, any_case);
        let query = target.query().map_or(String::new(), |query| format!("?{query}"));
        let joint = PathAndQuery::try_from(format!("{path}{query}")).ok()?;
        Some((Uri::from(joint), path.prefix))
    }
}

/// A path as a service gets it.
pub(crate) struct Rewritten<'a, 'p> {
    /// What was stripped, as it was written; `None`: nothing was.
    prefix: Option<&'p str>,
    added: &'a str,
    rest: &'p str,
}

impl fmt::Display for Rewritten<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // If the prefix was the whole path and nothing is added, the path still needs a slash.
        let slash = if self.added.is_empty() && self.rest.is_empty() { "/" } else { "" };
        write!(f, "{}{}{slash}", self.added, self.rest)
    }
}

/// The path that a service gets for `path`. `any_case`: the prefix is compared as the path was.
pub(crate) fn rewritten<'a, 'p>(
    strip: Option<&str>,
    add: Option<&'a str>,
    path: &'p str,
    any_case: bool,
) -> Rewritten<'a, 'p> {
    let stripped = strip.and_then(|prefix| reading::strip(path, prefix, any_case));
    Rewritten {
        prefix: stripped.and_then(|rest| path.strip_suffix(rest)),
        added: add.unwrap_or_default().trim_end_matches('/'),
        rest: stripped.unwrap_or(path),
    }
}

/// The other way: what is left of the path that a service gets without what was added to it. `None`: `add` is not its beginning,
/// so the rewrite makes no such path.
pub(crate) fn without_added<'a>(add: Option<&str>, sent: &'a str) -> Option<&'a str> {
    let add = add.unwrap_or_default().trim_end_matches('/');
    sent.strip_prefix(add).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl RoutePolicy for Rewrite {
    type Written = Written;
    /// `None`: the target is sent unchanged. It is boxed since few routes have one.
    type Compiled = Option<Box<Rewrite>>;
    const KEYS: &'static [&'static str] = &["rewrite"];
    const MAPS: &'static [&'static Known] = &[&REWRITE];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        let fields = fields.get("rewrite").and_then(|node| Fields::of(node, &REWRITE, sink));
        let Some(fields) = fields else { return Written::default() };
        Written {
            strip: fields.value("strip", sink, prefix_or_cure),
            add: fields.plain("add", sink, prefix_or_cure),
            host: fields.plain("host", sink, parse_host),
        }
    }

    fn overlay(under: &mut Written, top: &Written) {
        replace(&mut under.strip, top.strip.as_ref());
        replace(&mut under.add, top.add.as_ref());
        replace(&mut under.host, top.host.as_ref());
    }

    fn read_option(written: &mut Written, option: &str, value: &str) -> Option<Result<(), BadOption>> {
        let read = match option {
            "strip" => {
                prefix_or_cure(value).map(|value| written.strip = Some(At { value, span: Span::default() }))
            }
            "add" => prefix_or_cure(value).map(|prefix| written.add = Some(prefix)),
            "host" => parse_host(value).map(|host| written.host = Some(host)),
            _ => return None,
        };
        Some(read.map_err(|why| BadOption::of(option, why)))
    }

    fn write_options(written: &Written, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = written.host.as_ref().map(|host| match host {
            UpstreamHost::Instance => "{instance}",
            UpstreamHost::Name(name) => name.to_str().unwrap_or_default(),
        });
        let strip = written.strip.as_ref().map(|at| at.value.as_str());
        for (option, value) in [("strip", strip), ("add", written.add.as_deref()), ("host", host)] {
            if let Some(value) = value {
                write!(to, " {option}={value}")?;
            }
        }
        Ok(())
    }

    fn compile(written: &Written, _with: &mut Compile<'_, '_>) -> Option<Box<Rewrite>> {
        let Written { strip, add, host } = written.clone();
        let rewrite = Rewrite { strip: strip.map(|at| at.value), add, host };
        (rewrite != Rewrite::default()).then(|| Box::new(rewrite))
    }
}

/// Reads `orders.internal`, `orders.internal:8080` or `{instance}`.
pub(crate) fn parse_host(text: &str) -> Result<UpstreamHost, Invalid> {
    if text == "{instance}" {
        return Ok(UpstreamHost::Instance);
    }
    let expected = "a host such as `orders.internal` or `orders.internal:8080`, or `{instance}`";
    let refuse = |label: &str| Invalid::new(code::BAD_VALUE, expected, label);
    if text.contains("://") || text.contains('/') {
        let bare =
            text.split_once("://").map_or(text, |(_, rest)| rest).split('/').next().unwrap_or_default();
        let refusal = refuse("a URL, not a host");
        return Err(match parse_host(bare) {
            Ok(_) => refusal.help(format!("write `{bare}`")),
            Err(_) => refusal,
        });
    }
    let is_host = |authority: &Authority| {
        let has_port = authority.host().len() < text.len();
        let is_port = !has_port || authority.port_u16().is_some_and(|port| port > 0);
        !authority.host().is_empty() && is_port && !text.contains(['@', '*', '{', '}'])
    };
    let authority = text.parse::<Authority>().ok().filter(is_host).ok_or_else(|| refuse("not a host"))?;
    HeaderValue::from_str(authority.as_str()).map(UpstreamHost::Name).map_err(|_| refuse("not a host"))
}

static REWRITE: Known =
    Known { what: "`rewrite`", prefix: "rewrite.", fields: &["strip", "add", "host"], later: &["to"] };
