//! The header of a token: its algorithm and its key, and whether it is an access token.

use jsonwebtoken::{Algorithm, Header};

use super::{JwtRejection, KID_BYTES_MAX};

/// The text of the last header and what was read from it. Tokens of one issuer differ in their claims but hardly
/// ever in their header, which takes as long to read as the claims. The result depends only on the text, so it stays
/// correct.
#[derive(Debug, Default)]
pub struct LastHeader(Option<(Box<str>, KeyName)>);

/// The algorithm and the key that a header names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyName {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<Box<str>>,
}

impl LastHeader {
    /// The content of this token's header.
    pub(super) fn or_read(&mut self, token: &str) -> Result<&KeyName, JwtRejection> {
        // The text before the last two parts, cut as jsonwebtoken does.
        let cut = |text: &str| text.rfind('.').ok_or(JwtRejection::Malformed);
        let message = &token[..cut(token)?];
        let text = &message[..cut(message)?];
        // A header that cannot be read leaves the last one in place.
        if self.0.as_ref().is_none_or(|(known, _)| **known != *text) {
            let name = read(token)?;
            self.0 = Some((text.into(), name));
        }
        self.0.as_ref().map(|(_, name)| name).ok_or(JwtRejection::Malformed)
    }
}

fn read(token: &str) -> Result<KeyName, JwtRejection> {
    let header = jsonwebtoken::decode_header(token).map_err(|_| JwtRejection::Malformed)?;
    check(&header)?;
    Ok(KeyName { algorithm: header.alg, kid: header.kid.map(Into::into) })
}

/// Refuses headers that an accepted token must not have (RFC 7515 §4.1).
fn check(header: &Header) -> Result<(), JwtRejection> {
    if header.crit.is_some() {
        return Err(JwtRejection::CriticalHeader);
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(JwtRejection::Malformed);
    }
    // A type that names a profile of JWT (`logout+jwt`, `dpop+jwt`) is only for that purpose, except for access
    // tokens (RFC 9068 §2.1), under any vendor's prefix.
    let is_for_something_else = |typ: &str| {
        let typ = typ.to_ascii_lowercase();
        typ.ends_with("+jwt") && !typ.ends_with("at+jwt")
    };
    let is_nested = header.cty.as_deref().is_some_and(|cty| cty.to_ascii_lowercase().ends_with("jwt"));
    let is_encrypted = header.enc.is_some() || header.zip.is_some();
    if is_nested || is_encrypted || header.typ.as_deref().is_some_and(is_for_something_else) {
        return Err(JwtRejection::WrongType);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};

    use super::*;

    fn token(header: &str) -> String {
        format!("{}.e30.c2ln", BASE64URL.encode(header))
    }

    fn kid(read: Result<&KeyName, JwtRejection>) -> Option<String> {
        read.unwrap().kid.as_deref().map(str::to_owned)
    }

    #[test]
    fn a_header_is_taken_again_only_for_the_very_same_text() {
        let mut last = LastHeader::default();
        let [one, two] = ["one", "two"].map(|kid| token(&format!(r#"{{"alg":"RS256","kid":"{kid}"}}"#)));
        for (token, expected) in [(&one, "one"), (&one, "one"), (&two, "two"), (&one, "one")] {
            assert_eq!(kid(last.or_read(token)).as_deref(), Some(expected));
        }
        let kept = last.or_read(&one).unwrap().kid.as_ref().unwrap().as_ptr();
        assert_eq!(last.or_read(&token(r#"{"alg":"none"}"#)), Err(JwtRejection::Malformed));
        assert_eq!(last.or_read(&one).unwrap().kid.as_ref().unwrap().as_ptr(), kept, "not read again");
    }

    #[test]
    fn a_known_header_makes_no_token_of_what_is_none() {
        let mut last = LastHeader::default();
        let good = token(r#"{"alg":"RS256"}"#);
        last.or_read(&good).unwrap();
        let header = good.split('.').next().unwrap();
        for broken in
            [header.to_owned(), format!("{header}.e30"), format!("{header}.e30.e30.c2ln"), String::new()]
        {
            assert_eq!(last.or_read(&broken), Err(JwtRejection::Malformed), "{broken}");
        }
    }
}
