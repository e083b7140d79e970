//! `100/s burst 200 per user`: how a rate is written, and help for rates in the words of other products.

use std::{str::FromStr as _, time::Duration};

use http::HeaderName;

use super::RateLimitKey;
use crate::syntax::{
    claims::claim_name,
    diagnostics::{
        code::{BAD_UNIT, BAD_VALUE},
        did_you_mean,
    },
    units::{Invalid, count, is_number},
};

/// A rate as written, such as `100/s` or `5/m burst 3 per ip`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) requests: u32,
    pub(crate) period: Duration,
    pub(crate) burst: Option<u32>,
    pub(crate) key: Option<RateLimitKey>,
}

impl Rate {
    /// Reads a rate. For a rate in the words of another product, the error proposes ours.
    pub(crate) fn parse(text: &str) -> Result<Self, Invalid> {
        Self::parse_ours(text).map_err(|invalid| {
            match written_otherwise(text).filter(|cure| Self::parse_ours(cure).is_ok()) {
                // A bare number may mean any period.
                Some(cure) if is_number(text) => invalid.help(format!("write `{cure}` or `{text}/m`")),
                Some(cure) => Invalid { label: "written in another way here".to_owned(), ..invalid }
                    .help(format!("write `{cure}`")),
                None => invalid,
            }
        })
    }

    fn parse_ours(text: &str) -> Result<Self, Invalid> {
        let mut words = text.split_whitespace();
        let (requests, period) = requests_per_period(words.next().unwrap_or_default())?;
        let mut rate = Self { requests, period, burst: None, key: None };
        while let Some(word) = words.next() {
            match (word, words.next()) {
                ("burst", Some(number)) if rate.burst.is_none() => rate.burst = Some(burst(number)?),
                ("per", Some(key)) if rate.key.is_none() => rate.key = Some(rate_key(key)?),
                ("burst" | "per", Some(_)) => {
                    return Err(Invalid::new(BAD_UNIT, RATE_FORM, format!("`{word}` stands here twice")));
                }
                ("burst" | "per", None) => {
                    return Err(Invalid::new(BAD_UNIT, RATE_FORM, format!("nothing follows `{word}`")));
                }
                _ => {
                    return Err(Invalid::new(BAD_UNIT, RATE_FORM, format!("`{word}` is not understood")));
                }
            }
        }
        Ok(rate)
    }
}

fn requests_per_period(text: &str) -> Result<(u32, Duration), Invalid> {
    let refuse = |label: &str| Invalid::new(BAD_UNIT, RATE_FORM, label);
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(refuse("a rate begins with a number"));
    }
    let Some((requests, unit)) = text.split_once('/') else { return Err(refuse("the period is missing")) };
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(refuse("the period is one of `s`, `m`, `h`, `d`")),
    };
    let requests = count(requests, 1..=REQUESTS_MAX)
        .map_err(|e| refuse(&format!("the number must be {}", e.expected)))?;
    Ok((requests, Duration::from_secs(seconds)))
}

/// Translates `10r/s`, `100/minute`, `100 per second`, `5 req/s per ip`, `100` and `100/s ip` into our words.
fn written_otherwise(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let mut words: Vec<&str> = rest.split([' ', '/', '_']).filter(|word| !word.is_empty()).collect();
    let is_noise =
        |word: &&str| matches!(*word, "r" | "req" | "reqs" | "request" | "requests" | "rps" | "rpm");
    let in_a_word = words.first().and_then(|word| match *word {
        "rps" => Some("s"),
        "rpm" => Some("m"),
        _ => None,
    });
    words.retain(|word| !is_noise(word));
    let mut rest = words.into_iter().peekable();
    let mut unit = in_a_word;
    if unit.is_none() {
        rest.next_if(|word| matches!(*word, "per" | "a" | "each" | "every"));
        unit = rest.peek().and_then(|word| unit_of(word));
        if unit.is_some() {
            rest.next();
        }
    }
    let mut cure = format!("{number}/{}", unit.unwrap_or("s"));
    while let Some(word) = rest.next() {
        match word {
            "burst" | "per" => cure.extend([" ", word, " ", rest.next()?]),
            _ if rate_key(word).is_ok() => cure.extend([" per ", word]),
            _ => cure.extend([" burst ", word.strip_prefix("burst=")?]),
        }
    }
    Some(cure)
}

fn unit_of(word: &str) -> Option<&'static str> {
    match word.trim_end_matches('s') {
        "" | "sec" | "second" | "S" => Some("s"),
        "m" | "min" | "minute" => Some("m"),
        "h" | "hr" | "hour" => Some("h"),
        "d" | "day" => Some("d"),
        _ => None,
    }
}

/// Reads the number after `burst`.
pub(crate) fn burst(text: &str) -> Result<u32, Invalid> {
    count(text, 1..=REQUESTS_MAX)
        .map_err(|e| Invalid::new(e.code, format!("followed by {} after `burst`", e.expected), e.label))
}

/// Reads the word after `per`.
pub(crate) fn rate_key(text: &str) -> Result<RateLimitKey, Invalid> {
    let expected = "counted per `ip`, `user`, `route`, `service`, `claim:NAME` or `header:NAME`";
    let refuse = |label: String| Invalid::new(BAD_VALUE, expected, label);
    match text.split_once(':') {
        None => match text {
            "ip" => Ok(RateLimitKey::Ip),
            "user" => Ok(RateLimitKey::User),
            "route" => Ok(RateLimitKey::Route),
            "service" => Ok(RateLimitKey::Service),
            _ => Err(match did_you_mean(text, ["ip", "user", "route", "service"]) {
                Some(word) => refuse(format!("did you mean `per {word}`?")),
                None => refuse(format!("`{text}` is not one of them")),
            }),
        },
        Some(("claim", name)) => claim_name(name).map(RateLimitKey::Claim),
        Some(("header", name)) => HeaderName::from_str(name)
            .map(RateLimitKey::Header)
            .map_err(|_| refuse("this is not a header name".to_owned())),
        Some(_) => Err(refuse(format!("`{text}` is not one of them"))),
    }
}

const RATE_FORM: &str = "a rate such as `100/s`, `100/s per user` or `5/m burst 3 per ip`";
/// A limit past a billion is a typing mistake, and intervals in nanoseconds would lose precision.
const REQUESTS_MAX: u32 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_have_a_burst_and_a_key() {
        let rate = Rate::parse("5/m burst 3 per ip").unwrap();
        assert_eq!((rate.requests, rate.period), (5, Duration::from_mins(1)));
        assert_eq!((rate.burst, rate.key), (Some(3), Some(RateLimitKey::Ip)));
        let rate = Rate::parse("100/s per header:X-Api-Key").unwrap();
        assert_eq!(rate.key, Some(RateLimitKey::Header(HeaderName::from_static("x-api-key"))));
        assert_eq!(Rate::parse("100/s").unwrap().key, None);
    }

    #[test]
    fn rates_of_others_are_told_in_our_words() {
        for (text, cure) in [
            ("10r/s", "10/s"),
            ("10r/m burst=5", "10/m burst 5"),
            ("100/minute", "100/m"),
            ("100 per second", "100/s"),
            ("5 req/min per ip", "5/m per ip"),
            ("100/s ip", "100/s per ip"),
            ("50rps", "50/s"),
            ("600rpm", "600/m"),
            ("10 requests per hour", "10/h"),
            ("100_per_second", "100/s"),
        ] {
            assert_eq!(Rate::parse(text).unwrap_err().help, Some(format!("write `{cure}`")), "{text}");
        }
        for text in ["", "0", "99999999999", "many", "5/fortnight", "100/s per usr"] {
            assert_eq!(Rate::parse(text).unwrap_err().help, None, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_rate_is_refused() {
        assert_eq!(Rate::parse("100").unwrap_err().help.unwrap(), "write `100/s` or `100/m`");
        for text in
            ["", "/s", "0/s", "x/s", "1/x", "1/5s", "99999999999/s", "1/s burst", "1/s per", "1/s burst 0"]
        {
            assert!(Rate::parse(text).is_err(), "{text:?}");
        }
        for text in ["1/s per header:", "1/s per claim:", "1/s per usr", "1/s per ip per ip", "1/s user"] {
            assert!(Rate::parse(text).is_err(), "{text:?}");
        }
    }
}
