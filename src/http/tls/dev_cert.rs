//! The development certificate: an authority that signs one certificate for this machine's names
//! and whose key is then forgotten. Who trusts it trusts nothing else by it.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::TlsError;
use crate::crypto;

/// What the certificate is for.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// How long it is valid. Some systems refuse server certificates of more than 398 days.
const LIFETIME: Duration = Duration::from_secs(397 * 24 * 60 * 60);

/// It is made anew when it would end within this time.
const RENEW_BEFORE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// The files of a development certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevCertificate {
    /// What clients have to trust, in PEM. Readable for everybody.
    pub ca: PathBuf,
    /// The certificate, its authority and its private key in PEM. Readable for the owner alone.
    pub server: PathBuf,
}

impl DevCertificate {
    /// The certificate that is kept in a directory, made anew if there is none or it is about to
    /// end. The directory is created if need be; it must belong to this user alone, or somebody
    /// else could choose what is trusted.
    pub fn load_or_make(directory: &Path, now: SystemTime) -> Result<Self, TlsError> {
        Self::try_load_or_make(directory, now).map_err(|problem| TlsError::Dev {
            directory: directory.to_owned(),
            problem: problem.to_string(),
        })
    }

    fn try_load_or_make(directory: &Path, now: SystemTime) -> Result<Self, Problem> {
        let files = Self {
            ca: directory.join("ca.pem"),
            server: directory.join("server.pem"),
        };
        create_private(directory)?;
        if files.valid_ca(now).is_none() {
            // Another process may do the same now. What stands under the name in the end counts
            // for both, since they read it from there.
            replace(&files.server, &make(now)?, 0o600)?;
        }
        let ca = files
            .valid_ca(now)
            .ok_or("the certificate just made is not valid: is the clock right?")?;
        if CertificateDer::from_pem_file(&files.ca).ok().as_ref() != Some(&ca) {
            replace(&files.ca, &to_pem(&ca), 0o644)?;
        }
        Ok(files)
    }

    /// The authority, if the certificate is there, is good for all names, and stays so a while.
    fn valid_ca(&self, now: SystemTime) -> Option<CertificateDer<'static>> {
        let certs: Vec<_> = CertificateDer::pem_file_iter(&self.server)
            .ok()?
            .collect::<Result<_, _>>()
            .ok()?;
        let [server, ca] = certs.as_slice() else {
            return None;
        };
        rustls::pki_types::PrivateKeyDer::from_pem_file(&self.server).ok()?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone()).ok()?;
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), crypto::provider())
                .build()
                .ok()?;
        let valid = |name: &str, at: SystemTime| {
            let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
            let name = ServerName::try_from(name).ok()?;
            let time = UnixTime::since_unix_epoch(since);
            verifier
                .verify_server_cert(server, &[], &name, &[], time)
                .ok()
        };
        for name in NAMES {
            valid(name, now)?;
            valid(name, now + RENEW_BEFORE)?;
        }
        Some(ca.clone())
    }
}

/// The lines that tell how to make clients trust the certificate.
#[must_use]
pub fn how_to_trust(ca: &Path) -> String {
    let ca = ca.display();
    format!(
        "The TLS certificate is for development: clients must be told to trust it.\n\
         \x20 Python:   export SSL_CERT_FILE={ca}\n\
         \x20 Node.js:  export NODE_EXTRA_CA_CERTS={ca}\n\
         \x20 curl:     curl --cacert {ca} …\n\
         \x20 browser:  import that file as an authority for websites\n\
         With SSL_CERT_FILE Python trusts this certificate alone: set it for the client under test only.\n"
    )
}

/// Where this user's programs keep what outlives them: `$XDG_STATE_HOME/xi-relay`,
/// `~/.local/state/xi-relay`, or a directory for temporary files (XDG Base Directory
/// Specification 0.8).
#[must_use]
pub fn state_directory(variable: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    path("XDG_STATE_HOME")
        .or_else(|| path("HOME").map(|home| home.join(".local/state")))
        .or_else(|| path("TMPDIR"))
        .unwrap_or_else(|| PathBuf::from("/tmp"))
        .join("xi-relay")
}

type Problem = Box<dyn std::error::Error>;

/// Certificate, authority and key as PEM.
fn make(now: SystemTime) -> Result<String, Problem> {
    let mut ca = CertificateParams::default();
    ca.distinguished_name
        .push(DnType::CommonName, "xi-relay development authority");
    (ca.not_before, ca.not_after) = validity(now);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![
            GeneralSubtree::DnsName("localhost".to_owned()),
            GeneralSubtree::IpAddress(CidrSubnet::V4([127, 0, 0, 0], [255, 0, 0, 0])),
            GeneralSubtree::IpAddress(CidrSubnet::V6(
                std::net::Ipv6Addr::LOCALHOST.octets(),
                [255; 16],
            )),
        ],
        excluded_subtrees: Vec::new(),
    });
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;

    let mut server = CertificateParams::new(NAMES.map(str::to_owned))?;
    server
        .distinguished_name
        .push(DnType::CommonName, "xi-relay on localhost");
    (server.not_before, server.not_after) = validity(now);
    server.is_ca = IsCa::ExplicitNoCa;
    server.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Python since 3.13 asks for this (RFC 5280 section 4.2.1.1).
    server.use_authority_key_identifier_extension = true;
    let server_key = KeyPair::generate()?;
    let server_cert = server.signed_by(&server_key, &Issuer::new(ca, ca_key))?;
    Ok(format!(
        "{}{}{}",
        server_cert.pem(),
        ca_cert.pem(),
        server_key.serialize_pem()
    ))
}

/// From yesterday, for clocks that differ.
fn validity(now: SystemTime) -> (time::OffsetDateTime, time::OffsetDateTime) {
    ((now - DAY).into(), (now + LIFETIME - DAY).into())
}

fn to_pem(cert: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(cert);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

/// Creates the directory, or makes sure that nobody else can write into it.
fn create_private(directory: &Path) -> Result<(), Problem> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)?;
    let metadata = std::fs::metadata(directory)?;
    // A file made now belongs to whom this process runs as.
    let own = tempfile_in(directory, 0o600).and_then(|(path, file)| {
        let metadata = file.metadata();
        std::fs::remove_file(path)?;
        metadata
    })?;
    if metadata.uid() != own.uid() || metadata.mode() & 0o022 != 0 {
        return Err("other users can write there: give a directory of your own".into());
    }
    Ok(())
}

/// Puts a file in place as a whole.
fn replace(path: &Path, contents: &str, mode: u32) -> Result<(), Problem> {
    let directory = path.parent().ok_or("has no directory")?;
    let (temporary, mut file) = tempfile_in(directory, mode)?;
    let written = file
        .write_all(contents.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // The first failure is the one to tell; what is left over is harmless.
        let _ = std::fs::remove_file(&temporary);
    }
    Ok(written?)
}

fn tempfile_in(directory: &Path, mode: u32) -> std::io::Result<(PathBuf, std::fs::File)> {
    let path = directory.join(format!(".{}.tmp", crate::ids::SessionId::random()));
    let file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)?;
    Ok((path, file))
}
