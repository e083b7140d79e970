//! Which declarations come into the table, which stay in it, and which are refused.

use std::{path::Path, time::Duration};

use proptest::prelude::*;

use super::{
    candidates::{METADATA_SERVICES_MAX, ROUTES_OF_SERVICE_MAX},
    *,
};
use crate::{
    clock,
    config::{
        load,
        settings::{RouteSettings, ServiceSettings},
    },
    policy::timeout::Timeouts,
    router::Router,
};

/// The settings of a file with `routes` and everything allowed.
fn file(routes: &str, more: &str) -> Settings {
    let text = format!(
        "version: 1\ndiscovery: {{consul: {{auto_routes: {{sources: [native, fabio], allow_hosts: \"*\", \
         allow_paths: /**{more}}}}}}}\nroutes: [{routes}]\n"
    );
    load::parse("routes.yaml", &text, Path::new(""), &|_| None)
        .unwrap_or_else(|report| panic!("{report}"))
        .settings
}

fn declared(services: &[(&str, &[&str])]) -> Declared {
    let tags = |tags: &[&str]| tags.iter().map(|tag| format!("millgate.route={tag}")).collect();
    services.iter().map(|(name, list)| ((*name).to_owned(), tags(list))).collect()
}

fn merged(file: &Settings, declared: &Declared, incumbents: &[Accepted]) -> Merged {
    standing(file, declared, incumbents, &[])
}

/// Merges as [`merged`] does, with these standings of services.
fn standing(
    file: &Settings,
    declared: &Declared,
    incumbents: &[Accepted],
    standings: &[(&str, Standing)],
) -> Merged {
    let standings: Standings =
        standings.iter().map(|(name, standing)| ((*name).to_owned(), *standing)).collect();
    let before = Before { incumbents, standings: &standings };
    merge(file, file.auto_routes.as_ref().unwrap(), declared, &before, Some("dc1"))
}

#[test]
fn a_holder_without_an_instance_loses_its_route_to_a_service_that_has_one() {
    use Standing::{Idle, Serves, Unknown};
    let (file, both) = (file("", ""), declared(&[("blue", &["/x/**"]), ("green", &["/x/**"])]));
    let blue = merged(&file, &declared(&[("blue", &["/x/**"])]), &[]).accepted;
    for (of_blue, of_green, holder) in [
        (Unknown, Unknown, "blue"),
        (Unknown, Serves, "blue"),
        (Idle, Unknown, "blue"),
        (Idle, Idle, "blue"),
        (Serves, Serves, "blue"),
        (Idle, Serves, "green"),
    ] {
        let merged = standing(&file, &both, &blue, &[("blue", of_blue), ("green", of_green)]);
        let other = if holder == "blue" { "green" } else { "blue" };
        let expected = (vec![format!("{holder} /x/**")], vec![format!("{other} conflict")]);
        assert_eq!(outcome(&merged), expected, "{of_blue:?} {of_green:?}");
        assert_eq!(merged.contenders.iter().collect::<Vec<_>>(), [other], "it is followed");
        assert!(merged.settings.services.iter().any(|service| service.name == other));
    }
    // The route of green is the incumbent now, and stays.
    let green = standing(&file, &both, &blue, &[("blue", Idle), ("green", Serves)]).accepted;
    let merged = standing(&file, &both, &green, &[("blue", Serves), ("green", Serves)]);
    assert_eq!(merged.accepted[0].service, "green");
    // Neither is in the table yet: the service that can serve comes first, whatever its name.
    assert_eq!(standing(&file, &both, &[], &[("green", Serves)]).accepted[0].service, "green");
}

#[test]
fn proxies_beside_instances_declare_nothing() {
    let file = file("", "");
    let both = declared(&[("a-sidecar", &["/x/**"]), ("web", &["/x/**"])]);
    let sidecar = merged(&file, &declared(&[("a-sidecar", &["/x/**"])]), &[]).accepted;
    for incumbents in [&[][..], &sidecar] {
        let merged = standing(&file, &both, incumbents, &[("a-sidecar", Standing::Side)]);
        let expected = (vec!["web /x/**".to_owned()], vec!["a-sidecar unsupported".to_owned()]);
        assert_eq!(outcome(&merged), expected);
        assert!(merged.contenders.contains("a-sidecar"), "it is followed, so that it stays known");
    }
}

#[test]
fn a_service_without_an_instance_keeps_its_place_in_the_table() {
    let (file, all) = (file("", ""), declared(&[("a", &["/a"]), ("b", &["/b"]), ("c", &["/c"])]));
    let known = merged(&file, &all, &[]).accepted;
    let serving = [("a", Standing::Idle), ("b", Standing::Serves)];
    assert_eq!(standing(&file, &all, &known, &serving).accepted, known);
}

/// `service condition` of each route in the table, and `service reason` of each that is not.
fn outcome(merged: &Merged) -> (Vec<String>, Vec<String>) {
    let accepted = merged.accepted.iter().map(|a| format!("{} {}", a.service, a.declaration.condition()));
    let rejected = merged.rejected.iter().map(|r| format!("{} {}", r.service, r.why.reason.as_str()));
    (accepted.collect(), rejected.collect())
}

#[test]
fn a_declared_route_has_the_files_defaults_and_its_service() {
    let file = file("{path: /static, service: web}", "");
    let merged =
        merged(&file, &declared(&[("orders", &["GET shop.test/orders/** strip=/orders timeout=5s"])]), &[]);
    let route = &merged.settings.routes[1];
    assert_eq!(route.name, "consul:dc1/orders GET shop.test/orders/**");
    assert_eq!((route.origin.as_deref(), route.priority), (Some("consul:dc1/orders"), PRIORITY));
    let timeouts = |at: usize| Timeouts::of(&merged.settings.routes[at].policies.timeout);
    let (total, one) = (Duration::from_secs(5), Duration::from_secs(1));
    let now = clock::now();
    assert_eq!((timeouts(1).total(), timeouts(1).apply(now).connect(now)), (total, now + one));
    assert_eq!(timeouts(0).apply(now).connect(now), now + one);
    assert_eq!(route.policies.rewrite.strip.as_ref().unwrap().value, "/orders");
    assert_eq!(merged.settings.services[route.service.unwrap()].name, "orders");
    assert_eq!(merged.settings.services.len(), 2);
}

#[test]
fn a_service_of_the_file_keeps_what_the_file_says_of_it() {
    let file = file("{path: /static, service: shop}", "");
    let plain = merged(&file, &declared(&[("shop", &["/a"]), ("web", &["/b"])]), &[]);
    assert_eq!(plain.settings.routes[1].service, Some(0), "one watch, one breaker");
    assert_eq!(plain.settings.services.len(), 2);
    let text = "version: 1\ndiscovery: {consul: {auto_routes: {allow_hosts: \"*\", allow_paths: /**}}}\n\
                routes: [{path: /static, service: shop}]\n\
                services: {shop: {hosts: [\"127.0.0.1:1\"]}, web: {max_inflight: 7}}\n";
    let file = load::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings;
    let merged = merged(&file, &declared(&[("shop", &["/a"]), ("web", &["/b"])]), &[]);
    let names: Vec<_> = merged.settings.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["shop", "consul:shop", "web"], "the name in the file means other hosts");
    assert_eq!(merged.settings.services[2].policies.max_inflight, 7);
}

/// As [`file`], with two listeners.
fn file_with_listeners(routes: &str, more: &str) -> Settings {
    let text = format!(
        "version: 1\nlisten: {{http: [\"127.0.0.1:0\", {{bind: \"127.0.0.1:0\", name: internal}}]}}\n\
         discovery: {{consul: {{auto_routes: {{allow_hosts: \"*\", allow_paths: /**{more}}}}}}}\nroutes: [{routes}]\n"
    );
    load::parse("routes.yaml", &text, Path::new(""), &|_| None)
        .unwrap_or_else(|report| panic!("{report}"))
        .settings
}

#[test]
fn a_tag_brings_no_path_of_one_listener_to_another_listener() {
    let inside = "{path: /admin/**, service: web, listener: internal}";
    let tags = declared(&[("web", &["/admin/**", "/shop/**"]), ("thief", &["/admin/users"])]);
    let anywhere = merged(&file_with_listeners(inside, ""), &tags, &[]);
    assert_eq!(outcome(&anywhere).0, ["web /shop/**"]);
    for refused in &anywhere.rejected {
        assert!(refused.why.detail.contains("auto_routes.listener"), "{refused:?}");
    }
    assert!(anywhere.settings.routes[1].listeners.is_empty());
    // The file says where declared routes are.
    let public = merged(&file_with_listeners(inside, ", listener: http"), &tags, &[]);
    assert_eq!(public.accepted.len(), 3);
    assert!(public.settings.routes[1..].iter().all(|route| *route.listeners == ["http".into()]));
    let table = Router::compile(&RouteSettings::matches(&public.settings.routes)).unwrap();
    let taken = |listener, path| {
        table.lookup(listener, "any.test", path, &http::Method::GET, &http::HeaderMap::new())
    };
    assert_eq!(taken("internal", "/shop/1"), crate::router::Match::NotFound);
    assert_eq!(taken("internal", "/admin/users"), crate::router::Match::Route(0));
    assert_ne!(taken("http", "/admin/users"), crate::router::Match::Route(0));
    // A tag cannot name a listener.
    let named = merged(
        &file_with_listeners(inside, ""),
        &declared(&[("web", &["/x listener=internal", "/y listener=http"])]),
        &[],
    );
    assert_eq!(outcome(&named), (vec![], vec!["web unsupported".to_owned(), "web unsupported".to_owned()]));
}

#[test]
fn a_route_of_the_file_wins_over_every_declared_one() {
    let file = file("{path: /users/**, service: web}", "");
    let merged = merged(&file, &declared(&[("thief", &["/users/admin", "/users/**", "/**"])]), &[]);
    assert_eq!(
        outcome(&merged),
        (
            vec!["thief /**".to_owned()],
            vec!["thief static_route".to_owned(), "thief static_route".to_owned()]
        )
    );
    let table = Router::compile(&RouteSettings::matches(&merged.settings.routes)).unwrap();
    let found = table.lookup("http", "any.test", "/users/admin", &http::Method::GET, &http::HeaderMap::new());
    assert_eq!(found, crate::router::Match::Route(0));
}

#[test]
fn of_two_services_the_one_that_works_stays_and_names_decide_between_new_ones() {
    let file = file("", "");
    let first = merged(&file, &declared(&[("b", &["/x/**"])]), &[]);
    let both = declared(&[("a", &["/x/**"]), ("b", &["/x/**"])]);
    let later = merged(&file, &both, &first.accepted);
    assert_eq!(outcome(&later), (vec!["b /x/**".to_owned()], vec!["a conflict".to_owned()]));
    assert!(later.rejected[0].why.detail.contains("`consul:dc1/b /x/**`"), "{:?}", later.rejected);
    assert_eq!(outcome(&merged(&file, &both, &[])).0, ["a /x/**"]);
    let gone = merged(&file, &declared(&[("a", &["/x/**"])]), &later.accepted);
    assert_eq!(outcome(&gone), (vec!["a /x/**".to_owned()], vec![]), "the other one is tried again");
}

#[test]
fn new_routes_that_leave_nothing_to_one_that_works_give_way() {
    let file = file("", "");
    let first = merged(&file, &declared(&[("b", &["/x/{id}"])]), &[]);
    let together = declared(&[("a", &["GET /x/{id}"]), ("b", &["/x/{id}"]), ("c", &["GET /x/1", "/x/{id}"])]);
    let later = merged(&file, &together, &first.accepted);
    let (accepted, rejected) = outcome(&later);
    assert_eq!(accepted, ["b /x/{id}", "a GET /x/{id}", "c GET /x/1"]);
    assert_eq!(rejected, ["c conflict"]);
    let first = merged(&file, &declared(&[("b", &["/y/**"])]), &[]);
    let shadow = declared(&[("a", &["/y", "/y/*/**"]), ("b", &["/y/**"])]);
    assert!(outcome(&merged(&file, &shadow, &first.accepted)).0.contains(&"b /y/**".to_owned()));
}

#[test]
fn instances_that_say_the_same_make_one_route_and_a_deploy_keeps_both_until_the_old_are_gone() {
    let file = file("", "");
    let mut same = declared(&[("web", &["/a/**"])]);
    same.get_mut("web").unwrap().push("urlprefix-/a".to_owned());
    assert_eq!(outcome(&merged(&file, &same, &[])), (vec!["web /a/**".to_owned()], vec![]));
    let old = merged(&file, &declared(&[("web", &["/v1/**"])]), &[]);
    let during = merged(&file, &declared(&[("web", &["/v1/**", "/v2/**"])]), &old.accepted);
    assert_eq!(outcome(&during).0, ["web /v1/**", "web /v2/**"]);
    let after = merged(&file, &declared(&[("web", &["/v2/**"])]), &during.accepted);
    assert_eq!(outcome(&after).0, ["web /v2/**"]);
}

#[test]
fn tags_that_differ_in_their_weight_are_one_route_whose_instances_have_shares() {
    let file = file("{path: /static, service: web}", "");
    let tags: &[&str] = &["/a/**", "/a/** weight=0.05", "/b"];
    let weighted = merged(&file, &declared(&[("web", tags)]), &[]);
    assert_eq!(outcome(&weighted), (vec!["web /a/**".to_owned(), "web /b".to_owned()], vec![]));
    let [of_file, shared, plain] = &weighted.settings.routes[..] else { panic!("three routes") };
    assert_eq!((of_file.service, plain.service), (Some(0), Some(0)));
    let service = &weighted.settings.services[shared.service.unwrap()];
    assert_eq!(service.full_name(), "web/weighted /a/**");
    let share =
        TagRule { tag: "millgate.route=/a/** weight=0.05".to_owned(), share: 500, tls: None, version: None };
    assert_eq!(service.subset.as_ref().unwrap().by_tag, [share]);
    // The weight is removed, and the route in the table comes before a new one with the same match.
    let other = declared(&[("a", &["/a/** weight=0.5"]), ("web", &["/a/**"])]);
    let later = merged(&file, &other, &weighted.accepted);
    assert_eq!(outcome(&later), (vec!["web /a/**".to_owned()], vec!["a conflict".to_owned()]));
    let names: Vec<_> = later.settings.services.iter().map(ServiceSettings::full_name).collect();
    assert_eq!(names, ["web", "a"], "nothing is left of the shares, and the other service is followed");
}

#[test]
fn whose_metadata_is_not_read_is_told() {
    let text = "version: 1\ndiscovery: {consul: {auto_routes: {allow: [{services: \"shop-*\", hosts: shop.test, paths: /shop/**}]}}}\n\
                routes: []\n";
    let file = load::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings;
    let pointing = |names: Vec<String>| names.into_iter().map(|name| (name, vec!["millgate".to_owned()]));
    let few = pointing(["other", "shop-1", "shop-x y"].map(str::to_owned).into()).collect();
    let merged_few = merged(&file, &few, &[]);
    assert_eq!(merged_few.settings.services.len(), 1);
    assert_eq!(outcome(&merged_few).1, ["other not_allowed", "shop-x y unsupported"]);
    let many = pointing((0..=METADATA_SERVICES_MAX).map(|n| format!("shop-{n}")).collect()).collect();
    let many = merged(&file, &many, &[]);
    assert_eq!((many.settings.services.len(), many.rejected.len()), (METADATA_SERVICES_MAX, 1));
    assert_eq!(many.rejected[0].why.reason, Reason::TooMany);
}

#[test]
fn what_no_rule_allows_is_refused() {
    let text = "version: 1\ndiscovery: {consul: {auto_routes: {allow: [{services: \"shop-*\", hosts: shop.test, paths: /shop/**}]}}}\n\
                routes: []\n";
    let file = load::parse("routes.yaml", text, Path::new(""), &|_| None).unwrap().settings;
    let merged = merged(
        &file,
        &declared(&[
            ("shop-a", &["shop.test/shop/a"]),
            ("shop-b", &["/shop/b"]),
            ("shop-c", &["shop.test/c"]),
            ("other", &["shop.test/shop/o"]),
        ]),
        &[],
    );
    assert_eq!(
        outcome(&merged),
        (
            vec!["shop-a shop.test/shop/a".to_owned()],
            vec![
                "other not_allowed".to_owned(),
                "shop-b not_allowed".to_owned(),
                "shop-c not_allowed".to_owned()
            ]
        )
    );
}

#[test]
fn a_service_may_declare_a_hundred_routes() {
    let file = file("", "");
    let tags: Vec<String> = (0..=ROUTES_OF_SERVICE_MAX).map(|n| format!("/r{n}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let merged = merged(&file, &declared(&[("web", &tags)]), &[]);
    assert_eq!(merged.accepted.len(), ROUTES_OF_SERVICE_MAX);
    assert_eq!(outcome(&merged).1, ["web too_many"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// For any declarations, the table compiles, every declaration is in it or refused, and a route in the table
    /// that is still declared stays.
    #[test]
    fn the_table_always_compiles_and_what_works_stays(
        before in prop::collection::vec((0..4u8, 0..14usize), 0..8),
        after in prop::collection::vec((0..4u8, 0..14usize), 0..12),
    ) {
        const TAGS: [&str; 14] = ["/a weight=0.1", "/a weight=0.9", "/a", "/a/**", "/a/*", "/a/{x}", "/**", "GET /a", "GET /a/**", "h.test/a", "*.test/a",
            "*.test/**", "/a/b", "/"];
        let file = file("{path: /a/b, service: s}, {path: GET /a, service: s}", "");
        let of = |list: &[(u8, usize)]| {
            let mut all = Declared::new();
            for (service, tag) in list {
                let tags = all.entry(format!("s{service}")).or_default();
                let tag = format!("millgate.route={}", TAGS[*tag]);
                if !tags.contains(&tag) { tags.push(tag); }
            }
            all
        };
        let first = merged(&file, &of(&before), &[]);
        prop_assert!(Router::compile(&RouteSettings::matches(&first.settings.routes)).is_ok());
        let now = of(&after);
        let second = merged(&file, &now, &first.accepted);
        prop_assert!(Router::compile(&RouteSettings::matches(&second.settings.routes)).is_ok());
        let told: std::collections::BTreeSet<(&str, &str)> = second.accepted.iter()
            .flat_map(|known| known.tags().map(|tag| (known.service.as_str(), tag)))
            .chain(second.rejected.iter().map(|known| (known.service.as_str(), known.tag.as_str())))
            .collect();
        for (service, tag) in now.iter().flat_map(|(service, tags)| tags.iter().map(move |tag| (service, tag))) {
            // A tag without a share is part of the route that a tag with a share declares, too.
            let is_told = told.contains(&(service, tag))
                || (tag.ends_with("=/a") && told.iter().any(|(of, with)| of == service && with.contains("=/a weight")));
            prop_assert!(is_told, "{} of {}", tag, service);
        }
        for known in &first.accepted {
            if now.get(&known.service).is_some_and(|tags| tags.contains(&known.tag)) {
                prop_assert!(second.accepted.iter().any(|now| now.is_same_route(known)), "{:?}", known);
            }
        }
    }
}

#[test]
fn a_service_with_thousands_of_wrong_tags_is_counted_and_listed_in_part() {
    let file = file("{path: /static, service: web}", "");
    let wrong: Vec<String> = (0..5000).map(|at| format!("/{at} wrong")).collect();
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    let merged = merged(&file, &declared(&[("flood", &wrong), ("other", &["/x wrong"])]), &[]);
    assert_eq!(merged.refused.get(&Reason::Invalid), Some(&5001));
    assert_eq!(merged.rejected.len(), LISTED_OF_SERVICE_MAX + 1);
    assert_eq!(merged.rejected.last().unwrap().service, "other", "a flood hides nobody else's mistake");
}

#[test]
fn declarations_of_the_same_requests_meet_before_the_table_is_compiled() {
    let file = file("{path: /static, service: web}", "");
    let same = ["/o/{a}", "/o/{b}", "/o/*", "/o/{d} timeout=2s"];
    let merged = merged(&file, &declared(&[("a", &same), ("b", &same), ("c", &["/o/{a}/x"])]), &[]);
    let (accepted, rejected) = outcome(&merged);
    assert_eq!(accepted, ["a /o/{a}", "c /o/{a}/x"]);
    assert_eq!(rejected.len(), 7);
    assert!(rejected.iter().all(|text| text.ends_with("conflict")), "{rejected:?}");
}

#[test]
fn a_service_with_a_name_that_no_file_could_have_declares_nothing() {
    let file = file("{path: /static, service: web}", "");
    let names = ["web/canary", "consul:web", "a b", "x\ny"].map(|name| (name, &["/o"][..]));
    let (accepted, rejected) = outcome(&merged(&file, &declared(&names), &[]));
    assert!(accepted.is_empty() && rejected.len() == names.len(), "{accepted:?}");
}

#[test]
fn what_works_stays_also_when_only_the_text_with_a_weight_is_left() {
    let file = file("{path: /static, service: web}", "");
    let both = merged(&file, &declared(&[("zeta", &["/a", "/a weight=0.1"])]), &[]);
    let left: &[(&str, &[&str])] = &[("alpha", &["/a"]), ("zeta", &["/a weight=0.1"])];
    let later = merged(&file, &declared(left), &both.accepted);
    assert_eq!(outcome(&later), (vec!["zeta /a".to_owned()], vec!["alpha conflict".to_owned()]));
}

#[test]
fn of_two_like_routes_of_a_service_the_one_that_keeps_somebody_out_comes_first() {
    let file = file("{path: /static, service: web}", "");
    let tags: &[(&str, &[&str])] = &[("adm", &["/a", "/a allow=10.0.0.0/8"]), ("zeta", &["/b"])];
    let new = merged(&file, &declared(tags), &[]);
    assert_eq!(outcome(&new).0, ["adm /a", "zeta /b"]);
    assert_eq!(new.settings.routes[1].policies.clients.rules().len(), 1);
    // A route in the table stays all the same.
    let open = merged(&file, &declared(&[("adm", &["/a"])]), &[]);
    let later = merged(&file, &declared(tags), &open.accepted);
    assert!(later.settings.routes[1].policies.clients.rules().is_empty());
}
