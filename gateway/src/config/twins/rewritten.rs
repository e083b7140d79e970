//! Twins by `rewrite`: requests of which the service gets what it gets for a closed route.

use super::{
    Difference, Neighbours, Request, Search, Twins,
    destination::is_one_name,
    said,
    sample::{self, client_paths, upstream_path},
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
