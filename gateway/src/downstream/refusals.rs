//! The last refusals that no access log has: the client did not speak HTTP or TLS, or did not send the end of its first head.
//!
//! Each worker keeps its last [`ROWS_MAX`] distinct ones; an address that is refused again for the same reason is the same row,
//! so that one client that returns all the time does not displace the others. `/api/v1/refusals` collects them from the workers. The
//! counters of the metrics have all.

use std::{borrow::Cow, cell::RefCell, collections::VecDeque, net::IpAddr, sync::Arc, time::Duration};

use super::Ended;
use crate::printable::printable;

/// Equal refusals, with their number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Wall time of the first one, since the Unix epoch.
    pub first: Duration,
    /// Wall time of the last one, since the Unix epoch.
    pub last: Duration,
    /// Number of equal refusals.
    pub times: u64,
    /// Address of the client.
    pub client: IpAddr,
    /// The listener's name.
    pub listener: Arc<str>,
    /// The reason, as in `millgate_connection_errors_total`; `http2` if the HTTP/2 library refused a stream or a connection.
    pub reason: &'static str,
    /// The words of the library, or the error code; may be empty.
    pub detail: Box<str>,
}

impl Refusal {
    fn is_same(&self, other: &Self) -> bool {
        let key = |one: &Self| (one.client, one.reason);
        key(self) == key(other) && self.listener == other.listener && self.detail == other.detail
    }

    /// Adds another worker's record of the same client and reason.
    fn join(&mut self, other: &Self) {
        self.times += other.times;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
    }
}

/// The last refusals of one worker, the latest last.
#[derive(Debug, Default)]
pub(crate) struct Refusals(RefCell<VecDeque<Refusal>>);

impl Refusals {
    /// Adds a refusal at this wall time, to the row of equal ones if there is one.
    pub(crate) fn add(
        &self,
        at: Duration,
        (client, listener): (IpAddr, &Arc<str>),
        (reason, detail): (Ended, &str),
    ) {
        let detail = shown(detail);
        let mut new =
            Refusal { first: at, last: at, times: 1, client, listener: Arc::clone(listener), reason, detail };
        let mut rows = self.0.borrow_mut();
        if let Some(known) = rows.iter().position(|known| known.is_same(&new)) {
            if let Some(known) = rows.remove(known) {
                new.join(&known);
            }
        } else if rows.len() >= ROWS_MAX {
            rows.pop_front();
        }
        rows.push_back(new);
    }

    /// A copy of all rows.
    pub(crate) fn copy(&self) -> Vec<Refusal> {
        self.0.borrow().iter().cloned().collect()
    }
}

/// The refusals of all workers in one list, the latest last.
pub fn merge(of_workers: impl IntoIterator<Item = Vec<Refusal>>) -> Vec<Refusal> {
    let mut all: Vec<Refusal> = Vec::new();
    for refusal in of_workers.into_iter().flatten() {
        match all.iter_mut().find(|known| known.is_same(&refusal)) {
            Some(known) => known.join(&refusal),
            None => all.push(refusal),
        }
    }
    all.sort_by_key(|refusal| refusal.last);
    all
}

/// The detail without control characters, cut to [`DETAIL_CHARS_MAX`].
fn shown(detail: &str) -> Box<str> {
    let detail = match detail.char_indices().nth(DETAIL_CHARS_MAX) {
        Some((end, _)) => detail.get(..end).unwrap_or_default(),
        None => detail,
    };
    match printable(detail) {
        Cow::Borrowed(text) => text.into(),
        Cow::Owned(text) => text.into(),
    }
}

/// Largest number of rows. Each has some 200 bytes; people read no more of them, and the search for an equal row costs less
/// than the refusal.
const ROWS_MAX: usize = 100;
const DETAIL_CHARS_MAX: usize = 120;

#[cfg(test)]
mod tests {
    use super::*;

    fn client(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    #[test]
    fn a_client_that_is_refused_again_is_one_row_and_the_oldest_row_goes_first() {
        let refusals = Refusals::default();
        let http = Arc::from("http");
        let add = |second, client: IpAddr, reason, detail: &str| {
            refusals.add(Duration::from_secs(second), (client, &http), (reason, detail));
        };
        add(1, client(1), "bad_request", "version");
        for second in 2..1000 {
            add(second, client(2), "bad_request", "version");
        }
        add(1000, client(1), "bad_request", "version");
        add(1001, client(1), "head_too_large", "version");
        add(1002, client(1), "bad_request", "\u{1b}[31m");
        let rows = refusals.copy();
        let shown: Vec<_> =
            rows.iter().map(|row| (row.first.as_secs(), row.last.as_secs(), row.times, row.reason)).collect();
        assert_eq!(
            shown,
            [
                (2, 999, 998, "bad_request"),
                (1, 1000, 2, "bad_request"),
                (1001, 1001, 1, "head_too_large"),
                (1002, 1002, 1, "bad_request"),
            ]
        );
        assert_eq!(&*rows[3].detail, "\\u{1b}[31m");
        for last in 3..250 {
            add(2000 + u64::from(last), client(last), "bad_request", &"é".repeat(500));
        }
        let rows = refusals.copy();
        assert_eq!((rows.len(), rows[0].client, rows[99].client), (ROWS_MAX, client(150), client(249)));
        assert_eq!(rows[0].detail.chars().count(), DETAIL_CHARS_MAX);
    }

    #[test]
    fn what_several_workers_saw_of_one_client_is_one_row() {
        let [one, two] = [Refusals::default(), Refusals::default()];
        let (http, internal) = (Arc::from("http"), Arc::from("internal"));
        one.add(Duration::from_secs(1), (client(1), &http), ("bad_request", ""));
        two.add(Duration::from_secs(3), (client(1), &http), ("bad_request", ""));
        two.add(Duration::from_secs(2), (client(1), &internal), ("bad_request", ""));
        let merged = merge([one.copy(), two.copy()]);
        let shown: Vec<_> =
            merged.iter().map(|row| (&*row.listener, row.times, row.first.as_secs())).collect();
        assert_eq!(shown, [("internal", 1, 2), ("http", 2, 1)]);
    }
}
