//! What a text may take from the process that reads it.
//!
//! A file belongs to the user that starts the process, and may use all of its environment. A text from Consul belongs to
//! every holder of a token that may write its key, and that does not entitle to the process's own credential for Consul: such a
//! text uses the connection that it came through as it is, and cannot read the variables that have its secret.

use millgate_registry::ClientConfig;

/// The variables of one process, for one text.
#[derive(Clone, Copy)]
pub(crate) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
    connection: Option<&'a ClientConfig>,
}

/// A variable that this text must not see.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Withheld;

impl<'a> Environment<'a> {
    pub(crate) fn of_file(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup, connection: None }
    }

    /// Of a text that came through `connection`.
    pub(crate) fn of_key(lookup: &'a dyn Fn(&str) -> Option<String>, connection: &'a ClientConfig) -> Self {
        Self { lookup, connection: Some(connection) }
    }

    /// For `${NAME}` in the text.
    pub(crate) fn variable(&self, name: &str) -> Result<Option<String>, Withheld> {
        if self.connection.is_some() && WITHHELD.contains(&name) {
            Err(Withheld)
        } else {
            Ok((self.lookup)(name))
        }
    }

    /// What the text does not ask for itself.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The connection to Consul that the text came through, and that it cannot change.
    pub(crate) fn connection(&self) -> Option<&'a ClientConfig> {
        self.connection
    }
}

/// What Consul's own tools read a secret from.
const WITHHELD: [&str; 2] = ["CONSUL_HTTP_TOKEN", "CONSUL_HTTP_AUTH"];
