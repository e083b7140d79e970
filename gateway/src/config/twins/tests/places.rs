//! Twins by the path, the host and the service that requests come to.

use super::*;

#[test]
fn paths_that_the_service_gets_for_the_same_are_found() {
    let closed = format!("path: /admin/**, service: s, auth: main, {EXACT}");
    let stripped = "path: /api/**, service: s, auth: none, rewrite: {strip: /api}";
    let (label, help) = one(found(&[stripped, &closed]), "strip of the open route");
    assert_eq!(label, "`/api/admin/**` would pass it unchecked");
    assert!(help.contains("close `/api/admin/**` as well"), "{help}");
    let cure = format!("path: /api/admin/**, rewrite: {{strip: /api}}, service: s, auth: main, {EXACT}");
    assert_eq!(found(&[stripped, &closed, &cure]), []);
    // The other way round: the closed one is stripped.
    let closed = format!("path: /api/admin/**, rewrite: {{strip: /api}}, service: s, auth: main, {EXACT}");
    let (label, _) = one(found(&[CATCH_ALL, &closed]), "strip of the closed route");
    assert_eq!(label, "`/admin/**` would pass it unchecked");
    // A prefix that is in no path may come from a variable.
    let closed = format!("path: /admin, rewrite: {{add: /v2}}, service: s, auth: main, {EXACT}");
    let (label, help) = one(found(&[CATCH_ALL, &closed]), "add of the closed route");
    assert_eq!(label, "`/admin after rewriting` would pass it unchecked");
    assert!(help.contains("rewriting: close the open route `/**` as well"), "{help}");
    let added = "path: /**, service: s, auth: none, rewrite: {add: /v2}";
    let closed = format!("path: /v2/admin, service: s, auth: main, {EXACT}");
    let (label, help) = one(found(&[added, &closed]), "add of the open route");
    assert_eq!(label, "`/admin` would pass it unchecked", "{help}");
}

#[test]
fn an_open_route_whose_rewrite_leads_into_a_closed_path_is_found() {
    for (open, closed, is_found) in [
        ("path: /users, rewrite: {add: /admin}", "path: /admin/**", true),
        ("path: /v1/**, rewrite: {strip: /v1, add: /admin/users}", "path: /admin/**", true),
        ("path: /xin/**, rewrite: {add: /admin}", "path: /admin/**", true),
        // Neither a path of the one nor a path of the other leads into both.
        ("path: \"/{t}/x\", rewrite: {add: /admin}", "path: /admin/a/**", true),
        (
            "path: \"/v1/{t}/x\", rewrite: {strip: /v1, add: /in}",
            "path: /c/a/**, rewrite: {strip: /c, add: /in}",
            true,
        ),
        ("path: /users, rewrite: {add: /public}", "path: /admin/**", false),
        ("path: /users, rewrite: {add: /static}", "path: /**", false),
        (
            "path: /api/admin/login, rewrite: {strip: /api}",
            "path: /api/admin/**, rewrite: {strip: /api}",
            false,
        ),
        ("path: /health", "path: /api/**, rewrite: {strip: /api}", false),
    ] {
        let found = beside(&format!("{open}, service: s"), &format!("{closed}, service: s, {EXACT}"));
        assert_eq!(found.len(), usize::from(is_found), "{open} beside {closed}: {found:?}");
        assert!(found.iter().all(|(_, help)| help.contains("rewriting: close")), "{found:?}");
    }
}

#[test]
fn the_cure_of_a_rewritten_path_names_the_route_that_would_still_take_it() {
    let closed = format!("path: /admin/**, service: s, {EXACT}");
    for path in ["\"/{t}/**\"", "\"/*/x\""] {
        let found =
            beside(&format!("path: {path}, name: tenants, service: s, rewrite: {{add: /admin}}"), &closed);
        let (_, help) = one(found, path);
        assert!(help.contains("rewriting: close the open route `tenants` as well"), "{help}");
    }
}

#[test]
fn hosts_that_are_one_to_the_service_are_found() {
    let public = "path: /**, host: www.example, service: s, auth: none";
    let closed = "path: /**, host: admin.example, service: s, auth: main";
    let to = |host: &str| format!(", rewrite: {{host: \"{host}\"}}");
    let (inside, instance, elsewhere) = (to("s.internal"), to("{instance}"), to("other.internal"));
    for (open_more, closed_more, is_found) in [
        ("", "", false),
        (&*inside, &*inside, true),
        (&instance, &instance, true),
        (&to("admin.example"), "", true),
        ("", &to("www.example"), true),
        (&inside, &elsewhere, false),
        (&inside, "", false),
    ] {
        let (open, closed) = (format!("{public}{open_more}"), format!("{closed}{closed_more}"));
        let found = found(&[&open, &closed]);
        if is_found {
            let (label, help) = one(found, &closed);
            assert_eq!(label, "`/** of www.example` would pass it unchecked");
            assert!(help.contains("`Host`") && help.contains("close the open route as well"), "{help}");
        } else {
            assert_eq!(found, [], "{open} beside {closed}");
        }
    }
    let closed = format!("path: /admin/**, host: admin.example, service: s, auth: main, {EXACT}{inside}");
    let (label, _) = one(found(&[&format!("{public}{inside}"), &closed]), "a part of the paths");
    assert_eq!(label, "`/admin/** of www.example` would pass it unchecked");
}

#[test]
fn services_are_compared_by_what_they_lead_to() {
    for (open, closed, is_found) in [
        ("s", "both", true),
        ("both", "s", true),
        ("all", "tagged", true),
        ("s", "near", true),
        ("near", "v6", true),
        ("near", "other", false),
        ("s", "other", false),
        ("s", "all", false),
    ] {
        let found =
            beside(&format!("path: /**, service: {open}"), &format!("path: /admin, service: {closed}"));
        assert_eq!(!found.is_empty(), is_found, "{open} beside {closed}: {found:?}");
    }
}
