//! `millgate routes`: the compiled table in match order.

use std::{process::ExitCode, sync::Arc};

use clap::Args;

use super::{ConfigArg, consul_client::columns, fail, load, print, say, say_report};
use crate::{auth::jwt, clock, compile, policy::rate_limit::KeyBudget, snapshot::RouteView};

/// The help text about JSON. Scripts rely on it: fields may be added, but none changes or goes away.
const JSON: &str = "\
The first route that matches a request takes it. `*` in METHODS, LISTENER or HOST is any.

JSON, one object on one line: {routes: [...]}, in match order, each with
  name, path, host, service   as in the configuration; host `*` is any
  listeners                   only where the route names them: listeners whose requests it takes
  subset, split               parts of the service, only where the route names them; split: [{subset, share}]
  methods                     empty: any
  auth, require, rate_limits  what a request must pass; empty: nothing
  redirect                    only where there is one: status and target
  cors, cors_credentials      only where there is a policy: origins that may read the answers; whether with credentials
  timeout_ms, retries         of the whole request; attempts after the first
  priority, line              `priority` of the route; its line in the file
  origin                      `file`; a running gateway also has `consul:DC/SERVICE` for declared routes";

#[derive(Debug, Args)]
#[command(after_help = JSON)]
pub struct Routes {
    #[command(flatten)]
    config: ConfigArg,
    /// Print the table as JSON (described below)
    #[arg(long)]
    json: bool,
}

impl Routes {
    pub fn execute(&self) -> ExitCode {
        jwt::install_crypto_provider();
        let source = match self.config.source() {
            Ok(source) => source,
            Err(reason) => return fail(reason),
        };
        let loaded = match load(&source) {
            Ok(loaded) => loaded,
            Err(report) => {
                say_report(&report);
                return ExitCode::FAILURE;
            }
        };
        let budget = Arc::new(KeyBudget::new(loaded.settings.rate_keys_max, clock::now()));
        let table = match compile::table(&loaded.settings, None, &budget) {
            Ok(table) => table,
            Err(problems) => {
                say_report(&loaded.refuse(problems));
                return ExitCode::FAILURE;
            }
        };
        let views: Vec<&RouteView> = table
            .router
            .table()
            .iter()
            .filter_map(|at| table.routes.get(*at))
            .map(|route| &*route.view)
            .collect();
        if self.json {
            return print(serde_json::json!({ "routes": views }), ExitCode::SUCCESS);
        }
        say(format_args!("config    {source}"));
        print(text(&views).trim_end(), ExitCode::SUCCESS)
    }
}

/// The table as text, with columns as wide as their widest cell.
fn text(views: &[&RouteView]) -> String {
    let head = [
        "METHODS",
        "LISTENER",
        "HOST",
        "PATH",
        "SERVICE",
        "AUTH",
        "REQUIRE",
        "RATE LIMIT",
        "TIMEOUT",
        "RETRIES",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(views.iter().map(|view| {
        let list =
            |items: &[String], none: &str| if items.is_empty() { none.to_owned() } else { items.join(", ") };
        [
            if view.methods.is_empty() { "*".to_owned() } else { view.methods.join("|") },
            if view.listeners.is_empty() { "*".to_owned() } else { view.listeners.join(",") },
            view.host.clone(),
            view.path.clone(),
            service(view),
            list(view.policies.list("auth"), "none"),
            list(view.policies.list("require"), "-"),
            list(view.policies.list("rate_limits"), "-"),
            format!("{} ms", view.policies.number("timeout_ms")),
            view.policies.number("retries").to_string(),
        ]
    }));
    columns(&rows)
}

/// The cell SERVICE: `products`, `products/canary`, `products {v1: 95, canary: 5}`, or `-> 308 https://shop.example{path}`.
fn service(view: &RouteView) -> String {
    if let Some(redirect) = view.policies.text("redirect") {
        return format!("-> {redirect}");
    }
    let shares: Vec<String> =
        view.split.iter().map(|part| format!("{}: {}", part.subset, part.share)).collect();
    match &view.subset {
        Some(subset) => format!("{}/{subset}", view.service),
        None if shares.is_empty() => view.service.to_string(),
        None => format!("{} {{{}}}", view.service, shares.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::of_route::Shown, snapshot::SplitView};

    #[test]
    fn a_part_of_a_service_is_shown_with_it() {
        let part = |subset: &str, share| SplitView { subset: subset.to_owned(), share };
        let whole = view();
        assert_eq!(service(&whole), "products");
        assert_eq!(service(&RouteView { subset: Some("v1".to_owned()), ..view() }), "products/v1");
        let split = vec![part("v1", 95), part("canary", 5)];
        assert_eq!(service(&RouteView { split, ..view() }), "products {v1: 95, canary: 5}");
        let json = serde_json::to_value(&whole).unwrap();
        assert!(json.get("subset").is_none() && json.get("split").is_none(), "{json}");
    }

    #[test]
    fn columns_line_up() {
        let text = text(&[&view()]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].find("PATH"), lines[1].find("/products"));
        assert!(lines[1].starts_with("GET|POST"));
    }

    fn view() -> RouteView {
        RouteView {
            name: "a".into(),
            methods: vec!["GET".into(), "POST".into()],
            host: "*".into(),
            listeners: vec![],
            path: "/products/**".into(),
            service: "products".into(),
            policies: Shown::default(),
            subset: None,
            split: vec![],
            priority: 0,
            origin: "file".into(),
            line: 3,
        }
    }
}
