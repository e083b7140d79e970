//! Values with units: durations, sizes, shares, counts, networks and URLs, each with its allowed range.
//!
//! A number without a unit is refused where a unit is needed, since `timeout: 30` means seconds to one reader and
//! milliseconds to another. Every refusal names the expected form and, where it can be guessed, the text to write.

use std::{fmt::Display, net::IpAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use bytesize::ByteSize;
use ipnet::{IpNet, Ipv4Net};

use super::report::code::{BAD_UNIT, BAD_VALUE, OUT_OF_RANGE};

/// Why a value was refused. `expected` never contains the value itself, so it can be shown for secrets, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    pub code: &'static str,
    /// Completes "… must be …".
    pub expected: String,
    /// The problem with the value; may quote it.
    pub label: String,
    /// The text to write instead; may quote the value.
    pub help: Option<String>,
}

impl Invalid {
    /// A refusal without help.
    pub fn new(code: &'static str, expected: impl Into<String>, label: impl Into<String>) -> Self {
        Self { code, expected: expected.into(), label: label.into(), help: None }
    }

    /// Sets the text to write instead.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Reads a duration such as `250ms`, `2s`, `1m30s` or `1h` within `range`. Proposals for a bare number are within it,
/// too.
pub fn duration_in(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Invalid> {
    let refuse = |label: &str| Invalid::new(BAD_UNIT, "a duration such as `250ms`, `2s` or `1m30s`", label);
    let fits = |text: &str| humantime::parse_duration(text).is_ok_and(|duration| range.contains(&duration));
    if is_number(text) {
        let readings =
            [("s", "seconds"), ("ms", "milliseconds")].map(|(unit, name)| (format!("{text}{unit}"), name));
        let offered =
            readings.iter().filter(|(text, _)| fits(text)).map(|(text, name)| format!("`{text}` for {name}"));
        let offered: Vec<String> = offered.collect();
        let refusal = refuse("the unit is missing");
        return Err(if offered.is_empty() {
            refusal
        } else {
            refusal.help(format!("write {}", offered.join(" or ")))
        });
    }
    if text.starts_with('-') {
        return Err(refuse("a duration cannot be negative"));
    }
    let duration = humantime::parse_duration(text).map_err(|_| {
        // ISO 8601 §5.5.2, as Java and XML write a duration.
        let iso = text.strip_prefix("PT").map(str::to_ascii_lowercase).filter(|text| fits(text));
        let help =
            iso.map_or("units are `ms`, `s`, `m`, `h`, `d`".to_owned(), |text| format!("write `{text}`"));
        refuse("not a duration").help(help)
    })?;
    within(duration, range, |d| show_duration(*d))
}

/// A duration of milliseconds.
pub(crate) const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// A duration of minutes.
pub(crate) const fn minutes(number: u64) -> Duration {
    Duration::from_mins(number)
}

/// Reads a size such as `512B`, `256KiB` or `10MB` within `range`, in bytes. Proposals for a bare number are within it,
/// too.
pub fn size_in(text: &str, range: RangeInclusive<u64>) -> Result<u64, Invalid> {
    let refuse = |label: &str| Invalid::new(BAD_UNIT, "a size such as `64KiB` or `10MB`", label);
    if is_number(text) {
        let refusal = refuse("the unit is missing");
        return Err(match text.parse() {
            Ok(bytes) if range.contains(&bytes) => {
                refusal.help(format!("write `{}` if these are bytes", show_size(bytes)))
            }
            _ => refusal,
        });
    }
    if text.starts_with('-') {
        return Err(refuse("a size cannot be negative"));
    }
    let bytes = ByteSize::from_str(text)
        .map_err(|_| refuse("not a size").help("units are `B`, `kB`, `KiB`, `MB`, `MiB`, `GB`, `GiB`"))?;
    within(bytes.as_u64(), range, |bytes| show_size(*bytes))
}

/// Reads a share such as `20%` or `0.5%`, in thousandths.
pub fn share_per_mille(text: &str) -> Result<u16, Invalid> {
    let refuse = |label: &str| Invalid::new(BAD_UNIT, "a share such as `20%`", label);
    let Some(number) = text.strip_suffix('%') else {
        let refusal = refuse("the `%` is missing");
        let percents = match text.trim().parse::<f64>() {
            Ok(value) if value > 0.0 && value <= 1.0 => value * 100.0,
            Ok(value) if value > 1.0 && value <= 100.0 => value,
            _ => return Err(refusal),
        };
        return Err(refusal.help(format!("write `{}%`", (percents * 10.0).round() / 10.0)));
    };
    let number = number.trim_end();
    let (whole, tenths) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |text: &str, length: RangeInclusive<usize>| {
        (length.contains(&text.len()) && is_number(text)).then(|| text.parse::<u16>().ok()).flatten()
    };
    let (Some(whole), Some(tenths)) = (digits(whole, 1..=4), digits(tenths, 1..=1)) else {
        return Err(refuse("not a share").help("whole percents, or one digit after the point: `0.5%`"));
    };
    within(whole.saturating_mul(10).saturating_add(tenths), 0..=1000, |p| {
        format!("{}%", f32::from(*p) / 10.0)
    })
}

/// The ratio of a share in thousandths, with which policies calculate.
pub(crate) fn ratio(per_mille: u16) -> f32 {
    f32::from(per_mille) / 1000.0
}

/// Reads a whole number within `range`.
pub fn count<T>(text: &str, range: RangeInclusive<T>) -> Result<T, Invalid>
where
    T: FromStr + PartialOrd + Display,
{
    let expected = || format!("a whole number between `{}` and `{}`", range.start(), range.end());
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !is_number(digits) {
        return Err(Invalid::new(BAD_VALUE, expected(), "not a whole number"));
    }
    match text.parse::<T>() {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => Err(Invalid::new(OUT_OF_RANGE, expected(), "out of range")),
    }
}

/// Reads `true`, `false`, `on` or `off`. The refusal of another word for them proposes one of the first two.
pub fn boolean(text: &str) -> Result<bool, Invalid> {
    match text {
        "true" | "on" => Ok(true),
        "false" | "off" => Ok(false),
        _ => {
            let refusal = Invalid::new(BAD_VALUE, "`true` or `false`", "neither `true` nor `false`");
            Err(match text.to_ascii_lowercase().as_str() {
                "yes" | "y" | "1" | "enabled" | "true" | "on" => refusal.help("write `true`"),
                "no" | "n" | "0" | "disabled" | "none" | "false" | "off" => refusal.help("write `false`"),
                _ => refusal,
            })
        }
    }
}

/// The text as a YAML value: in quotes if its first character has another meaning in YAML (YAML 1.2 §5.3).
pub fn in_yaml(text: &str) -> String {
    if text.starts_with(['*', '[', '{', '&', '!', '|', '>', '%', '@', '#', '"', '\'', '`']) {
        format!("\"{text}\"")
    } else {
        text.to_owned()
    }
}

/// The shortest text of a duration: `1m30s`.
pub fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() == 0 && seconds >= 3600 && seconds.is_multiple_of(3600) {
        return format!("{}h", seconds / 3600);
    }
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// The text of a size, in the largest binary unit that divides it.
pub fn show_size(bytes: u64) -> String {
    let (unit, divisor) = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
        .into_iter()
        .find(|(_, divisor)| bytes > 0 && bytes.is_multiple_of(*divisor))
        .unwrap_or(("B", 1));
    format!("{}{unit}", bytes / divisor)
}

fn within<T: PartialOrd>(
    value: T,
    range: RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, Invalid> {
    if range.contains(&value) {
        return Ok(value);
    }
    let expected = format!("between `{}` and `{}`", show(range.start()), show(range.end()));
    Err(Invalid::new(OUT_OF_RANGE, expected, "out of range"))
}

/// Whether the text has only ASCII digits, at least one.
pub(crate) fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// Reads a network such as `10.0.0.0/8`, or one address.
pub fn network(text: &str) -> Result<IpNet, Invalid> {
    let expected = "a network such as `10.0.0.0/8`, or one IP address";
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map(canonical)
        .map_err(|_| Invalid::new(BAD_VALUE, expected, "not a network"))
}

/// Turns an IPv4 network that is written as IPv6 (RFC 4291 §2.5.5.2) into IPv4, as the compared addresses are.
fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(wide) = network else { return network };
    let narrow = wide.addr().to_ipv4_mapped().zip(wide.prefix_len().checked_sub(96));
    narrow.and_then(|(address, prefix)| Ipv4Net::new(address, prefix).ok()).map_or(network, IpNet::V4)
}

/// Reads an `http` or `https` URL, which is kept as written. The refusal of a URL without a scheme proposes `scheme`.
pub(crate) fn url_or(text: &str, scheme: &str) -> Result<String, Invalid> {
    let refuse =
        |label: &str| Invalid::new(BAD_VALUE, "a URL that begins with `http://` or `https://`", label);
    let uri = text.parse::<http::Uri>();
    let parts = uri.as_ref().map(|uri| (uri.scheme_str(), uri.authority()));
    match parts {
        Ok((Some("http" | "https"), Some(authority))) if authority.as_str().contains('@') => {
            Err(refuse("user and password do not belong into a URL"))
        }
        Ok((Some("http" | "https"), Some(authority))) if !authority.host().is_empty() => Ok(text.to_owned()),
        _ if text.contains("://") || text.is_empty() || scheme.is_empty() => Err(refuse("not an `http` URL")),
        _ => {
            let with_scheme = format!("{scheme}://{text}");
            Err(match url_or(&with_scheme, "") {
                Ok(_) => refuse("the scheme is missing").help(format!("write `{with_scheme}`")),
                Err(_) => refuse("not a URL"),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_one_form() {
        for (text, network) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:192.0.2.7", "192.0.2.7/32"),
            ("fe80::/10", "fe80::/10"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network_text(text), Ok(network.to_owned()), "{text}");
        }
        assert!(network_text("10.0.0.0/33").is_err() && network_text("office").is_err());
    }

    fn network_text(text: &str) -> Result<String, Invalid> {
        network(text).map(|network| network.to_string())
    }

    #[test]
    fn durations_are_read_with_their_unit() {
        for (text, millis) in
            [("250ms", 250), ("2s", 2000), ("1m30s", 90_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            assert_eq!(
                duration_in(text, Duration::ZERO..=Duration::MAX),
                Ok(Duration::from_millis(millis)),
                "{text}"
            );
        }
    }

    #[test]
    fn a_bare_number_is_refused_and_the_fix_is_shown() {
        assert_eq!(
            duration_in("30", Duration::ZERO..=Duration::MAX).unwrap_err().help.unwrap(),
            "write `30s` for seconds or `30ms` for milliseconds"
        );
        assert!(size_in("10", 0..=1 << 40).unwrap_err().help.unwrap().contains("`10B`"));
        assert_eq!(share_per_mille("20").unwrap_err().help.unwrap(), "write `20%`");
        assert_eq!(share_per_mille("0.2").unwrap_err().help.unwrap(), "write `20%`");
    }

    #[test]
    fn what_is_offered_is_within_the_range() {
        let duration = |text, from, to| {
            let range = Duration::from_millis(from)..=Duration::from_millis(to);
            duration_in(text, range).unwrap_err().help
        };
        assert_eq!(duration("15", 100, 60_000).as_deref(), Some("write `15s` for seconds"));
        assert_eq!(duration("5000", 100, 60_000).as_deref(), Some("write `5000ms` for milliseconds"));
        assert_eq!(duration("0", 100, 60_000), None);
        assert_eq!(duration("PT1M30S", 100, 600_000).as_deref(), Some("write `1m30s`"));
        assert_eq!(size_in("0", 1..=100).unwrap_err().help, None);
        assert_eq!(size_in("7", 1..=100).unwrap_err().help.as_deref(), Some("write `7B` if these are bytes"));
        for (text, help) in
            [("0.333", Some("write `33.3%`")), ("200", None), ("0", None), ("1", Some("write `100%`"))]
        {
            assert_eq!(share_per_mille(text).unwrap_err().help.as_deref(), help, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", " ", "s", "-1s", "1x", "s1", "99999999999999999999s"] {
            assert!(duration_in(text, Duration::ZERO..=Duration::MAX).is_err(), "{text:?}");
        }
        for text in ["", "KiB", "-1MB", "1XB"] {
            assert!(size_in(text, 0..=1 << 40).is_err(), "{text:?}");
        }
        assert!(size_in("99999999999999999999EB", 0..=1 << 40).is_err());
        for text in ["", "%", "x%", "-1%", "101%", "1.55%", "1.%", "99999%"] {
            assert!(share_per_mille(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        for (text, bytes) in [("1B", 1), ("256KiB", 262_144), ("10MB", 10_000_000), ("1GiB", 1 << 30)] {
            assert_eq!(size_in(text, 0..=1 << 40), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn shares_have_at_most_one_digit_after_the_point() {
        for (text, per_mille) in [("0%", 0), ("0.5%", 5), ("20%", 200), ("100%", 1000)] {
            assert_eq!(share_per_mille(text), Ok(per_mille), "{text}");
        }
    }

    #[test]
    fn a_range_holds_both_of_its_ends() {
        let range = || Duration::from_secs(1)..=Duration::from_mins(1);
        assert!(duration_in("1s", range()).is_ok());
        assert!(duration_in("1m", range()).is_ok());
        assert_eq!(duration_in("61s", range()).unwrap_err().expected, "between `1s` and `1m`");
        assert_eq!(duration_in("999ms", range()).unwrap_err().code, OUT_OF_RANGE);
        assert!(count::<u32>("4294967296", 0..=u32::MAX).is_err());
        assert!(count("-5", -10..=10).is_ok());
    }

    #[test]
    fn values_are_shown_as_they_would_be_written() {
        assert_eq!(show_duration(Duration::from_secs(90)), "1m30s");
        assert_eq!(show_size(10 * 1024 * 1024), "10MiB");
        assert_eq!(show_duration(Duration::from_hours(24)), "24h");
        assert_eq!(show_size(1000), "1000B");
    }
}
