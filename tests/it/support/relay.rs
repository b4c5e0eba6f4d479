//! The relay's own binary, started with a configuration of the test's and stopped with the test.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use toml::Table;

use super::http::{Request, Response};
use super::{PATIENCE, eventually};

/// The key that only upstream may see.
pub const UPSTREAM_KEY: &str = "upstream-key-of-the-tests-4f1d";
/// The token of the client `web`, which only the relay may see.
pub const TOKEN: &str = "client-token-of-the-tests-9a7c";
/// The token of the client `other`.
pub const OTHER_TOKEN: &str = "other-token-of-the-tests-02be";

/// What every test starts from; generous, so that a test sets only the limit that it is about.
const BASE: &str = r#"
[server]
bind = "127.0.0.1:0"
connections_per_second = 100000
connection_burst = 100000

[operator]
bind = "127.0.0.1:0"

[plans.default]
max_concurrent_sessions = 10000
max_messages_per_second = 100000

[usage]
store = "memory"

[log]
format = "json"
"#;

pub struct TestRelay {
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where the operator connects.
    pub operator: SocketAddr,
    child: Child,
    log: Log,
    /// Its configuration and working directory, removed with it.
    dir: TempDir,
}

/// Everything the process has printed, and whether anyone reads on.
#[derive(Clone, Default)]
struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    stalled: Arc<AtomicBool>,
}

impl TestRelay {
    /// In front of `upstream`, with `toml` laid over the common configuration.
    #[track_caller]
    pub fn start(upstream: SocketAddr, toml: &str) -> Self {
        Self::launch(&[&in_front_of(upstream), configured_clients(), toml], &[])
    }

    /// With exactly these tables over the common configuration, and these environment variables.
    #[track_caller]
    pub fn launch(toml: &[&str], env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let table = configuration(toml);
        let config = dir.path().join("relay.toml");
        std::fs::write(&config, table.to_string()).unwrap();

        let mut child = command(&dir)
            .arg("--config")
            .arg(&config)
            .env("ELEVENLABS_API_KEY", UPSTREAM_KEY)
            .envs(env.iter().copied())
            .spawn()
            .expect("the binary starts");
        let log = Log::default();
        log.follow(child.stdout.take().expect("piped"));
        log.follow(child.stderr.take().expect("piped"));
        let Some(listening) = log.find(
            |line| line["message"] == "listening",
            || child.try_wait().is_ok_and(|status| status.is_none()),
        ) else {
            panic!("the relay did not start:\n{}\n{table}", log.text());
        };
        let address = |name: &str| {
            let text = listening[name]
                .as_str()
                .unwrap_or_else(|| panic!("{name} in {listening}"));
            text.parse()
                .unwrap_or_else(|e| panic!("{name} {text}: {e}"))
        };
        Self {
            address: address("address"),
            operator: address("operator"),
            child,
            log,
            dir,
        }
    }

    /// An upgrade with the token of `web` in a header.
    pub fn authorized(&self, target: &str) -> Request {
        Request::upgrade(target).with("xi-api-key", TOKEN)
    }

    /// Puts exactly these tables over the common configuration and has the relay read it again.
    pub fn reload(&self, toml: &[&str]) {
        let config = self.dir.path().join("relay.toml");
        std::fs::write(config, configuration(toml).to_string()).unwrap();
        self.signal("HUP");
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    // The operator's side.

    #[track_caller]
    pub fn operator(&self, method: &str, path: &str) -> Response {
        Request::plain(method, path).send(self.operator)
    }

    /// The whole of `/metrics`.
    #[track_caller]
    pub fn metrics(&self) -> String {
        self.operator("GET", "/metrics").text()
    }

    /// The sum of a metric over all its labels; `None` if it does not exist.
    #[track_caller]
    pub fn metric(&self, name: &str) -> Option<f64> {
        let metrics = self.metrics();
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            rest.starts_with(['{', ' '])
                .then(|| rest.rsplit(' ').next()?.parse::<f64>().ok())?
        });
        values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
    }

    /// The live sessions.
    #[track_caller]
    pub fn sessions(&self) -> Vec<Value> {
        let answer = self.operator("GET", "/sessions").json();
        let list = answer.as_array().or_else(|| answer["sessions"].as_array());
        list.unwrap_or_else(|| panic!("a list of sessions: {answer}"))
            .clone()
    }

    /// Resident memory, in kB.
    pub fn memory_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    // The log.

    /// Everything printed so far.
    pub fn log_text(&self) -> String {
        self.log.text()
    }

    /// Every JSON line printed so far.
    pub fn log_lines(&self) -> Vec<Value> {
        self.log
            .lines
            .lock()
            .unwrap()
            .iter()
            .filter_map(|line| parse_line(line))
            .collect()
    }

    /// Waits for a log line.
    #[track_caller]
    pub fn expect_log(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        self.log.find(is_it, || true).unwrap_or_else(|| {
            panic!(
                "no log line within {PATIENCE:?}: {what}\n{}",
                self.log.text()
            )
        })
    }

    /// Nobody reads the log any more, but the pipe stays open.
    pub fn stall_log(&self) {
        self.log.stalled.store(true, Ordering::SeqCst);
    }

    pub fn resume_log(&self) {
        self.log.stalled.store(false, Ordering::SeqCst);
    }

    // The process.

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success(), "kill -s {name} {pid}");
    }

    /// Waits for the process to end by itself.
    #[track_caller]
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "still running after {patience:?}"
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until no session is left.
    #[track_caller]
    pub fn wait_until_idle(&self) {
        eventually("no live session", || {
            self.sessions().is_empty().then_some(())
        });
    }
}

impl Drop for TestRelay {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let text = self.log.text();
            let tail = text.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
            use std::io::Write as _;
            // The last words of a failed test; nothing else can be done if they do not get out.
            let _ = writeln!(
                std::io::stdout(),
                "--- the relay's log ends:\n{}",
                &text[tail..]
            );
        }
    }
}

impl Log {
    fn follow(&self, pipe: impl Read + Send + 'static) {
        let log = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                log.lines.lock().unwrap().push(line);
                while log.stalled.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(20));
                }
            }
        });
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    fn find(
        &self,
        is_it: impl Fn(&Value) -> bool,
        mut go_on: impl FnMut() -> bool,
    ) -> Option<Value> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        loop {
            let is_last_look = Instant::now() > deadline || !go_on();
            let lines = self.lines.lock().unwrap()[seen..].to_vec();
            seen += lines.len();
            if let Some(found) = lines
                .iter()
                .filter_map(|line| parse_line(line))
                .find(&is_it)
            {
                return Some(found);
            }
            if is_last_look {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The binary with a clean environment and its output piped, not yet started.
pub fn command(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xi-relay"));
    command
        .env_clear()
        .envs(std::env::var_os("LLVM_PROFILE_FILE").map(|v| ("LLVM_PROFILE_FILE", v)))
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The table that puts a relay in front of an upstream.
pub fn in_front_of(upstream: SocketAddr) -> String {
    format!("[upstream]\nbase_url = \"ws://{upstream}\"\n")
}

/// The tables of the clients `web` and `other`.
pub fn configured_clients() -> &'static str {
    static CLIENTS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    CLIENTS.get_or_init(clients)
}

fn clients() -> String {
    [("web", TOKEN), ("other", OTHER_TOKEN)]
        .map(|(id, token)| {
            let hash = sha256_hex(token);
            format!("[[clients]]\nid = \"{id}\"\ntoken_sha256 = \"{hash}\"\nplan = \"default\"\n")
        })
        .concat()
}

/// How a token stands in the configuration.
pub fn sha256_hex(token: &str) -> String {
    Sha256::digest(token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn parse_line(line: &str) -> Option<Value> {
    let value: Value = serde_json::from_str(line).ok()?;
    value.is_object().then_some(value)
}

/// The common configuration with `layers` laid over it.
#[track_caller]
fn configuration(layers: &[&str]) -> Table {
    let mut table = Table::new();
    for layer in [BASE].iter().chain(layers) {
        let layer = layer.parse().unwrap_or_else(|e| panic!("{e}\n{layer}"));
        lay_over(&mut table, layer);
    }
    table
}

/// Tables are merged key by key, everything else replaces what was there.
fn lay_over(table: &mut Table, layer: Table) {
    for (key, value) in layer {
        match (table.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                table.insert(key, value);
            }
        }
    }
}
