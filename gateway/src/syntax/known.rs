//! The description of one kind of map in a format.

/// The fields of one kind of map.
pub(crate) struct Known {
    /// The map's name in messages: "a route", "`listen`".
    pub(crate) what: &'static str,
    /// Text in front of field names in messages: `listen.`.
    pub(crate) prefix: &'static str,
    pub(crate) fields: &'static [&'static str],
    /// Fields of the format that this version does not have yet.
    pub(crate) later: &'static [&'static str],
}
