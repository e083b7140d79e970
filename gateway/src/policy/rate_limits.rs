//! `rate_limit` of a route: one limit, or several.

use std::sync::Arc;

use super::{
    auth,
    of_route::{Asked, Check, Compile, RoutePolicy, View, replace},
    rate_limit::{
        RateLimit, RateLimitKey, RateLimitSpec,
        rate::{Rate, burst, rate_key},
    },
};
use crate::syntax::{
    diagnostics::{Diagnostic, Diagnostics, Span, code},
    fields::{Fields, Known, is_word, one_or_many, value},
    tree::{At, Node, Value},
};

/// One limit as written, with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Limit {
    rate: Rate,
    span: Span,
}

impl RoutePolicy for RateLimit {
    /// An empty list is `off`.
    type Written = Option<Vec<Limit>>;
    type Compiled = Box<[Arc<RateLimit>]>;
    const KEYS: &'static [&'static str] = &["rate_limit"];
    const MAPS: &'static [&'static Known] = &[&RATE_LIMIT];

    /// Reads `100/s per user`, `{rate, burst, per}`, a list of these, or `off`.
    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let node = fields.get("rate_limit")?;
        if is_word(node, "off") {
            return Some(Vec::new());
        }
        Some(one_or_many(node).iter().filter_map(|item| read_limit(item, sink)).collect())
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn check(written: &Self::Written, with: &mut Check<'_>) {
        if auth::is_open(with.route.auth.as_ref(), with.providers) != Some(true) {
            return;
        }
        for limit in written.iter().flatten() {
            if matches!(limit.rate.key, Some(RateLimitKey::User | RateLimitKey::Claim(_))) {
                with.sink.push(
                    auth::needed(
                        limit.span,
                        with.place,
                        "a limit per user or claim needs a token, and this route asks for none",
                    )
                    .help("count per `ip`, such as `100/s per ip`; without `per`, a limit is per user behind auth and per IP address on open routes"),
                );
            }
        }
    }

    fn ask(written: &Self::Written, asked: &mut Asked) {
        for limit in written.iter().flatten() {
            match &limit.rate.key {
                Some(RateLimitKey::Header(name)) => asked.fields.push(name.clone()),
                Some(RateLimitKey::Claim(name)) => _ = asked.claims.insert(name.as_str().into()),
                _ => {}
            }
        }
    }

    fn compile(written: &Self::Written, with: &mut Compile<'_, '_>) -> Box<[Arc<RateLimit>]> {
        let mut limits = Vec::new();
        for spec in
            specs(written.as_deref(), auth::is_open(with.written.auth.as_ref(), with.providers) == Some(true))
        {
            match with.limits.of(with.route, with.service, &spec) {
                Ok(limit) => limits.push(limit),
                Err(error) => {
                    let problem = Diagnostic::error(code::RATE_LIMIT, spec.span, error.to_string());
                    with.problems.push(problem);
                }
            }
        }
        limits.into()
    }

    fn show(limits: &Box<[Arc<RateLimit>]>, view: &mut View<'_>) {
        view.items("rate_limits", limits.iter().map(|limit| limit.spec().to_string()));
    }
}

fn read_limit(node: &Node, sink: &mut Diagnostics) -> Option<Limit> {
    if !matches!(node.value, Value::Map(_)) {
        let rate = value(node, "rate_limit", sink, Rate::parse)?;
        return Some(Limit { rate: rate.value, span: rate.span });
    }
    let fields = Fields::of(node, &RATE_LIMIT, sink)?;
    fields.need("rate", "rate: 100/s", sink)?;
    let burst = fields.value("burst", sink, burst);
    let key = fields.value("per", sink, rate_key);
    let At { value: mut rate, span } = fields.value("rate", sink, Rate::parse)?;
    if rate.burst.is_some() && burst.is_some() || rate.key.is_some() && key.is_some() {
        sink.push(
            Diagnostic::error(code::CONFLICT, span, "`rate` already says what `burst` or `per` says")
                .label("remove one of the two"),
        );
    }
    rate.burst = rate.burst.or(burst.map(|at| at.value));
    rate.key = rate.key.or(key.map(|at| at.value));
    Some(Limit { rate, span })
}

/// The limits with their defaults: a limit without a key is per user, or per address on an open route.
pub(crate) fn specs(written: Option<&[Limit]>, is_open: bool) -> Vec<RateLimitSpec> {
    let by_default = if is_open { RateLimitKey::Ip } else { RateLimitKey::User };
    let limits = written.unwrap_or_default().iter().map(|Limit { rate, span }| RateLimitSpec {
        name: String::new(),
        requests: rate.requests,
        period: rate.period,
        burst: rate.burst.unwrap_or(rate.requests),
        key: rate.key.clone().unwrap_or_else(|| by_default.clone()),
        span: *span,
    });
    let mut specs: Vec<RateLimitSpec> = limits.collect();
    let names: Vec<String> = (0..).zip(&specs).map(|(at, spec)| limit_name(at, spec, &specs)).collect();
    for (spec, name) in specs.iter_mut().zip(names) {
        spec.name = name;
    }
    specs
}

/// The name of a limit. A single limit is `default`; each of several has the name of its key. Limits with the same key are
/// numbered in the order of their settings, since a reload recognises a limit by its name, whatever the order of the list.
fn limit_name(at: usize, limit: &RateLimitSpec, all: &[RateLimitSpec]) -> String {
    if all.len() == 1 {
        return "default".to_owned();
    }
    let base = match &limit.key {
        RateLimitKey::Ip => "ip".to_owned(),
        RateLimitKey::User => "user".to_owned(),
        RateLimitKey::Route => "route".to_owned(),
        RateLimitKey::Service => "service".to_owned(),
        RateLimitKey::Claim(name) => {
            format!("claim-{}", name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"))
        }
        RateLimitKey::Header(name) => format!("header-{name}"),
    };
    let rank = |at: usize, limit: &RateLimitSpec| (limit.period, limit.requests, limit.burst, at);
    let is_before = |(other_at, other): &(usize, &RateLimitSpec)| {
        other.key == limit.key && rank(*other_at, other) < rank(at, limit)
    };
    match (0..).zip(all).filter(is_before).count() {
        0 => base,
        before => format!("{base}-{}", before + 1),
    }
}

static RATE_LIMIT: Known =
    Known { what: "`rate_limit`", prefix: "rate_limit.", fields: &["rate", "burst", "per"], later: &[] };
