//! Room for checks under way: how many run at once, and how long one check may delay the others.
//!
//! A check begins in one of [`QUICK`] places and keeps it for [`QUICK_FOR`], a little longer than Consul's default timeout. A
//! check with a longer timeout then moves to one of [`SLOW`] places; when none is free, it is given up. So a few checks may
//! have huge timeouts, and every other check still begins within [`QUICK_FOR`] for each [`QUICK`] checks before it.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::Semaphore;

/// The places of checks.
#[derive(Debug)]
pub(crate) struct Room {
    quick: Semaphore,
    slow: Semaphore,
}

/// Why a check got no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GivenUp;

impl Default for Room {
    fn default() -> Self {
        Self { quick: Semaphore::new(QUICK), slow: Semaphore::new(SLOW) }
    }
}

impl Room {
    /// Runs a check once there is a place for it.
    pub(super) async fn run<T>(&self, check: impl Future<Output = T>) -> Result<T, GivenUp> {
        let quick = self.quick.acquire().await;
        let mut check = pin!(check);
        if let Ok(result) = tokio::time::timeout(QUICK_FOR, &mut check).await {
            return Ok(result);
        }
        let slow = self.slow.try_acquire().map_err(|_| GivenUp)?;
        drop(quick);
        let result = check.await;
        drop(slow);
        Ok(result)
    }

    /// The number of checks that may run at once.
    #[expect(clippy::unused_self, reason = "a caller with a room need not import its constants")]
    pub(crate) fn places(&self) -> usize {
        QUICK + SLOW
    }

    /// The number of checks that run, slow ones included.
    pub(crate) fn running(&self) -> usize {
        QUICK - self.quick.available_permits() + SLOW - self.slow.available_permits()
    }
}

/// Each check has a socket; together with the slow ones they stay well below the usual limit of 1024 open files.
const QUICK: usize = 256;
const SLOW: usize = 128;
const QUICK_FOR: Duration = Duration::from_secs(11);

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::Arc;

    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn checks_that_never_end_do_not_delay_others_for_long() {
        let room = Arc::new(Room::default());
        let mut endless = JoinSet::new();
        for _ in 0..QUICK + SLOW {
            let room = Arc::clone(&room);
            endless.spawn(async move { room.run(pending::<()>()).await });
        }
        tokio::task::yield_now().await;
        let begin = Instant::now();
        assert_eq!(room.run(async { "ran" }).await, Ok("ran"));
        assert!(begin.elapsed() <= QUICK_FOR * 2, "{:?}", begin.elapsed());
        // As many checks as there are slow places go on; the others were given up.
        for _ in 0..QUICK {
            assert_eq!(endless.join_next().await.unwrap().unwrap(), Err(GivenUp));
        }
        assert_eq!((endless.len(), room.running()), (SLOW, SLOW));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_check_has_its_whole_timeout_while_there_is_room() {
        let room = Room::default();
        let slow = tokio::time::sleep(QUICK_FOR * 50);
        assert_eq!(room.run(slow).await, Ok(()));
        assert_eq!(room.running(), 0);
    }
}
