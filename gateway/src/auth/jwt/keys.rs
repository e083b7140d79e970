//! The keys that verify tokens: JWKS (RFC 7517), PEM, shared secrets.
//!
//! A key is bound to its algorithms when it is read: to the `alg` of the JWK, or otherwise to all of its type and curve.
//! JWKs that cannot verify signatures here are skipped, each with a reason. A set without a usable key is an error, so that
//! a bad document never replaces good keys. Limits: [`KEYS_MAX`] keys, RSA with at least 2,048 bits, secrets of at least
//! [`SECRET_BYTES_MIN`] bytes (RFC 7518 §3.2 and §3.3).

use std::fmt;

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

use super::{
    super::KeyList,
    JwtRejection,
    signature::{KeyRefused, Verifier},
    unusable::{Unusable, check_strength},
};

/// The keys of one provider at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySet {
    keys: Box<[Key]>,
    /// The set is from a PEM file or a secret: it has one key, which any `kid` of a token means.
    nameless: bool,
    skipped: Box<[Skipped]>,
}

#[derive(Debug, Clone)]
struct Key {
    kid: Option<Box<str>>,
    decoding: DecodingKey,
    /// The prepared verifier for each algorithm.
    verifiers: Box<[(Algorithm, Verifier)]>,
}

impl Key {
    /// A key that is prepared for all of `algorithms`.
    fn new(kid: Option<&str>, decoding: DecodingKey, algorithms: &[Algorithm]) -> Result<Self, KeyRefused> {
        let ready = |&algorithm: &Algorithm| {
            Verifier::new(&decoding, algorithm).map(|verifier| (algorithm, verifier))
        };
        let verifiers = algorithms.iter().map(ready).collect::<Result<_, _>>()?;
        Ok(Self { kid: kid.map(Into::into), verifiers, decoding })
    }

    /// The public part of the key as a JWK. `None`: a shared secret has none.
    fn to_jwk(&self) -> Option<Value> {
        if self.decoding.family() == AlgorithmFamily::Hmac {
            return None;
        }
        let only = match &*self.verifiers {
            [(algorithm, _)] => Some(*algorithm),
            _ => None,
        };
        let mut jwk = Jwk::from_decoding_key(&self.decoding, only).ok()?;
        jwk.common.key_id = self.kid.as_deref().map(str::to_owned);
        serde_json::to_value(jwk).ok()
    }

    fn algorithms(&self) -> impl Iterator<Item = Algorithm> {
        self.verifiers.iter().map(|(algorithm, _)| *algorithm)
    }

    fn verifier(&self, wanted: Algorithm) -> Option<&Verifier> {
        self.verifiers.iter().find(|(algorithm, _)| *algorithm == wanted).map(|(_, verifier)| verifier)
    }
}

/// All bytes are compared, so that equal sets verify the same tokens.
impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        use DecodingKeyKind::{RsaModulusExponent, SecretOrDer};
        let is_same_material = match (self.decoding.kind(), other.decoding.kind()) {
            (SecretOrDer(mine), SecretOrDer(other)) => mine == other,
            (RsaModulusExponent { n, e }, RsaModulusExponent { n: other_n, e: other_e }) => {
                (n, e) == (other_n, other_e)
            }
            _ => false,
        };
        is_same_material && self.kid == other.kid && self.algorithms().eq(other.algorithms())
    }
}

/// A JWK that was left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    pub kid: Option<Box<str>>,
    /// `kty` and `alg`, as they are written.
    pub kty: Option<Box<str>>,
    pub alg: Option<Box<str>>,
    pub why: Unusable,
}

impl Skipped {
    fn of(jwk: &Value) -> impl FnOnce(Unusable) -> Self + use<> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str).map(cut);
        let (kid, kty, alg) = (text("kid"), text("kty"), text("alg"));
        |why| Self { kid, kty, alg, why }
    }
}

/// The beginning of a text, short enough to be shown.
fn cut(text: &str) -> Box<str> {
    text.chars().take(super::KID_BYTES_MAX).collect()
}

/// `rsa-1` (RSA, RSA-OAEP): not for signatures. The texts come from the set, so the output must be escaped before it is
/// shown.
impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.kid.as_deref().unwrap_or("-"))?;
        match (&self.kty, &self.alg) {
            (Some(kty), Some(alg)) => write!(f, " ({kty}, {alg})")?,
            (Some(one), None) | (None, Some(one)) => write!(f, " ({one})")?,
            (None, None) => {}
        }
        write!(f, ": {}", self.why)
    }
}

/// Keys that cannot be used at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("not a JSON Web Key Set: {0}")]
    NotJwks(String),
    #[error("holds {0} keys, at most {KEYS_MAX} are read")]
    TooMany(usize),
    #[error("holds no usable key: {}", Reasons(.0))]
    NoUsableKey(Box<[Skipped]>),
    #[error("holds a private key; the gateway needs only the public one (`openssl pkey -pubout`)")]
    PrivateKey,
    #[error("holds a certificate; the public key is needed (`openssl x509 -pubkey -noout`)")]
    Certificate,
    #[error("holds no public key in PEM: RSA, EC (P-256, P-384) and Ed25519 are supported")]
    NotPem,
    #[error("the secret has {0} bytes, at least {SECRET_BYTES_MIN} are needed")]
    ShortSecret(usize),
}

struct Reasons<'a>(&'a [Skipped]);

impl fmt::Display for Reasons<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("it is empty");
        }
        for (index, Skipped { kid, why, .. }) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            match kid {
                // `escape_debug`, because the set comes from the network and the message goes to a terminal.
                Some(kid) => write!(f, "{separator}`{}`: {why}", kid.escape_debug())?,
                None => write!(f, "{separator}key {}: {why}", index + 1)?,
            }
        }
        Ok(())
    }
}

impl KeySet {
    /// Reads a JWK set as issuers publish it.
    ///
    /// # Errors
    /// The document is not a JWK set, has too many keys, or has no usable one.
    pub fn from_jwks(json: &[u8]) -> Result<Self, KeyError> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document =
            serde_json::from_slice(json).map_err(|error| KeyError::NotJwks(error.to_string()))?;
        if document.keys.len() > KEYS_MAX {
            return Err(KeyError::TooMany(document.keys.len()));
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for value in document.keys {
            let left_out = Skipped::of(&value);
            match read_jwk(value) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(left_out(why)),
            }
        }
        if keys.is_empty() {
            return Err(KeyError::NoUsableKey(skipped.into()));
        }
        Ok(Self { keys: keys.into(), nameless: false, skipped: skipped.into() })
    }

    /// Reads one public key in PEM: RSA (PKCS#1 or SPKI), EC P-256 or P-384, Ed25519.
    ///
    /// # Errors
    /// The text is not such a key, or the key is too weak.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        if memchr::memmem::find(pem, b"PRIVATE KEY-----").is_some() {
            return Err(KeyError::PrivateKey);
        }
        if memchr::memmem::find(pem, b"BEGIN CERTIFICATE-----").is_some() {
            return Err(KeyError::Certificate);
        }
        let decoding = DecodingKey::from_rsa_pem(pem)
            .or_else(|_| DecodingKey::from_ec_pem(pem))
            .or_else(|_| DecodingKey::from_ed_pem(pem))
            .map_err(|_| KeyError::NotPem)?;
        // The key becomes a JWK, so that one function judges all keys.
        let jwk = Jwk::from_decoding_key(&decoding, None).map_err(|_| KeyError::NotPem)?;
        let key =
            judge(&jwk).map_err(|why| KeyError::NoUsableKey([Skipped::of(&Value::Null)(why)].into()))?;
        Ok(Self { keys: [key].into(), nameless: true, skipped: Box::default() })
    }

    /// Reads a secret for HS256. White space at the end is not part of it, because editors add line ends.
    ///
    /// # Errors
    /// The secret is too short.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        let secret = secret.trim_ascii_end();
        if secret.len() < SECRET_BYTES_MIN {
            return Err(KeyError::ShortSecret(secret.len()));
        }
        let decoding = DecodingKey::from_secret(secret);
        let key = Key::new(None, decoding, &[Algorithm::HS256])
            .map_err(|KeyRefused| KeyError::NoUsableKey(Box::default()))?;
        Ok(Self { keys: [key].into(), nameless: true, skipped: Box::default() })
    }

    /// The public keys as a document that [`KeySet::from_jwks`] reads as the same keys. It contains nothing else that an
    /// issuer may publish, such as a private key by mistake. `None`: a secret is not public.
    pub fn to_jwks(&self) -> Option<Value> {
        let keys = self.keys.iter().map(Key::to_jwk).collect::<Option<Vec<_>>>()?;
        Some(serde_json::json!({ "keys": keys }))
    }

    /// The `kid` of each usable key.
    pub fn names(&self) -> impl Iterator<Item = Option<&str>> {
        self.keys.iter().map(|key| key.kid.as_deref())
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that were left out, for a warning.
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// The keys to try, in the order of the set: those that the token names and that use its algorithm. If a token has no
    /// `kid` and several keys fit, only keys without a name are meant. An issuer may have two keys of one name, or two
    /// without a name, while it replaces a key, so the result may be more than one; it is never more than
    /// [`CANDIDATES_MAX`].
    pub(super) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> Result<impl Iterator<Item = &'a Verifier>, JwtRejection> {
        let is_named =
            move |key: &&Key| self.nameless || kid.is_none_or(|kid| key.kid.as_deref() == Some(kid));
        let fits = move |key: &'a Key| if is_named(&key) { key.verifier(algorithm) } else { None };
        let fitting = self.keys.iter().filter_map(fits).count();
        let means_one_without = kid.is_none() && fitting > 1;
        let is_meant = move |key: &&Key| !means_one_without || key.kid.is_none();
        if fitting == 0 && self.keys.iter().any(|key| is_named(&key)) {
            return Err(JwtRejection::UnsupportedAlgorithm);
        }
        let meant = self.keys.iter().filter(is_meant).filter_map(fits).take(CANDIDATES_MAX);
        if meant.clone().next().is_none() {
            return Err(JwtRejection::UnknownKey { kid: kid.map(Into::into) });
        }
        Ok(meant)
    }
}

impl KeyList for KeySet {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn names(&self) -> Vec<Option<&str>> {
        Self::names(self).collect()
    }

    fn skipped(&self) -> &[Skipped] {
        Self::skipped(self)
    }

    fn to_jwks(&self) -> Option<Value> {
        Self::to_jwks(self)
    }
}

fn read_jwk(value: Value) -> Result<Key, Unusable> {
    let jwk: Jwk = serde_json::from_value(value).map_err(|_| Unusable::NotAJwk)?;
    judge(&jwk)
}

fn judge(jwk: &Jwk) -> Result<Key, Unusable> {
    let common = &jwk.common;
    let verifies = |operations: &Vec<KeyOperations>| operations.contains(&KeyOperations::Verify);
    let signs = |purpose: &PublicKeyUse| *purpose == PublicKeyUse::Signature;
    if !common.public_key_use.as_ref().is_none_or(signs)
        || !common.key_operations.as_ref().is_none_or(verifies)
    {
        return Err(Unusable::NotForSignatures);
    }
    if common.key_id.as_ref().is_some_and(|kid| kid.len() > super::KID_BYTES_MAX) {
        return Err(Unusable::LongKid);
    }
    let of_type = algorithms_of(&jwk.algorithm)?;
    let named = common.key_algorithm.map(Algorithm::try_from).transpose();
    let named = named.map_err(|_| Unusable::UnsupportedAlgorithm)?;
    let algorithms = match &named {
        None => of_type,
        Some(named) if of_type.contains(named) => std::slice::from_ref(named),
        Some(_) => return Err(Unusable::UnsupportedAlgorithm),
    };
    let decoding = DecodingKey::from_jwk(jwk).map_err(|_| Unusable::NotAJwk)?;
    check_strength(&decoding, &jwk.algorithm)?;
    let refused = match decoding.family() {
        AlgorithmFamily::Rsa => Unusable::Refused,
        _ => Unusable::BadPoint,
    };
    Key::new(common.key_id.as_deref(), decoding, algorithms).map_err(|KeyRefused| refused)
}

fn algorithms_of(parameters: &AlgorithmParameters) -> Result<&'static [Algorithm], Unusable> {
    match parameters {
        AlgorithmParameters::RSA(_) => Ok(&[
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ]),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Ok(&[Algorithm::ES256]),
            EllipticCurve::P384 => Ok(&[Algorithm::ES384]),
            _ => Err(Unusable::UnsupportedType),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            Ok(&[Algorithm::EdDSA])
        }
        AlgorithmParameters::OctetKey(_) => Err(Unusable::SharedSecret),
        _ => Err(Unusable::UnsupportedType),
    }
}

/// The largest number of keys that are read from one set. Issuers have two to ten.
const KEYS_MAX: usize = 100;
/// The largest number of keys that are tried for one token.
const CANDIDATES_MAX: usize = 4;
/// RFC 7518 §3.2: as long as the hash.
pub(super) const SECRET_BYTES_MIN: usize = 32;

#[cfg(test)]
mod tests {
    use rcgen::{
        KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize,
    };
    use serde_json::json;

    use super::*;

    fn jwk(pem: &str) -> Value {
        super::super::install_crypto_provider();
        let key = DecodingKey::from_rsa_pem(pem.as_bytes())
            .or_else(|_| DecodingKey::from_ec_pem(pem.as_bytes()))
            .or_else(|_| DecodingKey::from_ed_pem(pem.as_bytes()))
            .unwrap();
        serde_json::to_value(Jwk::from_decoding_key(&key, None).unwrap()).unwrap()
    }

    fn with(mut jwk: Value, more: Value) -> Value {
        let Value::Object(more) = more else { panic!("an object") };
        jwk.as_object_mut().unwrap().extend(more);
        jwk
    }

    fn read(keys: &[Value]) -> Result<KeySet, KeyError> {
        KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes())
    }

    fn ec() -> Value {
        jwk(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap().public_key_pem())
    }

    fn rsa() -> KeyPair {
        KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
    }

    #[test]
    fn sets_are_equal_when_they_verify_the_same_tokens() {
        let (rsa, one, other) = (jwk(&rsa().public_key_pem()), ec(), ec());
        let set = |keys: &[&Value]| read(&keys.iter().copied().cloned().collect::<Vec<_>>()).unwrap();
        assert_eq!(set(&[&rsa, &one]), set(&[&rsa, &one]));
        assert_ne!(set(&[&rsa, &one]), set(&[&rsa, &other]));
        assert_ne!(set(&[&rsa, &one]), set(&[&rsa]));
        let mut named = one.clone();
        named["kid"] = json!("k2");
        assert_ne!(set(&[&one]), set(&[&named]));
    }

    #[test]
    fn what_is_written_of_a_set_is_read_as_the_same_set_and_holds_public_parts_only() {
        let pair = rsa();
        let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap().public_key_pem();
        let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap().public_key_pem();
        let set = read(&[
            with(jwk(&pair.public_key_pem()), json!({"kid": "r", "d": "AAAA", "p": "AAAA"})),
            with(jwk(&pair.public_key_pem()), json!({"alg": "PS384"})),
            with(ec(), json!({"kid": "e"})),
            jwk(&p384),
            with(jwk(&ed), json!({"kid": "ed", "use": "sig"})),
        ])
        .unwrap();
        let written = set.to_jwks().unwrap();
        assert_eq!(KeySet::from_jwks(written.to_string().as_bytes()).unwrap(), set);
        assert!(written["keys"].as_array().unwrap().iter().all(|key| key.get("d").is_none()));
        assert_eq!(KeySet::from_secret(&[7; SECRET_BYTES_MIN]).unwrap().to_jwks(), None);
    }

    #[test]
    fn a_key_is_bound_to_the_algorithms_of_its_type() {
        let pem = |algorithm| KeyPair::generate_for(algorithm).unwrap().public_key_pem();
        let rsa = rsa().public_key_pem();
        for (pem, algorithms) in [
            (pem(&PKCS_ECDSA_P256_SHA256), &[Algorithm::ES256][..]),
            (pem(&PKCS_ECDSA_P384_SHA384), &[Algorithm::ES384]),
            (pem(&PKCS_ED25519), &[Algorithm::EdDSA]),
            (rsa.clone(), AlgorithmFamily::Rsa.algorithms()),
        ] {
            for set in [read(&[jwk(&pem)]).unwrap(), KeySet::from_pem(pem.as_bytes()).unwrap()] {
                assert!(set.keys[0].algorithms().eq(algorithms.iter().copied()));
                assert!(matches!(
                    set.candidates(None, Algorithm::HS256).map(Iterator::count),
                    Err(JwtRejection::UnsupportedAlgorithm)
                ));
            }
        }
        let named = read(&[with(jwk(&rsa), json!({"alg": "PS384"}))]).unwrap();
        assert!(named.keys[0].algorithms().eq([Algorithm::PS384]));
    }

    #[test]
    fn keys_that_cannot_verify_are_skipped_with_a_reason() {
        let ec = ec();
        let rsa = jwk(&rsa().public_key_pem());
        let rsa_n = |n: &str| with(rsa.clone(), json!({ "n": n }));
        for (key, why) in [
            (json!(1), Unusable::NotAJwk),
            (json!({"kty": "oct", "k": "c2VjcmV0"}), Unusable::SharedSecret),
            (json!({"kty": "AKP", "pub": "AAAA"}), Unusable::UnsupportedType),
            (with(ec.clone(), json!({"crv": "P-521"})), Unusable::UnsupportedType),
            (with(ec.clone(), json!({"use": "enc"})), Unusable::NotForSignatures),
            (with(ec.clone(), json!({"key_ops": ["encrypt"]})), Unusable::NotForSignatures),
            (with(ec.clone(), json!({"alg": "ES384"})), Unusable::UnsupportedAlgorithm),
            (with(ec.clone(), json!({"alg": "HS256"})), Unusable::UnsupportedAlgorithm),
            (with(ec.clone(), json!({"x": "AAAA"})), Unusable::BadPoint),
            (with(ec.clone(), json!({"kid": "k".repeat(129)})), Unusable::LongKid),
            (with(rsa.clone(), json!({"alg": "RSA-OAEP"})), Unusable::UnsupportedAlgorithm),
            (with(rsa.clone(), json!({"e": "AQ"})), Unusable::RsaExponent),
            (with(rsa.clone(), json!({"e": "AQAA"})), Unusable::RsaExponent),
            (rsa_n(&format!("{}8", "_".repeat(170))), Unusable::ShortRsa(1024)),
            (rsa_n("AAAA"), Unusable::ShortRsa(0)),
        ] {
            let set = read(&[key.clone(), ec.clone()]).unwrap();
            assert_eq!((set.len(), set.skipped().len()), (1, 1), "{key}");
            assert_eq!(set.skipped()[0].why, why, "{key}");
        }
    }

    #[test]
    fn a_set_without_a_usable_key_is_an_error_that_says_why() {
        assert_eq!(read(&[]).unwrap_err().to_string(), "holds no usable key: it is empty");
        let keys = [json!({"kty": "oct", "k": "AAAA", "kid": "a\n"}), with(ec(), json!({"use": "enc"}))];
        assert_eq!(
            read(&keys).unwrap_err().to_string(),
            "holds no usable key: `a\\n`: a shared secret, which a key set must not publish; \
             key 2: not for signatures"
        );
        assert!(matches!(KeySet::from_jwks(b"<html>"), Err(KeyError::NotJwks(_))));
        assert!(matches!(KeySet::from_jwks(br#"{"keys": 1}"#), Err(KeyError::NotJwks(_))));
        let many = vec![ec(); KEYS_MAX + 1];
        assert_eq!(read(&many).unwrap_err(), KeyError::TooMany(101));
        assert_eq!(read(&many[1..]).unwrap().len(), KEYS_MAX);
    }

    #[test]
    fn a_token_names_its_key_or_leaves_no_choice() {
        let named = |kid: &str| with(ec(), json!({ "kid": kid }));
        let set = read(&[named("a"), named("b"), named("b"), ec()]).unwrap();
        let count = |kid| set.candidates(kid, Algorithm::ES256).map(Iterator::count);
        let unknown = |kid: Option<&str>| Err(JwtRejection::UnknownKey { kid: kid.map(Into::into) });
        assert_eq!(count(Some("a")), Ok(1));
        assert_eq!(count(Some("b")), Ok(2), "a name that is used twice");
        assert_eq!(count(Some("c")), unknown(Some("c")));
        assert_eq!(count(None), Ok(1), "the one that has no name either");
        let two = read(&[ec(), named("a"), ec()]).unwrap();
        assert_eq!(
            two.candidates(None, Algorithm::ES256).map(Iterator::count),
            Ok(2),
            "one replaces the other"
        );
        let choice = read(&[named("a"), named("b")]).unwrap();
        assert_eq!(choice.candidates(None, Algorithm::ES256).map(Iterator::count), unknown(None));
        let only = read(&[named("a")]).unwrap();
        assert_eq!(only.candidates(None, Algorithm::ES256).map(Iterator::count), Ok(1));
        let wrong = only.candidates(Some("a"), Algorithm::RS256).map(Iterator::count);
        assert_eq!(wrong, Err(JwtRejection::UnsupportedAlgorithm));
    }

    #[test]
    fn pem_files_that_are_something_else_say_so() {
        let pair = rsa();
        for (pem, error) in [
            (pair.serialize_pem(), KeyError::PrivateKey),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(), KeyError::Certificate),
            ("hello".into(), KeyError::NotPem),
        ] {
            assert_eq!(KeySet::from_pem(pem.as_bytes()).unwrap_err(), error);
        }
    }

    #[test]
    fn a_secret_is_trimmed_at_its_end_and_long_enough() {
        let secret = format!("{}\r\n", "s".repeat(SECRET_BYTES_MIN));
        let set = KeySet::from_secret(secret.as_bytes()).unwrap();
        assert_eq!(set.candidates(Some("any"), Algorithm::HS256).unwrap().count(), 1);
        assert_eq!(set.keys[0].decoding.try_get_as_bytes().unwrap().len(), SECRET_BYTES_MIN);
        assert_eq!(KeySet::from_secret(b"secret\n").unwrap_err(), KeyError::ShortSecret(6));
    }
}
