//! Whom the relay trusts to be upstream.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::tickets::Tickets;
use crate::crypto;

/// Why no TLS connection to upstream can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The CA file is missing, unreadable or holds no certificate.
    #[error("upstream.ca_file {path}: {cause}; give a PEM file of CA certificates", path = path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Neither the system nor a file names an authority.
    #[error(
        "no trusted CA certificates were found; install ca-certificates or set upstream.ca_file"
    )]
    NoRoots,
}

/// The one client configuration that all connections share, session tickets included: the
/// system's roots and those of `ca_file`. Verification cannot be turned off.
///
/// # Errors
/// See [`TlsError`].
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    // A single bad certificate among the system's must not take the others with it.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = ca_file {
        let fault = |cause: String| TlsError::CaFile {
            path: path.to_owned(),
            cause,
        };
        let mut n_added = 0;
        for certificate in
            CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))?
        {
            let certificate = certificate.map_err(|error| fault(error.to_string()))?;
            roots
                .add(certificate)
                .map_err(|error| fault(error.to_string()))?;
            n_added += 1;
        }
        if n_added == 0 {
            return Err(fault("holds no certificate".to_owned()));
        }
    }
    if roots.is_empty() {
        return Err(TlsError::NoRoots);
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .expect("the provider supports TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Tickets::default()));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
