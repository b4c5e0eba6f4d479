#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

use super::*;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn dev(directory: &Path) -> TlsMode {
    TlsMode::Dev {
        directory: Some(directory.to_owned()),
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// A pair of files of a certificate for localhost, which trusts itself.
fn pair(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert, key) = (
        directory.join(format!("{name}.pem")),
        directory.join(format!("{name}.key")),
    );
    std::fs::write(&cert, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (cert, key)
}

fn client(trusted: &Path, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(trusted).unwrap() {
        roots.add(cert.unwrap()).unwrap();
    }
    let mut config = ClientConfig::builder_with_provider(crypto::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Shakes hands; gives what the client learned: ALPN, version, and how.
async fn handshake(
    tls: &ServerTls,
    client: &Arc<ClientConfig>,
    name: &str,
) -> std::io::Result<(Option<Vec<u8>>, rustls::HandshakeKind)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (near, far) = tokio::io::duplex(64 * 1024);
    let connector = TlsConnector::from(Arc::clone(client));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let (server, client) = tokio::join!(tls.acceptor().accept(far), connector.connect(name, near));
    let (mut server, mut client) = (server?, client?);
    // The tickets come with the first bytes.
    server.write_all(b"x").await?;
    server.flush().await?;
    client.read_u8().await?;
    let connection = client.get_ref().1;
    let kind = connection.handshake_kind().expect("the handshake is over");
    Ok((connection.alpn_protocol().map(<[u8]>::to_vec), kind))
}

fn serve(mode: &TlsMode) -> ServerTls {
    ServerTls::load(mode).unwrap().expect("TLS is on")
}

fn files((cert, key): &(PathBuf, PathBuf)) -> TlsMode {
    TlsMode::Files {
        cert: cert.clone(),
        key: key.clone(),
    }
}

#[test]
fn the_mode_is_read_as_written_and_written_as_read() {
    #[derive(Deserialize, Serialize)]
    struct Server {
        tls: TlsMode,
    }
    #[track_caller]
    fn check(text: &str, expected: &TlsMode) {
        let server: Server = toml::from_str(text).expect(text);
        assert_eq!(server.tls, *expected);
        let again: Server = toml::from_str(&toml::to_string(&server).unwrap()).unwrap();
        assert_eq!(again.tls, *expected);
    }
    check("tls = 'off'", &TlsMode::Off);
    check("tls = 'dev'", &TlsMode::Dev { directory: None });
    check("tls = { dev_directory = '/d' }", &dev(Path::new("/d")));
    check(
        "tls = { cert = 'c', key = 'k' }",
        &files(&("c".into(), "k".into())),
    );
    for text in [
        "tls = 'on'",
        "tls = true",
        "tls = { cert = 'c' }",
        "tls = { cert = 'c', key = 'k', ca = 'x' }",
        "tls = {}",
    ] {
        let error = toml::from_str::<Server>(text)
            .err()
            .expect(text)
            .to_string();
        assert!(error.contains("tls must be"), "{text}: {error}");
    }
}

#[test]
fn off_is_no_tls() {
    assert!(ServerTls::load(&TlsMode::Off).unwrap().is_none());
}

fn reload(tls: &ServerTls, mode: &TlsMode) -> Result<(), TlsError> {
    tls.replace(tls.read_again(mode)?);
    Ok(())
}

#[tokio::test]
async fn the_dev_certificate_is_good_for_this_machine_only() {
    let directory = tempfile::tempdir().unwrap();
    let tls = serve(&dev(directory.path()));
    let client = client(tls.ca_to_trust().unwrap(), &[]);
    for name in ["localhost", "127.0.0.1", "::1"] {
        handshake(&tls, &client, name).await.expect(name);
    }
    assert!(handshake(&tls, &client, "example.com").await.is_err());
}

#[test]
fn the_dev_certificate_is_private_and_kept_until_it_is_about_to_end() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("state/tls");
    let now = SystemTime::now();
    let files = DevCertificate::load_or_make(&directory, now).unwrap();
    assert_eq!(mode(&directory), 0o700);
    assert_eq!(mode(&files.server), 0o600);
    assert_eq!(mode(&files.ca), 0o644);
    let read = || {
        (
            std::fs::read(&files.ca).unwrap(),
            std::fs::read(&files.server).unwrap(),
        )
    };
    let first = read();
    assert!(!String::from_utf8_lossy(&first.0).contains("PRIVATE"));

    DevCertificate::load_or_make(&directory, now + 380 * DAY).unwrap();
    assert_eq!(read(), first);
    std::fs::remove_file(&files.ca).unwrap();
    DevCertificate::load_or_make(&directory, now).unwrap();
    assert_eq!(read(), first);
    DevCertificate::load_or_make(&directory, now + 390 * DAY).unwrap();
    let second = read();
    assert_ne!(second, first);
    std::fs::write(&files.server, "torn").unwrap();
    DevCertificate::load_or_make(&directory, now).unwrap();
    assert_ne!(read(), second);
    assert_eq!(
        std::fs::read_dir(&directory).unwrap().count(),
        2,
        "nothing is left over"
    );
}

#[test]
fn a_directory_that_others_write_to_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let shared = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), shared).unwrap();
    let error = ServerTls::load(&dev(directory.path()))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("other users can write there"), "{error}");
}

#[tokio::test]
async fn only_http_1_1_is_offered_and_sessions_resume() {
    let directory = tempfile::tempdir().unwrap();
    let tls = serve(&dev(directory.path()));
    let ca = tls.ca_to_trust().unwrap();
    let both = client(ca, &[b"h2", b"http/1.1"]);
    let (alpn, kind) = handshake(&tls, &both, "localhost").await.unwrap();
    assert_eq!(alpn.as_deref(), Some(b"http/1.1".as_slice()));
    assert_eq!(kind, rustls::HandshakeKind::Full);
    let (_, kind) = handshake(&tls, &both, "localhost").await.unwrap();
    assert_eq!(kind, rustls::HandshakeKind::Resumed);
    reload(&tls, &dev(directory.path())).unwrap();
    let (_, kind) = handshake(&tls, &both, "localhost").await.unwrap();
    assert_eq!(kind, rustls::HandshakeKind::Resumed);
    assert!(
        handshake(&tls, &client(ca, &[b"h2"]), "localhost")
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_and_a_bad_one_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (pair(directory.path(), "old"), pair(directory.path(), "new"));
    let tls = serve(&files(&old));
    let (trusts_old, trusts_new) = (client(&old.0, &[]), client(&new.0, &[]));
    assert!(handshake(&tls, &trusts_old, "localhost").await.is_ok());

    let crossed = (new.0.clone(), old.1.clone());
    let error = reload(&tls, &files(&crossed)).unwrap_err();
    assert!(matches!(error, TlsError::Mismatch { .. }), "{error}");
    assert!(matches!(
        reload(&tls, &TlsMode::Off),
        Err(TlsError::NeedsRestart)
    ));
    assert!(handshake(&tls, &trusts_new, "localhost").await.is_err());
    assert!(handshake(&tls, &trusts_old, "localhost").await.is_ok());

    reload(&tls, &files(&new)).unwrap();
    assert!(handshake(&tls, &trusts_new, "localhost").await.is_ok());
}

#[test]
fn a_file_that_is_not_what_it_should_be_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (cert, key) = pair(directory.path(), "a");
    let missing = directory.path().join("missing.pem");
    let garbage = directory.path().join("garbage.pem");
    std::fs::write(
        &garbage,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    )
    .unwrap();
    let check = |cert: &Path, key: &Path, named: &Path, words: &str| {
        let mode = TlsMode::Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        let error = ServerTls::load(&mode).err().unwrap().to_string();
        assert!(error.contains(&named.display().to_string()), "{error}");
        assert!(error.contains(words), "{error}");
    };
    check(&missing, &key, &missing, "No such file");
    check(&cert, &missing, &missing, "No such file");
    check(&cert, &cert, &cert, "holds no PEM private key");
    check(&key, &key, &key, "holds no PEM certificate");
    check(&garbage, &key, &garbage, "");
}

#[test]
fn the_state_directory_is_the_users_own() {
    let check = |variables: &[(&str, &str)], expected: &str| {
        let variable = |name: &str| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| (*value).into())
        };
        assert_eq!(state_directory(variable), PathBuf::from(expected));
    };
    check(&[("XDG_STATE_HOME", "/x"), ("HOME", "/h")], "/x/xi-relay");
    check(
        &[("XDG_STATE_HOME", "x"), ("HOME", "/h")],
        "/h/.local/state/xi-relay",
    );
    check(&[("HOME", "")], "/tmp/xi-relay");
    check(&[("TMPDIR", "/t")], "/t/xi-relay");
}

#[test]
fn the_text_names_the_file_for_each_kind_of_client() {
    let text = how_to_trust(Path::new("/d/ca.pem"));
    for line in [
        "SSL_CERT_FILE=/d/ca.pem",
        "NODE_EXTRA_CA_CERTS=/d/ca.pem",
        "--cacert /d/ca.pem",
    ] {
        assert!(text.contains(line), "{text}");
    }
}
