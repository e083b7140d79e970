//! The merge rule: scalars replace, maps merge by key, lists replace.

use http::HeaderName;

use crate::config::{
    diagnostics::Span,
    raw::{
        clients::Clients,
        route::{Policy, Require, RequireRule},
        traffic::{FieldValue, HeaderRules, Retry, Rewrite, Timeout},
    },
};

impl Policy {
    /// Lays `top` over this policy: what `top` says wins, what it leaves out stays.
    pub(super) fn overlay(&mut self, top: &Self) {
        self.policies.overlay(&top.policies);
        self.clients.overlay(&top.clients);
        replace(&mut self.auth, top.auth.as_ref());
        overlay_require(&mut self.require, top.require.as_ref());
        replace(&mut self.rate_limits, top.rate_limits.as_ref());
        self.timeout.overlay(&top.timeout);
        self.retry.overlay(&top.retry);
        replace(&mut self.body_limit, top.body_limit.as_ref());
        replace(&mut self.body, top.body.as_ref());
        self.rewrite.overlay(&top.rewrite);
        self.request_headers.overlay(&top.request_headers);
        self.response_headers.overlay(&top.response_headers);
        replace(&mut self.access_log, top.access_log.as_ref());
        replace(&mut self.spelling.case_insensitive, top.spelling.case_insensitive.as_ref());
        replace(&mut self.spelling.trailing_slash_same, top.spelling.trailing_slash_same.as_ref());
        replace(&mut self.allow_in_path, top.allow_in_path.as_ref());
        self.hidden.extend(&top.hidden);
    }
}

impl Clients {
    fn overlay(&mut self, top: &Self) {
        replace(&mut self.allow, top.allow.as_ref());
        replace(&mut self.deny, top.deny.as_ref());
    }
}

impl Timeout {
    fn overlay(&mut self, top: &Self) {
        if top.total.is_some() {
            // What was written beside another total is not reported where this one is shorter.
            for inherited in [&mut self.connect, &mut self.per_try].into_iter().flatten() {
                inherited.span = Span::default();
            }
        }
        replace(&mut self.total, top.total.as_ref());
        replace(&mut self.connect, top.connect.as_ref());
        replace(&mut self.per_try, top.per_try.as_ref());
        replace(&mut self.idle, top.idle.as_ref());
        replace(&mut self.min_rate, top.min_rate.as_ref());
    }
}

impl Retry {
    fn overlay(&mut self, top: &Self) {
        replace(&mut self.retries, top.retries.as_ref());
        replace(&mut self.on, top.on.as_ref());
        replace(&mut self.methods, top.methods.as_ref());
        replace(&mut self.budget_per_mille, top.budget_per_mille.as_ref());
        replace(&mut self.backoff, top.backoff.as_ref());
        replace(&mut self.body_bytes_max, top.body_bytes_max.as_ref());
    }
}

impl Rewrite {
    fn overlay(&mut self, top: &Self) {
        replace(&mut self.strip, top.strip.as_ref());
        replace(&mut self.add, top.add.as_ref());
        replace(&mut self.host, top.host.as_ref());
    }
}

impl HeaderRules {
    fn overlay(&mut self, top: &Self) {
        merge_headers(&mut self.set, &top.set);
        merge_headers(&mut self.add, &top.add);
        replace(&mut self.remove, top.remove.as_ref());
    }
}

fn overlay_require(base: &mut Option<RequireRule>, top: Option<&RequireRule>) {
    match (base.as_mut(), top) {
        (_, None) => {}
        (Some(RequireRule::All(base)), Some(RequireRule::All(top))) => {
            let Require { scopes, roles, claims, span } = top;
            replace(&mut base.scopes, scopes.as_ref());
            replace(&mut base.roles, roles.as_ref());
            for (name, wanted) in claims {
                base.claims.retain(|(known, _)| known != name);
                base.claims.push((name.clone(), wanted.clone()));
            }
            base.span = *span;
        }
        (_, Some(top)) => *base = Some(top.clone()),
    }
}

fn merge_headers(base: &mut Vec<(HeaderName, FieldValue)>, top: &[(HeaderName, FieldValue)]) {
    base.retain(|(name, _)| !top.iter().any(|(other, _)| other == name));
    base.extend(top.iter().cloned());
}

fn replace<T: Clone>(base: &mut Option<T>, top: Option<&T>) {
    if let Some(top) = top {
        *base = Some(top.clone());
    }
}
