//! Layers, names and refusals.

#![allow(clippy::unwrap_used, reason = "a failed test is the point")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use secrecy::ExposeSecret;
use tempfile::TempDir;

use super::*;
use crate::http::TlsMode;
use crate::quota::Rates;

const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

/// An Ed25519 public key; its private half was thrown away.
const PUBLIC_KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
    MCowBQYDK2VwAyEAQB+SyNVeEdGo16FHhX452dFw0qrCAIF7o9Bq8iREwGk=\n\
    -----END PUBLIC KEY-----\n";

/// Settings of a file and variables; the directory holds further files, `DIR` standing for it.
struct Given {
    dir: TempDir,
    sources: Sources,
}

fn given(file: &str, variables: &[(&str, &str)]) -> Given {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("relay.toml");
    let at = |text: &str| text.replace("DIR", dir.path().to_str().unwrap());
    fs::write(&path, at(file)).unwrap();
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), at(value)))
        .collect();
    Given {
        sources: Sources {
            file: Some(path),
            variables,
        },
        dir,
    }
}

impl Given {
    fn with_file(self, name: &str, text: &str, mode: u32) -> Self {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    #[track_caller]
    fn load(&self) -> Settings {
        Settings::load(&self.sources).unwrap()
    }

    /// The mistake, which must be one line that has `parts` in it.
    #[track_caller]
    fn fails(&self, parts: &[&str]) -> String {
        let error = Settings::load(&self.sources).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part:?} in {error}");
        }
        error
    }
}

#[test]
fn the_defaults_in_the_file_are_those_in_the_code() {
    let from_file = Settings::read(&Layers::new(DEFAULTS).tree()).unwrap().0;
    let empty = Layers::new("[plans.default]\n").tree();
    let mut from_code = Settings::read(&empty).unwrap().0;
    // The rates lie over those in the code, where an empty table says nothing.
    assert_eq!(Rates::new(&from_file.rates).unwrap(), Rates::default());
    from_code.rates = from_file.rates.clone();
    let debug = |settings: &Settings| format!("{settings:#?}");
    assert_eq!(debug(&from_file), debug(&from_code));
    Settings::load(&Sources::default()).unwrap();
}

#[test]
fn the_file_of_defaults_names_every_key_there_is() {
    let mut layers = Layers::new(DEFAULTS);
    let one_of_each = format!(
        "[[clients]]\nid = \"web\"\ntoken_sha256 = \"{HASH}\"\n[auth.jwt.NAME]\nsecret = \"x\"\n"
    );
    layers.add_file("more.toml", &one_of_each).unwrap();
    let all = layers.tree();
    let (_, reader) = Settings::read(&all).unwrap();
    reader.finish(&all).unwrap();

    // Keys behind a `#` count: they are not set by default.
    let mut named = BTreeSet::new();
    let mut table = String::new();
    for line in DEFAULTS.lines() {
        let line = line.trim_start_matches("# ");
        if let Some((head, _)) = line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            table = head.trim_start_matches('[').to_owned();
            named.insert(table.clone());
        } else if let Some((key, _)) = line.split_once(" = ") {
            named.insert(format!("{table}.{key}"));
        }
    }
    for key in reader.known() {
        let key = key.replace("[0]", "");
        let is_table = named
            .iter()
            .any(|name| name.starts_with(&format!("{key}.")));
        assert!(is_table || named.contains(&key), "default.toml lacks {key}");
    }
}

#[test]
fn the_file_lies_over_the_defaults_and_variables_over_the_file() {
    let given = given(
        "[server]\nbind = \"127.0.0.1:1111\"\nping_interval = \"7s\"\n[log]\nlevel = \"warn\"\n",
        &[
            ("XI_RELAY__SERVER__BIND", "127.0.0.1:2222"),
            ("XI_RELAY__METRICS__MAX_CLIENT_LABELS", "3"),
        ],
    );
    let settings = given.load();
    assert_eq!(settings.server.bind.to_string(), "127.0.0.1:2222");
    assert_eq!(settings.timing.ping_interval.as_secs(), 7);
    assert_eq!(settings.log.level, "warn");
    assert_eq!(settings.metrics.max_client_labels, 3);
    assert_eq!(settings.operator, Operator::default());
}

#[test]
fn variables_hold_whatever_their_setting_wants() {
    let clients = format!("[{{ id = \"web\", token_sha256 = \"{HASH}\" }}]");
    let given = given(
        "",
        &[
            ("XI_RELAY__CLIENTS", &clients),
            ("XI_RELAY__SERVER__BIND", "[::1]:8080"),
            ("XI_RELAY__SERVER__PATH_PREFIX", "007"),
            (
                "XI_RELAY__SERVER__TLS",
                "{ cert = \"c.pem\", key = \"k.pem\" }",
            ),
            ("XI_RELAY__UPSTREAM__WARM__SANDBOX", "true"),
            ("XI_RELAY__UPSTREAM__BASE_URL", "\"sandbox\""),
            ("XI_RELAY__LOG__FORMAT", "json"),
        ],
    );
    let settings = given.load();
    assert_eq!(settings.clients[0].id.as_str(), "web");
    assert_eq!(settings.server.bind.to_string(), "[::1]:8080");
    assert_eq!(settings.http.path_prefix, "007");
    assert_eq!(
        settings.server.tls,
        TlsMode::Files {
            cert: "c.pem".into(),
            key: "k.pem".into()
        }
    );
    assert!(settings.upstream.warm.sandbox);
    assert!(settings.upstream.base_url.is_some());
    assert_eq!(settings.log.format, log::Format::Json);
}

#[test]
fn a_string_inside_a_variable_is_no_number() {
    given(
        "",
        &[("XI_RELAY__METRICS", "{ max_client_labels = \"3\" }")],
    )
    .fails(&["XI_RELAY__METRICS: `metrics.max_client_labels` must be "]);
    given("", &[("XI_RELAY__METRICS__MAX_CLIENT_LABELS", "\"3\"")])
        .fails(&["`metrics.max_client_labels` must be "]);
}

#[test]
fn names_in_capitals_find_keys_of_any_case() {
    let file = format!(
        "[[clients]]\nid = \"a\"\ntoken_sha256 = \"{HASH}\"\nplan = \"Gold\"\n[plans.Gold]\nrecord = false\n"
    );
    let given = given(
        &file,
        &[("XI_RELAY__PLANS__GOLD__MAX_CONCURRENT_SESSIONS", "7")],
    );
    assert_eq!(
        given.load().plans.keys().collect::<Vec<_>>(),
        ["Gold", "default"]
    );
}

#[test]
fn unknown_keys_are_refused_with_their_place_and_the_nearest_name() {
    given("[server]\nping_interval = \"9s\"\nbnid = \"x\"\n", &[])
        .fails(&["relay.toml:3: unknown key `server.bnid`, did you mean `server.bind`?"]);
    given("[upstrem]\n", &[])
        .fails(&["relay.toml:1: unknown key `upstrem`, did you mean `upstream`?"]);
    given("[upstream.warm]\nmaximum = 1\n", &[]).fails(&["unknown key `upstream.warm.maximum`"]);
    given("", &[("XI_RELAY__LOG__LEVLE", "info")])
        .fails(&["XI_RELAY__LOG__LEVLE: unknown key `log.levle`, did you mean `log.level`?"]);
    given("[[clients]]\nid = \"a\"\ntoken = \"b\"\n", &[]).fails(&["relay.toml:1: `clients[0]"]);
    given("", &[("XI_RELAY__SERVER__BIND__PORT", "1")]).fails(&["`server.bind` holds no keys"]);
    given("", &[("XI_RELAY__", "1")]).fails(&["names no setting"]);
    given("\n\"server.bind\" = \"127.0.0.1:1\"\n", &[])
        .fails(&["relay.toml:2: unknown key `server.bind`"]);
    given("", &[("XI_RELAY__LOG.LEVEL", "info")]).fails(&["XI_RELAY__LOG.LEVEL: unknown key"]);
    given("", &[("XI_RELAY__UPSTREM", "{}")]).fails(&["XI_RELAY__UPSTREM: unknown key `upstrem`"]);
    given("[server.bind]\nport = 1\n", &[]).fails(&["relay.toml:1: `server.bind` must be "]);
}

#[test]
fn variables_of_others_are_left_alone() {
    let service = [
        ("XI_RELAY_PORT", "tcp://10.0.0.1:8080"),
        ("XI_RELAY_SERVICE_HOST", "10.0.0.1"),
    ];
    given("", &service).load();
}

#[test]
fn wrong_values_are_named_with_their_key_and_place() {
    given("[server]\nbind = 8080\n", &[]).fails(&["relay.toml:2: `server.bind` must be ", "8080"]);
    given("[server]\nbind = \"8080\"\n", &[])
        .fails(&["`server.bind`: give an IP address and a port"]);
    given("[server]\nping_interval = \"soon\"\n", &[]).fails(&[
        "relay.toml:2: `server.ping_interval` must be a duration such as \"20s\", not string \"soon\"",
    ]);
    given("[log]\nformat = \"xml\"\n", &[])
        .fails(&["`log.format` must be \"auto\", \"pretty\" or \"json\", not \"xml\""]);
    given("[log]\nformat = 3\n", &[]).fails(&["`log.format`"]);
    given("server = 3\n", &[]).fails(&["relay.toml:1: `server` must be "]);
    given("[metrics]\nmax_client_labels = -1\n", &[])
        .fails(&["relay.toml:2: `metrics.max_client_labels`"]);
    given("", &[("XI_RELAY__METRICS__MAX_CLIENT_LABELS", "many")])
        .fails(&["XI_RELAY__METRICS__MAX_CLIENT_LABELS: `metrics.max_client_labels` must be "]);
    given("[server]\ntls = \"on\"\n", &[]).fails(&["`server.tls`: tls must be \"off\", \"dev\""]);
    given("[log]\nlevel = \"loud\"\n", &[]).fails(&["log.level: `loud`"]);
    given("[server\nbind = 1", &[]).fails(&["relay.toml:1: not valid TOML"]);
}

/// `key` of `table`, with a value below its range and one above it.
#[track_caller]
fn has_range(table: &str, key: &str, below: Option<&str>, above: &str, range: &str) {
    for value in below.into_iter().chain([above]) {
        let named = format!("`{table}.{key}` {range}");
        given(&format!("[{table}]\n{key} = {value}\n"), &[]).fails(&[&named]);
    }
}

#[test]
fn every_duration_has_a_range() {
    let check = |table: &str, key: &str| {
        let range = "must be between 1ms and 30days";
        has_range(table, key, Some("\"0s\""), "\"31days\"", range);
        has_range(table, key, None, "\"500000000000y\"", range);
    };
    for key in [
        "header_timeout",
        "credential_timeout",
        "body_timeout",
        "ping_interval",
        "write_timeout",
        "close_timeout",
    ] {
        check("server", key);
    }
    check("upstream", "connect_timeout");
    check("upstream", "http_read_timeout");
    check("upstream.warm", "max_age");
    check("sandbox", "dialogue_inactivity");

    for (table, key) in [
        ("server", "drain_timeout"),
        ("server", "refusal_delay"),
        ("server", "inactivity_grace"),
        ("sandbox", "first_audio_delay"),
        ("sandbox", "close_delay"),
    ] {
        let range = "must be between 0s and 30days";
        has_range(table, key, None, "\"500000000000y\"", range);
        given(&format!("[{table}]\n{key} = \"0s\"\n"), &[]).load();
    }
}

#[test]
fn every_number_has_a_range() {
    const HUGE: &str = "9000000000000000000";
    let check = |table: &str, key: &str, below: &str, range: &str| {
        has_range(table, key, Some(below), HUGE, range);
    };
    check(
        "server",
        "max_unauthenticated_message_bytes",
        "0",
        "must be between 64 and ",
    );
    check("server", "max_body_bytes", "0", "must be between 64 and ");
    check(
        "upstream",
        "max_message_bytes",
        "0",
        "must be between 64 and ",
    );
    for key in ["connections_per_second", "connection_burst"] {
        let range = "must be between 1 and 1000000";
        has_range("server", key, None, "1000001", range);
        has_range("server", key, Some("0"), HUGE, "must be ");
    }
    for (table, key) in [
        ("server", "max_unauthenticated_sockets"),
        ("upstream", "max_dialogue_sessions"),
        ("upstream.warm", "min"),
        ("upstream.warm", "max"),
        ("sandbox", "character_limit"),
        ("metrics", "max_client_labels"),
    ] {
        has_range(table, key, None, HUGE, "must be between 0 and ");
        given(&format!("[{table}]\n{key} = 0\n"), &[]).load();
    }
    given("[upstream.warm]\nmin = 9\nmax = 3\n", &[])
        .fails(&["`upstream.warm.min` must be at most `upstream.warm.max`, which is 3"]);
    given("[upstream.warm]\nmin = 9\nmax = 0\n", &[]).load();
}

#[test]
fn plans_rates_and_books_are_checked_by_their_own_rules() {
    given("[plans.gold]\nmax_session_duration = \"0s\"\n", &[])
        .fails(&["plans.gold.max_session_duration"]);
    given(
        "[plans.gold]\nwindows = [{ unit = \"words\", limit = 1, per = \"day\" }]\n",
        &[],
    )
    .fails(&["relay.toml:2: `plans.gold.windows[0].unit` must be \"characters\""]);
    given("[credits_per_character]\neleven_v3 = -1\n", &[])
        .fails(&["credits_per_character.eleven_v3"]);
    given("[usage]\nlease = \"1ms\"\n", &[]).fails(&["usage.lease"]);
}

#[test]
fn the_examples_for_production_are_good() {
    for example in ["production.toml", "replicas.toml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("config")
            .join(example);
        let text = fs::read_to_string(file).unwrap();
        // Their files stand in for those of a real machine.
        let text = text
            .replace("/run/secrets", "DIR")
            .replace("/etc/xi-relay", "DIR");
        let given = given(&text, &[]).with_file("redis_password", "canary\n", 0o600);
        given.with_file("backend.pem", PUBLIC_KEY, 0o644).load();
    }
}

#[test]
fn a_missing_file_is_named() {
    let sources = Sources {
        file: Some("/nowhere/relay.toml".into()),
        variables: Vec::new(),
    };
    let error = Settings::load(&sources).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read /nowhere/relay.toml: "),
        "{error}"
    );
}

#[test]
fn the_upstream_key_comes_from_a_variable_or_a_file() {
    let key = |given: &Given| {
        given
            .load()
            .api_key
            .map(|key| key.expose_secret().to_owned())
    };
    assert_eq!(key(&given("", &[])), None);
    assert_eq!(key(&given("", &[("ELEVENLABS_API_KEY", "  ")])), None);
    assert_eq!(
        key(&given("", &[("ELEVENLABS_API_KEY", "canary")])).as_deref(),
        Some("canary")
    );

    let from_file = given("", &[("ELEVENLABS_API_KEY_FILE", "DIR/key")]);
    let from_file = from_file.with_file("key", "canary\r\n", 0o600);
    assert_eq!(key(&from_file).as_deref(), Some("canary"));
    assert!(from_file.load().warnings.is_empty());
    let open = from_file.with_file("key", "canary\n", 0o644);
    assert!(open.load().warnings[0].contains("everybody on this machine can read"));
    assert!(!format!("{:?}", open.load()).contains("canary"));
    open.with_file("key", "\n", 0o600)
        .fails(&["ELEVENLABS_API_KEY_FILE: ", "key is empty"]);
    given("", &[("ELEVENLABS_API_KEY_FILE", "DIR/none")])
        .fails(&["ELEVENLABS_API_KEY_FILE: cannot read", "none"]);
    given("", &[("ELEVENLABS_API_KEY_FILE", "DIR")]).fails(&["is no file"]);
    given(
        "",
        &[
            ("ELEVENLABS_API_KEY_FILE", "DIR/key"),
            ("ELEVENLABS_API_KEY", "canary"),
        ],
    )
    .fails(&["both set"]);
    let spaced =
        given("", &[("ELEVENLABS_API_KEY", "canary one")]).fails(&["ELEVENLABS_API_KEY holds"]);
    assert!(!spaced.contains("canary"));
    for (file, variables) in [
        ("[upstream]\napi_key = \"canary\"\n", vec![]),
        ("", vec![("XI_RELAY__UPSTREAM__API_KEY", "canary")]),
    ] {
        let error = given(file, &variables).fails(&["set ELEVENLABS_API_KEY"]);
        assert!(!error.contains("canary"));
    }
}

#[test]
fn secret_settings_can_be_files() {
    let given_file = |variable: &str, file: &str| {
        given(file, &[(variable, "DIR/secret")]).with_file("secret", "canary\n", 0o600)
    };
    let both = "[usage]\nredis_password = \"canary\"\n";
    given_file("XI_RELAY__USAGE__REDIS_PASSWORD_FILE", both).fails(&["are both set"]);
    let good = given_file("XI_RELAY__USAGE__REDIS_PASSWORD_FILE", "");
    let root = good.sources.tree(&mut Vec::new()).unwrap();
    let node = tree::get(&root, &["usage", "redis_password"]).unwrap();
    assert_eq!(node.value, tree::Value::String("canary".into()));
    assert!(!Settings::show(&good.sources).unwrap().contains("canary"));
}

#[test]
fn what_is_shown_has_no_secrets_and_says_where_it_comes_from() {
    let file = format!(
        "[[clients]]\nid = \"web\"\ntoken_sha256 = \"{HASH}\"\n\
         [usage]\nstore = \"redis://relay:canary@redis:6379/0\"\nredis_password = \"canary\"\n\
         [sandbox]\napi_keys = [\"canary\"]\n[auth.jwt.\"my issuer\"]\nsecret = \"canary\"\n"
    );
    let given = given(&file, &[("XI_RELAY__LOG__LEVEL", "debug")]);
    let shown = Settings::show(&given.sources).unwrap();
    assert!(
        !shown.contains("canary") && !shown.contains(HASH),
        "{shown}"
    );
    for line in [
        "bind = \"127.0.0.1:8080\"\n",
        "level = \"debug\" # XI_RELAY__LOG__LEVEL\n",
        "[[clients]]\n",
        "store = \"redis://relay:[hidden]@redis:6379/0\" # ",
        "[auth.jwt.\"my issuer\"]\n",
    ] {
        assert!(shown.contains(line), "{line:?} in {shown}");
    }
    // Apart from what is hidden it could be read again.
    Layers::new("").add_file("shown", &shown).unwrap();
}

#[test]
fn recording_is_said_and_needs_a_place() {
    let plan = "[plans.gold]\nrecord = true\n";
    given(plan, &[]).fails(&["`plans.gold.record`", "`recording.directory`"]);
    let warning = |file: &str, part: &str| {
        let warnings = given(file, &[]).load().warnings;
        assert!(
            warnings.iter().any(|warning| warning.contains(part)),
            "{warnings:?}"
        );
    };
    let place = "[recording]\ndirectory = \"tapes\"\n";
    warning(
        &format!("{plan}{place}"),
        "SESSIONS ARE RECORDED, those of the plans gold:",
    );
    warning(
        &format!("{place}sessions = \"all\"\n"),
        "ALL SESSIONS ARE RECORDED",
    );
    warning(place, "nothing is recorded");
    assert!(given("", &[]).load().warnings.is_empty());
}

#[test]
fn strangers_are_not_let_in_by_accident() {
    given("[server]\nbind = \"0.0.0.0:8080\"\n", &[])
        .fails(&["`server.bind` is 0.0.0.0:8080", "xi-relay token new NAME"]);
    given("[operator]\nbind = \"[::]:8081\"\n", &[]).fails(&["`operator.bind` is [::]:8081"]);
    given("[operator]\nbind = \"127.0.0.1:8080\"\n", &[]).fails(&["same address"]);
    let anywhere = given("[server]\nbind = \"0.0.0.0:8080\"\n", &[]);
    let sandbox = Settings::load_for_sandbox(&anywhere.sources).unwrap();
    assert!(!sandbox.server.bind.is_loopback());
    let client = format!("[[clients]]\nid = \"web\"\ntoken_sha256 = \"{HASH}\"\n");
    let exposed = given(&format!("{client}[server]\nbind = \"0.0.0.0:8080\"\n"), &[]).load();
    assert!(
        exposed.warnings[0].contains("without TLS"),
        "{:?}",
        exposed.warnings
    );
    let keyless = [("XI_RELAY__UPSTREAM__BASE_URL", "wss://api.elevenlabs.io")];
    let keyless = given("", &keyless).load();
    assert!(
        keyless.warnings[0].contains("without a key"),
        "{:?}",
        keyless.warnings
    );
    for (base_url, is_warned) in [
        ("ws://192.0.2.1:80", true),
        ("http://speech.internal", true),
        ("wss://192.0.2.1", false),
        ("ws://127.0.0.1:9", false),
        ("ws://[::1]:9", false),
        ("ws://localhost:9", false),
    ] {
        let variables = [
            ("XI_RELAY__UPSTREAM__BASE_URL", base_url),
            ("ELEVENLABS_API_KEY", "not-a-key"),
        ];
        let warnings = given("", &variables).load().warnings;
        let is_said = warnings
            .iter()
            .any(|warning| warning.contains("in the clear"));
        assert_eq!(is_said, is_warned, "{base_url}: {warnings:?}");
    }
    given(&client.repeat(2), &[]).fails(&["clients.web.id"]);
    given(&format!("{client}plan = \"gold\"\n"), &[]).fails(&["plan", "gold"]);
    let pasted = given(
        "[[clients]]\nid = \"web\"\ntoken_sha256 = \"canary\"\n",
        &[],
    )
    .fails(&["clients[0].token_sha256", "64 hex digits"]);
    assert!(!pasted.contains("canary"));
}
