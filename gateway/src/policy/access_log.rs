//! `access_log` of a route: whether its requests are logged. The top-level `access_log` decides where the log goes and its
//! sample.

use super::of_route::{Compile, RoutePolicy, replace};
use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{Fields, not_supported, value},
    tree::Value,
    units::boolean,
};

/// The policy. A route without it is logged.
pub(crate) enum LogThis {}

impl RoutePolicy for LogThis {
    type Written = Option<bool>;
    type Compiled = bool;
    const KEYS: &'static [&'static str] = &["access_log"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Option<bool> {
        let node = fields.get("access_log")?;
        if let Value::Map(_) = node.value {
            sink.push(
                not_supported(node.span, "a sample for one route")
                    .label("")
                    .help("write `access_log: false`, or set `access_log.sample` for all routes"),
            );
            return None;
        }
        value(node, "access_log", sink, boolean).map(|at| at.value)
    }

    fn overlay(under: &mut Option<bool>, top: &Option<bool>) {
        replace(under, top.as_ref());
    }

    fn compile(written: &Option<bool>, _with: &mut Compile<'_, '_>) -> bool {
        written.unwrap_or(true)
    }
}
