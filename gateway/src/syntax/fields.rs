//! Strict reading of maps and values: each unknown key, missing key and bad value becomes a finding, and reading
//! goes on, so that one pass over the file finds all of them.

pub(crate) use super::known::Known;
use super::{
    advice::Advice,
    diagnostics::Diagnostics,
    foreign_variables,
    hidden::Hidden,
    node::{At, Entry, Node, Scalar, Value},
    report::{Diagnostic, Span, code, did_you_mean, is_one_slip},
    units::Invalid,
};

/// The fields of one map, whose keys have been checked.
pub(crate) struct Fields<'n> {
    pub(crate) span: Span,
    known: &'static Known,
    advice: &'static Advice,
    entries: &'n [Entry],
}

impl<'n> Fields<'n> {
    /// Checks every key of a map. An absent value counts as an empty map. `None`: the value is not a map, which is
    /// reported.
    pub(crate) fn of(node: &'n Node, known: &'static Known, sink: &mut Diagnostics) -> Option<Self> {
        let entries: &[Entry] = match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            Value::Broken => return None,
            other => {
                sink.push(wrong_kind(node.span, known.what, Wanted::Map, other, sink.advice()));
                return None;
            }
        };
        for entry in entries {
            check_key(entry, known, sink);
        }
        Some(Self { span: node.span, known, advice: sink.advice(), entries })
    }

    /// The value of a field.
    pub(crate) fn get(&self, name: &str) -> Option<&'n Node> {
        self.entry(name).map(|entry| &entry.value)
    }

    /// The environment variables in the value of a field.
    pub(crate) fn hidden(&self, name: &str) -> Hidden {
        self.get(name).map(Node::hidden).unwrap_or_default()
    }

    /// The key and the value of a field.
    pub(crate) fn entry(&self, name: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key.value == name)
    }

    /// Whether this kind of map has such a field.
    pub(crate) fn may_have(&self, name: &str) -> bool {
        self.known.fields.contains(&name)
    }

    /// The value of a field that must be present. The error for an absent field proposes `example`.
    pub(crate) fn need(&self, name: &str, example: &str, sink: &mut Diagnostics) -> Option<&'n Node> {
        let found = self.get(name);
        if found.is_none() && !self.is_misspelt(name) {
            let message = format!("{} needs `{name}`", self.known.what);
            sink.push(
                Diagnostic::error(code::MISSING_FIELD, self.span, message)
                    .label(format!("`{name}` is missing here"))
                    .help(format!("add `{example}`")),
            );
        }
        found
    }

    /// Whether a key that was reported as unknown probably means this field.
    pub(crate) fn is_misspelt(&self, name: &str) -> bool {
        let is_unknown = |entry: &&Entry| !self.known.fields.contains(&entry.key.value.as_str());
        self.entries.iter().filter(is_unknown).any(|entry| match (self.advice.word)(self.known, entry, &[]) {
            Some(word) => word.field == Some(name),
            None => did_you_mean(&entry.key.value, self.known.fields.iter().copied()) == Some(name),
        })
    }

    /// A parsed value with its place. `None`: the field is absent, or the value was refused, which is reported.
    pub(crate) fn value<T>(
        &self,
        name: &str,
        sink: &mut Diagnostics,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<At<T>> {
        value(self.get(name)?, &self.full_name(name), sink, parse)
    }

    /// A parsed value as in [`Self::value`], without its place.
    pub(crate) fn plain<T>(
        &self,
        name: &str,
        sink: &mut Diagnostics,
        parse: impl FnOnce(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        self.value(name, sink, parse).map(|at| at.value)
    }

    /// The parsed values of a list, or of one value.
    pub(crate) fn values<T>(
        &self,
        name: &str,
        sink: &mut Diagnostics,
        parse: impl FnMut(&str) -> Result<T, Invalid>,
    ) -> Option<Vec<At<T>>> {
        Some(values(self.get(name)?, &self.full_name(name), sink, parse))
    }

    /// The name of a field in messages, with the prefix of its map.
    pub(crate) fn full_name(&self, name: &str) -> String {
        format!("{}{name}", self.known.prefix)
    }
}

fn check_key(entry: &Entry, known: &'static Known, sink: &mut Diagnostics) {
    let key = &entry.key;
    let name = key.value.as_str();
    if known.fields.contains(&name) {
        return;
    }
    let foreign = (sink.advice().word)(known, entry, sink.providers());
    if known.later.contains(&name) {
        let finding = not_supported(key.span, &format!("`{}{name}`", known.prefix));
        return sink.push(finding.help_if(foreign.map(|word| word.help)));
    }
    let finding = Diagnostic::error(code::UNKNOWN_FIELD, key.span, format!("unknown field `{name}`"));
    if let Some(word) = foreign {
        return sink.push(finding.label(word.label).help(word.help));
    }
    let meant = did_you_mean(name, known.fields.iter().copied());
    let elsewhere =
        (sink.advice().place_of_field)(name).filter(|_| !meant.is_some_and(|meant| is_one_slip(name, meant)));
    sink.push(match (elsewhere, meant) {
        (Some((place, example)), _) => finding
            .label(format!("not a field of {}", known.what))
            .help(format!("it belongs into {place}: `{example}`")),
        (None, Some(field)) => finding.label(format!("did you mean `{field}`?")),
        (None, None) => finding
            .label(format!("{} has no such field", known.what))
            .help(format!("its fields are {}", quoted_list(known.fields))),
    });
}

/// The error for a part of the format that this version does not have.
pub(crate) fn not_supported(span: Span, what: &str) -> Diagnostic {
    Diagnostic::error(code::NOT_SUPPORTED, span, format!("{what} is not supported by this version"))
        .label("remove it")
}

/// The entries of a map whose keys are names that the user chooses.
pub(crate) fn named_entries<'n>(node: &'n Node, what: &str, sink: &mut Diagnostics) -> &'n [Entry] {
    match &node.value {
        Value::Map(entries) => entries,
        Value::Null | Value::Broken => &[],
        other => {
            sink.push(wrong_kind(node.span, what, Wanted::Names, other, sink.advice()));
            &[]
        }
    }
}

/// The items of a list. An absent value counts as an empty list.
pub(crate) fn items<'n>(node: &'n Node, what: &str, sink: &mut Diagnostics) -> &'n [Node] {
    match &node.value {
        Value::List(items) => items,
        Value::Null | Value::Broken => &[],
        other => {
            sink.push(wrong_kind(node.span, what, Wanted::List, other, sink.advice()));
            &[]
        }
    }
}

/// The items of a list; a single value counts as a list of one.
pub(crate) fn one_or_many(node: &Node) -> &[Node] {
    match &node.value {
        Value::List(items) => items,
        _ => std::slice::from_ref(node),
    }
}

/// Parses the values of a list, or one value. Refused values are reported and left out.
pub(crate) fn values<T>(
    node: &Node,
    name: &str,
    sink: &mut Diagnostics,
    mut parse: impl FnMut(&str) -> Result<T, Invalid>,
) -> Vec<At<T>> {
    one_or_many(node).iter().filter_map(|item| value(item, name, sink, &mut parse)).collect()
}

/// Parses one value. The error does not contain the value if it comes from a variable.
pub(crate) fn value<T>(
    node: &Node,
    name: &str,
    sink: &mut Diagnostics,
    parse: impl FnOnce(&str) -> Result<T, Invalid>,
) -> Option<At<T>> {
    let scalar = scalar(node, name, sink)?;
    match parse(&scalar.text) {
        Ok(value) => Some(At { value, span: node.span }),
        Err(invalid) => {
            sink.push(refused(node.span, name, scalar, invalid, sink.advice()));
            None
        }
    }
}

/// Parses a key that the user chooses. `what` begins the error message.
pub(crate) fn key<T>(
    key: &At<String>,
    what: &str,
    sink: &mut Diagnostics,
    parse: impl FnOnce(&str) -> Result<T, Invalid>,
) -> Option<T> {
    let refused = |invalid: Invalid| {
        let message = format!("{what} must be {}", invalid.expected);
        sink.push(Diagnostic::error(invalid.code, key.span, message).label(invalid.label));
    };
    parse(&key.value).map_err(refused).ok()
}

fn refused(span: Span, name: &str, scalar: &Scalar, invalid: Invalid, advice: &Advice) -> Diagnostic {
    let finding = Diagnostic::error(invalid.code, span, format!("`{name}` must be {}", invalid.expected));
    if scalar.from_variable {
        return finding.label("the value of this variable is not");
    }
    if let Some(variable) = foreign_variables::of_environment(&scalar.text) {
        return finding
            .label("a variable is written in another way here")
            .help(format!("write `${{{variable}}}`, or `${{{variable}:-default}}`"));
    }
    let finding = finding.label(invalid.label);
    finding.help_if((advice.value)(name, &scalar.text).or(invalid.help))
}

/// The scalar of a node. `None`: the node is of another kind, which is reported.
pub(crate) fn scalar<'n>(node: &'n Node, name: &str, sink: &mut Diagnostics) -> Option<&'n Scalar> {
    match &node.value {
        Value::Scalar(scalar) => Some(scalar),
        Value::Broken => None,
        other => {
            sink.push(wrong_kind(node.span, &format!("`{name}`"), Wanted::Value, other, sink.advice()));
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Map,
    Names,
    List,
    Value,
}

fn wrong_kind(span: Span, what: &str, wanted: Wanted, found: &Value, advice: &Advice) -> Diagnostic {
    let expected = match wanted {
        Wanted::Map => "a map (`key: value` lines)",
        Wanted::Names => "a map from names to their settings",
        Wanted::List => "a list (lines that begin with `- `)",
        Wanted::Value => "one value",
    };
    let label = match found {
        Value::Null => "nothing stands here",
        Value::Scalar(_) => "this is one value",
        Value::List(_) => "this is a list",
        Value::Map(_) | Value::Broken => "this is a map",
    };
    Diagnostic::error(code::WRONG_KIND, span, format!("{what} must be {expected}"))
        .label(label)
        .help_if((advice.shape)(what, wanted == Wanted::Value, found))
}

/// Whether the value is this word, for short forms beside a map. `false` counts as `off`, and `true` as `on`.
pub(crate) fn is_word(node: &Node, word: &str) -> bool {
    let Value::Scalar(scalar) = &node.value else { return false };
    scalar.text == word || matches!((word, &*scalar.text), ("off", "false") | ("on", "true"))
}

/// Warns about an empty list that leaves its setting without effect.
pub(crate) fn report_empty(fields: &Fields<'_>, name: &str, label: &str, sink: &mut Diagnostics) {
    if let Some(node) = fields.get(name)
        && matches!(&node.value, Value::List(items) if items.is_empty())
    {
        let message = format!("`{}` is an empty list", fields.full_name(name));
        let help = "write what is meant, or `off` for the whole setting";
        sink.push_once(Diagnostic::warning(code::NO_EFFECT, node.span, message).label(label).help(help));
    }
}

/// Reads one of a few words. `later` are words of the format that this version does not have.
pub(crate) fn choice<T: Clone>(text: &str, words: &[(&str, T)], later: &[&str]) -> Result<T, Invalid> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(value.clone());
    }
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let one_of = if names.len() == 1 { "" } else { "one of " };
    let expected = format!("{one_of}{}", quoted_list(&names));
    if later.iter().any(|word| text == *word || (word.ends_with(':') && text.starts_with(word))) {
        return Err(Invalid::new(
            code::NOT_SUPPORTED,
            expected,
            format!("`{text}` is not supported by this version"),
        ));
    }
    Err(Invalid::new(
        code::BAD_VALUE,
        expected,
        match did_you_mean(text, names) {
            Some(word) => format!("did you mean `{word}`?"),
            None => "not one of them".to_owned(),
        },
    ))
}

/// The words in backquotes, with commas.
pub(crate) fn quoted_list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

/// The error for a name that the file does not define.
pub(crate) fn unknown_name<'a>(
    what: &str,
    name: &At<String>,
    known: impl Iterator<Item = &'a str>,
) -> Diagnostic {
    let known: Vec<&str> = known.collect();
    let finding =
        Diagnostic::error(code::UNKNOWN_NAME, name.span, format!("there is no {what} of this name"));
    match did_you_mean(&name.value, known.iter().copied()) {
        Some(word) => finding.label(format!("did you mean `{word}`?")),
        None if known.is_empty() => {
            let section = match what {
                "policy" => "policies",
                "subset" => "subsets",
                "listener" => "listen",
                _ => "auth",
            };
            finding.label("unknown name").help(format!("this file has no `{section}` section"))
        }
        None => finding.label("unknown name").help(format!("known are {}", quoted_list(&known))),
    }
}

/// Reads a text that must not be empty.
pub(crate) fn some_text(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Invalid::new(code::BAD_VALUE, "a text", "this is empty"));
    }
    Ok(text.to_owned())
}

/// Reads a name of a service, provider, policy or route.
pub(crate) fn name(text: &str) -> Result<String, Invalid> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let expected = "a name of letters, digits, `-`, `_` and `.`, at most 128 long";
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => {
            Err(Invalid::new(code::BAD_VALUE, expected, format!("`{}` is not allowed", c.escape_default())))
        }
        None if text.is_empty() || text.len() > NAME_MAX => {
            Err(Invalid::new(code::BAD_VALUE, expected, "too short or too long"))
        }
        None => Ok(text.to_owned()),
    }
}

/// Names become metric labels and log fields.
const NAME_MAX: usize = 128;
