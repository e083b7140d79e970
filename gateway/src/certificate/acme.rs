//! Who certifies the names of a listener by ACME (RFC 8555), how, and where account and certificates are kept: plain data of the
//! settings. What came of it is in [`issued`](super::issued); orders, storage and renewal stand in the room `acme`.

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use aws_lc_rs::digest::{Context, SHA256};

/// Who certifies, how, and where account and certificates are kept. Listeners with equal values share all of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AcmeAuthority {
    /// The URL of the authority's directory.
    pub directory: String,
    pub email: Option<String>,
    pub challenge: ChallengeKind,
    pub storage: Storage,
    /// The authorities that verify the directory's own certificate. `None`: those of the system.
    pub ca_file: Option<PathBuf>,
    pub external_account: Option<ExternalAccountSettings>,
}

/// One certificate that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name in the storage. It changes with the directory and with the set of names, so no certificate of other names is taken.
    pub id: Arc<str>,
    /// In lower case, each once, sorted.
    pub names: Vec<Box<str>>,
}

/// How the authority verifies that a host is this gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum ChallengeKind {
    /// By a TLS handshake with the protocol `acme-tls/1` (RFC 8737), at port 443.
    #[default]
    TlsAlpn01,
    /// By a request in cleartext (RFC 8555 §8.3), at port 80.
    Http01,
}

/// Where account, certificates and keys are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Storage {
    /// A folder of this machine, or one that machines share.
    Folder(PathBuf),
    /// The beginning of keys in Consul, without a slash at its end.
    Consul(String),
}

/// The account that an authority knows from elsewhere (RFC 8555 §7.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ExternalAccountSettings {
    pub key_id: String,
    /// The file with the key, in URL-safe Base64.
    pub hmac_key_file: PathBuf,
}

impl Wanted {
    /// A certificate with these names from this directory.
    pub fn new(directory: &str, mut names: Vec<Box<str>>) -> Self {
        names.sort_unstable();
        names.dedup();
        let mut context = Context::new(&SHA256);
        for part in std::iter::once(directory).chain(names.iter().map(|name| &**name)) {
            context.update(part.as_bytes());
            context.update(&[0]);
        }
        let digest = context.finish();
        let mut hash = String::new();
        for byte in digest.as_ref().iter().take(ID_BYTES) {
            // Writing into a String cannot fail.
            let _ = write!(hash, "{byte:02x}");
        }
        let first = names.first().map_or("", |name| &**name);
        Self { id: format!("{first}-{hash}").into(), names }
    }
}

/// Of the hash in an id: two sets of names of one gateway do not meet by chance.
const ID_BYTES: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_one_of_its_names_in_any_order_and_of_its_directory() {
        let id = |directory: &str, names: &[&str]| {
            Wanted::new(directory, names.iter().map(|name| (*name).into()).collect()).id
        };
        let one = id("https://ca.example/", &["b.example", "a.example", "b.example"]);
        assert!(one.starts_with("a.example-") && one.len() == "a.example-".len() + 16, "{one}");
        assert_eq!(one, id("https://ca.example/", &["a.example", "b.example"]));
        assert_ne!(one, id("https://staging.ca.example/", &["a.example", "b.example"]));
        assert_ne!(one, id("https://ca.example/", &["a.example", "b.exampl", "e"]));
    }
}
