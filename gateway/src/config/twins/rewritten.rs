//! Twins by `rewrite`: requests of which the service gets what it gets for a closed route.

use super::{
    Difference, Neighbours, Request, Search, Twins,
    destination::is_one_name,
    said,
    sample::{self, client_paths, path_fits, shared_upstreams, upstream_path},
};
use crate::router::HostPattern;

impl Search<'_> {
    /// Other paths that become the path of the closed route.
    pub(super) fn rewritten(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let upstream = upstream_path(route, &own.path);
        for at in &neighbours.rewriting {
            if twins.has(Difference::Rewrite) {
                break;
            }
            let other = self.route(*at);
            let host = match &other.host {
                HostPattern::Any => own.host.clone(),
                pattern => sample::host(pattern),
            };
            for path in client_paths(other, &upstream).into_iter().filter(|path| *path != own.path) {
                let request = Request { host: host.clone(), path, ..own.clone() };
                let leads_there = |taker: usize| {
                    upstream_path(self.route(taker), &request.path) == upstream
                        && self.is_weaker(taker, closed)
                };
                let Some(taker) = self.twin(&request, closed, leads_there) else { continue };
                twins.add(
                    Difference::Rewrite,
                    said::rewritten(route, self.route(taker), &request.path),
                    taker,
                );
            }
        }
    }

    /// Paths of other routes that `rewrite` makes a path of the closed route, although no path of the closed one leads there.
    pub(super) fn rewritten_into(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let rewrites = |at: usize| {
            let rewrite = &self.route(at).policies.rewrite;
            rewrite.stripped().is_some() || rewrite.added().is_some()
        };
        let others = neighbours.with_rewrite.iter().copied();
        let others = others.chain(neighbours.rewriting.iter().copied().filter(|_| rewrites(closed)));
        for at in others {
            if twins.has(Difference::Rewrite) {
                break;
            }
            let other = self.route(at);
            let host = match &other.host {
                HostPattern::Any => own.host.clone(),
                pattern => sample::host(pattern),
            };
            for upstream in shared_upstreams(route, other) {
                let is_sent = |taker: usize, path: &str| upstream_path(self.route(taker), path) == upstream;
                let is_closed = client_paths(route, &upstream).into_iter().any(|path| {
                    let request = Request { path, ..own.clone() };
                    is_sent(closed, &request.path) && self.is_taken_by(&request, closed)
                });
                // A path below the closed one states the exception beside it.
                let paths = client_paths(other, &upstream).into_iter();
                for path in paths.filter(|path| is_closed && !path_fits(&route.path, path)) {
                    let request = Request { host: host.clone(), path, ..own.clone() };
                    let is_twin =
                        |taker: usize| is_sent(taker, &request.path) && self.is_weaker(taker, closed);
                    let Some(taker) = self.twin(&request, closed, is_twin) else { continue };
                    let shown = said::rewritten(route, self.route(taker), &request.path);
                    twins.add(Difference::Rewrite, shown, taker);
                }
            }
        }
    }

    /// Routes for other hosts, where the service cannot see which host the client has named.
    pub(super) fn other_hosts_of_one_name(&self, own: &Request, neighbours: &Neighbours, twins: &mut Twins) {
        let (closed, route) = (twins.closed, self.route(twins.closed));
        let upstream = upstream_path(route, &own.path);
        let is_found = |twins: &Twins, taker: usize| {
            let of_hosts = [Difference::Host, Difference::NarrowHost, Difference::RewrittenHost];
            twins.found.iter().any(|twin| twin.taker == taker && of_hosts.contains(&twin.difference))
        };
        for at in &neighbours.rewriting {
            let other = self.route(*at);
            if other.host == route.host || !is_one_name(other, route) {
                continue;
            }
            let request = Request { host: sample::host(&other.host), ..own.clone() };
            let is_same = |taker: usize| {
                let other = self.route(taker);
                is_one_name(other, route)
                    && upstream_path(other, &request.path) == upstream
                    && self.is_weaker(taker, closed)
            };
            let Some(taker) = self.twin(&request, closed, is_same).filter(|taker| !is_found(twins, *taker))
            else {
                continue;
            };
            let path = route.hidden.path.shown(&route.path);
            let shown = match said::host(self.route(taker)) {
                Some(host) => format!("{path} of {host}"),
                None => format!("{path} of another host"),
            };
            twins.add(Difference::RewrittenHost, shown, taker);
        }
    }
}
