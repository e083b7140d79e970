//! The gate of a route as it is written.

use crate::{
    config::settings::RouteSettings,
    policy::{auth, clients::ClientRule, gate::Gate, require::Requirement},
};

/// The owned parts of a [`Gate`].
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GateParts<'a> {
    clients: Vec<ClientRule>,
    auth: Vec<&'a str>,
    require: Requirement,
}

impl<'a> GateParts<'a> {
    pub(super) fn of(route: &'a RouteSettings) -> Self {
        let policies = &route.policies;
        Self {
            clients: policies.clients.rules(),
            auth: auth::names(policies.auth.as_ref()).collect(),
            require: Requirement::of(policies.require.as_ref()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.auth.is_empty() && self.clients.is_empty()
    }

    /// [`Gate::is_as_strict_as`].
    pub(super) fn is_as_strict_as(&self, other: &Self) -> bool {
        self.gate().is_as_strict_as(&other.gate())
    }

    /// [`Gate::is_stricter_than`].
    pub(super) fn is_stricter_than(&self, other: &Self) -> bool {
        self.gate().is_stricter_than(&other.gate())
    }

    fn gate(&self) -> Gate<'_, &'a str> {
        Gate { clients: &self.clients, auth: &self.auth, require: &self.require }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::load;

    /// Whether the first of two routes with these fields is as strict as the other, and whether it asks for
    /// more.
    fn compared(one: &str, other: &str) -> (bool, bool) {
        let text = format!(
            "version: 1\nauth: {{main: {{jwks: \"http://127.0.0.1:1/k\", audience: a}}, other: {{jwks: \"http://127.0.0.1:1/k\", audience: b}}}}\n\
             routes:\n  - {{path: /one, service: s, {one}}}\n  - {{path: /other, service: s, {other}}}\n"
        );
        let routes =
            load::parse("routes.yaml", &text, Path::new(""), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let [one, other] = &routes.settings.routes[..] else { panic!("two routes") };
        let (one, other) = (GateParts::of(one), GateParts::of(other));
        (one.is_as_strict_as(&other), one.is_stricter_than(&other))
    }

    #[test]
    fn a_gate_is_as_strict_as_another_if_whatever_passes_it_passes_the_other() {
        let clients = |text: &str| format!("auth: none, clients: {{{text}}}");
        let require = |text: &str| format!("auth: main, require: {{{text}}}");
        let token = "auth: main".to_owned();
        for (one, other, expected) in [
            (token.clone(), "auth: none".to_owned(), (true, true)),
            (token.clone(), token.clone(), (true, false)),
            (token.clone(), "auth: [other, main]".to_owned(), (true, true)),
            ("auth: [main, other]".to_owned(), "auth: [other, main]".to_owned(), (true, false)),
            ("auth: other".to_owned(), token.clone(), (false, false)),
            (require("role: staff"), token.clone(), (true, true)),
            (require("role: [a, b]"), require("role: [b, a]"), (true, false)),
            (require("role: a"), require("role: [b, a]"), (true, true)),
            (require("role: [b, a]"), require("role: a"), (false, false)),
            (require("scope: [a, b]"), require("scope: a"), (true, true)),
            (require("role: staff, scope: a"), require("role: staff"), (true, true)),
            (require("claim: {t: a}"), require("claim: {t: [a, b]}"), (true, true)),
            (require("claim: {u: a}"), require("claim: {t: a}"), (false, false)),
            (clients("allow: 10.1.0.0/16"), clients("allow: 10.0.0.0/8"), (true, true)),
            (clients("allow: 10.0.0.0/8"), clients("allow: 10.1.0.0/16"), (false, false)),
            (
                clients("allow: [10.0.0.0/8, 11.0.0.0/8]"),
                clients("allow: [11.0.0.0/8, 10.0.0.0/8]"),
                (true, false),
            ),
            (clients("allow: 10.0.0.0/8"), clients("allow: [10.0.0.0/9, 10.128.0.0/9]"), (true, false)),
            (clients("allow: 10.0.0.0/8"), clients("deny: 11.0.0.0/8"), (true, true)),
            (clients("deny: 11.0.0.0/8"), clients("deny: 11.1.0.0/16"), (true, true)),
            (clients("deny: 11.1.0.0/16"), clients("deny: 11.0.0.0/8"), (false, false)),
            (clients("allow: 10.0.0.0/8"), token.clone(), (false, false)),
        ] {
            assert_eq!(compared(&one, &other), expected, "{one} beside {other}");
        }
    }
}
