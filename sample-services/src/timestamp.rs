//! Points in time: microseconds since 1970-01-01 UTC in the database, RFC 3339 text in JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use sqlx::{
    Sqlite,
    encode::IsNull,
    error::BoxDynError,
    sqlite::{SqliteTypeInfo, SqliteValueRef},
};
use utoipa::ToSchema;

/// A point in time, to the microsecond. The only place where the services read the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-01-31T12:00:00.000000Z")]
pub struct Timestamp(i64);

/// Stored as a number.
impl sqlx::Type<Sqlite> for Timestamp {
    fn type_info() -> SqliteTypeInfo {
        <i64 as sqlx::Type<Sqlite>>::type_info()
    }

    fn compatible(column: &SqliteTypeInfo) -> bool {
        <i64 as sqlx::Type<Sqlite>>::compatible(column)
    }
}

impl<'query> sqlx::Encode<'query, Sqlite> for Timestamp {
    fn encode_by_ref(
        &self,
        arguments: &mut <Sqlite as sqlx::Database>::ArgumentBuffer,
    ) -> Result<IsNull, BoxDynError> {
        <i64 as sqlx::Encode<'query, Sqlite>>::encode_by_ref(&self.0, arguments)
    }
}

impl<'row> sqlx::Decode<'row, Sqlite> for Timestamp {
    fn decode(value: SqliteValueRef<'row>) -> Result<Self, BoxDynError> {
        <i64 as sqlx::Decode<'row, Sqlite>>::decode(value).map(Self)
    }
}

impl Timestamp {
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }

    /// The point that is `duration` later.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// The point that was `duration` earlier.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Reads `2026-01-31T12:00:00Z`, with any fraction and offset (RFC 3339 §5.6), or `2026-01-31`, which is its
    /// first moment in UTC.
    fn parse(text: &str) -> Option<Self> {
        let (date, time) = match text.split_at_checked(10)? {
            (date, "") => (date, None),
            // RFC 3339 §5.6 allows small letters; a `+` of the offset is a space where a query string was decoded.
            (date, time) => (date, Some(time.strip_prefix(['T', 't', ' '])?)),
        };
        let (year, month, day) = (digits(date, 0, 4)?, digits(date, 5, 2)?, digits(date, 8, 2)?);
        let separated = date.get(4..5)? == "-" && date.get(7..8)? == "-";
        if !separated || !(1..=12).contains(&month) || !(1..=days_of(year, month)).contains(&day) {
            return None;
        }
        let seconds = days_from_epoch(year, month, day) * 86_400;
        let (seconds_of_day, micros) = time.map_or(Some((0, 0)), parse_time)?;
        Some(Self((seconds + seconds_of_day) * 1_000_000 + micros))
    }
}

/// Seconds since midnight UTC, and microseconds.
fn parse_time(text: &str) -> Option<(i64, i64)> {
    let (hour, minute, second) = (digits(text, 0, 2)?, digits(text, 3, 2)?, digits(text, 6, 2)?);
    let separated = text.get(2..3)? == ":" && text.get(5..6)? == ":";
    // A leap second (60) counts as the one after it.
    if !separated || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let rest = text.get(8..)?;
    let (micros, zone) = match rest.strip_prefix('.') {
        None => (0, rest),
        Some(fraction) => {
            let length = fraction.bytes().take_while(u8::is_ascii_digit).count();
            let (fraction, zone) = fraction.split_at_checked(length)?;
            let six: String = fraction.chars().chain("000000".chars()).take(6).collect();
            ((length > 0).then(|| digits(&six, 0, 6))??, zone)
        }
    };
    Some((hour * 3600 + minute * 60 + second - parse_offset(zone)?, micros))
}

/// Seconds east of UTC.
fn parse_offset(zone: &str) -> Option<i64> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, offset) = match zone.split_at_checked(1)? {
        ("+" | " ", offset) => (1, offset),
        ("-", offset) => (-1, offset),
        _ => return None,
    };
    let (hours, minutes) = (digits(offset, 0, 2)?, digits(offset, 3, 2)?);
    let fits = offset.len() == 5 && offset.get(2..3)? == ":" && hours <= 23 && minutes <= 59;
    fits.then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &str, from: usize, count: usize) -> Option<i64> {
    let part = text.get(from..from + count)?;
    part.bytes().all(|byte| byte.is_ascii_digit()).then(|| part.parse().ok())?
}

fn days_of(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar, which is taken to have been in use for ever.
fn days_from_epoch(year: i64, month: i64, day: i64) -> i64 {
    // A year that begins in March has its leap day at its end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    // 1970-01-01 is 719,468 days after 0000-03-01.
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since_epoch = Duration::from_micros(u64::try_from(self.0).unwrap_or(0));
        serializer.collect_str(&humantime::format_rfc3339_micros(UNIX_EPOCH + since_epoch))
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` must be a time as 2026-01-31T12:00:00Z, or a date as 2026-01-31"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_timestamp_is_written_as_rfc_3339() {
        let text = serde_json::to_string(&Timestamp(1_700_000_000_123_456)).unwrap();
        assert_eq!(text, "\"2023-11-14T22:13:20.123456Z\"");
    }

    #[test]
    fn every_form_of_rfc_3339_is_read() {
        for (text, micros) in [
            ("1970-01-01", 0),
            ("1970-01-01T00:00:00Z", 0),
            ("2023-11-14T22:13:20.123456Z", 1_700_000_000_123_456),
            ("2023-11-14T22:13:20.1234567899z", 1_700_000_000_123_456),
            ("2023-11-14t22:13:20.5Z", 1_700_000_000_500_000),
            ("2023-11-15T00:43:20+02:30", 1_700_000_000_000_000),
            ("2023-11-15T00:43:20 02:30", 1_700_000_000_000_000),
            ("2023-11-14T19:13:20-03:00", 1_700_000_000_000_000),
            ("2024-02-29", 1_709_164_800_000_000),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("1969-12-31T23:59:59Z", -1_000_000),
            ("0001-01-01", -62_135_596_800_000_000),
            ("9999-12-31T23:59:59Z", 253_402_300_799_000_000),
        ] {
            assert_eq!(Timestamp::parse(text), Some(Timestamp(micros)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-00-01",
            "2026-02-29",
            "1900-02-29",
            "2026-04-31",
            "2026-01-31T",
            "2026-01-31T12:00:00",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:60:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+2",
            "2026-01-31T12:00:00+02:00x",
            "2026-01-31Z",
            "2026/01/31",
            "+026-01-31",
            "2026-01-3é",
            "yesterday",
        ] {
            assert_eq!(Timestamp::parse(text), None, "{text}");
        }
    }

    proptest! {
        /// The oracle is humantime, which wrote the text.
        #[test]
        fn what_is_written_is_read_back(micros in 0..253_402_300_800_000_000_i64) {
            let text = serde_json::to_value(Timestamp(micros)).unwrap();
            prop_assert_eq!(Timestamp::parse(text.as_str().unwrap()), Some(Timestamp(micros)));
        }
    }
}
