//! Reading what an authority has issued, or what the storage has kept: the key, then the chain, in one PEM text, so that both are
//! always replaced together.
//!
//! Nothing of an authority is presented that does not fit: the key must be the one of the order, and the names those that were asked
//! for, all of them and no other.

use std::sync::Arc;

use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{
    certificate::{acme::Wanted, issued::Issued, names::CertifiedNames},
    tls::validity::Validity,
};

/// Reads a certificate with its key.
///
/// # Errors
/// It is not the wanted one; the text is the reason.
pub(super) fn read(wanted: &Wanted, pem: &[u8]) -> Result<Issued, String> {
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|error| format!("there is no key: {error}"))?;
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| format!("the chain is no PEM: {error}"))?;
    if chain.len() > CHAIN_MAX {
        return Err(format!("the chain has more than {CHAIN_MAX} certificates"));
    }
    let leaf = chain.first().ok_or("there is no certificate")?;
    let names = CertifiedNames::of_certificate(leaf).ok_or("the certificate cannot be read")?;
    let mut exact: Vec<&str> = names.exact.iter().map(|name| &**name).collect();
    exact.sort_unstable();
    if !names.wildcards.is_empty() || !exact.iter().copied().eq(wanted.names.iter().map(|name| &**name)) {
        let shown: Vec<_> = names.shown().take(SHOWN_MAX).collect();
        return Err(format!("the certificate is for {}, which is not what was asked for", shown.join(", ")));
    }
    let validity = Validity::of_chain(&chain).ok_or("a certificate of the chain cannot be read")?;
    let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider());
    let key = key.map_err(|error| format!("the certificate is not for the key of this order: {error}"))?;
    Ok(Issued {
        id: Arc::clone(&wanted.id),
        key: Arc::new(key),
        names: Arc::new(names),
        not_before: validity.not_before,
        not_after: validity.not_after,
    })
}

/// Roots and cross-signed ones included, real chains have up to four.
const CHAIN_MAX: usize = 10;
const SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn pem(names: &[&str], key: &KeyPair, other: &KeyPair) -> Vec<u8> {
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let made = CertificateParams::new(names).unwrap().self_signed(key).unwrap();
        format!("{}{}", other.serialize_pem(), made.pem()).into_bytes()
    }

    #[test]
    fn only_the_wanted_names_and_the_own_key_are_accepted() {
        let wanted = Wanted::new("https://ca.example/", vec!["a.example".into(), "b.example".into()]);
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = read(&wanted, &pem(&["b.example", "a.example"], &key, &key)).unwrap();
        assert!(good.names.cover("a.example") && good.not_after > good.not_before);
        for (names, key_of, reason) in [
            (&["a.example"][..], &key, "not what was asked for"),
            (&["a.example", "b.example", "c.example"], &key, "not what was asked for"),
            (&["a.example", "b.example", "*.b.example"], &key, "not what was asked for"),
            (&["a.example", "b.example"], &other, "not for the key"),
        ] {
            let error = read(&wanted, &pem(names, &key, key_of)).unwrap_err();
            assert!(error.contains(reason), "{names:?}: {error}");
        }
        assert!(read(&wanted, b"garbage").unwrap_err().contains("no key"));
        assert!(read(&wanted, key.serialize_pem().as_bytes()).unwrap_err().contains("no certificate"));
    }
}
