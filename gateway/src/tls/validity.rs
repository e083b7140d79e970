//! The validity and the name of a certificate: the few fields of X.509 (RFC 5280 §4.1) of which an operator must learn in
//! time. rustls checks them in certificates of peers, but not in the gateway's own.
//!
//! x509-parser reads the fields; a certificate that it cannot read gives `None`.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer,
    revocation_list::CertificateRevocationList, time::ASN1Time,
};

use super::clients::crls_of;
use crate::{
    bounded_file,
    certificate::{client::rfc4514, staple::StapleTime},
    printable::printable,
};

/// The validity of a certificate chain. Times are wall time since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// The latest beginning of the chain.
    pub not_before: Duration,
    /// The earliest end of the chain. Peers refuse the chain after it.
    pub not_after: Duration,
    /// First DNS name or address of the leaf certificate.
    pub name: Option<String>,
}

/// Whether a certificate is valid at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    NotYetValid,
    Good,
    /// The certificate is valid and ends soon ([`EXPIRES_SOON`]).
    ExpiresSoon,
    Expired,
}

/// Time before the end of a certificate from which it is reported: enough for two attempts of a weekly job to renew it, and
/// for a person after that. ACME clients renew a certificate of 90 days 30 days before its end, so a usual renewal is not
/// reported.
pub const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// Certificates with a short life are reported when this part of it is left. ACME clients renew earlier, after two thirds.
const SOON_PART: u32 = 4;

impl Validity {
    /// The validity of the chain in a PEM file. `None`: the file contains no certificate, or one that cannot be read.
    pub fn of_file(file: &Path) -> Option<Self> {
        Self::of_pem(&bounded_file::read(file).ok()?)
    }

    /// The validity of the chain in the text of a PEM file.
    pub fn of_pem(text: &[u8]) -> Option<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().ok()?;
        Self::of_chain(&chain)
    }

    /// The time of an OCSP response about the certificate in a file, with the name of that.
    pub fn of_ocsp_file(file: &Path, cert_file: &Path) -> Option<Self> {
        let certificate = bounded_file::read(cert_file).ok()?;
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&certificate).collect::<Result<_, _>>().ok()?;
        let time = StapleTime::read(&bounded_file::read(file).ok()?, &chain).ok()?;
        let name = Self::of_chain(&chain)?.name;
        Some(Self { not_before: time.this_update, not_after: time.next_update, name })
    }

    /// The time until which a file of revocation lists can be used, with the issuer of the list that ends first.
    pub fn of_crl_file(file: &Path) -> Option<Self> {
        Self::of_crls(&bounded_file::read(file).ok()?)
    }

    /// The same for the content of such a file.
    pub fn of_crls(bytes: &[u8]) -> Option<Self> {
        let mut whole: Option<Self> = None;
        for list in crls_of(bytes).ok()? {
            let (_, list) = CertificateRevocationList::from_der(&list).ok()?;
            let read = Self {
                not_before: since_1970(list.last_update()),
                not_after: since_1970(list.next_update()?),
                name: Some(printable(&rfc4514(list.issuer())).into_owned())
                    .filter(|name| name.len() <= NAME_BYTES_MAX),
            };
            whole = Some(match whole {
                Some(known) if known.not_after <= read.not_after => known,
                _ => read,
            });
        }
        whole
    }

    /// The validity of a chain, leaf first.
    pub fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let mut whole: Option<Self> = None;
        for certificate in chain {
            let read = read(certificate)?;
            let known = whole.get_or_insert_with(|| read.clone());
            known.not_before = known.not_before.max(read.not_before);
            known.not_after = known.not_after.min(read.not_after);
        }
        whole
    }

    /// Time before the end from which it is reported: a certificate of a few days is renewed shortly before its end.
    fn soon(&self) -> Duration {
        EXPIRES_SOON.min(self.not_after.saturating_sub(self.not_before) / SOON_PART)
    }

    /// Whether the chain is valid at `now`, as wall time since the Unix epoch.
    pub fn standing(&self, now: Duration) -> Standing {
        // RFC 5280 §4.1.2.5: the period includes both dates.
        if now > self.not_after {
            Standing::Expired
        } else if now < self.not_before {
            Standing::NotYetValid
        } else if self.not_after.saturating_sub(now) < self.soon() {
            Standing::ExpiresSoon
        } else {
            Standing::Good
        }
    }
}

/// Reads the fields of one certificate.
fn read(der: &[u8]) -> Option<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let dates = certificate.validity();
    let names = certificate.subject_alternative_name().ok().flatten();
    Some(Validity {
        not_before: since_1970(dates.not_before),
        not_after: since_1970(dates.not_after),
        name: names.and_then(|names| names.value.general_names.iter().find_map(shown)),
    })
}

/// A time before 1970 counts as 1970.
fn since_1970(time: ASN1Time) -> Duration {
    Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn shown(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) if name.len() <= NAME_BYTES_MAX => Some(printable(name).into_owned()),
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(|four| Ipv4Addr::from(four).to_string());
            four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(|all| Ipv6Addr::from(all).to_string())).ok()
        }
        _ => None,
    }
}

/// RFC 1035 §2.3.4.
const NAME_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(names: &[&str], from: (i32, u8, u8), until: (i32, u8, u8)) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.not_before = date_time_ymd(from.0, from.1, from.2);
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    /// Dates have two forms: X.509 writes years from 2050 on with four digits.
    #[test]
    fn dates_and_name_are_those_that_were_certified() {
        for (names, name, until, seconds) in [
            (&["shop.example", "b.example"][..], Some("shop.example"), (2026, 3, 1), 1_772_323_200),
            (&["192.0.2.7"], Some("192.0.2.7"), (2024, 2, 29), 1_709_164_800),
            (&["2001:db8::1"], Some("2001:db8::1"), (2100, 1, 1), 4_102_444_800),
            (&[], None, (9999, 12, 31), 253_402_214_400),
        ] {
            let read = read(&certificate(names, (1975, 1, 1), until)).unwrap();
            assert_eq!((read.name.as_deref(), read.not_after.as_secs()), (name, seconds));
            assert_eq!(read.not_before.as_secs(), 157_766_400);
        }
    }

    #[test]
    fn a_chain_is_valid_for_as_long_as_all_of_it_is() {
        let leaf = certificate(&["shop.example"], (2020, 1, 1), (2030, 1, 1));
        let above = certificate(&["ca.example"], (2021, 1, 1), (2025, 1, 1));
        let whole = Validity::of_chain(&[leaf.clone(), above]).unwrap();
        let expected = [1_609_459_200, 1_735_689_600].map(Duration::from_secs);
        assert_eq!([whole.not_before, whole.not_after], expected);
        assert_eq!(whole.name.as_deref(), Some("shop.example"));
        assert_eq!(Validity::of_chain(&[]), None);
    }

    #[test]
    fn both_dates_belong_to_the_period_and_fourteen_days_before_its_end_begins_the_warning() {
        let day = Duration::from_hours(24);
        let validity = Validity { not_before: 10 * day, not_after: 100 * day, name: None };
        let second = Duration::from_secs(1);
        for (now, standing) in [
            (10 * day.saturating_sub(second / 10), Standing::NotYetValid),
            (10 * day, Standing::Good),
            (86 * day, Standing::Good),
            (86 * day + second, Standing::ExpiresSoon),
            (100 * day, Standing::ExpiresSoon),
            (100 * day + second, Standing::Expired),
        ] {
            assert_eq!(validity.standing(now), standing, "{now:?}");
        }
        let short = Validity { not_before: 10 * day, not_after: 18 * day, name: None };
        assert_eq!(short.standing(16 * day), Standing::Good, "a quarter is left");
        assert_eq!(short.standing(16 * day + second), Standing::ExpiresSoon);
    }

    #[test]
    fn no_bytes_make_the_reader_panic_and_what_is_cut_off_is_not_read() {
        let whole = certificate(&["shop.example"], (2020, 1, 1), (2030, 1, 1));
        for end in 0..whole.len() {
            assert_eq!(read(&whole[..end]), None);
        }
        for at in 0..whole.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut wrong = whole.to_vec();
                wrong[at] = byte;
                let _ = read(&wrong);
            }
        }
    }
}
