//! The rules of `millgate consul lint`: findings from instances and from the result of trying their addresses. Pure.

mod words;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use millgate_registry::{Instance, Status, types::ServiceEntry};
use serde_json::{Value, json};

use self::words::{WORDS, Words};
use crate::{
    declaration::{Reason, tags::TagForms},
    printable::printable,
};

/// The result of trying every address; empty if none was tried.
#[derive(Debug, Default)]
pub struct Reach {
    /// By address: why a connection failed.
    pub unreachable: BTreeMap<(String, u16), String>,
    /// Host names without an address.
    pub nameless: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// Requests fail, or reach the wrong instance.
    Error,
    Warning,
}

/// One kind of finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    BadPort,
    NoPort,
    Unreachable,
    NoCheck,
    LongOutput,
    BadRouteTag,
    UnsupportedRouteTag,
    RouteTwice,
    RoutesDiffer,
    WeightZero,
    AddressTwice,
    LocalAddress,
    NonePassing,
    NoSuchName,
    MetadataUnread,
}

/// One finding, with its place.
#[derive(Debug)]
pub struct Finding {
    pub rule: Rule,
    pub service: String,
    /// Id and node; `None`: the whole service.
    pub instance: Option<(String, String)>,
    pub message: String,
}

/// All findings, by service and instance.
pub fn findings(all: &BTreeMap<String, Vec<ServiceEntry>>, reach: &Reach, forms: &TagForms) -> Vec<Finding> {
    let mut found = Vec::new();
    for (service, entries) in all {
        for entry in entries {
            let mut add = |rule, message: String| {
                let instance = Some((entry.service.id.clone(), entry.node.node.clone()));
                found.push(Finding { rule, service: service.clone(), instance, message });
            };
            port(entry, &mut add);
            address(entry, reach, &mut add);
            checks(entry, &mut add);
            weights(entry, &mut add);
            metadata_unread(entry, forms, &mut add);
        }
        let mut add = |rule, message: String| {
            found.push(Finding { rule, service: service.clone(), instance: None, message });
        };
        same_address(entries, &mut add);
        none_passing(service, entries, &mut add);
        route_tags(entries, forms, &mut add);
        routes_differ(entries, forms, &mut add);
    }
    routes_twice(all, forms, &mut found);
    found
}

type Add<'a> = dyn FnMut(Rule, String) + 'a;

fn port(entry: &ServiceEntry, add: &mut Add<'_>) {
    match entry.service.port {
        0 => add(Rule::NoPort, format!("instance `{}` has no port", entry.service.id)),
        1..=65_535 => {}
        port => add(Rule::BadPort, format!("instance `{}` has port {port}", entry.service.id)),
    }
}

fn address(entry: &ServiceEntry, reach: &Reach, add: &mut Add<'_>) {
    let (id, host) = (&entry.service.id, host(entry));
    match host.parse::<IpAddr>() {
        Ok(ip) if ip.is_unspecified() => {
            add(Rule::LocalAddress, format!("instance `{id}` has the address `{host}`, which is nobody's"));
        }
        Ok(ip) if ip.is_loopback() && !is_loopback(&entry.node.address) => {
            let node = &entry.node.address;
            add(
                Rule::LocalAddress,
                format!("instance `{id}` has the loopback address `{host}`, and its node is at {node}"),
            );
        }
        _ if host.is_empty() => {
            add(Rule::LocalAddress, format!("neither instance `{id}` nor its node has an address"));
        }
        _ => {}
    }
    if reach.nameless.contains(host) {
        add(Rule::NoSuchName, format!("the host name `{host}` of instance `{id}` has no address"));
    }
    let Ok(port) = u16::try_from(entry.service.port) else { return };
    if let Some(why) = reach.unreachable.get(&(host.to_owned(), port)) {
        add(
            Rule::Unreachable,
            format!("instance `{id}` is passing, but {host}:{port} is not reachable: {why}"),
        );
    }
}

fn host(entry: &ServiceEntry) -> &str {
    if entry.service.address.is_empty() { &entry.node.address } else { &entry.service.address }
}

fn is_loopback(address: &str) -> bool {
    address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn checks(entry: &ServiceEntry, add: &mut Add<'_>) {
    let id = &entry.service.id;
    if !entry.checks.iter().any(|check| !check.service_id.is_empty()) {
        add(Rule::NoCheck, format!("instance `{id}` has no check of its own"));
    }
    for check in entry.checks.iter().filter(|check| check.output.len() > OUTPUT_BYTES_MAX) {
        let (name, bytes) = (&check.name, check.output.len());
        add(Rule::LongOutput, format!("check `{name}` of instance `{id}` has an output of {bytes} bytes"));
    }
}

fn weights(entry: &ServiceEntry, add: &mut Add<'_>) {
    let Some(weights) = entry.service.weights else { return };
    let id = &entry.service.id;
    match Instance::status_of(entry) {
        Status::Passing if weights.passing < 1 => {
            add(
                Rule::WeightZero,
                format!("instance `{id}` has weight {} while it is passing", weights.passing),
            );
        }
        Status::Warning if weights.warning < 1 => {
            add(
                Rule::WeightZero,
                format!("instance `{id}` is in warning, where its weight is {}", weights.warning),
            );
        }
        _ => {}
    }
}

fn same_address(entries: &[ServiceEntry], add: &mut Add<'_>) {
    let mut by_address: BTreeMap<(&str, i64), Vec<&str>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.service.port > 0) {
        by_address.entry((host(entry), entry.service.port)).or_default().push(&entry.service.id);
    }
    for ((host, port), ids) in by_address.iter().filter(|(_, ids)| ids.len() > 1) {
        add(Rule::AddressTwice, format!("instances {} are all at {host}:{port}", quoted(ids)));
    }
}

fn none_passing(service: &str, entries: &[ServiceEntry], add: &mut Add<'_>) {
    let passing = |entry: &ServiceEntry| Instance::status_of(entry) == Status::Passing;
    if !entries.is_empty() && !entries.iter().any(passing) {
        add(Rule::NonePassing, format!("none of the {} instances of `{service}` is passing", entries.len()));
    }
}

/// A tag has one finding, with all instances that have it.
fn route_tags(entries: &[ServiceEntry], forms: &TagForms, add: &mut Add<'_>) {
    for (tag, ids) in tags_by_instances(entries, forms) {
        let Some(Err(why)) = forms.read(&tag, datacenter(entries)) else { continue };
        let rule = match why.reason {
            Reason::Unsupported => Rule::UnsupportedRouteTag,
            _ => Rule::BadRouteTag,
        };
        add(rule, format!("`{tag}` of {}: {}", quoted(&ids), why.detail));
    }
}

fn routes_differ(entries: &[ServiceEntry], forms: &TagForms, add: &mut Add<'_>) {
    // A canary declares the same route as the others, with its share.
    let mut routes: BTreeMap<String, (String, BTreeSet<&str>)> = BTreeMap::new();
    for (tag, ids) in tags_by_instances(entries, forms) {
        let route = match forms.read(&tag, datacenter(entries)) {
            Some(Ok(declaration)) => declaration.of_all_instances().to_string(),
            _ => tag.clone(),
        };
        routes.entry(route).or_insert((tag, BTreeSet::new())).1.extend(ids);
    }
    for (tag, ids) in routes.into_values() {
        let ids: Vec<&str> = ids.into_iter().collect();
        if ids.len() < entries.len() {
            let others = entries.len() - ids.len();
            add(Rule::RoutesDiffer, format!("`{tag}` is on {} and not on {others} other(s)", quoted(&ids)));
        }
    }
}

/// The datacenter of the service.
fn datacenter(entries: &[ServiceEntry]) -> Option<&str> {
    entries.first().map(|entry| entry.node.datacenter.as_str())
}

fn metadata_unread(entry: &ServiceEntry, forms: &TagForms, add: &mut Add<'_>) {
    let (Some(pointer), Some(first)) = (&forms.native, forms.in_metadata(&entry.service.meta).next()) else {
        return;
    };
    if !points(entry, forms) {
        let id = &entry.service.id;
        add(Rule::MetadataUnread, format!("instance `{id}` has metadata `{first}` and no tag `{pointer}`"));
    }
}

fn points(entry: &ServiceEntry, forms: &TagForms) -> bool {
    entry.service.tags.iter().any(|tag| forms.points_to_metadata(tag))
}

/// The declarations of an instance, in tags and in metadata that is read.
fn declarations<'a>(entry: &'a ServiceEntry, forms: &'a TagForms) -> impl Iterator<Item = String> + use<'a> {
    let tags = entry.service.tags.iter().filter(|tag| forms.is_route(tag)).cloned();
    let is_read = points(entry, forms);
    tags.chain(forms.in_metadata(&entry.service.meta).filter(move |_| is_read))
}

/// The texts that declare routes, with their instances.
fn tags_by_instances<'a>(entries: &'a [ServiceEntry], forms: &TagForms) -> BTreeMap<String, Vec<&'a str>> {
    let mut tags: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for entry in entries {
        for tag in declarations(entry, forms) {
            tags.entry(tag).or_default().push(&entry.service.id);
        }
    }
    tags
}

fn routes_twice(all: &BTreeMap<String, Vec<ServiceEntry>>, forms: &TagForms, found: &mut Vec<Finding>) {
    let mut claims: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (service, entries) in all {
        let tags = entries.iter().flat_map(|entry| declarations(entry, forms));
        for declaration in tags.filter_map(|tag| forms.read(&tag, datacenter(entries))?.ok()) {
            claims.entry(declaration.condition()).or_default().insert(service);
        }
    }
    for (condition, services) in claims {
        let Some(first) = services.first().filter(|_| services.len() > 1) else { continue };
        let names: Vec<&str> = services.iter().copied().collect();
        found.push(Finding {
            rule: Rule::RouteTwice,
            service: (*first).to_owned(),
            instance: None,
            message: format!("services {} declare the same route `{condition}`", quoted(&names)),
        });
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Rule {
    fn words(self) -> &'static Words {
        &WORDS[self as usize]
    }
}

impl Finding {
    pub fn severity(&self) -> Severity {
        self.rule.words().severity
    }

    pub fn to_json(&self) -> Value {
        let Words { code, severity, why, help } = self.rule.words();
        let (instance, node) = self.instance.clone().unzip();
        json!({
            "code": code, "severity": word(*severity), "service": self.service, "instance": instance,
            "node": node, "message": self.message, "why": why, "help": help,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Words { code, severity, why, help } = self.rule.words();
        writeln!(f, "{}[{code}]: {}", word(*severity), printable(&self.message))?;
        write!(f, "  where: service {}", printable(&self.service))?;
        if let Some((_, node)) = &self.instance {
            write!(f, ", node {}", printable(node))?;
        }
        write!(f, "\n  why:   {why}\n  do:    {help}")
    }
}

fn word(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// One line of a status page; Consul itself cuts an output at 4 KiB.
const OUTPUT_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(json: &str) -> Vec<ServiceEntry> {
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"))
    }

    /// An instance that nothing is wrong with, with `more` in its service and `checks` beside its own check.
    fn instance(id: &str, port: u16, more: &str, checks: &str) -> String {
        format!(
            r#"{{"Node":{{"Node":"n1","Address":"10.0.0.9"}},
            "Service":{{"ID":"{id}","Address":"10.0.0.1","Port":{port}{more}}},
            "Checks":[{{"CheckID":"s","Name":"own","Status":"passing","ServiceID":"{id}"}}{checks}]}}"#
        )
    }

    fn codes(all: &[(&str, String)], reach: &Reach) -> Vec<&'static str> {
        let all = all.iter().map(|(name, list)| ((*name).to_owned(), entries(list))).collect();
        let found = findings(&all, reach, &TagForms::default());
        found.iter().map(|finding| finding.rule.words().code).collect()
    }

    #[test]
    fn a_catalogue_with_one_fault_of_each_kind_has_one_finding_of_each_kind() {
        let good = instance(
            "good",
            80,
            r#","Tags":["v1","millgate.route=/good/**"],"Weights":{"Passing":1,"Warning":0}"#,
            "",
        );
        let long = format!(
            r#",{{"Name":"long","Status":"passing","ServiceID":"x","Output":"{}"}}"#,
            "x".repeat(1025)
        );
        let warning = r#",{"Name":"w","Status":"warning","ServiceID":"x"}"#;
        let critical = r#",{"Name":"c","Status":"critical","ServiceID":"x"}"#;
        let zero = r#","Weights":{"Passing":10,"Warning":0}"#;
        let only = |text: String| format!("[{text}]");
        let bare = instance("bare", 1, "", "").replace(r#""ServiceID":"bare""#, r#""ServiceID":"""#);
        let all = [
            ("a-good", only(good)),
            ("b-port", only(instance("b", 1, "", "").replace(r#""Port":1"#, r#""Port":-1"#))),
            ("c-none", only(instance("c", 0, "", ""))),
            ("d-closed", only(instance("d", 4, "", ""))),
            ("e-bare", only(bare)),
            ("f-long", only(instance("f", 6, "", &long))),
            ("g-tag", only(instance("g", 7, r#","Tags":["millgate.route=GTE /g"]"#, ""))),
            ("h-option", only(instance("h", 8, r#","Tags":["urlprefix-/h auth=basic"]"#, ""))),
            ("i-claim", only(instance("i", 9, r#","Tags":["millgate.route=/same/**"]"#, ""))),
            ("j-claim", only(instance("j", 10, r#","Tags":["urlprefix-/same"]"#, ""))),
            (
                "k-differ",
                format!(
                    "[{},{}]",
                    instance("k1", 11, r#","Tags":["urlprefix-/k"]"#, ""),
                    instance("k2", 12, "", "")
                ),
            ),
            (
                "k-weights",
                format!(
                    "[{},{}]",
                    instance("k3", 19, r#","Tags":["urlprefix-/w"]"#, ""),
                    instance("k4", 20, r#","Tags":["urlprefix-/w weight=0.1"]"#, "")
                ),
            ),
            ("l-zero", format!("[{},{}]", instance("l1", 13, zero, warning), instance("l2", 14, "", ""))),
            ("m-twice", format!("[{},{}]", instance("m1", 15, "", ""), instance("m2", 15, "", ""))),
            ("n-local", only(instance("n", 16, "", "").replace("10.0.0.1", "127.0.0.1"))),
            ("o-down", only(instance("o", 17, "", critical))),
            ("q-meta", only(instance("q", 21, r#","Meta":{"millgate-route-1":"/q"}"#, ""))),
            ("q-read", only(instance("r", 22, r#","Tags":["millgate"],"Meta":{"millgate-route":"/r"}"#, ""))),
            ("p-name", only(instance("p", 18, "", "").replace("10.0.0.1", "nowhere.test"))),
        ];
        let reach = Reach {
            unreachable: [(("10.0.0.1".to_owned(), 4), "connection refused".to_owned())].into(),
            nameless: ["nowhere.test".to_owned()].into(),
        };
        let expected = [
            "L001", "L002", "L003", "L004", "L005", "L006", "L007", "L009", "L010", "L011", "L012", "L013",
            "L014", "L015", "L008",
        ];
        assert_eq!(codes(&all, &reach), expected);
    }

    #[test]
    fn a_finding_says_where_why_and_what_to_do() {
        let all = [("web".to_owned(), entries(&format!("[{}]", instance("web-1", 0, "", ""))))].into();
        let found = findings(&all, &Reach::default(), &TagForms::default());
        assert_eq!(
            found[0].to_string(),
            "warning[L002]: instance `web-1` has no port\n  where: service web, node n1\n  \
             why:   a gateway cannot send requests to it and leaves it out\n  \
             do:    register it with a port, or ignore this for a service that takes no requests"
        );
    }
}
