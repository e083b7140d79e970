//! JSON lines that begin with the service's name. A span is not enough, because libraries log in tasks of their own.

use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Json, Writer},
    },
    registry::LookupSpan,
};

/// The format of `tracing_subscriber`'s JSON lines, with `service` in front.
pub(crate) struct LogFormat {
    service: &'static str,
    json: Format<Json>,
}

impl LogFormat {
    pub(crate) fn new(service: &'static str) -> Self {
        Self { service, json: fmt::format().json() }
    }
}

impl<S, N> FormatEvent<S, N> for LogFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut line = String::new();
        self.json.format_event(context, Writer::new(&mut line), event)?;
        let rest = line.strip_prefix('{').unwrap_or(&line);
        write!(writer, "{{\"service\":\"{}\",{rest}", self.service)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use serde_json::Value;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_line_names_its_service_also_outside_of_requests() {
        let lines = Lines::default();
        let writer = lines.clone();
        let format = LogFormat::new("orders");
        let subscriber = fmt().json().event_format(format).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("serving");
            tracing::error_span!("request", request_id = "r-1").in_scope(|| tracing::warn!(n = 1, "slow"));
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let parsed: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(parsed.len(), 2, "{text}");
        for line in &parsed {
            assert_eq!(line["service"], "orders", "{line}");
        }
        assert_eq!(parsed[0]["fields"]["message"], "serving");
        assert_eq!(parsed[1]["span"]["request_id"], "r-1");
    }
}
