//! `listen.http2` as written.

use crate::syntax::{
    diagnostics::Diagnostics,
    fields::{Fields, Known, is_word, value},
    tree::Node,
    units::count,
};

/// `listen.http2`.
#[derive(Debug, Default)]
pub(crate) struct Http2 {
    pub(crate) frames_per_second: Option<Budget>,
    pub(crate) resets: Option<Budget>,
}

/// A budget of frames, or `off`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    Off,
    Frames(u32),
}

impl Http2 {
    /// Reads the map `listen.http2`.
    pub(crate) fn read(node: &Node, sink: &mut Diagnostics) -> Self {
        let Some(fields) = Fields::of(node, &HTTP2, sink) else { return Self::default() };
        Self {
            frames_per_second: read_budget(&fields, "frames_per_second", FRAMES_MIN, sink),
            resets: read_budget(&fields, "resets", RESETS_MIN, sink),
        }
    }
}

fn read_budget(fields: &Fields<'_>, name: &str, least: u32, sink: &mut Diagnostics) -> Option<Budget> {
    let node = fields.get(name)?;
    if is_word(node, "off") {
        return Some(Budget::Off);
    }
    let parse = |text: &str| {
        count(text, least..=FRAMES_MAX)
            .map_err(|invalid| invalid.help("write a number, or `off` for no budget"))
    };
    value(node, &fields.full_name(name), sink, parse).map(|at| Budget::Frames(at.value))
}

pub(crate) static HTTP2: Known = Known {
    what: "`listen.http2`",
    prefix: "listen.http2.",
    fields: &["frames_per_second", "resets"],
    later: &[],
};

/// An honest client opens a connection with about ten control frames, and sends a few each second to measure
/// its bandwidth.
const FRAMES_MIN: u32 = 50;
/// A browser resets about ten requests at a time when its user leaves a page.
const RESETS_MIN: u32 = 10;
/// A larger number would be as good as `off`.
const FRAMES_MAX: u32 = 100_000_000;
