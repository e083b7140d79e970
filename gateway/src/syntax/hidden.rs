//! Values of environment variables are hidden: a text is shown as it is written, such as `/hooks/${KEY}`.
//!
//! A file takes secrets from `${…}`, and its texts are shown in many places: names of routes in metrics, logs and error
//! documents, URLs in errors of the programs behind them. Each part of the file keeps a list of its variables, and its texts go
//! through [`Hidden::shown`] on their way to one of these places. Names of services and instances, addresses and files are shown
//! with their values, even if these come from variables.

use std::{cmp::Reverse, fmt};

/// The variables of a part of the file: the value of each, and how the variable is written.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Hidden(Vec<Variable>);

/// The variables of a route's path and host. Each has its own list, since a variable in `rate_limit: ${N}/s` must not replace parts
/// of a path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OfRoute {
    pub path: Hidden,
    pub host: Hidden,
}

impl OfRoute {
    /// Adds the variables of another layer.
    pub fn extend(&mut self, other: &Self) {
        let Self { path, host } = self;
        let pairs = [(path, &other.path), (host, &other.host)];
        for (own, other) in pairs {
            own.extend(other);
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Variable {
    value: String,
    written: String,
}

impl Hidden {
    /// Adds a variable with its value, in the forms that the value may take on its way: as it is, in lower case (hosts), in upper
    /// case (other spellings of a path), and with letters beyond ASCII encoded (paths).
    pub fn add(&mut self, value: &str, written: &str) {
        for value in [value.to_owned(), value.to_lowercase(), value.to_uppercase(), encoded(value)] {
            if !value.is_empty() && !self.0.iter().any(|known| known.value == value) {
                self.0.push(Variable { value, written: written.to_owned() });
            }
        }
        // A value that contains another one is replaced before it.
        self.0.sort_by_key(|variable| Reverse(variable.value.len()));
    }

    /// Adds the variables of another part of the file.
    pub fn extend(&mut self, other: &Self) {
        for Variable { value, written } in &other.0 {
            self.add(value, written);
        }
    }

    /// The text with the values of variables replaced by the variables as written.
    pub fn shown(&self, text: &str) -> String {
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        // The search goes from left to right, and does not search the text that replaces a value.
        while let Some(first) = rest.chars().next() {
            if let Some(Variable { value, written }) =
                self.0.iter().find(|known| rest.starts_with(&known.value))
            {
                shown.push_str(written);
                rest = &rest[value.len()..];
            } else {
                shown.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        shown
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|variable| &variable.written)).finish()
    }
}

fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            encoded.push(c);
        } else {
            encoded.extend(c.encode_utf8(&mut [0; 4]).bytes().map(|byte| format!("%{byte:02X}")));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_shown_as_its_variable_in_each_form_and_longer_ones_first() {
        let mut hidden = Hidden::default();
        for (value, written) in
            [("key", "${A}"), ("key-2", "${B}"), ("Café", "${C}"), ("", "${D}"), ("$", "${E}")]
        {
            hidden.add(value, written);
        }
        for (text, shown) in [
            ("/hooks/key/x", "/hooks/${A}/x"),
            ("/key-2/key", "/${B}/${A}"),
            ("café.example/Café/caf%C3%A9", "${C}.example/${C}/caf%C3%A9"),
            ("/Caf%C3%A9", "/${C}"),
            ("/HOOKS/KEY", "/HOOKS/${A}"),
            ("a$b", "a${E}b"),
            ("nothing", "nothing"),
            ("", ""),
        ] {
            assert_eq!(hidden.shown(text), shown, "{text}");
        }
        let mut more = Hidden::default();
        more.add("other", "${O}");
        hidden.extend(&more);
        assert_eq!(hidden.shown("other key"), "${O} ${A}");
        assert!(!format!("{hidden:?}").contains("key"));
    }
}
