//! JSON Web Tokens (RFC 7519, RFC 8725): whether a token is valid, and the identity that it gives.
//!
//! jsonwebtoken reads tokens and keys, and aws-lc-rs checks signatures (`signature.rs` has the reason). The rules for header
//! and claims are here, because they need `now` and are stricter than those of that crate: `iss`, `aud` and `exp` must be
//! present with the right JSON type, `nbf` is obeyed, and a token is refused if it has a `crit` header (RFC 7515 §4.1.11) or
//! a claim that occurs twice. The algorithm comes from the key and the configuration, never from the token alone, so a
//! public key cannot serve as an HMAC secret. Before its signature is verified, the content of a token decides only which
//! provider checks it (`iss`), and whether newer keys could make it valid. `jku`, `jwk`, `x5u` and `x5c` are ignored: no
//! content of a token causes a request. The log gets the reason of a rejection as a word ([`JwtRejection::reason`]); the
//! client learns only [`Told`].
//!
//! Units: seconds since 1970. Limits: [`TOKEN_BYTES_MAX`], [`KID_BYTES_MAX`].

mod claims;
mod header;
mod keys;
mod signature;
mod unusable;
pub(crate) mod written;

use std::sync::Arc;

use jsonwebtoken::Algorithm;

pub(crate) use self::written::Written;
pub use self::{
    claims::issuer_of,
    header::LastHeader,
    keys::{KeyError, KeySet, Skipped},
    unusable::Unusable,
    written::JwtSettings,
};
use self::{claims::payload_of, signature::SignatureFault};
use super::{
    Check, CredentialKind, CredentialWords, Fit, Identity,
    claims::{ClaimTexts, Projection, claim_texts},
    rejection::{AuthRejection, Told},
    settings::{CredentialSource, FileReader, KeySource, ProviderSettings},
};
use crate::syntax::{diagnostics::Diagnostics, fields::Fields, tree::At};

/// The compiled form of a provider of tokens, without its keys, which change at other times.
#[derive(Debug, Clone)]
pub struct Jwt {
    provider: Arc<str>,
    issuer: Option<Box<str>>,
    /// The issuer, with variables as they are written.
    shown_issuer: Option<Box<str>>,
    /// Empty: tokens have no audience, and `required` decides for which service they are.
    audience: Box<[Box<str>]>,
    /// Claims that a token must have, each with its accepted texts.
    required: ClaimTexts,
    algorithms: Box<[Algorithm]>,
    leeway: u64,
    projection: Projection,
}

/// The reason that a token is not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtRejection {
    /// The token is not three parts of base64url with JSON inside, is too long, has a claim twice, or has an `alg` that does
    /// not exist (`none` is one of those).
    Malformed,
    /// The provider or the key does not use this algorithm.
    UnsupportedAlgorithm,
    /// The header has `crit`: no extension is supported that must be understood.
    CriticalHeader,
    /// By `typ` or `cty` it is not an access token (RFC 8725 §3.11), or it is encrypted.
    WrongType,
    /// No key has this `kid`. The issuer may have a new key, so the keys may be fetched again. `None`: the token names no
    /// key, and it is not certain which one it means.
    UnknownKey {
        kid: Option<Box<str>>,
    },
    BadSignature,
    /// This claim is missing, has the wrong JSON type or is out of range.
    BadClaim(&'static str),
    Expired,
    NotYetValid,
    WrongIssuer,
    WrongAudience,
    /// This claim, which the provider requires, is missing or different.
    WrongClaim(Box<str>),
    /// This claim, which is forwarded, cannot be written into a header without a change of its meaning.
    NotForwardable(Box<str>),
    /// The provider's keys were never loaded.
    KeysUnavailable,
}

/// The provider could not accept any token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    #[error("no algorithm is accepted")]
    NoAlgorithm,
    #[error("HMAC and public-key algorithms cannot be accepted by one provider")]
    MixedAlgorithms,
    #[error("no audience is accepted")]
    NoAudience,
}

/// Makes aws-lc-rs the cryptography of jsonwebtoken. It must be called once at start; further calls change nothing.
pub fn install_crypto_provider() {
    // An error means that one is installed already.
    let _ = jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER.install_default();
}

impl Jwt {
    /// Compiles a provider. `kept` are the claims that an identity keeps, in addition to those with fields of their own.
    ///
    /// # Errors
    /// The provider could not accept any token.
    pub fn compile(
        settings: &ProviderSettings,
        own: &JwtSettings,
        kept: impl IntoIterator<Item = Box<str>>,
    ) -> Result<Self, JwtError> {
        let is_hmac = |algorithm: &Algorithm| algorithm.family() == jsonwebtoken::AlgorithmFamily::Hmac;
        let hmacs = own.algorithms.iter().filter(|algorithm| is_hmac(algorithm)).count();
        if own.algorithms.is_empty() {
            return Err(JwtError::NoAlgorithm);
        }
        if hmacs != 0 && hmacs != own.algorithms.len() {
            return Err(JwtError::MixedAlgorithms);
        }
        if own.audience.is_empty() && own.require.is_empty() {
            return Err(JwtError::NoAudience);
        }
        Ok(Self {
            provider: Arc::from(settings.name.as_str()),
            issuer: own.issuer.as_deref().map(Into::into),
            shown_issuer: own.issuer.as_deref().map(|issuer| settings.hidden.shown(issuer).into()),
            audience: own.audience.iter().map(|audience| audience.as_str().into()).collect(),
            algorithms: own.algorithms.as_slice().into(),
            required: claim_texts(&own.require),
            leeway: own.leeway.as_secs(),
            projection: Projection::new(settings, kept, &own.require),
        })
    }

    /// Checks whether the token is valid at `now` (seconds since 1970). `keys` is `None` until keys were loaded for the
    /// first time.
    ///
    /// # Errors
    /// The reason that the token is not valid.
    pub fn verify(
        &self,
        keys: Option<&KeySet>,
        token: &str,
        now: u64,
        last_header: &mut LastHeader,
    ) -> Result<Identity, JwtRejection> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtRejection::Malformed);
        }
        let header = last_header.or_read(token)?;
        if !self.algorithms.contains(&header.algorithm) {
            return Err(JwtRejection::UnsupportedAlgorithm);
        }
        let Some(keys) = keys else {
            // A token whose claims are refused is refused whatever the keys are.
            claims::check(self, &payload_of(token)?, now)?;
            return Err(JwtRejection::KeysUnavailable);
        };
        let mut rejection = JwtRejection::BadSignature;
        for key in keys.candidates(header.kid.as_deref(), header.algorithm)? {
            match key.check(token) {
                // Nothing is read from the claims before the signature has been verified.
                Ok(()) => return claims::check(self, &payload_of(token)?, now),
                Err(SignatureFault::Malformed) => return Err(JwtRejection::Malformed),
                Err(SignatureFault::Bad) => rejection = JwtRejection::BadSignature,
            }
        }
        Err(rejection)
    }

    /// Whether newer keys could make a token valid that `rejection` refused. They could not if its header or its claims are
    /// refused whatever its signature is, so only a token that could be valid causes a fetch of keys.
    pub fn depends_on_keys(
        &self,
        rejection: &JwtRejection,
        token: &str,
        now: u64,
        last_header: &mut LastHeader,
    ) -> bool {
        let is_of_keys = match rejection {
            // The claims have been checked.
            JwtRejection::KeysUnavailable => return true,
            JwtRejection::UnknownKey { .. } | JwtRejection::BadSignature => true,
            // The provider may not accept the algorithm, or no key may have it; a key may have been replaced by one of
            // another type.
            JwtRejection::UnsupportedAlgorithm => {
                last_header.or_read(token).is_ok_and(|header| self.algorithms.contains(&header.algorithm))
            }
            _ => false,
        };
        is_of_keys && payload_of(token).and_then(|payload| claims::check(self, &payload, now)).is_ok()
    }
}

impl CredentialKind for Jwt {
    type Written = Written;
    type Settings = JwtSettings;
    type Keys = KeySet;

    const WORDS: &'static CredentialWords = &CredentialWords {
        scheme: "Bearer",
        has_claims: true,
        credential: "token",
        wanted: "a bearer token",
        plural: "tokens",
    };
    const KEY_FIELDS: &'static [&'static str] = &KEY_FIELDS;
    const FIELDS: &'static [&'static str] = &["audience", "require", "algorithms", "leeway"];

    fn read(fields: &Fields<'_>, sink: &mut Diagnostics) -> Written {
        Written::read(fields, sink)
    }

    fn resolve(
        written: &Written,
        name: &At<String>,
        files: &mut FileReader<'_>,
        sink: &mut Diagnostics,
    ) -> (JwtSettings, KeySource) {
        written.resolve(name, files, sink)
    }

    fn default_sources() -> Vec<CredentialSource> {
        vec![CredentialSource::Bearer]
    }

    fn compile(settings: &ProviderSettings, own: &JwtSettings, kept: Vec<Box<str>>) -> Result<Self, String> {
        Self::compile(settings, own, kept).map_err(|error| error.to_string())
    }

    fn fit(&self, issuer: Option<&str>) -> Fit {
        match &self.issuer {
            None => Fit::Any,
            Some(own) if issuer == Some(own) => Fit::Named,
            Some(_) => Fit::Other,
        }
    }

    fn check(&self, keys: Option<&KeySet>, token: &str, with: Check<'_>) -> Result<Identity, AuthRejection> {
        self.verify(keys, token, with.now, with.last_header).map_err(|rejection| {
            let is_doubtful =
                with.has_newer_keys && self.depends_on_keys(&rejection, token, with.now, with.last_header);
            AuthRejection {
                reason: rejection.reason(),
                claim: rejection.claim().map(Into::into),
                told: rejection.told(),
                is_doubtful,
            }
        })
    }

    fn shown_issuer(&self) -> Option<&str> {
        self.shown_issuer.as_deref()
    }
}

impl JwtRejection {
    /// One word for logs and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnsupportedAlgorithm => "unsupported_algorithm",
            Self::CriticalHeader => "critical_header",
            Self::WrongType => "wrong_type",
            Self::UnknownKey { .. } => "unknown_key",
            Self::BadSignature => "bad_signature",
            Self::BadClaim(_) => "bad_claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::WrongIssuer => "wrong_issuer",
            Self::WrongAudience => "wrong_audience",
            Self::WrongClaim(_) => "wrong_claim",
            Self::NotForwardable(_) => "not_forwardable",
            Self::KeysUnavailable => "keys_unavailable",
        }
    }

    /// The claim that is the reason.
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::BadClaim(claim) => Some(claim),
            Self::WrongClaim(claim) | Self::NotForwardable(claim) => Some(claim),
            Self::Expired => Some("exp"),
            Self::NotYetValid => Some("nbf"),
            Self::WrongIssuer => Some("iss"),
            Self::WrongAudience => Some("aud"),
            _ => None,
        }
    }

    fn told(&self) -> Told {
        match self {
            Self::Expired => Told::Expired,
            Self::KeysUnavailable => Told::Unavailable,
            Self::Malformed
            | Self::UnsupportedAlgorithm
            | Self::CriticalHeader
            | Self::WrongType
            | Self::UnknownKey { .. }
            | Self::BadSignature
            | Self::BadClaim(_)
            | Self::NotYetValid
            | Self::WrongIssuer
            | Self::WrongAudience
            | Self::WrongClaim(_)
            | Self::NotForwardable(_) => Told::Invalid,
        }
    }
}

/// The longest token. A longer one is refused before any work is done.
pub const TOKEN_BYTES_MAX: usize = 16 * 1024;
/// The longest `kid`. Key identifiers are names or hashes.
pub const KID_BYTES_MAX: usize = 128;
/// The fields that contain the place of a provider's keys for tokens.
const KEY_FIELDS: [&str; 5] = ["issuer", "jwks", "jwks_file", "public_key_file", "hs256_secret_file"];

#[cfg(test)]
pub(crate) mod tests {
    //! The attacks to which implementations have fallen (RFC 8725), and valid tokens. `claims` has the tests of claims.

    use std::{sync::LazyLock, time::Duration};

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
    use http::HeaderName;
    use jsonwebtoken::{
        DecodingKey, EncodingKey, Header,
        jwk::{Jwk, PublicKeyUse},
    };
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};
    use serde_json::{Value, json};

    use super::*;
    use crate::{
        auth::KindSettings,
        syntax::{diagnostics::Span, hidden::Hidden},
    };

    /// Any moment.
    pub(super) const NOW: u64 = 1_800_000_000;
    pub(super) const LEEWAY: u64 = 30;
    const SECRET: &[u8] = b"thirty-two bytes of shared secret";

    pub(super) struct Issuer {
        rsa: KeyPair,
        rsa_key: EncodingKey,
        pub(super) ec_key: EncodingKey,
        ed_key: EncodingKey,
        pub(super) keys: KeySet,
    }

    pub(super) static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
        install_crypto_provider();
        let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
        let rsa_key = EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap();
        let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let ec_key = EncodingKey::from_ec_pem(ec.serialize_pem().as_bytes()).unwrap();
        let ed = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let public = [
            ("rsa", DecodingKey::from_rsa_pem(rsa.public_key_pem().as_bytes()).unwrap(), Algorithm::RS256),
            ("ec", DecodingKey::from_ec_pem(ec.public_key_pem().as_bytes()).unwrap(), Algorithm::ES256),
            ("ed", DecodingKey::from_ed_pem(ed.public_key_pem().as_bytes()).unwrap(), Algorithm::EdDSA),
        ];
        let jwks: Vec<Jwk> = public
            .into_iter()
            .map(|(kid, key, algorithm)| {
                let mut jwk = Jwk::from_decoding_key(&key, Some(algorithm)).unwrap();
                jwk.common.key_id = Some(kid.into());
                jwk.common.public_key_use = Some(PublicKeyUse::Signature);
                jwk
            })
            .collect();
        let keys = KeySet::from_jwks(json!({ "keys": jwks }).to_string().as_bytes()).unwrap();
        Issuer { rsa, rsa_key, ec_key, ed_key: EncodingKey::from_ed_der(&ed.serialize_der()), keys }
    });

    /// A provider's settings, without those that no check uses.
    #[derive(Clone)]
    pub(super) struct Given {
        pub(super) issuer: Option<String>,
        pub(super) audience: Vec<String>,
        pub(super) require: Vec<(String, Vec<String>)>,
        pub(super) algorithms: Vec<Algorithm>,
        pub(super) forward: Vec<(String, HeaderName)>,
        pub(super) separators: Vec<(HeaderName, char)>,
        pub(super) kept: Vec<Box<str>>,
    }

    impl Given {
        pub(super) fn keeping(self, names: &[&str]) -> Self {
            Self { kept: names.iter().map(|name| (*name).into()).collect(), ..self }
        }

        pub(super) fn compile(self) -> Result<Jwt, JwtError> {
            let own = JwtSettings {
                issuer: self.issuer,
                audience: self.audience,
                require: self.require,
                algorithms: self.algorithms,
                leeway: Duration::from_secs(LEEWAY),
            };
            let provider =
                ProviderSettings { forward: self.forward, separators: self.separators, ..provider() };
            Jwt::compile(&provider, &own, self.kept)
        }
    }

    pub(super) fn settings() -> Given {
        Given {
            issuer: Some("https://issuer.test".into()),
            audience: vec!["api".into(), "shop".into()],
            require: vec![],
            algorithms: vec![Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA],
            forward: vec![
                ("sub".into(), HeaderName::from_static("x-user-id")),
                ("roles".into(), HeaderName::from_static("x-roles")),
                ("level".into(), HeaderName::from_static("x-level")),
            ],
            separators: vec![],
            kept: vec![],
        }
    }

    /// A provider that forwards no claim.
    pub(crate) fn provider() -> ProviderSettings {
        ProviderSettings {
            name: "main".into(),
            kind: KindSettings::Jwt(JwtSettings {
                issuer: None,
                audience: vec![],
                require: vec![],
                algorithms: vec![],
                leeway: Duration::ZERO,
            }),
            keys: KeySource::JwksUrl("https://issuer.test/jwks".into()),
            from: vec![],
            forward: vec![],
            separators: vec![],
            cache_max: 10,
            hidden: Hidden::default(),
            span: Span::default(),
        }
    }

    pub(crate) fn jwks_file(path: std::path::PathBuf) -> KeySource {
        KeySource::File(path, &written::JWKS_FILE)
    }

    pub(super) fn claims() -> Value {
        json!({"iss": "https://issuer.test", "aud": "api", "sub": "ann", "exp": NOW + 60})
    }

    pub(super) fn with(mut base: Value, more: Value) -> Value {
        let (Value::Object(base_map), Value::Object(more)) = (&mut base, more) else { panic!("objects") };
        base_map.extend(more);
        base_map.retain(|_, value| *value != json!("<none>"));
        base
    }

    /// A signed token with this header and payload, which may be ones that a library would refuse to make.
    pub(super) fn signed(header: &str, payload: &[u8], key: &EncodingKey, algorithm: Algorithm) -> String {
        LazyLock::force(&ISSUER);
        let message = format!("{}.{}", BASE64URL.encode(header), BASE64URL.encode(payload));
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
        format!("{message}.{signature}")
    }

    pub(super) fn es256(header: Value, claims: &Value) -> String {
        let header = with(json!({"alg": "ES256", "kid": "ec", "typ": "JWT"}), header);
        signed(&header.to_string(), claims.to_string().as_bytes(), &ISSUER.ec_key, Algorithm::ES256)
    }

    pub(super) fn check_at(token: &str, now: u64) -> Result<Identity, JwtRejection> {
        settings().compile().unwrap().verify(Some(&ISSUER.keys), token, now, &mut LastHeader::default())
    }

    pub(super) fn check(token: &str) -> Result<Identity, JwtRejection> {
        check_at(token, NOW)
    }

    fn verdict_on_header(more: Value) -> Result<Identity, JwtRejection> {
        check(&es256(more, &claims()))
    }

    #[test]
    fn a_good_token_of_each_algorithm_holds() {
        for (kid, algorithm, key) in [
            ("rsa", Algorithm::RS256, &ISSUER.rsa_key),
            ("ec", Algorithm::ES256, &ISSUER.ec_key),
            ("ed", Algorithm::EdDSA, &ISSUER.ed_key),
        ] {
            let mut header = Header::new(algorithm);
            header.kid = Some(kid.into());
            let token = jsonwebtoken::encode(&header, &claims(), key).unwrap();
            let verified = check(&token).unwrap();
            assert_eq!(verified.subject.as_deref(), Some("ann"));
            assert_eq!(verified.valid_until, NOW + 60 + LEEWAY);
        }
    }

    #[test]
    fn a_token_without_a_good_signature_does_not_hold() {
        let token = es256(json!({}), &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        let mut raw = BASE64URL.decode(signature).unwrap();
        raw[10] ^= 1;
        let flipped = BASE64URL.encode(&raw);
        for signature in [
            String::new(),
            flipped,
            BASE64URL.encode([0; 64]),
            BASE64URL.encode([0xFF; 64]),
            BASE64URL.encode(&raw[..63]),
            BASE64URL.encode([&raw[..], &[0]].concat()),
        ] {
            assert_eq!(
                check(&format!("{message}.{signature}")),
                Err(JwtRejection::BadSignature),
                "{signature}"
            );
        }
        let stolen = with(claims(), json!({"sub": "admin"}));
        let (header, _) = message.split_once('.').unwrap();
        let forged = format!("{header}.{}.{signature}", BASE64URL.encode(stolen.to_string()));
        assert_eq!(check(&forged), Err(JwtRejection::BadSignature));
    }

    #[test]
    fn what_is_not_three_parts_of_base64url_is_malformed() {
        let token = es256(json!({}), &claims());
        let (message, signature) = token.rsplit_once('.').unwrap();
        for bad in [
            String::new(),
            ".".into(),
            "..".into(),
            message.into(),
            format!("{token}.x"),
            format!("{token}="),
            format!("{message}.{signature}+"),
            format!("{message}.{signature}\n"),
            format!(" {token}"),
        ] {
            assert_eq!(check(&bad), Err(JwtRejection::Malformed), "{bad}");
        }
    }

    #[test]
    fn a_token_may_have_as_many_bytes_as_the_limit_says() {
        let padded = |bytes: usize| es256(json!({}), &with(claims(), json!({ "pad": "x".repeat(bytes) })));
        // Three bytes make four characters, so some lengths around the limit cannot occur.
        let fits = padded(12_104);
        assert!((TOKEN_BYTES_MAX - 4..=TOKEN_BYTES_MAX).contains(&fits.len()), "{}", fits.len());
        assert!(check(&fits).is_ok());
        assert_eq!(check(&padded(12_108)), Err(JwtRejection::Malformed));
    }

    #[test]
    fn no_spelling_of_the_algorithm_none_is_accepted() {
        let payload = BASE64URL.encode(claims().to_string());
        for alg in ["none", "None", "NONE", "nOnE", ""] {
            let header = BASE64URL.encode(json!({"alg": alg, "typ": "JWT", "kid": "ec"}).to_string());
            assert_eq!(check(&format!("{header}.{payload}.")), Err(JwtRejection::Malformed), "{alg}");
        }
        assert_eq!(verdict_on_header(json!({"alg": "<none>"})), Err(JwtRejection::Malformed));
    }

    #[test]
    fn a_public_key_is_no_hmac_secret() {
        let pem = ISSUER.rsa.public_key_pem();
        let der = ISSUER.rsa.public_key_raw();
        for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), der] {
            let key = EncodingKey::from_secret(secret);
            for kid in ["rsa", "ec", "<none>"] {
                let header = with(json!({"alg": "HS256"}), json!({ "kid": kid })).to_string();
                let token = signed(&header, claims().to_string().as_bytes(), &key, Algorithm::HS256);
                assert_eq!(check(&token), Err(JwtRejection::UnsupportedAlgorithm));
                // Not even where a careless configuration accepts HMAC, because the key is bound to its own algorithm.
                let jwt = Given { algorithms: vec![Algorithm::HS256], ..settings() }.compile().unwrap();
                assert!(jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()).is_err());
                let pem_keys = KeySet::from_pem(pem.as_bytes()).unwrap();
                let verdict = jwt.verify(Some(&pem_keys), &token, NOW, &mut LastHeader::default());
                assert_eq!(verdict, Err(JwtRejection::UnsupportedAlgorithm));
            }
        }
    }

    #[test]
    fn a_token_cannot_choose_another_algorithm_than_its_key_has() {
        assert_eq!(verdict_on_header(json!({"kid": "rsa"})), Err(JwtRejection::UnsupportedAlgorithm));
        let header = json!({"alg": "RS256", "kid": "ec"}).to_string();
        let token = signed(&header, claims().to_string().as_bytes(), &ISSUER.rsa_key, Algorithm::RS256);
        assert_eq!(check(&token), Err(JwtRejection::UnsupportedAlgorithm));
        // RSA keys can use PS256, but neither this key (`alg`: RS256) nor the provider does.
        let header = json!({"alg": "PS256", "kid": "rsa"}).to_string();
        let token = signed(&header, claims().to_string().as_bytes(), &ISSUER.rsa_key, Algorithm::PS256);
        assert_eq!(check(&token), Err(JwtRejection::UnsupportedAlgorithm));
        let jwt = Given { algorithms: vec![Algorithm::PS256], ..settings() }.compile().unwrap();
        assert_eq!(
            jwt.verify(Some(&ISSUER.keys), &token, NOW, &mut LastHeader::default()),
            Err(JwtRejection::UnsupportedAlgorithm)
        );
    }

    #[test]
    fn a_key_name_is_matched_exactly_and_nothing_more() {
        for kid in ["EC", "ec ", "../../dev/null", "' OR 1=1--", "\0", "https://evil.test/k", ""] {
            let unknown = JwtRejection::UnknownKey { kid: Some(kid.into()) };
            assert_eq!(verdict_on_header(json!({ "kid": kid })), Err(unknown), "{kid:?}");
        }
        for kid in [json!(1), json!(["ec"]), json!({}), json!("k".repeat(KID_BYTES_MAX + 1))] {
            assert_eq!(verdict_on_header(json!({ "kid": kid })), Err(JwtRejection::Malformed), "{kid}");
        }
        assert!(verdict_on_header(json!({"kid": "<none>"})).is_ok(), "only one key has this algorithm");
    }

    #[test]
    fn keys_that_a_token_brings_along_are_ignored() {
        let attacker = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = EncodingKey::from_ec_pem(attacker.serialize_pem().as_bytes()).unwrap();
        let jwk = Jwk::from_encoding_key(&key, Algorithm::ES256).unwrap();
        for more in [
            json!({"jku": "http://127.0.0.1:9/j"}),
            json!({"x5u": "http://127.0.0.1:9/x"}),
            json!({ "jwk": jwk }),
            json!({"x5c": ["AAAA"]}),
        ] {
            let header = with(json!({"alg": "ES256", "kid": "ec"}), more).to_string();
            let token = signed(&header, claims().to_string().as_bytes(), &key, Algorithm::ES256);
            assert_eq!(check(&token), Err(JwtRejection::BadSignature), "{header}");
        }
    }

    #[test]
    fn critical_headers_are_refused_even_when_empty() {
        for crit in [json!(["exp"]), json!(["b64"]), json!([])] {
            assert_eq!(
                verdict_on_header(json!({ "crit": crit, "b64": false })),
                Err(JwtRejection::CriticalHeader)
            );
        }
        assert_eq!(verdict_on_header(json!({"crit": "exp"})), Err(JwtRejection::Malformed));
    }

    #[test]
    fn tokens_for_something_else_are_refused() {
        for typ in ["JWT", "jwt", "at+jwt", "application/at+JWT", "application/okta-internal-at+jwt"] {
            assert!(verdict_on_header(json!({ "typ": typ })).is_ok(), "{typ}");
        }
        for more in [
            json!({"typ": "logout+jwt"}),
            json!({"typ": "DPoP+jwt"}),
            json!({"typ": "application/secevent+jwt"}),
            json!({"cty": "JWT"}),
            json!({"zip": "DEF"}),
            json!({"enc": "A128GCM"}),
        ] {
            assert_eq!(verdict_on_header(more.clone()), Err(JwtRejection::WrongType), "{more}");
        }
    }

    #[test]
    fn a_header_with_a_name_twice_is_malformed() {
        for header in
            [r#"{"alg":"ES256","alg":"ES256","kid":"ec"}"#, r#"{"alg":"ES256","kid":"ec","kid":"ec"}"#]
        {
            let token = signed(header, claims().to_string().as_bytes(), &ISSUER.ec_key, Algorithm::ES256);
            assert_eq!(check(&token), Err(JwtRejection::Malformed), "{header}");
        }
    }

    #[test]
    fn without_keys_a_token_is_neither_good_nor_bad() {
        let jwt = settings().compile().unwrap();
        let rejection =
            jwt.verify(None, &es256(json!({}), &claims()), NOW, &mut LastHeader::default()).unwrap_err();
        assert_eq!(rejection, JwtRejection::KeysUnavailable);
        assert_eq!(rejection.told(), Told::Unavailable);
        let late = es256(json!({}), &with(claims(), json!({"exp": NOW - 60})));
        assert_eq!(jwt.verify(None, &late, NOW, &mut LastHeader::default()), Err(JwtRejection::Expired));
        assert_eq!(
            jwt.verify(None, "a.b.c", NOW, &mut LastHeader::default()),
            Err(JwtRejection::Malformed),
            "no key would help"
        );
    }

    #[test]
    fn only_a_token_that_other_keys_could_let_pass_is_a_reason_to_fetch_them() {
        let jwt = settings().compile().unwrap();
        let depends = |token: &str| {
            let mut last_header = LastHeader::default();
            let rejection = jwt.verify(Some(&ISSUER.keys), token, NOW, &mut last_header).unwrap_err();
            jwt.depends_on_keys(&rejection, token, NOW, &mut last_header)
        };
        let other = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let other = EncodingKey::from_ec_pem(other.serialize_pem().as_bytes()).unwrap();
        let of_other = |kid: &str, claims: &Value| {
            let header = json!({"alg": "ES256", "kid": kid}).to_string();
            signed(&header, claims.to_string().as_bytes(), &other, Algorithm::ES256)
        };
        assert!(depends(&of_other("new", &claims())), "an unknown name");
        assert!(depends(&of_other("ec", &claims())), "another key under a known name");
        assert!(depends(&of_other("rsa", &claims())), "a key of another type under a known name");
        for claim in [json!({"iss": "https://evil.test"}), json!({"aud": "other"}), json!({"exp": NOW - 60})]
        {
            for kid in ["new", "ec"] {
                assert!(!depends(&of_other(kid, &with(claims(), claim.clone()))), "{claim}");
            }
        }
        assert!(
            !depends(&es256(json!({}), &with(claims(), json!({"exp": NOW - 60})))),
            "its signature is good"
        );
        assert!(!depends("a.b.c"));
        let hs256 = signed(r#"{"alg":"HS256"}"#, b"{}", &EncodingKey::from_secret(SECRET), Algorithm::HS256);
        assert!(!depends(&hs256), "the provider does not take this algorithm");
    }

    #[test]
    fn a_shared_secret_verifies_hs256() {
        let jwt = Given { algorithms: vec![Algorithm::HS256], ..settings() }.compile().unwrap();
        let keys = KeySet::from_secret(SECRET).unwrap();
        let payload = claims().to_string();
        let token = |secret| {
            let key = EncodingKey::from_secret(secret);
            signed(r#"{"alg":"HS256"}"#, payload.as_bytes(), &key, Algorithm::HS256)
        };
        assert!(jwt.verify(Some(&keys), &token(SECRET), NOW, &mut LastHeader::default()).is_ok());
        let wrong = jwt.verify(
            Some(&keys),
            &token(b"another secret of thirty-two bytes"),
            NOW,
            &mut LastHeader::default(),
        );
        assert_eq!(wrong, Err(JwtRejection::BadSignature));
    }

    #[test]
    fn every_rejection_has_a_word_of_its_own_and_a_code() {
        let all = [
            JwtRejection::Malformed,
            JwtRejection::UnsupportedAlgorithm,
            JwtRejection::CriticalHeader,
            JwtRejection::WrongType,
            JwtRejection::UnknownKey { kid: None },
            JwtRejection::BadSignature,
            JwtRejection::BadClaim("aud"),
            JwtRejection::Expired,
            JwtRejection::NotYetValid,
            JwtRejection::WrongIssuer,
            JwtRejection::WrongAudience,
            JwtRejection::NotForwardable("sub".into()),
            JwtRejection::KeysUnavailable,
        ];
        let words: std::collections::HashSet<_> = all.iter().map(JwtRejection::reason).collect();
        assert_eq!(words.len(), all.len());
        let codes = |code| all.iter().filter(|rejection| rejection.told() == code).count();
        assert_eq!((codes(Told::Expired), codes(Told::Unavailable)), (1, 1));
    }

    #[test]
    fn a_provider_that_could_accept_nothing_is_refused() {
        let compile = |settings| Given::compile(settings).map(|_| ());
        for (settings, error) in [
            (Given { algorithms: vec![], ..settings() }, JwtError::NoAlgorithm),
            (Given { audience: vec![], ..settings() }, JwtError::NoAudience),
            (
                Given { algorithms: vec![Algorithm::RS256, Algorithm::HS256], ..settings() },
                JwtError::MixedAlgorithms,
            ),
        ] {
            assert_eq!(compile(settings), Err(error));
        }
        install_crypto_provider();
        install_crypto_provider();
    }
}
