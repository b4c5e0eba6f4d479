//! Starting up: what is wrong is said in one line, with the cure, before any port opens.

use std::process::Output;

use crate::support::relay::{UPSTREAM_KEY, command, sha256_hex};
use crate::support::{TestRelay, Upstream};

/// Runs the relay to its end with this configuration file and these variables.
fn run(toml: &str, env: &[(&str, &str)]) -> (Output, String) {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("relay.toml");
    std::fs::write(&config, toml).unwrap();
    let output = command(&dir)
        .arg("--config")
        .arg(config)
        .env("XI_RELAY__SERVER__BIND", "127.0.0.1:0")
        .env("XI_RELAY__OPERATOR__BIND", "127.0.0.1:0")
        .envs(env.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, said)
}

#[track_caller]
fn refused(toml: &str, env: &[(&str, &str)], names: &[&str]) {
    let (output, said) = run(toml, env);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(said.trim_end().lines().count(), 1, "one line: {said}");
    for name in names {
        assert!(said.contains(name), "{name} is not named: {said}");
    }
    assert!(
        !said.contains("panicked") && !said.contains(UPSTREAM_KEY),
        "{said}"
    );
}

#[test]
fn unknown_keys_are_refused_by_name() {
    refused("[server]\nbindd = \"127.0.0.1:0\"", &[], &["bindd"]);
    refused("[servers]\nx = 1", &[], &["servers"]);
    refused("[plans.default]\nwindow = []", &[], &["window"]);
    refused("", &[("XI_RELAY__SERVER__BINDD", "x")], &["bindd"]);
}

#[test]
fn bad_values_are_refused_by_name() {
    for (toml, name) in [
        ("[server]\nbind = \"nowhere\"", "bind"),
        ("[server]\nping_interval = \"soon\"", "ping_interval"),
        ("[server]\ntls = \"maybe\"", "tls"),
        ("[upstream]\nbase_url = \"ftp://example.org\"", "base_url"),
        ("[usage]\nstore = \"paper\"", "store"),
        ("[log]\nformat = \"poem\"", "format"),
        (
            "[[clients]]\nid = \"a\"\ntoken_sha256 = \"short\"\nplan = \"default\"",
            "token_sha256",
        ),
    ] {
        let env: &[(&str, &str)] = if name == "bind" {
            &[("XI_RELAY__SERVER__BIND", "nowhere")]
        } else {
            &[]
        };
        refused(toml, env, &[name]);
    }
}

#[test]
fn a_client_of_an_unknown_plan_is_refused() {
    let toml = format!(
        "[[clients]]\nid = \"a\"\ntoken_sha256 = \"{}\"\nplan = \"golden\"",
        sha256_hex("token")
    );
    refused(&toml, &[], &["golden"]);
}

#[test]
fn open_access_beyond_loopback_is_refused() {
    refused("", &[("XI_RELAY__SERVER__BIND", "0.0.0.0:0")], &["clients"]);
}

#[test]
fn every_origin_with_open_access_is_refused() {
    refused(
        "[server]\nallowed_origins = [\"*\"]",
        &[],
        &["allowed_origins"],
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        "[usage]\nstore = \"memory\"",
        &[("XI_RELAY__SERVER__BIND", &address)],
        &[&address],
    );
}

#[test]
fn a_port_that_another_relay_serves_is_named() {
    let upstream = Upstream::start();
    let relay = TestRelay::start(upstream.address, "");
    let address = relay.address.to_string();
    refused(
        "[usage]\nstore = \"memory\"",
        &[("XI_RELAY__SERVER__BIND", &address)],
        &[&address, "in use"],
    );
}

#[test]
fn a_bad_key_file_is_named() {
    refused(
        "",
        &[("ELEVENLABS_API_KEY_FILE", "/nowhere/key")],
        &["/nowhere/key"],
    );
}

#[test]
fn a_missing_configuration_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(&dir)
        .args(["--config", "no-such.toml"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no-such.toml"), "{said}");
}

#[test]
fn a_new_token_fits_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let output = command(&dir)
        .args(["token", "new", "web"])
        .output()
        .unwrap();
    assert!(output.status.success());
    let said = String::from_utf8(output.stdout).unwrap();
    let hash = said
        .split('"')
        .find(|word| word.len() == 64)
        .expect("a hash in quotes");
    let is_token_char = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let token = said
        .split_whitespace()
        .map(|word| word.trim_matches(|c| !is_token_char(c)))
        .find(|word| sha256_hex(word) == hash);
    let token = token.unwrap_or_else(|| panic!("the token of this hash: {said}"));
    assert!(
        token.len() >= 22 && token.chars().all(is_token_char),
        "128 bits in base64url"
    );
}
