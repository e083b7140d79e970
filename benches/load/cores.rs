//! The cores of the proxies, and those of the load.

/// One worker has one core, and so has the load. Several workers have as many cores, and the load all others; on a
/// machine with too few, they share.
#[derive(Debug)]
pub(crate) struct Cores {
    proxy: Vec<u32>,
    load: Vec<u32>,
    /// No core is shared, and the load has enough cores to keep the workers busy.
    pub(crate) free: bool,
}

/// The number of cores that a generator and the backend need for each worker of the proxy.
const LOAD_CORES_PER_WORKER: usize = 2;

impl Cores {
    pub(crate) fn share_out(workers: usize, machine: u32, proxy_core: u32, load_core: u32) -> Self {
        if workers <= 1 {
            return Self { proxy: vec![proxy_core], load: vec![load_core], free: proxy_core != load_core };
        }
        let others = (0..machine).filter(|core| *core != proxy_core && *core != load_core);
        let proxy: Vec<u32> =
            [proxy_core].into_iter().chain(others).chain([load_core]).take(workers).collect();
        let mut load: Vec<u32> = (0..machine).filter(|core| !proxy.contains(core)).collect();
        let free = load.len() >= workers * LOAD_CORES_PER_WORKER;
        if load.is_empty() {
            load.push(load_core);
        }
        Self { proxy, load, free }
    }

    /// The list for `taskset`.
    pub(crate) fn proxy(&self, workers: usize) -> String {
        list(self.proxy.get(..workers).unwrap_or(&self.proxy))
    }

    pub(crate) fn load(&self) -> String {
        list(&self.load)
    }
}

fn list(cores: &[u32]) -> String {
    cores.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_and_the_load_have_a_core_each() {
        let cores = Cores::share_out(1, 8, 0, 1);
        assert_eq!((cores.proxy(1), cores.load(), cores.free), ("0".into(), "1".into(), true));
    }

    #[test]
    fn on_a_small_machine_the_second_worker_shares_with_the_load() {
        let cores = Cores::share_out(2, 2, 0, 1);
        assert_eq!((cores.proxy(2), cores.load(), cores.free), ("0,1".into(), "1".into(), false));
        assert_eq!(cores.proxy(1), "0", "the subject with one worker");
    }

    #[test]
    fn on_a_large_machine_nobody_shares() {
        let cores = Cores::share_out(2, 6, 0, 1);
        assert_eq!((cores.proxy(2), cores.load(), cores.free), ("0,2".into(), "1,3,4,5".into(), true));
        assert!(!Cores::share_out(2, 5, 0, 1).free);
    }
}
