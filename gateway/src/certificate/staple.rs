//! OCSP responses (RFC 6960) that a listener staples to its certificate (RFC 6066 §8), from a file that another program renews.
//!
//! A response is stapled only if it is about this certificate (serial number, and the hashes of its issuer's name and key), says
//! "good", and is in its time. Clients verify its signature, as they must. A response without `nextUpdate` has no end, and is not
//! stapled. Everything else of the response is not read.

use std::time::Duration;

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use x509_parser::{
    asn1_rs::{Any, Class, FromDer as _, Tag},
    certificate::X509Certificate,
    time::ASN1Time,
};

/// The period of a response that may be stapled. Times are wall time since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StapleTime {
    pub this_update: Duration,
    pub next_update: Duration,
}

impl StapleTime {
    /// Whether the response may be stapled at `now`. A client whose clock is a little behind may get it, too.
    pub fn contains(&self, now: Duration) -> bool {
        (self.this_update..self.next_update).contains(&now)
    }

    /// Reads a response about the first certificate of `chain`.
    ///
    /// # Errors
    /// The response may not be stapled to this certificate, whatever the time is.
    pub fn read(response: &[u8], chain: &[impl AsRef<[u8]>]) -> Result<Self, &'static str> {
        let leaf = chain.first().ok_or("there is no certificate")?;
        let (_, leaf) =
            X509Certificate::from_der(leaf.as_ref()).map_err(|_| "the certificate cannot be read")?;
        let issuer = chain.get(1).and_then(|issuer| X509Certificate::from_der(issuer.as_ref()).ok());
        let about = About {
            serial: leaf.raw_serial(),
            issuer_name: leaf.issuer().as_raw(),
            issuer_key: issuer.as_ref().map(|(_, issuer)| &*issuer.public_key().subject_public_key.data),
        };
        let whole = sequence(response).ok_or("it is not an OCSP response (DER)")?;
        let (status, rest) = next(whole).ok_or("it is not an OCSP response (DER)")?;
        if status.data != [0] {
            return Err("it is an error of the responder");
        }
        let mut of_another = false;
        for single in responses(rest).ok_or("it is not a basic OCSP response")? {
            match about.look(&single).ok_or("it is not a basic OCSP response")? {
                Found::Another => of_another = true,
                Found::Good(time) => return Ok(time),
                Found::NotGood => return Err("it does not say that the certificate is good"),
                Found::Endless => return Err("it has no nextUpdate"),
            }
        }
        Err(if of_another { "it is about another certificate" } else { "it is about no certificate" })
    }
}

/// The certificate about which a response must be.
struct About<'a> {
    serial: &'a [u8],
    issuer_name: &'a [u8],
    /// `None`: the file has no certificate of the issuer.
    issuer_key: Option<&'a [u8]>,
}

enum Found {
    Another,
    Good(StapleTime),
    NotGood,
    Endless,
}

impl About<'_> {
    /// Reads one `SingleResponse`. `None`: it is malformed.
    fn look(&self, single: &Any<'_>) -> Option<Found> {
        let rest = content(single, Tag::Sequence)?;
        let (certificate, rest) = next(rest)?;
        if !self.is(content(&certificate, Tag::Sequence)?)? {
            return Some(Found::Another);
        }
        let (status, rest) = next(rest)?;
        if (status.class(), status.tag()) != (Class::ContextSpecific, Tag(0)) {
            return Some(Found::NotGood);
        }
        let (rest, this_update) = ASN1Time::from_der(rest).ok()?;
        let Some((end, _)) =
            next(rest).filter(|(end, _)| (end.class(), end.tag()) == (Class::ContextSpecific, Tag(0)))
        else {
            return Some(Found::Endless);
        };
        let (_, next_update) = ASN1Time::from_der(end.data).ok()?;
        let since_1970 = |time: ASN1Time| Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0));
        Some(Found::Good(StapleTime {
            this_update: since_1970(this_update),
            next_update: since_1970(next_update),
        }))
    }

    /// Whether a `CertID` is that of the certificate.
    fn is(&self, id: &[u8]) -> Option<bool> {
        let (algorithm, rest) = next(id)?;
        let (algorithm, _) = next(content(&algorithm, Tag::Sequence)?)?;
        let (name, rest) = next(rest)?;
        let (key, rest) = next(rest)?;
        let (serial, _) = next(rest)?;
        let algorithm: &Algorithm = match content(&algorithm, Tag::Oid)? {
            SHA1 => &SHA1_FOR_LEGACY_USE_ONLY,
            SHA2 => &SHA256,
            _ => return Some(false),
        };
        let is_hash_of = |hash: &Any<'_>, text: &[u8]| digest(algorithm, text).as_ref() == hash.data;
        Some(
            serial.data == self.serial
                && is_hash_of(&name, self.issuer_name)
                && self.issuer_key.is_none_or(|issuer| is_hash_of(&key, issuer)),
        )
    }
}

/// The responses in the content of an `OCSPResponse` after its status.
fn responses(rest: &[u8]) -> Option<Vec<Any<'_>>> {
    let (bytes, _) = next(rest)?;
    let (kind, rest) = next(sequence(bytes.data)?)?;
    let (basic, _) = next(rest)?;
    if content(&kind, Tag::Oid)? != BASIC {
        return None;
    }
    let (data, _) = next(sequence(content(&basic, Tag::OctetString)?)?)?;
    let mut rest = content(&data, Tag::Sequence)?;
    // The version, the name or key of the responder, and the time are before the list.
    let list = loop {
        let (part, after) = next(rest)?;
        if (part.class(), part.tag()) == (Class::Universal, Tag::Sequence) {
            break part;
        }
        rest = after;
    };
    let mut rest = list.data;
    let mut all = Vec::new();
    while let Some((single, after)) = next(rest) {
        all.push(single);
        rest = after;
    }
    rest.is_empty().then_some(all)
}

/// The first value of `bytes`, and the bytes after it.
fn next(bytes: &[u8]) -> Option<(Any<'_>, &[u8])> {
    Any::from_der(bytes).ok().map(|(rest, value)| (value, rest))
}

/// The content of a value with this tag.
fn content<'a>(value: &Any<'a>, tag: Tag) -> Option<&'a [u8]> {
    ((value.class(), value.tag()) == (Class::Universal, tag)).then_some(value.data)
}

/// The content of a sequence that is all of `bytes`.
fn sequence(bytes: &[u8]) -> Option<&[u8]> {
    let (value, rest) = next(bytes)?;
    content(&value, Tag::Sequence).filter(|_| rest.is_empty())
}

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// 1.3.14.3.2.26, which responders use for names; it protects nothing here.
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// 2.16.840.1.101.3.4.2.1
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    /// Made with `openssl req -x509`.
    const AUTHORITY: &str = "MIIBmjCCAUGgAwIBAgIUcswXeD2mU7Z+29EGLTF6d053FYowCgYIKoZIzj0EAwIwIjEgMB4GA1UEAwwXdGhlIGF1dGhvcml0eSBvZiBhIHRlc3\
        QwIBcNMjYxMjAxMTI1NjE0WhgPMjEyNjExMDcxMjU2MTRaMCIxIDAeBgNVBAMMF3RoZSBhdXRob3JpdHkgb2YgYSB0ZXN0MFkwEwYHKoZIzj0C\
        AQYIKoZIzj0DAQcDQgAEhmWN0CXUb2MmBlqtthEWKQ7xMgkY+wNu+8oMA7LFiQULp+npM/k10OdSMsRnW+EHN0yPWwTzMyLF7l43uUizbqNTMF\
        EwHQYDVR0OBBYEFNu/rIgxVRQcxmHf7mirVUTgfZy+MB8GA1UdIwQYMBaAFNu/rIgxVRQcxmHf7mirVUTgfZy+MA8GA1UdEwEB/wQFMAMBAf8w\
        CgYIKoZIzj0EAwIDRwAwRAIgP/hqM6x5iclkQN1hyqEYqb1R5GZh6wlY2gj2pLLKzkUCIHVBu/1Y7N2BhqZJGMgi5mN9knyKeqyROzRAC8TP39\
        j3";
    /// Serial number 0x1234, signed by it.
    const ONE: &str = "MIIBGzCBwQICEjQwCgYIKoZIzj0EAwIwIjEgMB4GA1UEAwwXdGhlIGF1dGhvcml0eSBvZiBhIHRlc3QwIBcNMjYxMjAxMTI1NjE0WhgPMjEyNj\
        ExMDcxMjU2MTRaMA4xDDAKBgNVBAMMA29uZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABDAnWNWAD66tRpo7HtDwwqRIV/Ovtf4+Q6ga0M6S\
        xtIrXygRrbVX3ngQEIVULbkUduko94YLizeYMHrH7UR4SWIwCgYIKoZIzj0EAwIDSQAwRgIhAIyCpB361yGkfViqLAKDTETsYeSs0F/CibBQg8\
        szFGn8AiEAorbboKmyejociwc0ut6sgaurPMCd2B9PLNG7SnV6W0Q=";
    /// Serial number 0x5678, signed by it.
    const TWO: &str = "MIIBGjCBwQICVngwCgYIKoZIzj0EAwIwIjEgMB4GA1UEAwwXdGhlIGF1dGhvcml0eSBvZiBhIHRlc3QwIBcNMjYxMjAxMTI1NjE0WhgPMjEyNj\
        ExMDcxMjU2MTRaMA4xDDAKBgNVBAMMA3R3bzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABJuOnfKULQj5Zi+HiUsJF0HqVFgrREUhdMZnfKnk\
        mi4wBMIFl/TLWuwUGHGzTXba3sX6VT5BICIYhM5aSetCKFkwCgYIKoZIzj0EAwIDSAAwRQIhAK0qyewr16QIFezIeRPSVjBvaMZlanavejs42C\
        7XEfGPAiAA2PdFuvvJHoJEt6PzE8yxebL7RcRfmA53Fg35KHL1eg==";
    /// Made with `openssl ocsp -ndays 30`: the first is good.
    const GOOD: &str = "MIIBEwoBAKCCAQwwggEIBgkrBgEFBQcwAQEEgfowgfcwgZ6hJDAiMSAwHgYDVQQDDBd0aGUgYXV0aG9yaXR5IG9mIGEgdGVzdBgPMjAyNjEyMD\
        ExMjU2MTRaMGUwYzA7MAkGBSsOAwIaBQAEFGFipGC2sL5Gyb0o1KQncNNkxFZaBBTbv6yIMVUUHMZh3+5oq1VE4H2cvgICEjSAABgPMjAyNjEy\
        MDExMjU2MTRaoBEYDzIwMjYxMjMxMTI1NjE0WjAKBggqhkjOPQQDAgNIADBFAiEA7IyUlgaWpzFPyDERd6juivPg1+NqF9YZ3GH5nfCpb6oCIB\
        6F9XmFvfFXVWUBY6HmwzKtY9nUcm5Zlq8AIr2GrERf";
    /// The second is revoked.
    const REVOKED: &str = "MIIBJQoBAKCCAR4wggEaBgkrBgEFBQcwAQEEggELMIIBBzCBr6EkMCIxIDAeBgNVBAMMF3RoZSBhdXRob3JpdHkgb2YgYSB0ZXN0GA8yMDI2MT\
        IwMTEyNTYxNVowdjB0MDswCQYFKw4DAhoFAAQUYWKkYLawvkbJvSjUpCdw02TEVloEFNu/rIgxVRQcxmHf7mirVUTgfZy+AgJWeKERGA8yMDI0\
        MDEwMTAwMDAwMFoYDzIwMjYxMjAxMTI1NjE1WqARGA8yMDI2MTIzMTEyNTYxNVowCgYIKoZIzj0EAwIDRwAwRAIgGwisfrbOLKqR2bOuueqCFo\
        3cfuwqmUOtTYnALW8F2moCIHznI3tbEVRhzKruO41H92gPJe0uovvdAG5YrxjPg6hZ";
    /// The first is good, without `nextUpdate`.
    const ENDLESS: &str = "MIH+CgEAoIH4MIH1BgkrBgEFBQcwAQEEgecwgeQwgYuhJDAiMSAwHgYDVQQDDBd0aGUgYXV0aG9yaXR5IG9mIGEgdGVzdBgPMjAyNjEyMDExMj\
        U2MTVaMFIwUDA7MAkGBSsOAwIaBQAEFGFipGC2sL5Gyb0o1KQncNNkxFZaBBTbv6yIMVUUHMZh3+5oq1VE4H2cvgICEjSAABgPMjAyNjEyMDEx\
        MjU2MTVaMAoGCCqGSM49BAMCA0gAMEUCIGUdyDE+AFQQPt1PmIjbpGd0kJO3RRnXk3sa5BRYo0iuAiEA3KcwCTZOEyLGr2SKqMWP8W+KFfOyXv\
        wJ4wARLq/29EQ=";

    fn der(text: &str) -> Vec<u8> {
        STANDARD.decode(text).unwrap()
    }

    #[test]
    fn a_response_of_openssl_is_about_its_own_certificate_only() {
        let (one, two, authority) = (der(ONE), der(TWO), der(AUTHORITY));
        for chain in [vec![one.clone()], vec![one.clone(), authority.clone()]] {
            let time = StapleTime::read(&der(GOOD), &chain).unwrap();
            assert_eq!(time.next_update.saturating_sub(time.this_update), Duration::from_hours(30 * 24));
            assert!(time.contains(time.this_update) && !time.contains(time.next_update));
            assert!(!time.contains(time.this_update.saturating_sub(Duration::from_secs(1))));
        }
        let read = |response: &str, chain: &[Vec<u8>]| StapleTime::read(&der(response), chain).unwrap_err();
        assert_eq!(read(GOOD, std::slice::from_ref(&two)), "it is about another certificate");
        assert_eq!(
            read(GOOD, &[one.clone(), two.clone()]),
            "it is about another certificate",
            "of another issuer"
        );
        assert_eq!(read(REVOKED, &[two]), "it does not say that the certificate is good");
        assert_eq!(read(ENDLESS, std::slice::from_ref(&one)), "it has no nextUpdate");
        // RFC 6960 §4.2.1: tryLater.
        assert_eq!(StapleTime::read(&[0x30, 3, 0x0a, 1, 3], &[one]), Err("it is an error of the responder"));
    }

    #[test]
    fn no_bytes_make_the_reader_panic() {
        let (one, good) = (der(ONE), der(GOOD));
        for end in 0..good.len() {
            assert!(StapleTime::read(&good[..end], &[&one]).is_err());
        }
        for at in 0..good.len() {
            for byte in [0, 0x7f, 0x80, 0x84, 0xff] {
                let mut wrong = good.clone();
                wrong[at] = byte;
                let _ = StapleTime::read(&wrong, &[&one]);
            }
        }
    }
}
