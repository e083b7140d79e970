//! The cost of only checking a token's signature: RS256 with aws-lc-rs, with the key parsed once and the token already
//! split. It runs on the proxies' core in turn with them, so that both have the same machine.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, ensure};
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use clap::Args;
use rustls::pki_types::{SubjectPublicKeyInfoDer, pem::PemObject};

use crate::{cost::Cpu, generator::Seen, turns::Work};

#[derive(Debug, Args)]
pub(crate) struct Verification {
    /// With `issuer.pem` and `tokens.txt`
    #[arg(long)]
    keys: PathBuf,
    #[arg(long)]
    seconds: u64,
}

impl Verification {
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let spki = SubjectPublicKeyInfoDer::from_pem_file(self.keys.join("issuer.pem"))?;
        let key = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, spki.as_ref())
            .map_err(|error| anyhow!("the key: {error}"))?;
        let tokens = fs::read_to_string(self.keys.join("tokens.txt"))?;
        let tokens = tokens.lines().map(parts).collect::<anyhow::Result<Vec<_>>>()?;
        ensure!(!tokens.is_empty(), "no token to check");

        let pid = std::process::id();
        let before = Cpu::of(pid)?;
        let began = Instant::now();
        let end = began + Duration::from_secs(self.seconds);
        let mut seen = Seen::default();
        while Instant::now() < end {
            for (signed, signature) in &tokens {
                key.verify_sig(signed.as_bytes(), signature).map_err(|_| anyhow!("a signature is wrong"))?;
            }
            seen.count(tokens.len());
        }
        let load = seen.load(began.elapsed());
        println!("{}", serde_json::to_string(&Work { load, cpu: Cpu::of(pid)? - before })?);
        Ok(())
    }
}

/// The signed part, and the signature.
fn parts(token: &str) -> anyhow::Result<(&str, Vec<u8>)> {
    let (signed, signature) = token.rsplit_once('.').context("no token")?;
    Ok((signed, BASE64_URL_SAFE_NO_PAD.decode(signature)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_what_is_signed_and_the_signature() {
        assert_eq!(parts("a.b.AQI").unwrap(), ("a.b", vec![1, 2]));
        assert!(parts("a").is_err());
    }
}
