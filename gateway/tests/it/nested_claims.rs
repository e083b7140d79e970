//! Claims inside claims, one of several texts, and tokens without an audience.
//!
//! Before: Keycloak's roles could not be named, a claim had one accepted text, and Cognito's access tokens, which have no `aud`,
//! were refused by every provider that could be written.

use serde_json::{Value, json};

use crate::support::{
    backend::Backend,
    client::{Reply, get, json, send},
    gateway::TestGateway,
    issuer::SigningKey,
    tokens::bearing,
};

/// A provider for the tokens of each issuer, on routes in either order.
struct Issuers {
    gateway: TestGateway,
    backend: Backend,
    cognito: SigningKey,
    keycloak: SigningKey,
}

const COGNITO: &str = "https://cognito-idp.test/pool";
const KEYCLOAK: &str = "https://sso.test/realms/shop";

impl Issuers {
    async fn with(route: &str) -> Self {
        let [cognito, keycloak] = [SigningKey::new(Some("k")), SigningKey::new(Some("k"))];
        let backend = Backend::named("one").await;
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("cognito.json"), cognito.jwks()).unwrap();
        std::fs::write(dir.path().join("keycloak.json"), keycloak.jwks()).unwrap();
        let config = format!(
            r"auth:
  cognito:
    issuer: {COGNITO}
    jwks_file: cognito.json
    audience: none
    require: {{claim: {{client_id: [web, app]}}}}
    forward: {{client_id: X-App}}
  keycloak:
    issuer: {KEYCLOAK}
    jwks_file: keycloak.json
    audience: account
    forward: {{resource_access.api.roles: X-Roles, 'a\.b': X-Dotted, 'https://x.test/y.z': X-Url}}
routes:
  - {{path: /ck, service: one, auth: [cognito, keycloak]{route}}}
  - {{path: /kc, service: one, auth: [keycloak, cognito]{route}}}
services: {{one: {{hosts: ['{}']}}}}
",
            backend.addr
        );
        Self { gateway: TestGateway::start_in(dir, &config).await, backend, cognito, keycloak }
    }

    fn of_cognito(&self, more: &Value) -> String {
        let claims = json!({"iss": COGNITO, "sub": "ann", "client_id": "app", "token_use": "access"});
        self.cognito.signed(&with(claims, more))
    }

    fn of_keycloak(&self, more: &Value) -> String {
        let claims = json!({
            "iss": KEYCLOAK, "sub": "ann", "aud": "account", "realm_access": {"roles": ["staff", "user"]},
            "resource_access": {"api": {"roles": ["reader", "writer"]}}, "a.b": "dotted",
            "https://x.test/y.z": "url",
        });
        self.keycloak.signed(&with(claims, more))
    }

    async fn ask(&self, route: &str, token: &str) -> Reply {
        send(self.gateway.http, bearing(get(route), token)).await
    }
}

fn with(mut claims: Value, more: &Value) -> Value {
    let more = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().insert("exp".into(), json!(4_000_000_000_u64));
    claims.as_object_mut().unwrap().extend(more);
    claims
}

#[tokio::test]
async fn an_access_token_without_an_audience_passes_for_the_clients_that_are_named_in_either_order() {
    let issuers = Issuers::with("").await;
    for route in ["/ck", "/kc"] {
        for client in ["web", "app"] {
            let reply = issuers.ask(route, &issuers.of_cognito(&json!({"client_id": client}))).await;
            assert_eq!(reply.status(), 200, "{route} {client}");
            assert_eq!(issuers.backend.only_seen().headers()["x-app"], client);
        }
        assert_eq!(issuers.ask(route, &issuers.of_keycloak(&json!({}))).await.status(), 200, "{route}");
        let seen = issuers.backend.only_seen();
        for (name, value) in [("x-roles", "reader writer"), ("x-dotted", "dotted"), ("x-url", "url")] {
            assert_eq!(seen.headers()[name], value, "{route}");
        }
        for (token, why) in [
            (issuers.of_cognito(&json!({"client_id": "other"})), "made for another client"),
            (issuers.of_cognito(&json!({"client_id": null})), "for no client"),
            (issuers.of_cognito(&json!({"aud": "app"})), "the identity token of that client"),
            (issuers.of_keycloak(&json!({"aud": null})), "the other issuer's tokens have one"),
        ] {
            let reply = issuers.ask(route, &token).await;
            assert_eq!(
                (reply.status().as_u16(), &json(&reply)["code"]),
                (401, &json!("token_invalid")),
                "{why}"
            );
        }
        assert_eq!(issuers.backend.take_seen().len(), 0);
    }
}

#[tokio::test]
async fn a_claim_inside_another_counts_wherever_a_claim_is_named() {
    let route = ", require: {claim: {realm_access.roles: [admin, staff]}}, \
         rate_limit: 2/h per claim:resource_access.api.team, \
         headers: {request: {set: {X-Who: '{claim:realm_access.roles} {claim:a\\.b}'}}}";
    let issuers = Issuers::with(route).await;
    for (route, team) in [("/ck", "red"), ("/kc", "blue")] {
        let of_team = |team: &str, roles: &[&str]| {
            let access = json!({"api": {"roles": [], "team": team}});
            issuers.of_keycloak(&json!({"realm_access": {"roles": roles}, "resource_access": access}))
        };
        for _ in 0..2 {
            let reply = issuers.ask(route, &of_team(team, &["user", "staff"])).await;
            assert_eq!(reply.status(), 200);
            assert_eq!(issuers.backend.only_seen().headers()["x-who"], "user staff dotted");
        }
        assert_eq!(
            issuers.ask(route, &of_team(team, &["staff"])).await.status(),
            429,
            "its team has had its share"
        );
        assert_eq!(issuers.ask(route, &of_team("green", &["staff"])).await.status(), 200, "another team");
        issuers.backend.take_seen();
        for (token, why) in [
            (of_team("white", &["user"]), "neither role"),
            (issuers.of_keycloak(&json!({"realm_access": null})), "no roles"),
            (issuers.of_keycloak(&json!({"realm_access": "staff"})), "a text has no members"),
            (issuers.of_cognito(&json!({})), "the other issuer says nothing of the realm"),
        ] {
            let reply = issuers.ask(route, &token).await;
            assert_eq!(
                (reply.status().as_u16(), &json(&reply)["code"]),
                (403, &json!("insufficient_scope")),
                "{why}"
            );
        }
    }
}
