//! `millgate token mint`: a development token.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{fail, pair, print};
use crate::token::{MintOptions, mint};

#[derive(Debug, Subcommand)]
pub enum Token {
    /// Sign a token with a key file and print it
    Mint(Mint),
}

/// The help text: from nothing to a request that passes.
const EXAMPLE: &str = "\
A key pair for development, and a token that this provider accepts:
  auth: {main: {issuer: https://issuer.test, audience: api, public_key_file: public.pem}}
  openssl genpkey -algorithm ed25519 -out private.pem
  openssl pkey -in private.pem -pubout -out public.pem
  millgate token mint --key private.pem --iss https://issuer.test --aud api --sub alice";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Mint {
    /// File with a private key in PEM (RSA signs RS256, EC P-256 ES256, Ed25519 EdDSA) or with the bytes of an HS256
    /// secret
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Subject (`sub`): who the token is for
    #[arg(long, value_name = "SUBJECT", value_parser = NonEmptyStringValueParser::new())]
    sub: String,
    /// Scopes, separated by spaces or given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Role; may be given several times
    #[arg(long, value_name = "ROLE")]
    role: Vec<String>,
    /// Issuer (`iss`): what `auth.<name>.issuer` says
    #[arg(long, value_name = "URL")]
    iss: Option<String>,
    /// Audience (`aud`): what `auth.<name>.audience` says
    #[arg(long, value_name = "AUDIENCE")]
    aud: Option<String>,
    /// Validity from now, at most 3650d, e.g. 15m or 1h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: std::time::Duration,
    /// Key id (`kid`) for the header; a JWKS with several keys needs it
    #[arg(long, value_name = "ID")]
    kid: Option<String>,
    /// Further claim, as text; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    claim: Vec<(String, String)>,
}

impl Token {
    pub fn execute(self) -> ExitCode {
        let Self::Mint(mint_args) = self;
        let options = MintOptions {
            key_file: mint_args.key,
            subject: mint_args.sub,
            scopes: mint_args.scope,
            roles: mint_args.role,
            issuer: mint_args.iss,
            audience: mint_args.aud,
            ttl: mint_args.ttl,
            key_id: mint_args.kid,
            claims: mint_args.claim,
        };
        match mint(&options) {
            Ok(token) => print(token, ExitCode::SUCCESS),
            Err(error) => fail(error),
        }
    }
}
