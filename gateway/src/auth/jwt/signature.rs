//! A key that is prepared to verify signatures of one algorithm.
//!
//! jsonwebtoken parses a public key anew for every token, which costs more than the verification itself. So the key is
//! parsed when its set is read, and aws-lc-rs verifies tokens with it, as jsonwebtoken would.

use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind};

/// A parsed key, for one algorithm.
#[derive(Debug, Clone)]
pub(super) enum Verifier {
    Public(ParsedPublicKey),
    Secret(Box<hmac::Key>),
}

/// The key does not fit the algorithm, or the cryptography library refuses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeyRefused;

/// The reason that a signature was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SignatureFault {
    /// The token does not have three parts, or the third is not base64url.
    Malformed,
    Bad,
}

impl Verifier {
    pub(super) fn new(key: &DecodingKey, algorithm: Algorithm) -> Result<Self, KeyRefused> {
        match (key.kind(), algorithm) {
            (DecodingKeyKind::SecretOrDer(secret), Algorithm::HS256) => {
                Ok(Self::Secret(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret))))
            }
            (DecodingKeyKind::SecretOrDer(point), _) => {
                let parsed = ParsedPublicKey::new(of_point(algorithm)?, point);
                parsed.map(Self::Public).map_err(|_| KeyRefused)
            }
            (DecodingKeyKind::RsaModulusExponent { n, e }, _) => {
                let parsed = RsaPublicKeyComponents { n, e }.to_parsed_public_key(of_rsa(algorithm)?);
                parsed.map(Self::Public).map_err(|_| KeyRefused)
            }
        }
    }

    /// Checks that the last part of the token is a signature of the others (RFC 7515 §5.2).
    pub(super) fn check(&self, token: &str) -> Result<(), SignatureFault> {
        let (message, encoded) = token.rsplit_once('.').ok_or(SignatureFault::Malformed)?;
        // The length of an RSA signature with 8192 bits.
        let mut space = [0; 1024];
        let bytes =
            URL_SAFE_NO_PAD.decode_slice(encoded, &mut space).map_err(|_| SignatureFault::Malformed)?;
        let signature = space.get(..bytes).unwrap_or_default();
        let message = message.as_bytes();
        match self {
            Self::Public(key) => key.verify_sig(message, signature).map_err(|_| SignatureFault::Bad),
            // In constant time.
            Self::Secret(key) => hmac::verify(key, message, signature).map_err(|_| SignatureFault::Bad),
        }
    }
}

fn of_rsa(algorithm: Algorithm) -> Result<&'static RsaParameters, KeyRefused> {
    Ok(match algorithm {
        Algorithm::RS256 => &signature::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return Err(KeyRefused),
    })
}

/// RFC 7518 §3.4 and RFC 8037 §3.1: signatures of fixed length.
fn of_point(algorithm: Algorithm) -> Result<&'static dyn VerificationAlgorithm, KeyRefused> {
    Ok(match algorithm {
        Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
        Algorithm::ES384 => &signature::ECDSA_P384_SHA384_FIXED,
        Algorithm::EdDSA => &signature::ED25519,
        _ => return Err(KeyRefused),
    })
}
