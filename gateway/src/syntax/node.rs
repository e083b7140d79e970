//! A tree of values with their places in the file.

use std::fmt;

use super::{hidden::Hidden, report::Span};

/// A value and its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// A node of the tree: a value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// The value of a node.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
    /// An error was reported here already, so readers do not report another one.
    Broken,
}

/// Any value other than a list or a map is text, and the reader of the field interprets it.
pub(crate) struct Scalar {
    pub(crate) text: String,
    /// A part of the text comes from an environment variable and must not be shown.
    pub(crate) from_variable: bool,
    pub(crate) hidden: Hidden,
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.hidden.shown(&self.text).fmt(f)
    }
}

impl Node {
    /// All environment variables in the node.
    pub(crate) fn hidden(&self) -> Hidden {
        let mut hidden = Hidden::default();
        self.add_hidden(&mut hidden);
        hidden
    }

    fn add_hidden(&self, hidden: &mut Hidden) {
        match &self.value {
            Value::Scalar(scalar) => hidden.extend(&scalar.hidden),
            Value::List(items) => items.iter().for_each(|item| item.add_hidden(hidden)),
            Value::Map(entries) => entries.iter().for_each(|entry| entry.value.add_hidden(hidden)),
            Value::Null | Value::Broken => {}
        }
    }
}

/// A key of a map, and its value.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) key: At<String>,
    pub(crate) value: Node,
}
