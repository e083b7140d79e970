//! The periodic work of a worker, which no request causes: stalled bodies, pools, timeouts, its clock.

use crate::{metrics::Rare, worker::WorkerState};

impl WorkerState {
    /// Ends exchanges whose body has stood still for too long.
    pub(super) fn end_what_stands_still(&self) {
        let stalled = self.activities.look(self.clock.now());
        if stalled > 0 {
            self.metrics.count_many(Rare::ClientStalled, "", "", stalled);
        }
    }

    /// Does the work of each second. `worker_thread` calls it.
    pub(super) fn sweep(&self) {
        self.clock.tick();
        // A worker without requests, too, must release the endpoints that are gone.
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
            let numbers = cluster.endpoints.iter().filter_map(|endpoint| endpoint.pool.shared_numbers());
            let shared = numbers.reduce(|a, b| (a.0 + b.0, a.1 + b.1));
            cluster.metrics.borrow_mut().shared = shared;
        }
        for (result, counter) in [("hit", &self.token_hits), ("miss", &self.token_misses)] {
            match counter.replace(0) {
                0 => {}
                n => self.metrics.count_many(Rare::TokenCache, result, "", n),
            }
        }
        for (listener, tls) in &snapshot.shared.tls {
            self.connections.close_verified_before(listener, tls.clients);
        }
        self.connections.sweep(now, &snapshot.shared.table.listen, &self.metrics);
        self.freed_memory.second_passed();
        // A connection that was busy when a place was needed may be idle now.
        if self.files.account.is_anything_waiting() {
            self.make_room();
        }
    }
}
