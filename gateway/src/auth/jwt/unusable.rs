//! Keys that cannot verify tokens, and the reasons. Among them are weak public keys: short RSA keys, bad exponents, points
//! that are not on the curve or of small order. Limit: RSA keys need [`RSA_BITS_MIN`] bits (RFC 7518 §3.3).

use jsonwebtoken::{
    AlgorithmFamily, DecodingKey, DecodingKeyKind,
    jwk::{AlgorithmParameters, EllipticCurve},
};

/// The reason that a key cannot verify tokens.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    #[error("not a JSON Web Key")]
    NotAJwk,
    #[error("not for signatures")]
    NotForSignatures,
    #[error("a shared secret, which a key set must not publish")]
    SharedSecret,
    #[error("unsupported key type or curve")]
    UnsupportedType,
    #[error("unsupported `alg`, or one of another key type")]
    UnsupportedAlgorithm,
    #[error("the `kid` is too long")]
    LongKid,
    #[error("RSA with {0} bits, at least {RSA_BITS_MIN} are needed")]
    ShortRsa(usize),
    #[error("RSA with an exponent that is even or below 3")]
    RsaExponent,
    #[error("not a point of its curve")]
    BadPoint,
    #[error("not a number that RSA can use; the largest have 8192 bits")]
    Refused,
}

/// aws-lc would refuse most of these keys, too, but without a reason.
pub(super) fn check_strength(key: &DecodingKey, parameters: &AlgorithmParameters) -> Result<(), Unusable> {
    let point_bytes = match parameters {
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => 2 * 48 + 1,
        _ => 2 * 32 + 1,
    };
    match (key.family(), key.kind()) {
        (AlgorithmFamily::Rsa, DecodingKeyKind::RsaModulusExponent { n, e }) => {
            let bits = bits(n);
            if bits < RSA_BITS_MIN {
                return Err(Unusable::ShortRsa(bits));
            }
            if is_bad_exponent(e) {
                return Err(Unusable::RsaExponent);
            }
            Ok(())
        }
        (AlgorithmFamily::Ec, DecodingKeyKind::SecretOrDer(point)) if point.len() == point_bytes => Ok(()),
        (AlgorithmFamily::Ed, DecodingKeyKind::SecretOrDer(point)) if is_good_ed25519(point) => Ok(()),
        _ => Err(Unusable::BadPoint),
    }
}

fn bits(big_endian: &[u8]) -> usize {
    let Some(first) = big_endian.iter().position(|&byte| byte != 0) else { return 0 };
    let leading_zeros = big_endian[first].leading_zeros() as usize;
    (big_endian.len() - first) * 8 - leading_zeros
}

/// Even, or 1.
fn is_bad_exponent(e: &[u8]) -> bool {
    bits(e) < 2 || e.last().is_none_or(|byte| byte % 2 == 0)
}

/// Canonical (y below 2²⁵⁵ − 19, RFC 8032 §5.1.3), and not one of the points of small order, for which one signature
/// verifies many messages.
fn is_good_ed25519(point: &[u8]) -> bool {
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return false };
    y[31] &= 0x7F; // the sign of x
    y.reverse();
    let below_prime = y < ED25519_PRIME;
    let is_small = |word: u8| y[..31].iter().all(|&byte| byte == 0) && y[31] == word;
    let mut minus_one = ED25519_PRIME;
    minus_one[31] -= 1;
    below_prime && !is_small(0) && !is_small(1) && y != minus_one && !ED25519_ORDER_8.contains(&y)
}

/// RFC 7518 §3.3.
const RSA_BITS_MIN: usize = 2048;
/// 2²⁵⁵ − 19, most significant byte first.
const ED25519_PRIME: [u8; 32] = {
    let mut prime = [0xFF; 32];
    prime[0] = 0x7F;
    prime[31] = 0xED;
    prime
};
/// The two y of order 8, most significant byte first.
const ED25519_ORDER_8: [[u8; 32]; 2] = [
    [
        0x7A, 0x03, 0xAC, 0x92, 0x77, 0xFD, 0xC7, 0x4E, 0xC6, 0xCC, 0x39, 0x2C, 0xFA, 0x53, 0x20, 0x2A, 0x0F,
        0x67, 0x10, 0x0D, 0x76, 0x0B, 0x3C, 0xBA, 0x4F, 0xD8, 0x4D, 0x3D, 0x70, 0x6A, 0x17, 0xC7,
    ],
    [
        0x05, 0xFC, 0x53, 0x6D, 0x88, 0x02, 0x38, 0xB1, 0x39, 0x33, 0xC6, 0xD3, 0x05, 0xAC, 0xDF, 0xD5, 0xF0,
        0x98, 0xEF, 0xF2, 0x89, 0xF4, 0xC3, 0x45, 0xB0, 0x27, 0xB2, 0xC2, 0x8F, 0x95, 0xE8, 0x26,
    ],
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_ed25519_points_are_refused() {
        let mut order_8 = ED25519_ORDER_8[0];
        order_8.reverse();
        let mut negative = order_8;
        negative[31] |= 0x80;
        let mut prime = ED25519_PRIME;
        prime.reverse();
        let mut one = [0; 32];
        one[0] = 1;
        for weak in [[0; 32], one, order_8, negative, prime, [0xFF; 32]] {
            assert!(!is_good_ed25519(&weak), "{weak:02x?}");
        }
        assert!(!is_good_ed25519(&[9; 31]));
        let mut base = [0x66; 32];
        base[0] = 0x58;
        assert!(is_good_ed25519(&base), "the base point of RFC 8032");
    }
}
