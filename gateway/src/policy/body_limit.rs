//! `body_limit`: the largest request body that a route accepts.
//!
//! A request that declares a larger body is refused before any part of it is sent (413). A body without a declared length is
//! broken off where it exceeds the limit. Unit: bytes.

use super::of_route::{Compile, RoutePolicy, replace};
use crate::syntax::{
    diagnostics::{Diagnostics, code},
    fields::Fields,
    units::{Invalid, size_in},
};

/// A size, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyLimit {
    Off,
    Bytes(u64),
}

impl RoutePolicy for BodyLimit {
    type Written = Option<BodyLimit>;
    /// `None`: a body may have any size.
    type Compiled = Option<u64>;
    const KEYS: &'static [&'static str] = &["body_limit"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Self::Written {
        fields.plain("body_limit", sink, BodyLimit::parse)
    }

    fn overlay(under: &mut Self::Written, top: &Self::Written) {
        replace(under, top.as_ref());
    }

    fn compile(written: &Self::Written, _with: &mut Compile<'_, '_>) -> Option<u64> {
        written.unwrap_or(DEFAULT).bytes()
    }
}

impl BodyLimit {
    /// Reads a size between 1 B and 1 TiB, or `off`.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        match text {
            "off" | "false" => Ok(Self::Off),
            _ => size_in(text, 1..=1 << 40).map(Self::Bytes).map_err(|e| match e.code {
                code::OUT_OF_RANGE => e.help("write `off` for no limit"),
                _ => e,
            }),
        }
    }

    /// The limit in bytes. `None`: a body may have any size.
    pub(crate) fn bytes(self) -> Option<u64> {
        match self {
            Self::Off => None,
            Self::Bytes(bytes) => Some(bytes),
        }
    }
}

/// 10 MiB; docs/DEFAULTS.md has the reason.
pub(crate) const DEFAULT: BodyLimit = BodyLimit::Bytes(10 * 1024 * 1024);
