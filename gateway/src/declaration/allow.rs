//! Allow-rules: which services may declare which routes. A route that no rule permits is refused.

use super::Declaration;
use crate::router::{HostPattern, reading::without_parameters};

/// A rule that lets services with certain names declare routes on one of its hosts and below one of its
/// paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    /// Globs of names: `*` stands for any characters.
    pub services: Vec<String>,
    /// `*` includes routes for any host.
    pub hosts: Vec<HostPattern>,
    /// Patterns as in a route's `path`.
    pub paths: Vec<String>,
}

impl AllowRule {
    /// Whether the service may declare this route by this rule.
    pub fn permits(&self, service: &str, declaration: &Declaration) -> bool {
        self.names(service)
            && self.hosts.iter().any(|host| host_covers(host, &declaration.host))
            && self.paths.iter().any(|path| path_covers(path, &declaration.path))
    }

    /// Whether the rule applies to this service.
    pub fn names(&self, service: &str) -> bool {
        self.services.iter().any(|glob| fits(glob.as_bytes(), service.as_bytes()))
    }
}

/// Whether `allowed` matches every host that `declared` matches.
fn host_covers(allowed: &HostPattern, declared: &HostPattern) -> bool {
    match (allowed, declared) {
        (HostPattern::Any, _) => true,
        (HostPattern::Exact(allowed), HostPattern::Exact(declared)) => allowed == declared,
        (HostPattern::Suffix(allowed), HostPattern::Exact(name) | HostPattern::Suffix(name)) => {
            name.ends_with(allowed.as_str())
        }
        _ => false,
    }
}

fn path_covers(allowed: &str, declared: &str) -> bool {
    let mut declared = segments(declared);
    for allowed in segments(allowed) {
        if allowed == "**" {
            return true;
        }
        let Some(declared) = declared.next() else { return false };
        let is_covered = match (is_any(allowed), is_any(declared)) {
            (true, _) => declared != "**",
            (false, true) => false,
            (false, false) => allowed == declared,
        };
        if !is_covered {
            return false;
        }
    }
    declared.next().is_none()
}

/// The segments as the router compares them: up to the `;`. Patterns have no encodings.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.trim_start_matches('/').split('/').map(without_parameters)
}

fn is_any(segment: &str) -> bool {
    segment == "*" || (segment.starts_with('{') && segment.ends_with('}'))
}

/// Whether the name matches the glob, in which `*` stands for any characters or none. Only the last star is
/// ever retried, so the work is at most the product of both lengths.
pub fn fits(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if glob.get(g) == Some(&b'*') {
            star = Some((g, n));
            g += 1;
        } else if glob.get(g) == name.get(n) {
            g += 1;
            n += 1;
        } else if let Some((at, taken)) = star {
            // The last star matches one more character.
            star = Some((at, taken + 1));
            g = at + 1;
            n = taken + 1;
        } else {
            return false;
        }
    }
    glob.get(g..).is_none_or(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::declaration::tags::TagForms;

    fn declared(text: &str) -> Declaration {
        TagForms::default().read(&format!("millgate.route={text}"), None).unwrap().unwrap()
    }

    fn rule(service: &str, host: &str, path: &str) -> AllowRule {
        AllowRule {
            services: vec![service.to_owned()],
            hosts: vec![crate::router::pattern::host_pattern(host).unwrap()],
            paths: vec![path.to_owned()],
        }
    }

    #[test]
    fn a_path_is_allowed_only_if_all_that_it_matches_is() {
        for (allowed, path, permitted) in [
            ("/**", "/", true),
            ("/**", "/**", true),
            ("/orders/**", "/orders", true),
            ("/orders/**", "/orders/{id}/**", true),
            ("/orders/**", "/orders-old", false),
            ("/orders/**", "/**", false),
            ("/orders/**", "/*/x", false),
            ("/orders", "/orders/**", false),
            ("/orders", "/orders", true),
            ("/orders", "/orders;x", true),
            ("/orders/*", "/orders/{id}", true),
            ("/orders/*", "/orders/**", false),
            ("/orders/*", "/orders", false),
        ] {
            let rule = rule("*", "*", allowed);
            assert_eq!(rule.permits("orders", &declared(path)), permitted, "{allowed} and {path}");
        }
    }

    #[test]
    fn a_host_is_allowed_by_its_name_or_by_a_suffix() {
        for (allowed, host, permitted) in [
            ("*", "", true),
            ("*", "a.test", true),
            ("a.test", "a.test", true),
            ("a.test", "b.test", false),
            ("a.test", "", false),
            ("*.test", "a.test", true),
            ("*.test", "*.a.test", true),
            ("*.test", "*.test", true),
            ("*.a.test", "*.test", false),
            ("*.test", "xtest", false),
            ("*.test", "", false),
        ] {
            let rule = rule("*", allowed, "/**");
            assert_eq!(
                rule.permits("any", &declared(&format!("{host}/x"))),
                permitted,
                "{allowed} and {host}"
            );
        }
    }

    #[test]
    fn a_rule_is_for_the_services_that_its_globs_name() {
        for (glob, name, expected) in [
            ("*", "", true),
            ("orders", "orders", true),
            ("orders", "orders2", false),
            ("shop-*", "shop-orders", true),
            ("shop-*", "workshop-x", false),
            ("*-api", "shop-api", true),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
        ] {
            assert_eq!(fits(glob.as_bytes(), name.as_bytes()), expected, "{glob} {name}");
        }
    }
}
