//! The certificates of one listener by name: what a handshake presents (RFC 6066 §3), and which hosts are its own.
//!
//! A name leads to a *set*: the certificates that are valid for it, at most one for each kind of key, so that the client's signature
//! schemes choose among ECDSA and RSA. An exact name comes before a wildcard of one label, and that before the default set. The
//! tables are made when files are read; a handshake looks up one name, or two, by hash, and allocates nothing.

use std::{collections::HashMap, sync::Arc, time::Duration};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{
    names::{CertifiedNames, parent},
    settings::ClientAuth,
    staple::StapleTime,
};
use crate::clock;

/// A certificate with its key and its names.
#[derive(Debug, Clone)]
pub struct Served {
    pub key: Arc<CertifiedKey>,
    pub names: Arc<CertifiedNames>,
    pub staple: Staple,
    pub client_auth: ClientAuth,
}

/// The OCSP response of a certificate.
#[derive(Debug, Clone)]
pub enum Staple {
    /// The configuration names none.
    None,
    /// It may not be stapled, whatever the time is.
    Unusable,
    /// The certificate with the response, and the time of the response.
    Usable(Arc<CertifiedKey>, StapleTime),
}

impl Served {
    /// What a handshake presents at this moment. The clock is read only if there is a response, which has an end.
    fn presented(&self) -> &Arc<CertifiedKey> {
        match &self.staple {
            Staple::Usable(stapled, time) if time.contains(clock::unix_now()) => stapled,
            Staple::Usable(..) | Staple::Unusable | Staple::None => &self.key,
        }
    }
}

/// All certificates of one listener.
#[derive(Debug)]
pub struct ServedNames {
    exact: Table,
    wildcards: Table,
    sets: Box<[Box<[Served]>]>,
    all: Box<[Served]>,
    /// `None`: a handshake without a known name is refused.
    default: Option<SetId>,
    /// The set of names whose certificate is awaited. It is empty.
    awaited: Option<SetId>,
}

type Table = HashMap<Box<str>, SetId, foldhash::fast::RandomState>;

/// Names with equal ids lead to the same certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetId(usize);

impl ServedNames {
    /// `default` is the index of the default certificate; `None`: handshakes without a known name are refused.
    #[cfg(test)]
    pub fn new(certificates: &[Served], default: Option<usize>) -> Self {
        Self::with_awaited(certificates, default, &[])
    }

    /// The same with names whose certificate is awaited: handshakes for them fail, unless a wildcard covers them, rather than show a
    /// certificate for other names.
    pub fn with_awaited(certificates: &[Served], default: Option<usize>, awaited: &[Box<str>]) -> Self {
        let mut sets = Sets::default();
        let mut exact = sets.table(certificates, |names| &names.exact);
        let wildcards = sets.table(certificates, |names| &names.wildcards);
        let default = default.map(|at| {
            // The set of its first name has its twin with another kind of key.
            let names = certificates.get(at).map(|served| &*served.names);
            let first = names.and_then(|names| {
                let of =
                    |table: &Table, list: &[Box<str>]| list.first().and_then(|name| table.get(name).copied());
                of(&exact, &names.exact).or_else(|| of(&wildcards, &names.wildcards))
            });
            first
                .filter(|set| sets.list.get(set.0).is_some_and(|set| set.contains(&at)))
                .unwrap_or_else(|| sets.intern(vec![at]))
        });
        let mut id = None;
        for name in awaited {
            if !exact.contains_key(name) && !parent(name).is_some_and(|parent| wildcards.contains_key(parent))
            {
                exact.insert(name.clone(), *id.get_or_insert_with(|| sets.intern(Vec::new())));
            }
        }
        let served =
            |set: Vec<usize>| set.into_iter().filter_map(|at| certificates.get(at).cloned()).collect();
        Self {
            exact,
            wildcards,
            sets: sets.list.into_iter().map(served).collect(),
            default,
            awaited: id,
            all: certificates.into(),
        }
    }

    /// The set to which a name leads. `name` is in lower case and without root dot; `None`: the client names no host.
    pub fn set_of(&self, name: Option<&str>) -> Option<SetId> {
        let named =
            name.and_then(|name| self.exact.get(name).or_else(|| self.wildcards.get(parent(name)?)).copied());
        named.or(self.default)
    }

    /// Whether some certificate is awaited.
    pub fn awaits_any(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether the certificate for this name is awaited.
    pub fn awaits(&self, name: Option<&str>) -> bool {
        self.awaited.is_some() && self.set_of(name.map(without_root_dot)) == self.awaited
    }

    /// How clients are asked that get this set. Where its certificates differ, the stricter one counts.
    pub fn client_auth(&self, set: SetId) -> ClientAuth {
        let set = self.sets.get(set.0).into_iter().flatten();
        set.map(|served| served.client_auth).max().unwrap_or_default()
    }

    /// Whether a certificate of this set is valid for the host, so that clients may reuse its connections (RFC 9113 §9.1.1).
    pub fn cover(&self, presented: SetId, host: &str) -> bool {
        self.sets.get(presented.0).is_some_and(|set| set.iter().any(|one| one.names.cover(host)))
    }

    /// The responses that are stapled at `now`, that are out of time, and that may not be stapled.
    pub fn staples(&self, now: Duration) -> [usize; 3] {
        let count = |is_one: fn(&Staple, Duration) -> bool| {
            self.all.iter().filter(|served| is_one(&served.staple, now)).count()
        };
        [
            count(|staple, now| matches!(staple, Staple::Usable(_, time) if time.contains(now))),
            count(|staple, now| matches!(staple, Staple::Usable(_, time) if !time.contains(now))),
            count(|staple, _| matches!(staple, Staple::Unusable)),
        ]
    }

    /// Whether every name leads to the same certificates.
    pub fn is_one_set(&self) -> bool {
        self.sets.len() == 1 && self.default.is_some()
    }
}

impl ResolvesServerCert for ServedNames {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(without_root_dot);
        let set = self.sets.get(self.set_of(name)?.0)?;
        let fits =
            |served: &&Served| hello.signature_schemes().iter().any(|scheme| served.names.key.signs(*scheme));
        // If none fits, rustls reports the first one as not fitting.
        let one = if set.len() == 1 { set.first() } else { set.iter().find(fits).or(set.first()) };
        one.map(|served| Arc::clone(served.presented()))
    }
}

/// The name as certificates have it. rustls has put it into lower case.
pub fn without_root_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Sets of indices of certificates, each set once.
#[derive(Default)]
struct Sets {
    list: Vec<Vec<usize>>,
    ids: HashMap<Vec<usize>, SetId, foldhash::fast::RandomState>,
}

impl Sets {
    fn table(&mut self, certificates: &[Served], list: impl Fn(&CertifiedNames) -> &[Box<str>]) -> Table {
        let mut by_name: HashMap<&Box<str>, Vec<usize>, foldhash::fast::RandomState> = HashMap::default();
        for (at, served) in certificates.iter().enumerate() {
            for name in list(&served.names) {
                let set = by_name.entry(name).or_default();
                let has_its_kind = |known: &usize| {
                    certificates.get(*known).is_some_and(|known| known.names.key == served.names.key)
                };
                if !set.iter().any(has_its_kind) {
                    set.push(at);
                }
            }
        }
        let kind = |at: &usize| certificates.get(*at).map(|served| served.names.key);
        let tables = by_name.into_iter().map(|(name, mut set)| {
            set.sort_by_key(kind);
            (name.clone(), self.intern(set))
        });
        tables.collect()
    }

    fn intern(&mut self, set: Vec<usize>) -> SetId {
        let list = &mut self.list;
        *self.ids.entry(set).or_insert_with_key(|set| {
            list.push(set.clone());
            SetId(list.len() - 1)
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, SignatureAlgorithm};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    fn served(names: &[&str], algorithm: &'static SignatureAlgorithm) -> Served {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let names = names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let made = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let names = CertifiedNames::of_certificate(made.der()).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Served {
            key: Arc::new(CertifiedKey::new(vec![made.der().clone()], key)),
            names: Arc::new(names),
            staple: Staple::None,
            client_auth: ClientAuth::Off,
        }
    }

    fn ec(names: &[&str]) -> Served {
        served(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn first_names(table: &ServedNames, name: Option<&str>) -> Vec<String> {
        let Some(set) = table.set_of(name) else { return Vec::new() };
        table.sets[set.0].iter().map(|one| one.names.shown().next().unwrap()).collect()
    }

    #[test]
    fn an_exact_name_comes_before_a_wildcard_and_that_before_the_default() {
        let all = [ec(&["*.shop.example"]), ec(&["pay.shop.example"]), ec(&["other.example"])];
        let table = ServedNames::new(&all, Some(2));
        for (name, expected) in [
            (Some("pay.shop.example"), "pay.shop.example"),
            (Some("www.shop.example"), "*.shop.example"),
            (Some("a.www.shop.example"), "other.example"),
            (Some("shop.example"), "other.example"),
            (None, "other.example"),
        ] {
            assert_eq!(first_names(&table, name), [expected], "{name:?}");
        }
        let strict = ServedNames::new(&all, None);
        assert_eq!(first_names(&strict, Some("shop.example")), [""; 0]);
        assert_eq!(first_names(&strict, None), [""; 0]);
    }

    #[test]
    fn certificates_of_one_name_are_one_set_with_the_cheaper_signature_first() {
        let rsa = served(&["a.example"], &rcgen::PKCS_RSA_SHA256);
        let all = [rsa, ec(&["a.example"]), ec(&["a.example"])];
        let table = ServedNames::new(&all, Some(0));
        assert!(table.is_one_set());
        let set = &table.sets[table.set_of(None).unwrap().0];
        assert_eq!(set.len(), 2, "two of one kind: the first one");
        assert!(Arc::ptr_eq(&set[0].key, &all[1].key) && Arc::ptr_eq(&set[1].key, &all[0].key));
    }
}
