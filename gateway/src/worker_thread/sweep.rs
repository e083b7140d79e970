//! What a worker looks at when no request makes it: bodies that stand still, pools, timeouts, its clock.

use crate::{metrics::Rare, worker::WorkerState};

impl WorkerState {
    pub(super) fn end_what_stands_still(&self) {
        let stalled = self.activities.look(self.clock.now());
        if stalled > 0 {
            self.metrics.count_many(Rare::ClientStalled, "", "", stalled);
        }
    }

    pub(super) fn sweep(&self) {
        self.clock.tick();
        // Also without requests a worker must let go of endpoints that are gone.
        let snapshot = self.snapshot();
        let now = self.clock.coarse();
        for pool in self.pools.borrow().values() {
            pool.prune(now);
        }
        for cluster in &snapshot.clusters {
            let surplus: u64 = cluster.endpoints.iter().map(|endpoint| endpoint.pool.take_surplus()).sum();
            if surplus > 0 {
                self.metrics.count_many(Rare::PoolFull, &cluster.shared.name, "", surplus);
            }
        }
        for (result, counter) in [("hit", &self.token_hits), ("miss", &self.token_misses)] {
            match counter.replace(0) {
                0 => {}
                n => self.metrics.count_many(Rare::TokenCache, result, "", n),
            }
        }
        self.connections.sweep(now, &snapshot.shared.table.listen, &self.metrics);
        // What was not idle when it was looked for may be now.
        if self.files.account.is_anything_waiting() {
            self.make_room();
        }
    }
}
