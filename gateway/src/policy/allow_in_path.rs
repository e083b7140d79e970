//! `allow_in_path`: what a route accepts in its paths although [`admission`](crate::admission) refuses it
//! elsewhere.

use super::of_route::{Check, Compile, RoutePolicy, replace};
use crate::{
    admission::Oddities,
    syntax::{
        diagnostics::{Diagnostic, Diagnostics, code},
        fields::{Fields, choice},
        units::Invalid,
    },
};

impl RoutePolicy for Oddities {
    type Written = Option<Oddities>;
    type Compiled = Oddities;
    const KEYS: &'static [&'static str] = &["allow_in_path"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        let list = fields.values("allow_in_path", sink, oddity)?;
        Some(list.into_iter().fold(Oddities::NONE, |all, one| all.with(one.value)))
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn check(written: &Self::Written, with: &mut Check<'_>) {
        let allowed = written.unwrap_or_default();
        if with.route.redirect.is_some() && allowed.contains(Oddities::DOUBLE_SLASH) {
            let message = "`allow_in_path: double_slash` does not go with `redirect`";
            with.sink.push(
                Diagnostic::error(code::CONFLICT, with.place, message)
                    .label("a path that begins with `//` names another host in `Location`"),
            );
        }
    }

    fn compile(written: &Self::Written, _with: &mut Compile<'_, '_>) -> Oddities {
        written.unwrap_or_default()
    }
}

fn oddity(text: &str) -> Result<Oddities, Invalid> {
    let words = [
        ("encoded_slash", Oddities::ENCODED_SLASH),
        ("encoded_percent", Oddities::ENCODED_PERCENT),
        ("double_slash", Oddities::DOUBLE_SLASH),
        ("raw", Oddities::RAW),
    ];
    choice(text, &words, &[])
}
