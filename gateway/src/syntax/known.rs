//! One kind of map of a format.

/// What may stand in one kind of map.
pub(crate) struct Known {
    /// "a route", "`listen`": names the map in messages.
    pub(crate) what: &'static str,
    /// Stands in front of field names in messages: `listen.`.
    pub(crate) prefix: &'static str,
    pub(crate) fields: &'static [&'static str],
    /// Fields of the format that this version does not have yet.
    pub(crate) later: &'static [&'static str],
}
