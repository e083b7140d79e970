//! The proxies' certificate (ECDSA P-256, made anew for each run), and a client configuration that trusts it and
//! resumes no session.

use std::{fs, path::Path, sync::Arc};

use anyhow::Context;
use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// Writes `server.pem` and `server.key`, and both in `server.both.pem`, as HAProxy needs them.
pub(crate) fn make(dir: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    fs::write(dir.join(CERTIFICATE), &certificate)?;
    fs::write(dir.join("server.key"), &key)?;
    fs::write(dir.join("server.both.pem"), certificate + &key)?;
    Ok(())
}

pub(crate) const CERTIFICATE: &str = "server.pem";
const NAME: &str = "localhost";

pub(crate) fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).expect("a constant that is a name")
}

/// TLS 1.3 only, with full handshakes only.
pub(crate) fn client(certificate: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).context("no certificate")?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_trusts_what_was_made() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path()).unwrap();
        client(&dir.path().join(CERTIFICATE)).unwrap();
        let both = fs::read_to_string(dir.path().join("server.both.pem")).unwrap();
        assert!(both.contains("BEGIN CERTIFICATE") && both.contains("BEGIN PRIVATE KEY"), "{both}");
    }
}
