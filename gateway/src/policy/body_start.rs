//! `body`: when a request with a body is sent: with its head, or when the body has arrived.

use super::of_route::{Compile, RoutePolicy, replace};
use crate::syntax::{
    diagnostics::{Diagnostics, code},
    fields::Fields,
    units::Invalid,
};

/// `gather` or `stream`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum BodyStart {
    /// The endpoint is chosen when the body's end or its first bytes have arrived, so slots and connections do not wait for a
    /// client.
    #[default]
    Gather,
    /// The endpoint is chosen when the request head has arrived.
    Stream,
}

impl RoutePolicy for BodyStart {
    type Written = Option<BodyStart>;
    type Compiled = BodyStart;
    const KEYS: &'static [&'static str] = &["body"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        fields.plain("body", sink, |text| match text {
            "gather" => Ok(Self::Gather),
            "stream" => Ok(Self::Stream),
            _ => Err(Invalid::new(code::BAD_VALUE, "`stream` or `gather`", "not one of the two")),
        })
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn compile(written: &Self::Written, _with: &mut Compile<'_, '_>) -> BodyStart {
        written.unwrap_or_default()
    }
}
