//! From when until when a certificate is valid, and for which name: the few fields of X.509 (RFC 5280 §4.1) that an operator
//! must know in time. rustls checks the certificates of others and looks at none of these in our own.
//!
//! Reads DER and believes nothing in it: a length that does not fit, or a date that is none, gives `None`.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    time::Duration,
};

use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{bounded_file, printable::printable};

/// When a chain of certificates is valid. Times are wall time since the Unix epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Validity {
    /// The latest beginning of the chain.
    pub not_before: Duration,
    /// The earliest end of the chain: its clients refuse it from then on.
    pub not_after: Duration,
    /// First DNS name or address of the leaf.
    pub name: Option<String>,
}

/// What the dates of a certificate mean now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    NotYetValid,
    Good,
    /// It ends in less than [`EXPIRES_SOON`].
    ExpiresSoon,
    Expired,
}

/// Time for two attempts of a weekly job to renew a certificate, and for a person after that. ACME clients renew a
/// certificate of 90 days 30 days before its end, so this is past what is usual.
pub const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

impl Validity {
    /// Of the PEM file with a chain. `None`: there is no certificate in it that can be read.
    pub fn of_file(file: &Path) -> Option<Self> {
        Self::of_pem(&bounded_file::read(file).ok()?)
    }

    /// Of the text of such a file.
    pub fn of_pem(text: &[u8]) -> Option<Self> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(text).collect::<Result<_, _>>().ok()?;
        Self::of_chain(&chain)
    }

    /// Of a chain, leaf first.
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

    pub fn standing(&self, now: Duration) -> Standing {
        // RFC 5280 §4.1.2.5: the period includes both dates.
        if now > self.not_after {
            Standing::Expired
        } else if now < self.not_before {
            Standing::NotYetValid
        } else if self.not_after.saturating_sub(now) < EXPIRES_SOON {
            Standing::ExpiresSoon
        } else {
            Standing::Good
        }
    }
}

/// The fields of one certificate.
fn read(der: &[u8]) -> Option<Validity> {
    let mut fields = Der(Der(Der(der).content_of(SEQUENCE)?).content_of(SEQUENCE)?);
    let version = fields.next()?;
    if version.0 == VERSION {
        // The serial number.
        fields.next()?;
    }
    // Signature algorithm and issuer.
    fields.next()?;
    fields.next()?;
    let mut dates = Der(fields.content_of(SEQUENCE)?);
    let [not_before, not_after] = [unix(dates.next()?)?, unix(dates.next()?)?];
    let mut name = None;
    while let Some((tag, content)) = fields.next() {
        if tag == EXTENSIONS {
            name = alternative_name(Der(content).content_of(SEQUENCE)?);
        }
    }
    Some(Validity { not_before, not_after, name })
}

/// The first name of the extension `subjectAltName` (RFC 5280 §4.2.1.6).
fn alternative_name(extensions: &[u8]) -> Option<String> {
    let mut extensions = Der(extensions);
    while let Some((SEQUENCE, extension)) = extensions.next() {
        let mut fields = Der(extension);
        if fields.next()? != (OBJECT_IDENTIFIER, SUBJECT_ALT_NAME) {
            continue;
        }
        let names = loop {
            // It may say before that it is critical.
            if let (OCTET_STRING, value) = fields.next()? {
                break Der(value).content_of(SEQUENCE)?;
            }
        };
        let mut names = Der(names);
        while let Some((tag, name)) = names.next() {
            match (tag, name.len()) {
                (DNS_NAME, 1..=NAME_BYTES_MAX) => {
                    return Some(printable(std::str::from_utf8(name).ok()?).into_owned());
                }
                (IP_ADDRESS, 4) => return Some(Ipv4Addr::from(<[u8; 4]>::try_from(name).ok()?).to_string()),
                (IP_ADDRESS, 16) => {
                    return Some(Ipv6Addr::from(<[u8; 16]>::try_from(name).ok()?).to_string());
                }
                _ => {}
            }
        }
    }
    None
}

/// `UTCTime` or `GeneralizedTime` as RFC 5280 §4.1.2.5 wants them. What is before 1970 is as good as 1970.
fn unix((tag, text): (u8, &[u8])) -> Option<Duration> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let (year, rest) = match tag {
        UTC_TIME if digits && text.len() == 12 => {
            let (year, rest) = text.split_at(2);
            let year: i64 = year.parse().ok()?;
            (year + if year < 50 { 2000 } else { 1900 }, rest)
        }
        GENERALIZED_TIME if digits && text.len() == 14 => {
            let (year, rest) = text.split_at(4);
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let mut pairs = [0; 5];
    for (at, pair) in pairs.iter_mut().enumerate() {
        *pair = rest.get(2 * at..2 * at + 2)?.parse::<i64>().ok()?;
    }
    let [month, day, hour, minute, second] = pairs;
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day);
    if !is_date || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Days since 1970-01-01 in the Gregorian calendar, by eras of 400 years that begin in March, so that the leap day is the
/// last of its year (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// What is left of a sequence of DER values (X.690 §8.1).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Tag and content of the next value.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (tag, rest) = self.0.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (length, rest) = match *length {
            short @ 0..=0x7f => (usize::from(short), rest),
            // Four bytes say more than a file that we read can have.
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    /// The next value, if it has this tag.
    fn content_of(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

const SEQUENCE: u8 = 0x30;
const OBJECT_IDENTIFIER: u8 = 0x06;
const OCTET_STRING: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0]` and `[3]` of a certificate, `[2]` and `[7]` of a general name.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];
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

    /// Both forms of dates: X.509 writes years from 2050 on with four digits.
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
        for text in ["2601010000Z", "261301000000Z", "26010100000aZ", "260101000000", "260101000060Z"] {
            assert_eq!(unix((UTC_TIME, text.as_bytes())), None, "{text}");
        }
    }
}
