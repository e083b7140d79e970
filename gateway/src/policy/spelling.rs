//! `case_insensitive` and `trailing_slash`: the other spellings of its path by which the [`router`](crate::router) finds a route.

use super::of_route::{Compile, RoutePolicy, replace};
use crate::{
    router::reading::Spelling,
    syntax::{
        diagnostics::Diagnostics,
        fields::{Fields, choice},
        units::boolean,
    },
};

impl RoutePolicy for Spelling {
    type Written = Spelling;
    type Compiled = Spelling;
    const KEYS: &'static [&'static str] = &["case_insensitive", "trailing_slash"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Spelling {
        let slashes = [("same", true), ("exact", false)];
        Spelling {
            case_insensitive: fields.plain("case_insensitive", sink, boolean),
            trailing_slash_same: fields.plain("trailing_slash", sink, |text| choice(text, &slashes, &[])),
        }
    }

    fn overlay(under: &mut Spelling, top: &Spelling) {
        replace(&mut under.case_insensitive, top.case_insensitive.as_ref());
        replace(&mut under.trailing_slash_same, top.trailing_slash_same.as_ref());
    }

    fn compile(written: &Spelling, _with: &mut Compile<'_, '_>) -> Spelling {
        *written
    }
}
