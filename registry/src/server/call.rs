//! A request on its way to its handler, with the rules that all handlers share.

use std::pin::Pin;

use bytes::Bytes;
use http::{HeaderMap, Method};

use crate::server::answer::{Answer, Refusal};
use crate::server::query::Params;
use crate::server::{Compat, Shared};

/// A request with all that its handler needs.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) method: Method,
    pub(crate) params: Params,
    pub(crate) headers: HeaderMap,
    /// The path, decoded.
    pub(crate) path: &'a str,
    /// The part behind the path of the handler, decoded.
    pub(crate) argument: &'a str,
    pub(crate) body: Bytes,
}

/// An answer that may have to wait, for example for a change.
pub(crate) type Pending<'a> = Pin<Box<dyn Future<Output = Answer> + Send + 'a>>;

impl Call<'_> {
    pub(crate) fn pretty(&self) -> bool {
        self.params.has("pretty")
    }

    pub(crate) fn is_current(&self) -> bool {
        self.shared.identity.compat == Compat::Current
    }

    /// Whether the answer may wait for a change: a read with an index or a hash does.
    pub(crate) fn waits(&self) -> bool {
        let given = |name: &str| self.params.get(name).is_some_and(|value| !matches!(value, "" | "0"));
        self.method == Method::GET && (given("index") || given("hash"))
    }

    /// The argument, which must not be empty; `missing` is Consul's text if it is.
    pub(crate) fn required(&self, missing: &str) -> Result<&str, Refusal> {
        if self.argument.is_empty() { Err(Refusal::bad_request(missing)) } else { Ok(self.argument) }
    }

    /// Refuses a call that names another datacenter; the registry has only its own.
    pub(crate) fn own_datacenter(&self) -> Result<(), Refusal> {
        self.path_to(self.params.get("dc").unwrap_or_default())
    }

    /// Refuses any other datacenter; an empty name means the registry's own.
    pub(crate) fn path_to(&self, datacenter: &str) -> Result<(), Refusal> {
        if datacenter.is_empty() || datacenter == self.shared.identity.datacenter {
            return Ok(());
        }
        Err(Refusal::internal("No path to datacenter"))
    }

    /// A refusal with the status of the release: 400 in later releases, 500 in 1.8.
    pub(crate) fn mistake(&self, text: impl Into<String>) -> Refusal {
        if self.is_current() { Refusal::bad_request(text) } else { Refusal::internal(text) }
    }
}
