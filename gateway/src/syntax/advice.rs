//! What a format adds to a finding: the words, values and shapes of other products, and the map that has a field.

use super::{
    known::Known,
    node::{Entry, Value},
};

/// The reader of a format gives it to [`Diagnostics`](super::diagnostics::Diagnostics), and readers of maps and values take it from there.
#[derive(Debug)]
pub(crate) struct Advice {
    /// Of a key that is not a field of the map. The last argument has the names of the file's providers.
    pub(crate) word: fn(&Known, &Entry, &[String]) -> Option<ForeignWord>,
    /// The map of the format that has this field, and how the field is written there.
    pub(crate) place_of_field: fn(&str) -> Option<(&'static str, String)>,
    /// What to write instead of a refused value: of the field with this name, and the value.
    pub(crate) value: fn(&str, &str) -> Option<String>,
    /// What to write where something of another kind stands: the map or field, as in the message, whether it has one value, and what
    /// was found.
    pub(crate) shape: fn(&str, bool, &Value) -> Option<String>,
}

/// A key of another product.
pub(crate) struct ForeignWord {
    /// The field of the same map that it means.
    pub(crate) field: Option<&'static str>,
    pub(crate) label: String,
    pub(crate) help: String,
}

/// Of a format about which nothing is known.
pub(super) static NONE: Advice =
    Advice { word: |_, _, _| None, place_of_field: |_| None, value: |_, _| None, shape: |_, _, _| None };
