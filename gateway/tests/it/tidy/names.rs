//! Names of types: one convention distinguishes what a configuration contains from what is made of it, and one name has one
//! meaning in a crate.
//!
//! The convention: the compiled type has the bare name (`Retry`). What is written in `routes.yaml` is `Written` in the module
//! of the compiled type, or stands in `config/raw/` under the name of its section. What is between them, with defaults filled
//! in, is `…Settings`.

use std::collections::{BTreeMap, BTreeSet};

use super::{Source, sources};

/// Names that have two meanings, each with its reason. The list only shrinks.
const TWO_MEANINGS: &[(&str, &str, &str)] = &[
    ("gateway", "AccessLog", "as written; the log of a worker"),
    ("gateway", "Admin", "as written; the state of the admin listener"),
    ("gateway", "Budget", "as written; how many files there are"),
    (
        "gateway",
        "Change",
        "three rooms, none of which imports another: an endpoint's, a saved file's, a declared route's",
    ),
    ("gateway", "Check", "the command; what a policy may look at in a whole route"),
    ("gateway", "Consul", "the command; as written, in two sections"),
    ("gateway", "Diagnostics", "the findings; the command that prints them"),
    ("gateway", "Drain", "as written; the drain under way"),
    ("gateway", "Failure", "of an attempt; of a connection"),
    ("gateway", "Found", "three searches, each inside its room"),
    ("gateway", "Health", "of an endpoint; the command"),
    ("gateway", "Kept", "a body; a registry's state"),
    ("gateway", "Known", "the keys of a section; the state at start"),
    ("gateway", "Limits", "as written; of a body"),
    ("gateway", "Outcome", "of a request for a breaker; of an attempt"),
    ("gateway", "Phase", "of a connection; of a breaker; of an attempt"),
    ("gateway", "Reason", "of a declared route's refusal; of an ejection"),
    ("gateway", "Refusal", "of a request; of a connection"),
    ("gateway", "Refused", "four rooms, each for what it refuses"),
    ("gateway", "Route", "as written; compiled"),
    ("gateway", "Routes", "of a configuration; the command"),
    ("gateway", "Services", "of a configuration; of declared routes; the command"),
    ("gateway", "Severity", "of a finding; of a rule of the command `consul`"),
    ("gateway", "Share", "as written; of the memory for bodies"),
    ("gateway", "Standing", "of a declared route; of an endpoint; of a certificate"),
    ("gateway", "Token", "as written; the command"),
    ("gateway", "Verdict", "on a header field; on an attempt"),
    ("gateway", "Watch", "over a body; the command"),
    ("gateway", "Word", "of another gateway; the packed state of a breaker; of a detector"),
    ("gateway", "Written", "of each policy, in the module of its compiled type: the convention"),
];

/// A declaration of a type that other files can name.
fn declared(source: &Source) -> Vec<String> {
    let declaration = |code: &str| {
        let rest = code.trim_start().strip_prefix("pub")?;
        let rest = match rest.strip_prefix('(') {
            Some(scope) => scope.split_once(')')?.1,
            None => rest,
        };
        let mut words = rest.split_whitespace();
        let kind = words.next().filter(|kind| ["struct", "enum", "union", "trait", "type"].contains(kind))?;
        // An associated type is named through its trait.
        let is_inner = kind == "type" && code.starts_with(' ');
        let name = words.next()?.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
        (!is_inner).then(|| name.to_owned())
    };
    source.code().filter_map(|(_, code)| declaration(code)).collect()
}

#[test]
fn a_name_of_a_type_has_one_meaning_in_its_crate() {
    let mut places: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let Some((package, file)) = source.name.split_once("/src/") else { continue };
        if ["gateway", "registry"].contains(&package) {
            for name in declared(&source) {
                places.entry((package.to_owned(), name)).or_default().insert(file.to_owned());
            }
        }
    }
    places.retain(|_, files| files.len() > 1);
    let mut wrong = Vec::new();
    for (package, name, _) in TWO_MEANINGS {
        if places.remove(&((*package).to_owned(), (*name).to_owned())).is_none() {
            wrong.push(format!("{package}: `{name}` has one meaning: take it off the list"));
        }
    }
    wrong.extend(places.iter().map(|((package, name), files)| format!("{package}: `{name}` in {files:?}")));
    assert!(wrong.is_empty(), "names with more than one meaning:\n{}", wrong.join("\n"));
}

#[test]
fn types_of_the_configuration_follow_one_convention() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.name.starts_with("gateway/src/")) {
        for name in declared(source) {
            let is_other = ["Raw", "AsWritten", "Compiled"]
                .iter()
                .any(|word| name.starts_with(word) || name.ends_with(word));
            if is_other {
                wrong.push(format!("{}: {name}", source.name));
            }
        }
    }
    assert!(wrong.is_empty(), "as written: `Written`; compiled: the bare name:\n{}", wrong.join("\n"));
}
