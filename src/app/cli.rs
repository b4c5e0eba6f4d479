//! The commands: what they are called, and those that need no running relay.

use std::convert::Infallible;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Args, Parser, Subcommand, ValueEnum};
use secrecy::{ExposeSecret, SecretString};

use super::health;
use super::single_use::{REVOKED_FOR, key};
use super::usage::{self, UsageArguments};
use crate::auth::{NewToken, TokenHash};
use crate::config::{Settings, Sources};
use crate::http::{ServerTls, TlsMode};
use crate::ids::ClientId;
use crate::sandbox;

/// Stands where ElevenLabs' text-to-speech API stood: holds the key, enforces quotas, forwards.
#[derive(Debug, Parser)]
#[command(name = "xi-relay", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// Settings that lie over the defaults; the environment lies over both
    #[arg(long, global = true, value_name = "FILE", env = "XI_RELAY_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArguments,
}

#[derive(Debug, Args)]
struct ServeArguments {
    /// Write every session down in this directory, text and audio included, to be replayed
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SandboxArguments {
    /// Answer as upstream did in the recorded sessions of this directory
    #[arg(long, value_name = "DIR")]
    replay: Option<PathBuf>,
    /// How fast: as recorded, or as fast as possible
    #[arg(long, value_enum, requires = "replay")]
    replay_speed: Option<ReplaySpeed>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ReplaySpeed {
    Recorded,
    Fast,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay; this is what happens without a command
    Serve(ServeArguments),
    /// Run the offline ElevenLabs alone, at server.bind
    #[command(after_help = faults_help())]
    Sandbox(SandboxArguments),
    /// Check the settings and print them with secrets hidden
    Check,
    /// Make tokens for clients, and withdraw them
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print who used what, from the usage store
    Usage(UsageArguments),
    /// Exit with 0 when the running relay is ready, else with 1
    Health,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new token once, and the lines that let its client in
    New {
        /// The client's name in logs, metrics and the ledger
        #[arg(value_parser = ClientId::parse)]
        client: ClientId,
        /// The plan whose limits apply
        #[arg(long, default_value = "default")]
        plan: String,
    },
    /// Withdraw a token; sessions that rest on it end within seconds
    Revoke {
        /// The token, or its SHA-256 in hex; "-" reads it from standard input, where other users of
        /// the machine cannot see it
        #[arg(value_parser = |text: &str| Ok::<_, Infallible>(SecretString::from(text)))]
        token: SecretString,
    },
}

/// What is left to do.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing.
    Done,
    /// Nothing, and the answer was no.
    Unhealthy,
    /// Run the relay; `Sources` gives the settings anew on SIGHUP.
    Serve(Box<Settings>, Sources),
    /// Run the sandbox.
    Sandbox(Box<Settings>),
}

/// Carries out a command, or loads the settings for one that runs. Results go to `out`, remarks to
/// `remarks`.
///
/// # Errors
/// One line that names the cause and the cure.
pub fn run(arguments: Arguments, out: &mut dyn Write, remarks: &mut dyn Write) -> Result<Outcome> {
    let (out, remarks) = (&mut UntilClosed(out), &mut UntilClosed(remarks));
    let sources = || Sources::from_process(arguments.config.clone());
    let top = arguments.serve;
    match arguments
        .command
        .unwrap_or(Command::Serve(ServeArguments { record: None }))
    {
        Command::Serve(serve) => {
            let mut sources = sources()?;
            if let Some(directory) = serve.record.or(top.record) {
                sources.set("recording.directory", path_text(&directory)?);
                sources.set("recording.sessions", "all");
            }
            Ok(Outcome::Serve(Box::new(Settings::load(&sources)?), sources))
        }
        Command::Sandbox(sandbox) => {
            let mut sources = sources()?;
            if let Some(directory) = &sandbox.replay {
                sources.set("sandbox.replay", path_text(directory)?);
            }
            match sandbox.replay_speed {
                Some(ReplaySpeed::Recorded) => sources.set("sandbox.replay_pace", "recorded"),
                Some(ReplaySpeed::Fast) => sources.set("sandbox.replay_pace", "fast"),
                None => {}
            }
            let settings = Settings::load_for_sandbox(&sources)?;
            Ok(Outcome::Sandbox(Box::new(settings)))
        }
        Command::Check => check(&sources()?, out, remarks).map(|()| Outcome::Done),
        Command::Token(TokenCommand::New { client, plan }) => {
            new_token(&client, &plan, out).context("cannot print the token")?;
            Ok(Outcome::Done)
        }
        Command::Token(TokenCommand::Revoke { token }) => {
            let settings = Settings::load(&sources()?)?;
            revoke(token, &settings.usage, out)?;
            Ok(Outcome::Done)
        }
        Command::Usage(arguments) => {
            let settings = Settings::load(&sources()?)?;
            usage::print(&arguments, &settings.usage, out)?;
            Ok(Outcome::Done)
        }
        Command::Health => {
            // Docker knows no other answers than 0 and 1.
            let healthy = sources().and_then(|sources| Settings::load(&sources));
            let healthy = healthy.map_err(anyhow::Error::from).and_then(|settings| {
                health::ask(settings.operator.bind.from_here(), health::LIMIT)
            });
            match healthy {
                Ok(()) => Ok(Outcome::Done),
                Err(error) => {
                    writeln!(remarks, "xi-relay: not ready: {error:#}")?;
                    Ok(Outcome::Unhealthy)
                }
            }
        }
    }
}

/// Takes what is printed for a reader that may stop reading, as `head` does: what comes then is
/// for nobody, and no mistake.
struct UntilClosed<'a>(&'a mut dyn Write);

impl Write for UntilClosed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(bytes.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.0.flush() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            flushed => flushed,
        }
    }
}

/// What can be made to go wrong in the sandbox, a line each.
fn faults_help() -> String {
    let mut help = "Every voice id speaks. These make something go wrong instead:".to_owned();
    for (voice, what) in sandbox::faults() {
        help.push_str(&format!("\n  {voice:<26} {what}"));
    }
    help
}

/// Settings are text.
fn path_text(path: &Path) -> Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8 text", path.display()))
}

fn check(sources: &Sources, out: &mut dyn Write, remarks: &mut dyn Write) -> Result<()> {
    let settings = Settings::load(sources)?;
    if matches!(settings.server.tls, TlsMode::Files { .. }) {
        ServerTls::load(&settings.server.tls)?;
    }
    out.write_all(Settings::show(sources)?.as_bytes())?;
    let key = match settings.api_key {
        Some(_) => "# ELEVENLABS_API_KEY is set",
        None => "# ELEVENLABS_API_KEY is not set",
    };
    writeln!(out, "\n{key}")?;
    for warning in &settings.warnings {
        writeln!(remarks, "xi-relay: warning: {warning}")?;
    }
    Ok(())
}

/// Revokes a token in the store, from where running relays learn of it.
fn revoke(token: SecretString, config: &crate::usage::Config, out: &mut dyn Write) -> Result<()> {
    let token = match token.expose_secret() {
        "-" => {
            let mut line = String::new();
            io::stdin()
                .read_line(&mut line)
                .context("cannot read the token")?;
            line.into()
        }
        _ => token,
    };
    let token = SecretString::from(token.expose_secret().trim());
    ensure!(
        !token.expose_secret().is_empty(),
        "an empty token cannot be revoked"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut waited = false;
    for hash in TokenHash::all_to_revoke(&token) {
        let revoked = crate::usage::revoke(config, key(hash), REVOKED_FOR);
        waited |= runtime
            .block_on(revoked)
            .map_err(|error| anyhow!("{error}"))?;
    }
    let what = match waited {
        true => "revoked; it was a single-use token that nobody had used",
        false => "revoked; sessions that rest on it end within seconds",
    };
    writeln!(out, "{what}").context("cannot print the answer")
}

fn new_token(client: &ClientId, plan: &str, out: &mut dyn Write) -> io::Result<()> {
    let new = NewToken::for_client();
    writeln!(out, "{}", new.token.expose_secret())?;
    writeln!(
        out,
        "\nThis token is shown only now. Give it to {client} in place of its ElevenLabs"
    )?;
    writeln!(
        out,
        "key, and add these lines to the configuration, which keep nothing but its hash:\n"
    )?;
    write!(out, "{}", new.configuration_rows(client, plan))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test is the point")]

    use super::*;

    fn arguments(line: &str) -> Arguments {
        Arguments::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn options_work_before_and_after_the_command() {
        for line in [
            "xi-relay --config a.toml check",
            "xi-relay check --config a.toml",
        ] {
            let parsed = arguments(line);
            assert_eq!(parsed.config, Some("a.toml".into()));
            assert!(matches!(parsed.command, Some(Command::Check)));
        }
        assert!(arguments("xi-relay --config a.toml").command.is_none());
        for wrong in ["xi-relay serv", "xi-relay token new", "xi-relay --listen x"] {
            assert!(
                Arguments::try_parse_from(wrong.split(' ')).is_err(),
                "{wrong}"
            );
        }
        assert!(Arguments::try_parse_from(["xi-relay", "token", "new", "a b"]).is_err());
    }

    #[test]
    fn the_help_of_the_sandbox_lists_its_faults() {
        let asked = Arguments::try_parse_from(["xi-relay", "sandbox", "--help"]).unwrap_err();
        let help = asked.to_string();
        for (voice, what) in sandbox::faults() {
            let line = help.lines().find(|line| line.contains(&voice));
            assert!(
                line.is_some_and(|line| line.ends_with(what)),
                "{voice} in {help}"
            );
        }
    }

    #[test]
    fn a_new_token_comes_with_the_lines_that_let_its_client_in() {
        let (mut out, mut remarks) = (Vec::new(), Vec::new());
        let parsed = arguments("xi-relay token new web --plan gold");
        assert!(matches!(
            run(parsed, &mut out, &mut remarks).unwrap(),
            Outcome::Done
        ));
        let text = String::from_utf8(out).unwrap();
        let (token, rest) = text.split_once('\n').unwrap();
        assert!(
            token
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        );
        let (_, rows) = rest.split_at(rest.find("[[clients]]").unwrap());
        let rows: toml::Table = rows.parse().unwrap();
        let row = &rows["clients"][0];
        let hash = crate::auth::TokenHash::of(&token.to_owned().into()).to_string();
        assert_eq!(row["token_sha256"].as_str(), Some(hash.as_str()));
        assert_eq!(row["id"].as_str(), Some("web"));
        assert_eq!(row["plan"].as_str(), Some("gold"));
    }

    /// A pipe whose reader has gone.
    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_mistake() {
        let done = run(
            arguments("xi-relay token new web"),
            &mut Closed,
            &mut Closed,
        );
        assert!(matches!(done.unwrap(), Outcome::Done));
    }

    #[test]
    fn settings_that_cannot_be_read_are_not_healthy() {
        let (mut out, mut remarks) = (Vec::new(), Vec::new());
        let asked = arguments("xi-relay health --config /nowhere/relay.toml");
        let outcome = run(asked, &mut out, &mut remarks).unwrap();
        assert!(matches!(outcome, Outcome::Unhealthy));
        let remarks = String::from_utf8(remarks).unwrap();
        assert!(
            remarks.contains("cannot read /nowhere/relay.toml"),
            "{remarks}"
        );
    }

    #[test]
    fn options_lie_over_the_settings() {
        for line in ["xi-relay --record a/b", "xi-relay serve --record a/b"] {
            let outcome = run(arguments(line), &mut Vec::new(), &mut Vec::new()).unwrap();
            let Outcome::Serve(settings, _) = outcome else {
                panic!("{outcome:?}")
            };
            assert_eq!(settings.recording.directory, Some("a/b".into()));
            assert_eq!(
                settings.recording.sessions,
                crate::session::RecordedSessions::All
            );
        }
        let line = "xi-relay sandbox --replay a --replay-speed fast";
        let outcome = run(arguments(line), &mut Vec::new(), &mut Vec::new()).unwrap();
        let Outcome::Sandbox(settings) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(settings.sandbox.replay, Some("a".into()));
        assert_eq!(
            settings.sandbox.replay_pace,
            crate::sandbox::ReplayPace::Fast
        );
    }

    #[test]
    fn check_prints_what_is_in_effect_or_the_mistake() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("relay.toml");
        std::fs::write(&file, "[log]\ntext = \"full\"\n").unwrap();
        let sources = Sources {
            file: Some(file.clone()),
            variables: Vec::new(),
        };
        let (mut out, mut remarks) = (Vec::new(), Vec::new());
        check(&sources, &mut out, &mut remarks).unwrap();
        assert!(
            String::from_utf8(out)
                .unwrap()
                .contains("text = \"full\" # ")
        );
        assert!(
            String::from_utf8(remarks)
                .unwrap()
                .contains("warning: log.text")
        );

        let tls = "[server]\ntls = { cert = \"/nowhere.pem\", key = \"/nowhere.pem\" }\n";
        std::fs::write(&file, tls).unwrap();
        let error = check(&sources, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere.pem"));

        std::fs::write(&file, "[log]\ntexts = \"full\"\n").unwrap();
        let error = check(&sources, &mut Vec::new(), &mut Vec::new()).unwrap_err();
        assert!(format!("{error:#}").contains("did you mean `log.text`?"));
    }
}
