//! Points in time: microseconds since 1970-01-01 UTC in the database, RFC 3339 text in JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

/// A point in time, to the microsecond. The only place where the services read the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, sqlx::Type, ToSchema)]
#[sqlx(transparent)]
#[schema(value_type = String, format = DateTime, example = "2026-01-31T12:00:00.000000Z")]
pub struct Timestamp(i64);

impl Timestamp {
    pub fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let since_epoch = Duration::from_micros(u64::try_from(self.0).unwrap_or(0));
        serializer.collect_str(&humantime::format_rfc3339_micros(UNIX_EPOCH + since_epoch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timestamp_is_written_as_rfc_3339() {
        let text = serde_json::to_string(&Timestamp(1_700_000_000_123_456)).unwrap();
        assert_eq!(text, "\"2023-11-14T22:13:20.123456Z\"");
    }
}
