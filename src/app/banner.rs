//! The few lines that tell a person what has just started, and what to try first.

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::Bind;

/// A voice that every account and the sandbox have.
const VOICE: &str = "JBFqnCBsd6RMkjVDRZzb";

/// What the banner tells.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Whether they speak TLS.
    pub has_tls: bool,
    /// `server.path_prefix`.
    pub path_prefix: &'a str,
    /// Where the operator's side listens.
    pub operator: SocketAddr,
    /// Where sessions go.
    pub upstream: Upstream<'a>,
    /// Who may come in.
    pub access: Access,
    /// `usage.store`, without its password.
    pub store: &'a str,
    /// What is allowed and probably not meant.
    pub warnings: &'a [String],
}

/// Where sessions go.
#[derive(Clone, Debug)]
pub enum Upstream<'a> {
    /// To the built-in sandbox, because of this.
    Sandbox {
        /// Such as `ELEVENLABS_API_KEY is not set`.
        because: &'a str,
        /// The recordings that it answers with, if not with tones.
        replay: Option<&'a Path>,
    },
    /// To this base URL.
    Remote {
        /// Such as `wss://api.elevenlabs.io`.
        base_url: &'a str,
        /// Whether there is a key to send.
        has_key: bool,
    },
}

/// Who may come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever reaches the listener.
    Open,
    /// Configured clients and bearers of JWTs.
    Tokens {
        /// Rows of `[[clients]]`.
        n_clients: usize,
        /// Tables of `[auth.jwt]`.
        n_issuers: usize,
    },
}

/// The banner, a newline after each line.
#[must_use]
pub fn banner(facts: &Facts<'_>) -> String {
    let scheme = if facts.has_tls { "wss" } else { "ws" };
    let prefix = facts.path_prefix.trim_end_matches('/');
    let base = format!("{scheme}://{}{prefix}", facts.clients);
    let upstream = match &facts.upstream {
        Upstream::Sandbox {
            because,
            replay: None,
        } => {
            format!("the built-in sandbox, because {because}; it answers with test tones")
        }
        Upstream::Sandbox {
            because,
            replay: Some(directory),
        } => {
            let directory = directory.display();
            format!("the built-in sandbox, because {because}; it replays {directory}")
        }
        Upstream::Remote {
            base_url,
            has_key: true,
        } => (*base_url).to_owned(),
        Upstream::Remote {
            base_url,
            has_key: false,
        } => format!("{base_url}, without a key"),
    };
    let access = match facts.access {
        Access::Open => "anybody on this machine, as no clients are configured".to_owned(),
        Access::Tokens {
            n_clients,
            n_issuers: 0,
        } => format!("{n_clients} configured"),
        Access::Tokens {
            n_clients,
            n_issuers,
        } => {
            let issuers = if n_issuers == 1 { "issuer" } else { "issuers" };
            format!("{n_clients} configured, {n_issuers} {issuers} of JWTs")
        }
    };
    let mut rows = vec![
        ("listening", base.clone()),
        ("upstream", upstream),
        ("clients", access),
        ("usage", facts.store.to_owned()),
        (
            "operator",
            format!(
                "http://{}/metrics /healthz /readyz /sessions /usage",
                facts.operator
            ),
        ),
    ];
    rows.extend(
        facts
            .warnings
            .iter()
            .map(|warning| ("warning", warning.clone())),
    );
    // Nobody can dial 0.0.0.0.
    let here = format!("{}{prefix}", Bind(facts.clients).from_here());
    rows.push(("try", try_socket(facts, &format!("{scheme}://{here}"))));
    let scheme = if facts.has_tls { "https" } else { "http" };
    rows.push(("or", try_http(facts, &format!("{scheme}://{here}"))));

    let mut out = format!("xi-relay {}\n", env!("CARGO_PKG_VERSION"));
    for (name, text) in rows {
        // A `String` takes whatever is written to it.
        let _ = writeln!(out, "  {name:<10} {text}");
    }
    out
}

/// A command that speaks through a socket. The message asks for its audio at once.
fn try_socket(facts: &Facts<'_>, base: &str) -> String {
    let token = token_option(facts.access);
    let trust = if facts.has_tls { " --no-check" } else { "" };
    format!(
        "npx wscat{trust}{token} -c '{base}/v1/text-to-speech/{VOICE}/stream-input' -w 3 \
         -x '{{\"text\":\"Hello there. \",\"flush\":true}}'"
    )
}

/// A command that has a file with speech made.
fn try_http(facts: &Facts<'_>, base: &str) -> String {
    let token = token_option(facts.access);
    let trust = if facts.has_tls { " -k" } else { "" };
    format!(
        "curl{trust}{token} '{base}/v1/text-to-speech/{VOICE}' -d '{{\"text\":\"Hello there.\"}}' \
         -o hello.mp3"
    )
}

/// How both commands show a token.
fn token_option(access: Access) -> &'static str {
    match access {
        Access::Open => "",
        Access::Tokens { .. } => " -H 'xi-api-key: TOKEN'",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts<'static> {
        Facts {
            clients: "127.0.0.1:8080".parse().expect("an address"),
            has_tls: false,
            path_prefix: "",
            operator: "127.0.0.1:8081".parse().expect("an address"),
            upstream: Upstream::Sandbox {
                because: "ELEVENLABS_API_KEY is not set",
                replay: None,
            },
            access: Access::Open,
            store: "sqlite:xi-relay.db",
            warnings: &[],
        }
    }

    #[test]
    fn without_any_settings_it_names_the_sandbox_and_why() {
        let expected = format!(
            "xi-relay {}\n\
             \x20 listening  ws://127.0.0.1:8080\n\
             \x20 upstream   the built-in sandbox, because ELEVENLABS_API_KEY is not set; it answers with test tones\n\
             \x20 clients    anybody on this machine, as no clients are configured\n\
             \x20 usage      sqlite:xi-relay.db\n\
             \x20 operator   http://127.0.0.1:8081/metrics /healthz /readyz /sessions /usage\n\
             \x20 try        npx wscat -c 'ws://127.0.0.1:8080/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb/stream-input' -w 3 -x '{{\"text\":\"Hello there. \",\"flush\":true}}'\n\
             \x20 or         curl 'http://127.0.0.1:8080/v1/text-to-speech/JBFqnCBsd6RMkjVDRZzb' -d '{{\"text\":\"Hello there.\"}}' -o hello.mp3\n",
            env!("CARGO_PKG_VERSION"),
        );
        assert_eq!(banner(&facts()), expected);
    }

    #[test]
    fn it_says_what_is_replayed() {
        let because = "upstream.base_url is \"sandbox\"";
        let upstream = Upstream::Sandbox {
            because,
            replay: Some(Path::new("tapes")),
        };
        let text = banner(&Facts {
            upstream,
            ..facts()
        });
        assert!(text.contains("it replays tapes\n"), "{text}");
    }

    #[test]
    fn it_follows_the_settings() {
        let warnings = ["careful".to_owned()];
        let text = banner(&Facts {
            clients: "0.0.0.0:443".parse().expect("an address"),
            has_tls: true,
            path_prefix: "/voice/",
            upstream: Upstream::Remote {
                base_url: "wss://api.elevenlabs.io",
                has_key: true,
            },
            access: Access::Tokens {
                n_clients: 2,
                n_issuers: 1,
            },
            warnings: &warnings,
            ..facts()
        });
        for part in [
            "listening  wss://0.0.0.0:443/voice\n",
            "upstream   wss://api.elevenlabs.io\n",
            "clients    2 configured, 1 issuer of JWTs\n",
            "warning    careful\n",
            "npx wscat --no-check -H 'xi-api-key: TOKEN' -c 'wss://127.0.0.1:443/voice/v1/",
            "curl -k -H 'xi-api-key: TOKEN' 'https://127.0.0.1:443/voice/v1/",
        ] {
            assert!(text.contains(part), "{part:?} in {text}");
        }
    }
}
