//! Integers as JSON has them: `961`, `961.0` and `9.61e2` are one number (RFC 8259 §6, JSON Schema §4.2.3).

use std::fmt;

use serde::{
    Deserializer,
    de::{Error, Unexpected, Visitor},
};

/// For `#[serde(deserialize_with)]` of every integer in a body.
pub fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    deserializer.deserialize_i64(WholeNumber)
}

struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<i64, E> {
        Ok(number)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<i64, E> {
        i64::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<i64, E> {
        if number.fract() == 0.0 && number.abs() <= EXACT_MAX {
            #[expect(clippy::cast_possible_truncation, reason = "whole, and small enough to be exact")]
            return Ok(number as i64);
        }
        Err(E::invalid_type(Unexpected::Float(number), &self))
    }
}

/// 2⁵³: up to here every integer is a float of its own.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_without_a_fraction_is_an_integer_however_it_is_written() {
        let parse = |text: &str| integer(&mut serde_json::Deserializer::from_str(text));
        for (text, number) in [
            ("961", 961),
            ("961.0", 961),
            ("9.61e2", 961),
            ("-0.0", 0),
            ("-3.0", -3),
            ("9007199254740992.0", 9_007_199_254_740_992),
        ] {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["961.5", "1e300", "1e-3", "\"961\"", "null", "true", "[1]", "18446744073709551615"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
