//! The differences between two tables of declared routes, in words.

use crate::{
    auto_routes::merge::{Accepted, Rejected},
    config::settings::TagRule,
    printable::printable,
    upstream::settings::SHARE_UNITS,
};

/// One difference in words, for the log and `/api/v1/events`.
pub struct Change {
    pub kind: &'static str,
    pub text: String,
}

/// What was put into the table, taken out of it, or refused since the last one.
pub(super) fn changes(
    accepted: (&[Accepted], &[Accepted]),
    rejected: (&[Rejected], &[Rejected]),
) -> Vec<Change> {
    // The texts were written by those who may register a service, and they go to a log and to terminals.
    let said = |known: &Accepted| {
        printable(&format!("`{}` by service `{}`", known.declaration.condition(), known.service)).into_owned()
    };
    let is_in = |list: &[Accepted], known: &Accepted| list.iter().any(|other| other.is_same_route(known));
    let (before, now) = accepted;
    let gone = before.iter().filter(|known| !is_in(now, known));
    let new = now.iter().filter(|known| !is_in(before, known));
    let has_other_rules = |known: &&Accepted| {
        before.iter().any(|other| other.is_same_route(known) && other.by_tag != known.by_tag)
    };
    let ruled = now.iter().filter(has_other_rules);
    let refused = rejected.1.iter().filter(|known| !rejected.0.contains(known));
    gone.map(|known| Change { kind: "route_withdrawn", text: said(known) })
        .chain(new.map(|known| Change { kind: "route_declared", text: said(known) }))
        .chain(ruled.map(|known| Change { kind: "route_changed", text: rules(known, &said(known)) }))
        .chain(refused.map(|known| {
            Change {
                kind: "route_refused",
                text: printable(&format!(
                    "`{}` of service `{}`: {}",
                    known.tag, known.service, known.why.detail
                ))
                .into_owned(),
            }
        }))
        .collect()
}

/// How the gateway treats each instance with one of the tags now.
fn rules(known: &Accepted, route: &str) -> String {
    let rule = |of: &TagRule| {
        let share = (of.share > 0).then(|| {
            let hundredths = of.share * 100 / (SHARE_UNITS / 100);
            format!("{}.{:02} %", hundredths / 100, hundredths % 100)
        });
        let https = of.tls.is_some().then(|| "https".to_owned());
        let words: Vec<String> = share.into_iter().chain(https).collect();
        format!("{} by `{}`", words.join(" over "), of.tag)
    };
    match &known.by_tag[..] {
        [] => format!("{route}: all instances alike"),
        listed => {
            let all: Vec<String> = listed.iter().map(rule).collect();
            printable(&format!("{route}: {}", all.join(", "))).into_owned()
        }
    }
}
