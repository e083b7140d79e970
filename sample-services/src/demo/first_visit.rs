//! The first requests through the gateway: an account, a login, goods on the shelf; and proof that every part
//! answers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use axum::http::StatusCode;
use millgate::token::MintOptions;
use millgate_registry::ClientConfig;
use serde_json::{Value, json};

use super::{
    TOKEN_TTL, catalog,
    client::{Answer, Client, Version},
    routes::{AUDIENCE, ISSUER},
    secrets::Secrets,
};
use crate::{http::Role, users::scope_of};

/// The results of the first visit.
pub(super) struct FirstVisit {
    pub(super) customer_token: String,
    pub(super) staff_token: String,
    pub(super) product_id: String,
}

impl FirstVisit {
    /// Signs a customer up, logs in, and fills an empty shop. With a kept `--data` folder, account and goods may
    /// be there already.
    pub(super) async fn make(http: SocketAddr, secrets: &Secrets) -> anyhow::Result<Self> {
        let client = Client::cleartext(http, Version::Http1);
        let account =
            json!({"email": CUSTOMER_EMAIL, "name": "Demo Customer", "password": CUSTOMER_PASSWORD});
        let signed_up = client.post("/users", None, &account).await?;
        if signed_up.status != StatusCode::CONFLICT {
            require(&signed_up, StatusCode::CREATED, "signing up")?;
        }
        let credentials = json!({"email": CUSTOMER_EMAIL, "password": CUSTOMER_PASSWORD});
        let login = client.post("/login", None, &credentials).await?;
        require(&login, StatusCode::OK, "logging in")?;
        let customer_token = text(&login.body, "/access_token")?;

        let staff_token = millgate::token::mint(&MintOptions {
            key_file: secrets.token_key_file.clone(),
            subject: "staff".to_owned(),
            scopes: scope_of(Role::Staff).split(' ').map(str::to_owned).collect(),
            issuer: Some(ISSUER.to_owned()),
            audience: Some(AUDIENCE.to_owned()),
            ttl: TOKEN_TTL,
            // The same claim as in the tokens of `POST /login`.
            roles: vec!["staff".to_owned()],
            ..MintOptions::default()
        })?;
        let product_id = fill_shop(&client, &staff_token).await?;
        Ok(Self { customer_token, staff_token, product_id })
    }

    /// Sends each part a request that only a working chain of parts can answer.
    pub(super) async fn check_every_part(
        &self,
        https: SocketAddr,
        admin: SocketAddr,
        registry: ClientConfig,
        ca_pem: &str,
    ) -> anyhow::Result<()> {
        let token = Some(self.customer_token.as_str());
        let tls = Client::tls(https, Version::Http2, ca_pem)?;
        for path in ["/products?limit=1", "/orders?limit=1"] {
            require(&tls.get(path, token).await?, StatusCode::OK, path)?;
        }
        let tls = Client::tls(https, Version::Http1, ca_pem)?;
        let staff = Some(self.staff_token.as_str());
        require(&tls.get("/users?limit=1", staff).await?, StatusCode::OK, "/users over TLS")?;
        let admin = Client::cleartext(admin, Version::Http1);
        require(&admin.get("/readyz", None).await?, StatusCode::OK, "the admin listener")?;
        let registry = millgate_registry::Client::new(registry)?;
        tokio::time::timeout(REGISTRY_TIMEOUT, registry.status_leader())
            .await
            .context("the registry is silent")??;
        Ok(())
    }
}

/// Adds the goods if there are none, and returns the id of the first one.
async fn fill_shop(client: &Client, staff_token: &str) -> anyhow::Result<String> {
    let staff = Some(staff_token);
    let shelf = client.get("/products?limit=1&sort=created_at", staff).await?;
    require(&shelf, StatusCode::OK, "reading the catalogue")?;
    if let Ok(id) = text(&shelf.body, "/items/0/id") {
        return Ok(id);
    }
    let mut first = None;
    for product in catalog::products() {
        let added = client.post("/products", staff, &product).await?;
        require(&added, StatusCode::CREATED, "adding a product")?;
        first = first.or(Some(text(&added.body, "/id")?));
    }
    first.context("the demo's shop is empty")
}

fn require(answer: &Answer, status: StatusCode, what: &str) -> anyhow::Result<()> {
    ensure!(answer.status == status, "{what} was answered with {}: {}", answer.status, answer.body);
    Ok(())
}

fn text(body: &Value, pointer: &str) -> anyhow::Result<String> {
    let text = body.pointer(pointer).and_then(Value::as_str);
    text.map(str::to_owned).with_context(|| format!("there is no {pointer} in {body}"))
}

/// The address is not a secret: the account can only order tea in a demo.
const CUSTOMER_EMAIL: &str = "customer@example.org";
const CUSTOMER_PASSWORD: &str = "demo password";
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(5);
