//! The merge rule: scalars replace, maps merge by key, lists replace.

use http::HeaderName;

use crate::config::raw::{
    route::Policy,
    traffic::{FieldValue, HeaderRules, Rewrite},
};

impl Policy {
    /// Lays `top` over this policy: what `top` says wins, what it leaves out stays.
    pub(super) fn overlay(&mut self, top: &Self) {
        self.policies.overlay(&top.policies);
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

fn merge_headers(base: &mut Vec<(HeaderName, FieldValue)>, top: &[(HeaderName, FieldValue)]) {
    base.retain(|(name, _)| !top.iter().any(|(other, _)| other == name));
    base.extend(top.iter().cloned());
}

fn replace<T: Clone>(base: &mut Option<T>, top: Option<&T>) {
    if let Some(top) = top {
        *base = Some(top.clone());
    }
}
