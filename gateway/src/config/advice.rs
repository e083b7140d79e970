//! Help that is added to findings about `routes.yaml`: our names for words, values and shapes of other products, and the
//! place where a field belongs.

mod carried;
mod foreign_values;
mod foreign_words;
mod shapes;

use super::raw;
use crate::{
    policy::auth::cures,
    syntax::{
        advice::{Advice, ForeignWord},
        fields::Known,
        tree::Entry,
    },
};

/// The advice of `routes.yaml`, which its reader adds to findings.
pub(crate) static ADVICE: Advice =
    Advice { word, place_of_field: raw::place_of_field, value: foreign_values::cure, shape: shapes::cure };

fn word(known: &Known, entry: &Entry, providers: &[String]) -> Option<ForeignWord> {
    let name = entry.key.value.as_str();
    let word = foreign_words::find(known.what, known.fields, name)?;
    let help = if known.later.contains(&name) {
        // This version does not have the field, so the value does not matter.
        word.help(None)
    } else if let Some(help) = word.fields().and_then(|fields| cures::kept_check(fields, &entry.value)) {
        help.to_owned()
    } else if word.field() == Some("auth") {
        cures::auth(&entry.value, providers)
    } else {
        word.help(word.example().and_then(|example| carried::help(example, &entry.value)))
    };
    Some(ForeignWord { field: word.field(), label: word.label(), help })
}
