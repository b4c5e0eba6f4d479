//! TLS to clients: the operator's certificate, or one made for development.

mod dev_cert;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsAcceptor;

use crate::crypto;

pub use dev_cert::{DevCertificate, how_to_trust, state_directory};

/// `server.tls`: `"off"`, `"dev"`, `{ cert = "…pem", key = "…pem" }`, or
/// `{ dev_directory = "…" }` for a development certificate in a place of one's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub enum TlsMode {
    /// Plain TCP.
    #[default]
    Off,
    /// A certificate for localhost that the relay makes itself.
    Dev {
        /// Where it is kept; the user's own state directory when absent.
        directory: Option<PathBuf>,
    },
    /// The operator's certificate.
    Files {
        /// PEM: the certificate, then those between it and the root.
        cert: PathBuf,
        /// PEM: the certificate's private key.
        key: PathBuf,
    },
}

/// The ways of writing a [`TlsMode`].
#[derive(Deserialize, Serialize)]
#[serde(
    untagged,
    expecting = "tls must be \"off\", \"dev\", { cert = \"…pem\", key = \"…pem\" } or { dev_directory = \"…\" }"
)]
enum Written {
    Word(String),
    Files(WrittenFiles),
    Directory(WrittenDirectory),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenFiles {
    cert: PathBuf,
    key: PathBuf,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct WrittenDirectory {
    dev_directory: PathBuf,
}

impl TryFrom<Written> for TlsMode {
    type Error = &'static str;

    fn try_from(written: Written) -> Result<Self, Self::Error> {
        match written {
            Written::Word(word) if word == "off" => Ok(Self::Off),
            Written::Word(word) if word == "dev" => Ok(Self::Dev { directory: None }),
            Written::Word(_) => Err("tls must be \"off\", \"dev\", or a table with cert and key"),
            Written::Files(WrittenFiles { cert, key }) => Ok(Self::Files { cert, key }),
            Written::Directory(WrittenDirectory { dev_directory }) => Ok(Self::Dev {
                directory: Some(dev_directory),
            }),
        }
    }
}

impl From<TlsMode> for Written {
    fn from(mode: TlsMode) -> Self {
        match mode {
            TlsMode::Off => Self::Word("off".to_owned()),
            TlsMode::Dev { directory: None } => Self::Word("dev".to_owned()),
            TlsMode::Dev {
                directory: Some(dev_directory),
            } => Self::Directory(WrittenDirectory { dev_directory }),
            TlsMode::Files { cert, key } => Self::Files(WrittenFiles { cert, key }),
        }
    }
}

/// Why there is no TLS, or no newer certificate: the key or file, and the cure.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, unreadable, or not what it should be.
    #[error("server.tls: {}: {problem}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The certificate and the key do not belong together.
    #[error(
        "server.tls: the key {} is not the one of the certificate {}: give the pair that was issued together",
        key.display(), cert.display()
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// No development certificate can be made or kept.
    #[error(
        "server.tls = \"dev\": {}: {problem}; another place is tls = {{ dev_directory = \"…\" }}",
        directory.display()
    )]
    Dev {
        /// Where it would be kept.
        directory: PathBuf,
        /// What is in the way.
        problem: String,
    },
    /// TLS cannot be switched on or off while sockets are open.
    #[error("server.tls: switching TLS on or off takes effect after a restart only")]
    NeedsRestart,
    /// The TLS library refused.
    #[error("server.tls: {0}")]
    Library(#[from] rustls::Error),
}

/// What the accept loop needs for TLS. The certificate can be replaced while it runs: connections
/// made from then on get the new one.
pub struct ServerTls {
    config: ArcSwap<ServerConfig>,
    /// Kept over reloads, so that clients resume their sessions.
    ticketer: Arc<dyn ProducesTickets>,
    /// The certificate to trust, when the relay made its own.
    ca: Option<PathBuf>,
}

impl ServerTls {
    /// Reads or makes the certificate; `None` when TLS is off.
    pub fn load(mode: &TlsMode) -> Result<Option<Self>, TlsError> {
        let ticketer = Ticketer::new()?;
        let loaded = Loaded::new(mode)?;
        loaded
            .map(|loaded| {
                Ok(Self {
                    config: ArcSwap::new(loaded.server_config(&ticketer)?),
                    ca: loaded.ca,
                    ticketer,
                })
            })
            .transpose()
    }

    /// What a connection that is accepted now is served with.
    #[must_use]
    pub fn accept_config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// The same, ready to accept.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        self.accept_config().into()
    }

    /// Reads the certificate again; it is used from [`replace`](Self::replace) on.
    pub fn read_again(&self, mode: &TlsMode) -> Result<Arc<ServerConfig>, TlsError> {
        let loaded = Loaded::new(mode)?.ok_or(TlsError::NeedsRestart)?;
        loaded.server_config(&self.ticketer)
    }

    /// Serves the connections to come with what [`read_again`](Self::read_again) has read.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.config.store(config);
    }

    /// The file that clients have to trust, when the relay made its own certificate.
    #[must_use]
    pub fn ca_to_trust(&self) -> Option<&Path> {
        self.ca.as_deref()
    }
}

/// A certificate with its key, and where they came from.
struct Loaded {
    certs: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    cert_path: PathBuf,
    key_path: PathBuf,
    ca: Option<PathBuf>,
}

impl Loaded {
    fn new(mode: &TlsMode) -> Result<Option<Self>, TlsError> {
        match mode {
            TlsMode::Off => Ok(None),
            TlsMode::Files { cert, key } => Self::read(cert, key).map(Some),
            TlsMode::Dev { directory } => {
                let directory = directory
                    .clone()
                    .unwrap_or_else(|| state_directory(|name| std::env::var_os(name)).join("tls"));
                let dev = DevCertificate::load_or_make(&directory, SystemTime::now())?;
                let mut loaded = Self::read(&dev.server, &dev.server)?;
                loaded.ca = Some(dev.ca);
                Ok(Some(loaded))
            }
        }
    }

    fn read(cert: &Path, key: &Path) -> Result<Self, TlsError> {
        let certs = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| in_file(cert, &error))?;
        if certs.is_empty() {
            let problem = "holds no PEM certificate".to_owned();
            return Err(TlsError::File {
                path: cert.to_owned(),
                problem,
            });
        }
        let private_key =
            PrivateKeyDer::from_pem_file(key).map_err(|error| in_file(key, &error))?;
        warn_if_others_can_read(key);
        Ok(Self {
            certs,
            key: private_key,
            cert_path: cert.to_owned(),
            key_path: key.to_owned(),
            ca: None,
        })
    }

    fn server_config(
        &self,
        ticketer: &Arc<dyn ProducesTickets>,
    ) -> Result<Arc<ServerConfig>, TlsError> {
        let mut config = ServerConfig::builder_with_provider(crypto::provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_no_client_auth()
            .with_single_cert(self.certs.clone(), self.key.clone_key())
            .map_err(|error| self.refused(error))?;
        // WebSocket over HTTP/2 is another protocol (RFC 8441), which is not spoken here.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.ticketer = Arc::clone(ticketer);
        Ok(Arc::new(config))
    }

    fn refused(&self, error: rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                cert: self.cert_path.clone(),
                key: self.key_path.clone(),
            },
            rustls::Error::InvalidCertificate(_) => TlsError::File {
                path: self.cert_path.clone(),
                problem: error.to_string(),
            },
            error => TlsError::File {
                path: self.key_path.clone(),
                problem: format!("cannot be used: {error}"),
            },
        }
    }
}

fn in_file(path: &Path, error: &rustls::pki_types::pem::Error) -> TlsError {
    use rustls::pki_types::pem::Error;
    let problem = match error {
        Error::Io(error) => error.to_string(),
        Error::NoItemsFound => "holds no PEM private key".to_owned(),
        error => format!("is not well-formed PEM: {error}"),
    };
    TlsError::File {
        path: path.to_owned(),
        problem,
    }
}

/// Only warns: container engines mount secrets readable for all.
fn warn_if_others_can_read(key: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let others_read = |metadata: std::fs::Metadata| metadata.permissions().mode() & 0o004 != 0;
    if std::fs::metadata(key).is_ok_and(others_read) {
        tracing::warn!(path = %key.display(), "the TLS key can be read by every user: chmod 600");
    }
}

#[cfg(test)]
mod tests;
