//! TLS between the proxies and the fake upstream: a certificate made on the spot and one cipher
//! suite, so that every proxy does the same cryptographic work per byte.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// TLS 1.3 with AES-128-GCM: what all the proxies have, and have in assembler.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![ring::cipher_suite::TLS13_AES_128_GCM_SHA256],
        ..ring::default_provider()
    })
}

/// Makes a certificate for `localhost` and 127.0.0.1, writes it to `ca_path` for the proxies to
/// trust, and returns the server's side. Sessions may be resumed by ticket, as upstream's may.
///
/// # Errors
/// When the file cannot be written.
pub fn server(ca_path: &Path) -> Result<Arc<ServerConfig>> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names)?;
    fs::write(ca_path, made.cert.pem())
        .with_context(|| format!("cannot write {}", ca_path.display()))?;
    let key =
        PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)?;
    config.ticketer = ring::Ticketer::new()?;
    Ok(Arc::new(config))
}

/// The client's side, trusting only the certificate in `ca_path`.
///
/// # Errors
/// When the file cannot be read.
pub fn client(ca_path: &Path) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(
        CertificateDer::from_pem_file(ca_path)
            .with_context(|| format!("cannot read {}", ca_path.display()))?,
    )?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}
