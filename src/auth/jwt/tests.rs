#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::EncodingKey;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::json;

use super::*;

const SECRET: &[u8] = b"only for tests: 32 bytes or more";
const NOW: u64 = 1_800_000_000;

/// Made anew for each run, since making an RSA key takes a while and none is kept in files.
static RSA: LazyLock<KeyPair> = LazyLock::new(|| {
    KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap()
});
static EC: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap());
static ED: LazyLock<KeyPair> =
    LazyLock::new(|| KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
}

fn claims() -> Value {
    json!({ "sub": "web", "exp": NOW + 60 })
}

fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

fn sign(header: &Value, claims: &Value, algorithm: Algorithm, key: &EncodingKey) -> SecretString {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    SecretString::from(format!("{message}.{signature}"))
}

fn hs256(header: &Value, claims: &Value) -> SecretString {
    sign(
        header,
        claims,
        Algorithm::HS256,
        &EncodingKey::from_secret(SECRET),
    )
}

fn rs256(header: &Value, claims: &Value) -> SecretString {
    let key = EncodingKey::from_rsa_pem(RSA.serialize_pem().as_bytes()).unwrap();
    sign(header, claims, Algorithm::RS256, &key)
}

fn es256(header: &Value, key: &KeyPair) -> SecretString {
    let key = EncodingKey::from_ec_der(&key.serialize_der());
    sign(header, &claims(), Algorithm::ES256, &key)
}

fn eddsa(header: &Value) -> SecretString {
    sign(
        header,
        &claims(),
        Algorithm::EdDSA,
        &EncodingKey::from_ed_der(&ED.serialize_der()),
    )
}

fn secret_config() -> JwtConfig {
    let secret = std::str::from_utf8(SECRET).unwrap();
    JwtConfig {
        secret: Some(SecretString::from(secret)),
        ..JwtConfig::default()
    }
}

fn issuer(config: &JwtConfig) -> Issuer {
    Issuer::new("main", config, |_| None).unwrap()
}

fn file(contents: impl AsRef<[u8]>) -> (tempfile::NamedTempFile, PathBuf) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), contents).unwrap();
    let path = file.path().to_owned();
    (file, path)
}

fn pem_issuer(key: &KeyPair) -> Issuer {
    let (_file, path) = file(key.public_key_pem());
    issuer(&JwtConfig {
        public_key_file: Some(path),
        ..JwtConfig::default()
    })
}

fn jwks_issuer(set: &Value) -> Issuer {
    let (_file, path) = file(set.to_string());
    issuer(&JwtConfig {
        jwks_file: Some(path),
        ..JwtConfig::default()
    })
}

fn ec_jwk(key: &KeyPair, kid: &str) -> Value {
    let (x, y) = key.der_bytes()[1..].split_at(32);
    let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
    json!({ "kty": "EC", "crv": "P-256", "kid": kid, "x": x, "y": y, "use": "sig" })
}

fn ed_jwk(kid: &str) -> Value {
    let x = URL_SAFE_NO_PAD.encode(ED.der_bytes());
    json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "alg": "EdDSA" })
}

#[track_caller]
fn accepted(issuer: Issuer, token: &SecretString) -> Verified {
    verify(&[issuer], token, now()).unwrap()
}

#[track_caller]
fn refused(issuer: Issuer, token: &SecretString, error: AuthError) {
    assert_eq!(verify(&[issuer], token, now()).unwrap_err(), error);
}

/// Claims that are `claims()` with one member set, or removed by `null`.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    match value {
        Value::Null => members.remove(name),
        value => members.insert(name.to_owned(), value),
    };
    claims
}

#[track_caller]
fn refused_claims(config: &JwtConfig, claims: &Value, error: AuthError) {
    refused(
        issuer(config),
        &hs256(&json!({ "alg": "HS256" }), claims),
        error,
    );
}

#[track_caller]
fn accepted_claims(config: &JwtConfig, claims: &Value) -> Verified {
    accepted(issuer(config), &hs256(&json!({ "alg": "HS256" }), claims))
}

#[test]
fn each_type_of_key_verifies_its_own_algorithm() {
    let verified = accepted_claims(&secret_config(), &with("plan", json!("gold")));
    assert_eq!(verified.client.as_str(), "web");
    assert_eq!(verified.plan.as_deref(), Some("gold"));
    assert_eq!(verified.expires_at, now() + Duration::from_secs(60 + 10));
    accepted(
        pem_issuer(&RSA),
        &rs256(&json!({ "alg": "RS256", "typ": "JWT" }), &claims()),
    );
    accepted(pem_issuer(&EC), &es256(&json!({ "alg": "ES256" }), &EC));
    accepted(
        pem_issuer(&ED),
        &eddsa(&json!({ "alg": "EdDSA", "typ": "at+jwt" })),
    );
}

#[test]
fn alg_none_is_refused_in_any_spelling() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let message = format!("{}.{}", encode(&json!({ "alg": alg })), encode(&claims()));
        for signature in ["", "AA"] {
            let token = SecretString::from(format!("{message}.{signature}"));
            refused(issuer(&secret_config()), &token, AuthError::Unknown);
            refused(pem_issuer(&EC), &token, AuthError::Unknown);
        }
    }
}

#[test]
fn a_public_key_is_never_taken_for_a_shared_secret() {
    let pem = RSA.public_key_pem();
    let der = RSA.subject_public_key_info();
    for secret in [
        pem.as_bytes(),
        pem.trim_end().as_bytes(),
        &der,
        RSA.der_bytes(),
    ] {
        let key = EncodingKey::from_secret(secret);
        let header = json!({ "alg": "HS256" });
        let token = sign(&header, &claims(), Algorithm::HS256, &key);
        refused(pem_issuer(&RSA), &token, AuthError::Unknown);
    }
}

#[test]
fn the_header_cannot_choose_another_algorithm() {
    for alg in [
        "HS384", "HS512", "RS256", "ES256", "PS256", "EdDSA", "hs256",
    ] {
        let token = hs256(&json!({ "alg": alg }), &claims());
        refused(issuer(&secret_config()), &token, AuthError::Unknown);
    }
    let token = rs256(&json!({ "alg": "PS256" }), &claims());
    refused(pem_issuer(&RSA), &token, AuthError::Unknown);
    let key = EncodingKey::from_secret(SECRET);
    let token = sign(
        &json!({ "alg": "HS512" }),
        &claims(),
        Algorithm::HS512,
        &key,
    );
    refused(issuer(&secret_config()), &token, AuthError::Unknown);
}

#[test]
fn a_header_that_brings_or_demands_something_is_refused() {
    let url = "https://evil.example/keys";
    for (name, value) in [
        ("jku", json!(url)),
        ("x5u", json!(url)),
        ("jwk", ec_jwk(&EC, "a")),
        ("x5c", json!(["AAAA"])),
        ("crit", json!(["exp"])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A128GCM")),
        ("jku", Value::Null),
        ("typ", json!("dpop+jwt")),
        ("kid", json!(7)),
        ("kid", json!("k".repeat(257))),
    ] {
        let mut header = json!({ "alg": "HS256" });
        header[name] = value;
        refused(
            issuer(&secret_config()),
            &hs256(&header, &claims()),
            AuthError::Unknown,
        );
    }
}

#[test]
fn a_kid_only_picks_among_the_configured_keys() {
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let set = json!({ "keys": [ec_jwk(&EC, "one"), ec_jwk(&other, "two"), ed_jwk("three")] });
    let header = |kid: &str| json!({ "alg": "ES256", "kid": kid });
    accepted(jwks_issuer(&set), &es256(&header("one"), &EC));
    accepted(jwks_issuer(&set), &es256(&header("two"), &other));
    accepted(
        jwks_issuer(&set),
        &es256(&json!({ "alg": "ES256" }), &other),
    );
    accepted(
        jwks_issuer(&set),
        &eddsa(&json!({ "alg": "EdDSA", "kid": "three" })),
    );
    refused(
        jwks_issuer(&set),
        &es256(&header("two"), &EC),
        AuthError::Unknown,
    );
    for kid in [
        "../../dev/null",
        "/dev/null",
        "' OR 1=1 --",
        "http://evil.example",
        "",
        "one\0",
    ] {
        refused(
            jwks_issuer(&set),
            &es256(&header(kid), &EC),
            AuthError::Unknown,
        );
    }
    // A key without a name of its own is the only one of its table: any name is its own.
    accepted(pem_issuer(&EC), &es256(&header("anything"), &EC));
}

#[test]
fn a_forged_or_torn_token_is_refused() {
    let token = hs256(&json!({ "alg": "HS256" }), &claims());
    let text = token.expose_secret();
    let (message, signature) = text.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let other = encode(&with("sub", json!("root")));
    for forged in [
        format!("{header}.{other}.{signature}"),
        format!("{message}."),
        format!("{message}.{signature}="),
        format!("{message}.{signature}.{signature}"),
        format!("{message}.{}", signature.to_lowercase()),
        format!(".{message}.{signature}"),
        format!("{text} "),
        format!("{header}..{signature}"),
        "..".to_owned(),
        "a.b.c".to_owned(),
    ] {
        refused(
            issuer(&secret_config()),
            &SecretString::from(forged),
            AuthError::Unknown,
        );
    }
    let other = JwtConfig {
        secret: Some(SecretString::from("another secret, also for tests only")),
        ..JwtConfig::default()
    };
    refused(issuer(&other), &token, AuthError::Unknown);
}

#[test]
fn a_doubled_header_member_is_refused() {
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","alg":"HS256"}"#);
    let message = format!("{header}.{}", encode(&claims()));
    let key = EncodingKey::from_secret(SECRET);
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
    let token = SecretString::from(format!("{message}.{signature}"));
    refused(issuer(&secret_config()), &token, AuthError::Unknown);
}

#[test]
fn exp_is_required_and_means_a_time() {
    let config = secret_config();
    for exp in [
        Value::Null,
        json!("never"),
        json!((NOW + 60).to_string()),
        json!(-1),
        json!(1e300),
        json!([NOW + 60]),
        json!(true),
    ] {
        refused_claims(&config, &with("exp", exp), AuthError::NoTime);
    }
    accepted_claims(&config, &with("exp", json!(NOW as f64 + 0.5)));
}

#[test]
fn exp_and_nbf_allow_for_the_leeway_and_no_more() {
    let config = JwtConfig {
        leeway: Duration::from_secs(30),
        ..secret_config()
    };
    accepted_claims(&config, &with("exp", json!(NOW - 29)));
    refused_claims(&config, &with("exp", json!(NOW - 30)), AuthError::Expired);
    accepted_claims(&config, &with("nbf", json!(NOW + 30)));
    refused_claims(
        &config,
        &with("nbf", json!(NOW + 31)),
        AuthError::NotYetValid,
    );
    refused_claims(&config, &with("nbf", json!("soon")), AuthError::NoTime);
    let config = JwtConfig {
        leeway: Duration::from_secs(31),
        ..secret_config()
    };
    let error = Issuer::new("main", &config, |_| None).err().unwrap();
    assert_eq!(
        error.to_string(),
        "auth.jwt.main.leeway: must be 30s at most"
    );
}

#[test]
fn iss_is_the_configured_issuer() {
    let config = JwtConfig {
        issuer: Some("https://id.example".into()),
        ..secret_config()
    };
    accepted_claims(&config, &with("iss", json!("https://id.example")));
    for iss in [
        Value::Null,
        json!("https://id.example/"),
        json!("https://ID.example"),
        json!(["https://id.example"]),
    ] {
        refused_claims(&config, &with("iss", iss), AuthError::WrongIssuer);
    }
    accepted_claims(&secret_config(), &with("iss", json!("anybody")));
}

#[test]
fn aud_names_this_relay_or_is_absent_when_none_is_configured() {
    let config = JwtConfig {
        audience: Some("relay".into()),
        ..secret_config()
    };
    accepted_claims(&config, &with("aud", json!("relay")));
    accepted_claims(&config, &with("aud", json!(["other", "relay"])));
    for aud in [
        Value::Null,
        json!("other"),
        json!([]),
        json!("relay2"),
        json!(["other", 1]),
    ] {
        refused_claims(&config, &with("aud", aud), AuthError::WrongAudience);
    }
    refused_claims(
        &secret_config(),
        &with("aud", json!("relay")),
        AuthError::WrongAudience,
    );
}

#[test]
fn sub_is_a_clients_id() {
    for sub in [
        Value::Null,
        json!(""),
        json!(7),
        json!("a b"),
        json!("a\nb"),
        json!("s".repeat(129)),
    ] {
        refused_claims(&secret_config(), &with("sub", sub), AuthError::NoSubject);
    }
    let config = JwtConfig {
        client_prefix: "app:".into(),
        ..secret_config()
    };
    assert_eq!(
        accepted_claims(&config, &claims()).client.as_str(),
        "app:web"
    );
    refused_claims(&config, &with("sub", json!("")), AuthError::NoSubject);
}

#[test]
fn the_plan_comes_from_the_configured_claim() {
    let config = JwtConfig {
        plan_claim: "https://x.example/tier".into(),
        ..secret_config()
    };
    let verified = accepted_claims(&config, &with("https://x.example/tier", json!("gold")));
    assert_eq!(verified.plan.as_deref(), Some("gold"));
    assert_eq!(
        accepted_claims(&config, &with("plan", json!("gold"))).plan,
        None
    );
    refused_claims(
        &secret_config(),
        &with("plan", json!(["gold"])),
        AuthError::PlanUnknown,
    );
}

#[test]
fn each_issuer_checks_its_own_claims() {
    let issuers = || {
        let one = JwtConfig {
            issuer: Some("one".into()),
            ..secret_config()
        };
        let (_file, path) = file(EC.public_key_pem());
        let two = JwtConfig {
            public_key_file: Some(path),
            issuer: Some("two".into()),
            client_prefix: "two:".into(),
            ..JwtConfig::default()
        };
        [issuer(&one), issuer(&two)]
    };
    let header = json!({ "alg": "HS256" });
    assert!(
        verify(
            &issuers(),
            &hs256(&header, &with("iss", json!("one"))),
            now()
        )
        .is_ok()
    );
    // Signed by the first issuer's key in the second's name.
    let crossed = verify(
        &issuers(),
        &hs256(&header, &with("iss", json!("two"))),
        now(),
    );
    assert_eq!(crossed.unwrap_err(), AuthError::WrongIssuer);
    let key = EncodingKey::from_ec_der(&EC.serialize_der());
    let claims = with("iss", json!("two"));
    let token = sign(&json!({ "alg": "ES256" }), &claims, Algorithm::ES256, &key);
    let verified = verify(&issuers(), &token, now()).unwrap();
    assert_eq!(verified.client.as_str(), "two:web");
}

#[test]
fn a_secret_file_may_end_with_a_line_end() {
    let (_file, path) = file([SECRET, b"\r\n"].concat());
    let config = JwtConfig {
        secret_file: Some(path),
        ..JwtConfig::default()
    };
    accepted_claims(&config, &claims());
}

#[track_caller]
fn bad_config(config: &JwtConfig, words: &str) {
    let error = Issuer::new("main", config, |_| None)
        .err()
        .expect(words)
        .to_string();
    assert!(
        error.starts_with("auth.jwt.main") && error.contains(words),
        "{error}"
    );
}

#[test]
fn a_key_that_cannot_be_meant_is_refused_with_the_cure() {
    let secret = |text: &str| JwtConfig {
        secret: Some(SecretString::from(text)),
        ..JwtConfig::default()
    };
    bad_config(&JwtConfig::default(), "exactly one of");
    bad_config(&secret("short"), "openssl rand -hex 32");
    bad_config(&secret(&EC.public_key_pem()), "use public_key_file");
    let (_file, path) = file("");
    let both = JwtConfig {
        jwks_file: Some(path.clone()),
        ..secret_config()
    };
    bad_config(&both, "exactly one of");
    let missing = path.with_extension("missing");
    let gone = JwtConfig {
        secret_file: Some(missing),
        ..JwtConfig::default()
    };
    bad_config(&gone, "No such file");

    let pem = |text: String, words: &str| {
        let (_file, path) = file(text);
        bad_config(
            &JwtConfig {
                public_key_file: Some(path),
                ..JwtConfig::default()
            },
            words,
        );
    };
    pem(EC.serialize_pem(), "only its public half");
    pem(EC.public_key_pem() + &RSA.public_key_pem(), "several keys");
    pem(
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".into(),
        "CERTIFICATE",
    );
    pem(
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(),
        "is not an RSA",
    );
    pem("no key".into(), "no PEM file");
    let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    pem(p384.public_key_pem(), "another curve");

    let jwks = |text: &str, words: &str| {
        let (_file, path) = file(text);
        bad_config(
            &JwtConfig {
                jwks_file: Some(path),
                ..JwtConfig::default()
            },
            words,
        );
    };
    jwks("{}", "no JSON Web Key Set");
    jwks(r#"{"keys":[]}"#, "holds no RSA");
    jwks(r#"{"keys":[{"kty":"oct","k":"AAAA"}]}"#, "holds no RSA");
    jwks(
        &json!({ "keys": vec![ec_jwk(&EC, "a"); 65] }).to_string(),
        "more than 64",
    );
    let short = json!({ "keys": [{ "kty": "RSA", "n": "AQAB", "e": "AQAB" }] });
    jwks(&short.to_string(), "holds no RSA");
}

#[test]
fn a_key_set_is_read_past_keys_of_other_kinds() {
    let mut encryption = ec_jwk(&EC, "enc");
    encryption["use"] = json!("enc");
    let mut contradictory = ed_jwk("odd");
    contradictory["alg"] = json!("RS256");
    let odd = [
        json!({ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET), "kid": "shared" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!("no key at all"),
        encryption,
        contradictory,
    ];
    let mut keys = odd.to_vec();
    keys.push(ec_jwk(&EC, "good"));
    let set = json!({ "keys": keys, "more": true });
    accepted(
        jwks_issuer(&set),
        &es256(&json!({ "alg": "ES256", "kid": "good" }), &EC),
    );
    let token = hs256(&json!({ "alg": "HS256", "kid": "shared" }), &claims());
    refused(jwks_issuer(&set), &token, AuthError::Unknown);
    let token = eddsa(&json!({ "alg": "EdDSA", "kid": "odd" }));
    refused(jwks_issuer(&set), &token, AuthError::Unknown);
}

#[test]
fn an_rsa_key_of_a_set_verifies() {
    let pem_key = VerifyingKey::from_pem(RSA.public_key_pem().as_bytes()).unwrap();
    let (n, e) = (jsonwebtoken::crypto::aws_lc::DEFAULT_PROVIDER
        .key_utils
        .rsa_pub_components_from_public_key)(RSA.der_bytes())
    .unwrap();
    let with_sign_byte = [&[0], n.as_slice()].concat();
    let (n, e) = (
        URL_SAFE_NO_PAD.encode(with_sign_byte),
        URL_SAFE_NO_PAD.encode(e),
    );
    let issuer = jwks_issuer(&json!({ "keys": [{ "kty": "RSA", "n": n, "e": e, "kid": "r" }] }));
    assert!(issuer.has_key(pem_key.id));
    accepted(
        issuer,
        &rs256(&json!({ "alg": "RS256", "kid": "r" }), &claims()),
    );
}
