//! `auth`: the providers whose credentials a route accepts.
//!
//! A route accepts credentials of any provider that it names, or is open. As soon as the file has a provider, every route must name
//! one or be declared open, so that a route is never open by accident. [`auth`](crate::auth) checks the credentials.

pub(crate) mod cures;

use super::of_route::{Check, Compile, RoutePolicy, View, replace};
use crate::syntax::{
    diagnostics::{Diagnostic, Diagnostics, Span, code},
    fields::{Fields, is_word, some_text, unknown_name, values},
    tree::{At, Value},
};

/// `auth` as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// `none`: the route needs no credentials.
    Open,
    /// The route needs credentials of any of these providers.
    AnyOf(Vec<At<String>>),
    /// The value could not be read, and the error is reported.
    Broken,
}

impl RoutePolicy for Access {
    type Written = Option<At<Access>>;
    /// Indexes of the providers; the route is open if it is empty.
    type Compiled = Box<[usize]>;
    const KEYS: &'static [&'static str] = &["auth"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let Some(node) = fields.get("auth") else {
            // A misspelt `auth` has been reported already.
            return fields.is_misspelt("auth").then_some(At { value: Access::Broken, span: fields.span });
        };
        let at = |value| At { value, span: node.span };
        if is_word(node, "none") {
            return Some(at(Access::Open));
        }
        let says_no = ["off", "no", "public", "anonymous", "disabled", "optional", "open"];
        let says_nothing = matches!(&node.value, Value::Null)
            || matches!(&node.value, Value::List(items) if items.is_empty());
        if says_nothing {
            let cure = cures::provider(sink.providers().first().map(String::as_str));
            sink.push(
                Diagnostic::error(code::BAD_VALUE, node.span, "`auth` names no provider")
                    .label("nothing says who may use the route")
                    .help(format!("{cure}; or `auth: none` to open the route to everyone")),
            );
            return Some(at(Access::Broken));
        }
        if says_no.iter().any(|word| is_word(node, word)) {
            sink.push(
                Diagnostic::error(
                    code::BAD_VALUE,
                    node.span,
                    "`auth` must be the name of a provider, a list of them, or `none`",
                )
                .label("not a provider's name")
                .help("write `auth: none` to open the route to everyone"),
            );
            return Some(at(Access::Broken));
        }
        let names = values(node, "auth", sink, some_text);
        if let Some(none) = names.iter().find(|name| name.value == "none") {
            sink.push(
                Diagnostic::error(code::CONFLICT, none.span, "`none` cannot be one of several providers")
                    .label("the route would be open")
                    .help("remove `none` from the list; `auth: none` alone opens the route to everyone"),
            );
            return Some(at(Access::Broken));
        }
        Some(at(if names.is_empty() { Access::Broken } else { Access::AnyOf(names) }))
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn check(written: &Self::Written, with: &mut Check<'_>) {
        match (written.as_ref().map(|at| &at.value), with.providers) {
            (None, [first, ..]) => with.sink.push(route_without_auth(with.silent, with.place, first)),
            (Some(Access::AnyOf(names)), known) => {
                if let Some(name) = names.iter().find(|name| !known.contains(&name.value.as_str())) {
                    with.sink.push(unknown_name("auth provider", name, known.iter().copied()));
                }
            }
            (None | Some(Access::Open | Access::Broken), _) => {}
        }
    }

    fn compile(written: &Self::Written, with: &mut Compile<'_, '_>) -> Box<[usize]> {
        let mut indexes = Vec::new();
        for name in names(written.as_ref()) {
            let index = with.providers.iter().position(|known| *known == name);
            indexes.extend(index.filter(|index| !indexes.contains(index)));
        }
        indexes.into()
    }

    fn show(providers: &Box<[usize]>, view: &mut View<'_>) {
        let names = providers.iter().filter_map(|at| view.providers.get(*at)).map(|name| (*name).to_owned());
        let names: Vec<String> = names.collect();
        view.items("auth", names);
    }
}

/// Names of the providers that a route names.
pub(crate) fn names(written: Option<&At<Access>>) -> impl Iterator<Item = &str> {
    let names = match written {
        Some(At { value: Access::AnyOf(names), .. }) => names.as_slice(),
        Some(At { value: Access::Open | Access::Broken, .. }) | None => &[],
    };
    names.iter().map(|name| name.value.as_str())
}

/// Whether the route needs no credentials. `None`: this is not known, since an error was reported.
pub(crate) fn is_open(written: Option<&At<Access>>, providers: &[&str]) -> Option<bool> {
    match written.map(|at| &at.value) {
        None => providers.is_empty().then_some(true),
        Some(Access::Open) => Some(true),
        Some(Access::Broken) => None,
        Some(Access::AnyOf(names)) => {
            names.iter().all(|name| providers.contains(&name.value.as_str())).then_some(false)
        }
    }
}

/// The error for a policy that needs an identity on a route that is open.
pub(super) fn needed(span: Span, route: Span, message: &str) -> Diagnostic {
    Diagnostic::error(code::NEEDS_AUTH, span, message).related(route, "the route that is open")
}

fn route_without_auth(silent: &str, place: Span, provider: &str) -> Diagnostic {
    Diagnostic::error(code::ROUTE_WITHOUT_AUTH, place, silent)
        .label("no `auth` here, in its policies, or in `defaults`")
        .help(format!(
            "add `auth: {provider}` to ask for a token, or `auth: none` to open the route to everyone"
        ))
}
