//! What the TLS handshake of one connection has decided for the requests on it.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

use super::{
    ListenerTls,
    client::ClientCertificate,
    served::{SetId, without_root_dot},
    settings::ClientAuth,
};

/// A completed handshake.
#[derive(Debug)]
pub struct TlsHandshake {
    tls: Arc<ListenerTls>,
    /// The certificates to which the client's name led.
    presented: Option<SetId>,
    /// The client named a host (SNI).
    is_named: bool,
    client: Option<ClientCertificate>,
}

impl TlsHandshake {
    /// `name` is the host that the client named (SNI), `chain` the certificates with which it has proved its identity.
    pub fn new(tls: Arc<ListenerTls>, name: Option<&str>, chain: Option<&[CertificateDer<'_>]>) -> Self {
        let presented = tls.names.set_of(name.map(without_root_dot));
        Self { tls, presented, is_named: name.is_some(), client: chain.map(ClientCertificate::new) }
    }

    /// The verified certificate of the client.
    pub fn client(&self) -> Option<&ClientCertificate> {
        self.client.as_ref()
    }

    /// What the client was verified against ([`ListenerTls::clients`]). 0: it has shown no certificate.
    pub fn verified_by(&self) -> u64 {
        if self.client.is_some() { self.tls.clients } else { 0 }
    }

    /// Whether the host of a request matters: `false` if every host leads to the same certificates.
    pub fn depends_on_host(&self) -> bool {
        !self.tls.names.is_one_set() && (self.is_named || self.tls.only_config().is_none())
    }

    /// Whether a request for `host` may come on this connection (RFC 9110 §15.5.20). Certificates are compared as they were at the
    /// handshake. `is_trusted`: the peer is a proxy that the configuration trusts.
    ///
    /// A host whose clients prove themselves in another way is never reached: its handshake would have asked for another proof.
    /// Otherwise it may lead to the same certificates, or be one for which a presented certificate is valid. A client without a name
    /// (HTTP/1.0, probes, load balancers) has no other way to name its host, and was content with the default certificate. A trusted
    /// proxy may name itself, or one of its upstreams, in every handshake, unless clients are asked who they are.
    pub fn may_serve(&self, host: &str, is_trusted: bool) -> bool {
        let names = &self.tls.names;
        let (Some(presented), wanted) = (self.presented, names.set_of(Some(host))) else { return true };
        if wanted == Some(presented) {
            return true;
        }
        let asked = names.client_auth(presented);
        if wanted.is_some_and(|wanted| names.client_auth(wanted) != asked) {
            return false;
        }
        !self.is_named || (is_trusted && asked == ClientAuth::Off) || names.cover(presented, host)
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::{ServerConfig, crypto::aws_lc_rs, sign::CertifiedKey};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;
    use crate::certificate::{
        names::CertifiedNames,
        served::{Served, ServedNames, Staple},
    };

    fn listener(certificates: &[(&[&str], ClientAuth)]) -> Arc<ListenerTls> {
        let served = certificates.iter().map(|(names, client_auth)| {
            let key = KeyPair::generate().unwrap();
            let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
            let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
            Served {
                key: Arc::new(CertifiedKey::new(vec![made.der().clone()], key)),
                names: Arc::new(CertifiedNames::of_certificate(made.der()).unwrap()),
                staple: Staple::None,
                client_auth: *client_auth,
            }
        });
        let names = Arc::new(ServedNames::new(&served.collect::<Vec<_>>(), Some(0)));
        let config = || {
            let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
            let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
            Arc::new(builder.with_cert_resolver(Arc::clone(&names) as _))
        };
        let mut asked: Vec<_> = certificates.iter().map(|(_, client_auth)| *client_auth).collect();
        asked.sort();
        asked.dedup();
        let configs = asked.into_iter().map(|client_auth| (client_auth, config())).collect();
        Arc::new(ListenerTls { configs, clients: 0, names, validation: None })
    }

    fn may_serve(tls: &Arc<ListenerTls>, name: &str, host: &str, is_trusted: bool) -> bool {
        let name = Some(name).filter(|name| !name.is_empty());
        TlsHandshake::new(Arc::clone(tls), name, None).may_serve(host, is_trusted)
    }

    #[test]
    fn a_connection_serves_hosts_that_lead_to_its_certificates_or_that_they_are_valid_for() {
        let off = ClientAuth::Off;
        let tls =
            listener(&[(&["a.example", "*.a.example"], off), (&["x.a.example"], off), (&["b.example"], off)]);
        for (name, host, may) in [
            ("a.example", "www.a.example", true),
            // A browser that holds the wildcard's connection may use it.
            ("a.example", "x.a.example", true),
            ("x.a.example", "a.example", false),
            ("a.example", "b.example", false),
            ("a.example", "unknown.example", true),
            ("b.example", "unknown.example", false),
            ("unknown.example", "a.example", true),
            ("unknown.example", "b.example", false),
            ("", "b.example", true),
        ] {
            assert_eq!(may_serve(&tls, name, host, false), may, "{name} {host}");
            assert!(may_serve(&tls, name, host, true), "{name} {host}: a trusted proxy");
        }
    }

    #[test]
    fn a_host_whose_clients_prove_themselves_in_another_way_is_never_reached() {
        let (off, required) = (ClientAuth::Off, ClientAuth::Required);
        let tls =
            listener(&[(&["*.a.example"], off), (&["mtls.a.example"], required), (&["b.example"], required)]);
        for (name, host, may) in [
            // The wildcard is valid for it, which does not help.
            ("www.a.example", "mtls.a.example", false),
            ("mtls.a.example", "www.a.example", false),
            ("", "mtls.a.example", false),
            ("", "www.a.example", true),
            ("mtls.a.example", "b.example", false),
            ("mtls.a.example", "mtls.a.example", true),
        ] {
            for is_trusted in [false, true] {
                assert_eq!(may_serve(&tls, name, host, is_trusted), may, "{name} {host} {is_trusted}");
            }
        }
    }
}
