//! Help that a format adds to findings: for words, values and shapes of other products, and for misplaced fields.

use super::{
    known::Known,
    node::{Entry, Value},
};

/// The help of one format. Its reader hands it to [`Diagnostics`](super::diagnostics::Diagnostics), where readers of maps and values
/// find it.
#[derive(Debug)]
pub(crate) struct Advice {
    /// Help for a key that is not a field of the map. The last argument has the names of the file's providers.
    pub(crate) word: fn(&Known, &Entry, &[String]) -> Option<ForeignWord>,
    /// The map of the format that has this field, and how the field is written there.
    pub(crate) place_of_field: fn(&str) -> Option<(&'static str, String)>,
    /// Help for a refused value, by the name of the field and the value.
    pub(crate) value: fn(&str, &str) -> Option<String>,
    /// Help for a value of the wrong kind, by the map or field as named in the message, whether it needs a single value, and the
    /// value that was found.
    pub(crate) shape: fn(&str, bool, &Value) -> Option<String>,
}

/// A key of another product.
pub(crate) struct ForeignWord {
    /// The field of the same map with the same meaning.
    pub(crate) field: Option<&'static str>,
    pub(crate) label: String,
    pub(crate) help: String,
}

/// The advice of a format that has none.
pub(super) static NONE: Advice =
    Advice { word: |_, _, _| None, place_of_field: |_| None, value: |_, _| None, shape: |_, _, _| None };
