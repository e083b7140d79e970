//! The requests of a worker that wait for newer keys, and the clients that have a reason to wait.
//!
//! Limit: [`WAITING_MAX`] for each worker. Clients that have not sent a valid token lately may use only half of it.

use std::cell::{Cell, RefCell};

use super::{desk::Asker, regulars::Regulars};

/// The waiting requests of one worker.
#[derive(Debug, Default)]
pub(crate) struct Doubts {
    waiting: Cell<usize>,
    pub(crate) regulars: RefCell<Regulars>,
}

/// The place of one waiting request. Dropping it returns the place.
pub(crate) struct WaitingPlace<'a>(&'a Cell<usize>);

impl<'a> WaitingPlace<'a> {
    /// `None`: no place is left for such a client.
    pub(crate) fn take(doubts: &'a Doubts, asker: Asker) -> Option<Self> {
        let max = match asker {
            Asker::Regular => WAITING_MAX,
            Asker::Stranger => WAITING_MAX / 2,
        };
        let waiting = doubts.waiting.get();
        (waiting < max).then(|| {
            doubts.waiting.set(waiting + 1);
            Self(&doubts.waiting)
        })
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// The largest number of waiting requests in one worker. Each holds the head of a request and its connection, some
/// kilobytes.
const WAITING_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_leave_half_of_the_places_to_regulars_and_each_place_comes_back() {
        let doubts = Doubts::default();
        let strangers: Vec<_> =
            (0..WAITING_MAX).map_while(|_| WaitingPlace::take(&doubts, Asker::Stranger)).collect();
        assert_eq!(strangers.len(), WAITING_MAX / 2);
        let regulars: Vec<_> =
            (0..WAITING_MAX).map_while(|_| WaitingPlace::take(&doubts, Asker::Regular)).collect();
        assert_eq!(regulars.len(), WAITING_MAX / 2);
        drop((strangers, regulars));
        assert_eq!(doubts.waiting.get(), 0);
    }
}
