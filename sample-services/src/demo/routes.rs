//! The demo's `routes.yaml`, for people to read: closed by default, two open doors.

use super::DemoOptions;

/// The configuration of the gateway. Files are named relative to the file itself.
pub(super) fn routes_yaml(options: &DemoOptions, registry_url: &str) -> String {
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
# Closed by default: every route needs a token unless it says `auth: none`.
defaults: {{auth: dev, rate_limit: 100/s burst 200 per user}}
routes:
  - {{path: POST /users, service: users, auth: none, rate_limit: 60/m burst 20 per ip}}
  - {{path: POST /login, service: users, auth: none, rate_limit: 60/m burst 20 per ip}}
  - {{path: /users/**, service: users}}
  - {{path: GET /products/**, service: products}}
  - {{path: POST|PUT|PATCH|DELETE /products/**, service: products, require: {{scope: "catalog:write"}}}}
  - {{path: /orders/**, service: orders, rate_limit: 5/s burst 10 per user}}
  - {{path: "PATCH /orders/{{id}}/status", service: orders, require: {{role: staff}}}}
services:
  products: {{balance: p2c}}
access_log: {{format: json, file: access.log}}
"#
    )
}

pub(super) const ISSUER: &str = "https://issuer.example";
pub(super) const AUDIENCE: &str = "shop-api";
