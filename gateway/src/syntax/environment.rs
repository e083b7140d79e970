//! The environment that a text may use of the process that reads it.
//!
//! A file belongs to the user that starts the process, and may use all of its environment. A text from Consul belongs to
//! every holder of a token that may write its key. This right does not include the process's own credential for Consul: such a
//! text cannot change the connection through which it came, and cannot read the variables that contain its secret.

use millgate_registry::ClientConfig;

/// The variables of one process, for one text.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    connection: Option<&'a ClientConfig>,
}

/// The error for a variable that the text must not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Withheld;

impl<'a> Environment<'a> {
    /// The environment of a file.
    pub(crate) fn of_file(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, connection: None }
    }

    /// The environment of a text that came through `connection`.
    pub(crate) fn of_key(lookup: &'a dyn Fn(&str) -> Option<String>, connection: &'a ClientConfig) -> Self {
        Self { lookup, connection: Some(connection) }
    }

    /// The value for `${NAME}` in the text. `None`: the variable is not set.
    pub(crate) fn variable(&self, name: &str) -> Result<Option<String>, Withheld> {
        if self.connection.is_some() && WITHHELD.contains(&name) {
            Err(Withheld)
        } else {
            Ok((self.lookup)(name))
        }
    }

    /// A variable that the reader looks up itself, independently of the text. An empty one counts as not set.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The connection to Consul through which the text came. `None`: the text is from a file.
    pub(crate) fn connection(&self) -> Option<&'a ClientConfig> {
        self.connection
    }
}

/// The variables from which Consul's own tools read a secret.
const WITHHELD: [&str; 2] = ["CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH"];
