//! The demo's `routes.yaml`, for people to read and to edit: closed by default, two open doors.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};

use super::DemoOptions;

/// The configuration that the gateway is started with.
pub(super) struct RoutesFile {
    pub(super) path: PathBuf,
    /// The file was edited, and stays as it is.
    pub(super) edited: bool,
}

impl RoutesFile {
    /// Writes `routes.yaml` into `folder`, unless there is one that the demo did not write: a copy of what it wrote last
    /// is beside it.
    pub(super) fn settle(folder: &Path, options: &DemoOptions, registry_url: &str) -> anyhow::Result<Self> {
        let (path, copy) = (folder.join("routes.yaml"), folder.join(".routes.yaml.as-written"));
        let ours = routes_yaml(options, registry_url);
        let found = read(&path)?;
        let edited = found.as_ref().is_some_and(|found| *found != ours) && found != read(&copy)?;
        if edited {
            ensure!(
                found.is_some_and(|found| found.contains(registry_url)),
                "{} was edited, so it is kept, but the registry is {registry_url}, which it does not name; change \
                 `discovery` there, give its registry with --registry, or remove the file",
                path.display()
            );
        } else {
            fs::write(&path, &ours)?;
            fs::write(copy, ours)?;
        }
        Ok(Self { path, edited })
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// The configuration of the gateway. Files are named relative to the file itself.
fn routes_yaml(options: &DemoOptions, registry_url: &str) -> String {
    let DemoOptions { http, https, admin, .. } = options;
    format!(
        r#"version: 1
listen:
  http: {http}
  https: {{bind: "{https}", cert_file: server.pem, key_file: server.key}}
  admin: {admin}
discovery:
  consul: {{address: "{registry_url}"}}
auth:
  dev:
    issuer: {ISSUER}
    audience: {AUDIENCE}
    hs256_secret_file: token.key
    forward: {{sub: X-User-Id, role: X-User-Role}}
# Closed by default: every route needs a token unless it has `auth: none`.
defaults: {{auth: dev, rate_limit: 100/s burst 200 per user}}
routes:
  - {{path: POST /users, service: users, auth: none, rate_limit: 60/m burst 20 per ip}}
  - {{path: POST /login, service: users, auth: none, rate_limit: 60/m burst 20 per ip}}
  - {{path: /users/**, service: users}}
  # Without a limit, for measurements.
  - {{path: GET|HEAD /products/**, service: products, rate_limit: off}}
  - {{path: POST|PUT|PATCH|DELETE /products/**, service: products, require: {{scope: "catalog:write"}}}}
  - {{path: /orders/**, service: orders, rate_limit: 5/s burst 10 per user}}
  # `check` warns (W010) where a service may take other spellings of a path; this service takes exactly this path.
  - path: PATCH /orders/{{id}}/status
    service: orders
    require: {{role: staff}}
    case_insensitive: false
    trailing_slash: exact
services:
  products: {{balance: p2c}}
access_log: {{format: json, file: access.log}}
"#
    )
}

pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "shop-api";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::RegistryChoice;

    const REGISTRY: &str = "http://127.0.0.1:8500";

    fn options(http: u16) -> DemoOptions {
        let addr = |port| ([127, 0, 0, 1], port).into();
        let registry = RegistryChoice::Existing(REGISTRY.to_owned());
        DemoOptions { http: addr(http), https: addr(8443), admin: addr(9900), registry, data: None }
    }

    #[test]
    fn the_file_follows_the_flags_until_somebody_edits_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("routes.yaml");
        for port in [8080, 8081] {
            assert!(!RoutesFile::settle(folder.path(), &options(port), REGISTRY).unwrap().edited);
            assert_eq!(fs::read_to_string(&file).unwrap(), routes_yaml(&options(port), REGISTRY));
        }
        let own = fs::read_to_string(&file).unwrap().replace("5/s burst 10", "7/s burst 10");
        fs::write(&file, &own).unwrap();
        for port in [8081, 8082] {
            assert!(RoutesFile::settle(folder.path(), &options(port), REGISTRY).unwrap().edited);
            assert_eq!(fs::read_to_string(&file).unwrap(), own);
        }
        let Err(error) = RoutesFile::settle(folder.path(), &options(8081), "http://127.0.0.1:1") else {
            panic!("the gateway would wait for instances of another registry");
        };
        assert!(error.to_string().contains("--registry"), "{error}");
        fs::remove_file(&file).unwrap();
        assert!(!RoutesFile::settle(folder.path(), &options(8081), REGISTRY).unwrap().edited);
    }
}
