//! Keys and certificates of one run: made at every start, readable by their owner only, never kept.

use std::{
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

/// Where a run's secrets are.
#[derive(Debug)]
pub(super) struct Secrets {
    /// HS256 key of the tokens.
    pub(super) token_key_file: PathBuf,
    /// The authority to trust; its private key is forgotten as soon as it has signed.
    pub(super) ca_pem: String,
    pub(super) ca_file: PathBuf,
}

impl Secrets {
    /// Writes `token.key`, `ca.pem`, `server.pem` and `server.key` into `folder`.
    pub(super) fn make(folder: &Path) -> anyhow::Result<Self> {
        let token_key_file = folder.join("token.key");
        write_private(&token_key_file, &URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()))?;

        let ca_key = KeyPair::generate()?;
        let ca_params = authority()?;
        let ca_pem = ca_params.self_signed(&ca_key)?.pem();
        let ca_file = folder.join("ca.pem");
        fs::write(&ca_file, &ca_pem)?;

        let server_key = KeyPair::generate()?;
        let server = server()?.signed_by(&server_key, &Issuer::new(ca_params, ca_key))?;
        fs::write(folder.join("server.pem"), server.pem())?;
        write_private(&folder.join("server.key"), &server_key.serialize_pem())?;
        Ok(Self { token_key_file, ca_pem, ca_file })
    }
}

fn authority() -> anyhow::Result<CertificateParams> {
    let mut params = valid_for_a_year(CertificateParams::new(Vec::new())?)?;
    params.distinguished_name.push(DnType::CommonName, "Millgate demo authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn server() -> anyhow::Result<CertificateParams> {
    let names = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut params = valid_for_a_year(CertificateParams::new(names)?)?;
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(params)
}

/// From the beginning of this month for at most 366 days: some clients refuse certificates that are good for
/// much longer.
fn valid_for_a_year(mut params: CertificateParams) -> anyhow::Result<CertificateParams> {
    let today = humantime::format_rfc3339(SystemTime::now()).to_string();
    let mut parts = today.split('-');
    let year = parts.next().context("a date has a year")?.parse()?;
    let month = parts.next().context("a date has a month")?.parse()?;
    params.not_before = date_time_ymd(year, month, 1);
    params.not_after = date_time_ymd(year + 1, month, 1);
    Ok(params)
}

/// Mode 0600 from the first byte on: the file is made anew, because an old one would keep its mode.
fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn private_files_are_for_their_owner_only_even_if_they_were_not_before() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token.key"), "old").unwrap();
        let secrets = Secrets::make(folder.path()).unwrap();
        for name in ["token.key", "server.key"] {
            let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::read(&secrets.token_key_file).unwrap().len(), 43);
        let again = Secrets::make(folder.path()).unwrap();
        assert_ne!(secrets.ca_pem, again.ca_pem);
    }
}
