//! How long a blocking query may block, given the proxies on its way. Pure.
//!
//! A proxy between the gateway and Consul gives up after its own idle timeout: it answers 502 or 504, or closes the connection.
//! A 502 or 504 is clear. A closed connection is clear only when it happens twice at about the same age; a single one may be
//! an agent that was restarted. From then on queries block for half of the time after which they were cut.

use std::time::Duration;

/// The present wait of blocking queries.
#[derive(Debug)]
pub(crate) struct Patience {
    wait: Duration,
    cut_after: Option<Duration>,
}

impl Patience {
    pub(crate) fn new(wait: Duration) -> Self {
        Self { wait: wait.clamp(WAIT_MIN, WAIT_MAX), cut_after: None }
    }

    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }

    /// Records that a query was cut after it had been pending for this long; `by_proxy` if a proxy answered 502 or 504.
    pub(crate) fn cut(&mut self, after: Duration, by_proxy: bool) {
        if after < WAIT_MIN_CUT {
            return;
        }
        let again = self.cut_after.replace(after).is_some_and(|before| after.abs_diff(before) < before / 10);
        if by_proxy || again {
            self.wait = (after / 2).max(WAIT_MIN_CUT).min(self.wait);
        }
    }
}

const WAIT_MAX: Duration = Duration::from_mins(1);
/// Shorter waits would be polling.
const WAIT_MIN: Duration = Duration::from_millis(100);
/// A wait that adapts to a proxy stays above this.
const WAIT_MIN_CUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn a_proxy_that_says_so_is_believed_at_once() {
        let mut patience = Patience::new(seconds(50));
        patience.cut(seconds(30), true);
        assert_eq!(patience.wait(), seconds(15));
    }

    #[test]
    fn a_connection_that_ends_twice_at_the_same_age_is_a_proxy_and_once_is_not() {
        let mut patience = Patience::new(seconds(50));
        patience.cut(seconds(30), false);
        patience.cut(seconds(11), false);
        assert_eq!(patience.wait(), seconds(50));
        patience.cut(seconds(11), false);
        assert_eq!(patience.wait(), Duration::from_millis(5500));
    }

    #[test]
    fn what_ends_at_once_says_nothing_and_nothing_goes_below_five_seconds() {
        let mut patience = Patience::new(seconds(50));
        patience.cut(seconds(1), true);
        assert_eq!(patience.wait(), seconds(50));
        patience.cut(seconds(6), true);
        assert_eq!(patience.wait(), seconds(5));
    }
}
