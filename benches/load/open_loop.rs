//! Open loop: the cost and the time of a request at a rate that keeps no proxy busy.
//!
//! The rates are shares of what nginx has answered in a closed loop just before, so that every proxy gets the
//! same ones.

use std::collections::BTreeMap;

use anyhow::Context;
use serde::Serialize;

use crate::{
    proxy::Proxy,
    stage::{Ready, Stage},
    turns::{Turn, turn},
};

/// Shares of the reference's requests per second.
const SHARES: [f64; 2] = [0.25, 0.5];
/// The rates come from the peak of this subject, or from that of the first build of Millgate if it is missing.
const REFERENCE: &str = "nginx";

/// All turns at one rate.
#[derive(Debug, Serialize)]
pub(crate) struct Rate {
    pub(crate) share: f64,
    /// The subject of whose peak it is a share.
    pub(crate) of: String,
    pub(crate) requests_per_s: f64,
    pub(crate) turns: BTreeMap<String, Vec<Turn>>,
}

pub(crate) fn measure(stage: &Stage<'_>) -> anyhow::Result<Vec<Rate>> {
    let mut proxies: Vec<(&Ready, Proxy)> = Vec::new();
    let mut peaks = BTreeMap::new();
    for ready in &stage.subjects {
        let proxy = ready.start().with_context(|| ready.name.clone())?;
        let load = stage.tool(ready)?.run(proxy.port, stage.turn).context(ready.name.clone())?;
        peaks.insert(ready.name.as_str(), load.requests_per_s());
        proxies.push((ready, proxy));
    }
    let first = stage.builds.names.first().map_or("", String::as_str);
    let of = if peaks.contains_key(REFERENCE) { REFERENCE } else { first };
    let peak = *peaks.get(of).context("no proxy whose peak gives the rates")?;
    let mut rates: Vec<Rate> = SHARES
        .map(|share| Rate { share, of: of.to_owned(), requests_per_s: peak * share, turns: BTreeMap::new() })
        .into();
    for round in 0..stage.rounds {
        let first = round as usize % proxies.len();
        for rate in &mut rates {
            for (ready, proxy) in proxies.iter().cycle().skip(first).take(proxies.len()) {
                let own = stage.own(ready);
                let per_s = rate.requests_per_s.to_string();
                let turn = turn(proxy, round, stage.scenario.response_bytes, || {
                    own.run("paced", proxy.port, stage.turn, &["--rate", &per_s])?.checked()
                })
                .with_context(|| format!("{}, round {round}, {per_s} requests/s", ready.name))?;
                rate.turns.entry(ready.name.clone()).or_default().push(turn);
            }
        }
    }
    Ok(rates)
}
