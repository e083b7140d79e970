//! The header of a token: which algorithm and which key, and is it a token at all.

use jsonwebtoken::{Algorithm, Header};

use super::{JwtRejection, KID_BYTES_MAX};

/// The header that was read last, and its text. Tokens of one issuer differ in their claims and hardly ever in their
/// header, which costs as much to read as the claims do. What is read depends on the text alone, so it stays true.
#[derive(Debug, Default)]
pub struct LastHeader(Option<(Box<str>, KeyName)>);

/// What a header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyName {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<Box<str>>,
}

impl LastHeader {
    /// The header of this token.
    pub(super) fn or_read(&mut self, token: &str) -> Result<&KeyName, JwtRejection> {
        // What is in front of the last two parts, as jsonwebtoken cuts it.
        let cut = |text: &str| text.rfind('.').ok_or(JwtRejection::Malformed);
        let message = &token[..cut(token)?];
        let text = &message[..cut(message)?];
        // One that cannot be read takes nothing away.
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

/// RFC 7515 §4.1: what must not be in a header that we accept.
fn check(header: &Header) -> Result<(), JwtRejection> {
    if header.crit.is_some() {
        return Err(JwtRejection::CriticalHeader);
    }
    if header.kid.as_ref().is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(JwtRejection::Malformed);
    }
    // A type that names a profile of JWT (`logout+jwt`, `dpop+jwt`) is for what it says, except for access
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
