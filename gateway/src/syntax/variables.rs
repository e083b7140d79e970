//! `${NAME}`, `${NAME:-default}`, `${NAME:?message}` in values; `$${` is a literal `${`.
//!
//! As in POSIX shells (XCU §2.6.2), the forms with a colon treat an empty variable as unset. Unlike in a shell, a
//! plain `${NAME}` that is unset is an error: a gateway must not start with an empty address or audience.

use super::{
    environment::{Environment, Withheld},
    hidden::Hidden,
    report::{Diagnostic, Span, code},
};

/// A value whose variables have been replaced.
pub(crate) struct Expanded {
    pub(crate) text: String,
    pub(crate) from_variable: bool,
    pub(crate) hidden: Hidden,
}

/// Why a variable cannot be replaced.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum VariableError {
    Unset {
        name: String,
    },
    /// `${NAME:?message}`
    Required {
        name: String,
        message: String,
    },
    /// The text is from Consul, and the variable contains a secret of the gateway.
    Withheld {
        name: String,
    },
    Malformed {
        written: String,
    },
}

/// Replaces every variable.
///
/// # Errors
/// One error for each variable that cannot be replaced.
pub(crate) fn expand(text: &str, env: Environment<'_>) -> Result<Expanded, Vec<VariableError>> {
    let mut expanded =
        Expanded { text: String::with_capacity(text.len()), from_variable: false, hidden: Hidden::default() };
    let mut errors = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, reference) = rest.split_at(at);
        if let Some(literal) = before.strip_suffix('$') {
            expanded.text.push_str(literal);
            expanded.text.push_str("${");
            rest = &reference[2..];
            continue;
        }
        expanded.text.push_str(before);
        let Some(end) = reference.find('}') else {
            errors.push(VariableError::Malformed { written: reference.to_owned() });
            rest = "";
            break;
        };
        match one(&reference[2..end], env) {
            Ok(Found::Variable(value)) => {
                expanded.text.push_str(&value);
                expanded.from_variable = true;
                expanded.hidden.add(&value, &reference[..=end]);
            }
            Ok(Found::Default(value)) => expanded.text.push_str(value),
            Err(error) => errors.push(error),
        }
        rest = &reference[end + 1..];
    }
    expanded.text.push_str(rest);
    if errors.is_empty() { Ok(expanded) } else { Err(errors) }
}

enum Found<'a> {
    Variable(String),
    Default(&'a str),
}

fn one<'a>(inside: &'a str, env: Environment<'_>) -> Result<Found<'a>, VariableError> {
    let (name, form) = match inside.find(':') {
        Some(at) => (&inside[..at], &inside[at + 1..]),
        None => (inside, ""),
    };
    let is_name = |text: &str| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
    };
    let malformed = || VariableError::Malformed { written: format!("${{{inside}}}") };
    if !is_name(name) || inside.contains("${") {
        return Err(malformed());
    }
    let withheld = |Withheld| VariableError::Withheld { name: name.to_owned() };
    let set = env.variable(name).map_err(withheld)?;
    let set_and_not_empty = || set.clone().filter(|value| !value.is_empty());
    if let Some(default) = form.strip_prefix('-') {
        return Ok(set_and_not_empty().map_or(Found::Default(default), Found::Variable));
    }
    if let Some(message) = form.strip_prefix('?') {
        let error = || VariableError::Required { name: name.to_owned(), message: message.to_owned() };
        return set_and_not_empty().map(Found::Variable).ok_or_else(error);
    }
    if inside.len() != name.len() {
        return Err(malformed());
    }
    set.map(Found::Variable).ok_or_else(|| VariableError::Unset { name: name.to_owned() })
}

impl VariableError {
    /// The finding for the error, at the variable itself if it is found inside the value.
    pub(crate) fn diagnostic(&self, value: Span, source: &str) -> Diagnostic {
        let needle = match self {
            Self::Unset { name } => format!("${{{name}}}"),
            Self::Withheld { name } => format!("${{{name}"),
            Self::Required { name, .. } => format!("${{{name}:?"),
            Self::Malformed { written } => written.clone(),
        };
        let span = narrow(value, &needle, source);
        match self {
            Self::Unset { name } => Diagnostic::error(
                code::UNSET_VARIABLE,
                span,
                format!("the environment variable `{name}` is not set"),
            )
            .help(format!("set it before the start, or give a default: `${{{name}:-value}}`")),
            Self::Required { name, message } if message.is_empty() => Diagnostic::error(
                code::UNSET_VARIABLE,
                span,
                format!("the environment variable `{name}` is not set or empty"),
            )
            .help("set it before the start"),
            Self::Required { name, message } => Diagnostic::error(
                code::UNSET_VARIABLE,
                span,
                format!("the environment variable `{name}` is not set or empty: {message}"),
            )
            .help("set it before the start"),
            Self::Withheld { name } => Diagnostic::error(
                code::NOT_FROM_CONSUL,
                span,
                format!("a configuration that Consul holds cannot use the variable `{name}`"),
            )
            .label("a secret of the gateway itself")
            .help("remove it: whoever may write the key could send the secret anywhere"),
            Self::Malformed { .. } => {
                Diagnostic::error(code::UNSET_VARIABLE, span, "this is not a variable that can be replaced")
                    .help(
                        "the forms are `${NAME}`, `${NAME:-default}` and `${NAME:?message}`, not nested; \
                     `$${` stands for the text `${`",
                    )
            }
        }
    }
}

fn narrow(value: Span, needle: &str, source: &str) -> Span {
    let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let find = || {
        let line = source.lines().nth(value.line.checked_sub(1)? as usize)?;
        let (from, _) = line.char_indices().nth(value.column.checked_sub(1)? as usize)?;
        let at = from + line.get(from..)?.find(needle)?;
        let rest = &line[at..];
        let length = rest.find('}').map_or(needle.len(), |end| end + 1);
        let chars_before = line[..at].chars().count();
        let length = rest.get(..length).unwrap_or(needle).chars().count();
        Some(Span { line: value.line, column: small(chars_before + 1), length: small(length) })
    };
    find().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<String, Vec<VariableError>> {
        let env = |name: &str| match name {
            "HOST" => Some("consul".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        expand(text, Environment::of_file(&env)).map(|expanded| expanded.text)
    }

    #[test]
    fn variables_are_replaced_anywhere_in_a_value() {
        for (text, expected) in [
            ("http://${HOST}:8500", "http://consul:8500"),
            ("${NONE:-http://127.0.0.1:8500}", "http://127.0.0.1:8500"),
            ("${HOST:-x}${HOST:?y}", "consulconsul"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("$${HOST} $HOST $", "${HOST} $HOST $"),
            ("no variables", "no variables"),
        ] {
            assert_eq!(check(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn every_unset_variable_is_an_error_of_its_own() {
        let unset = |name: &str| VariableError::Unset { name: name.to_owned() };
        assert_eq!(check("${A} ${B}"), Err(vec![unset("A"), unset("B")]));
        let required =
            VariableError::Required { name: "EMPTY".to_owned(), message: "where is it".to_owned() };
        assert_eq!(check("${EMPTY:?where is it}"), Err(vec![required]));
    }

    #[test]
    fn malformed_references_are_refused() {
        for text in ["${", "${}", "${1A}", "${A-b}", "${A:=b}", "${A:-${B}}", "${A B}", "${NAME:}"] {
            assert!(check(text).is_err_and(|e| matches!(e[0], VariableError::Malformed { .. })), "{text}");
        }
    }

    #[test]
    fn text_from_a_variable_is_marked_and_a_default_is_not() {
        let env = |name: &str| (name == "SET").then(|| "secret".to_owned());
        let env = Environment::of_file(&env);
        assert!(expand("${SET}", env).is_ok_and(|e| e.from_variable));
        assert!(expand("${NONE:-x}", env).is_ok_and(|e| !e.from_variable));
    }

    #[test]
    fn the_place_is_the_variable_inside_the_value() {
        let source = "a: \"x ${NAME} y\"\n";
        let value = Span { line: 1, column: 4, length: 13 };
        let finding = VariableError::Unset { name: "NAME".to_owned() }.diagnostic(value, source);
        assert_eq!(finding.span, Span { line: 1, column: 7, length: 7 });
    }
}
