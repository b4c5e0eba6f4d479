//! The settings: the modules' own tables, composed, loaded and checked.
//!
//! The defaults inside the binary come first, the file over them, the environment over that:
//! `XI_RELAY__SERVER__BIND` is `server.bind`. A value in a variable is read as TOML where the
//! setting wants more than text, so lists and whole tables can be given too. Unknown keys are
//! refused, whoever gave them.

mod error;
mod layers;
mod listen;
mod nearest;
mod reader;
mod secret;
mod show;
mod tree;
mod validate;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use secrecy::SecretString;

pub use self::error::Error;
pub use self::listen::{Bind, Listening, Operator, Server};

use self::layers::Layers;
use self::reader::Reader;
use self::tree::Table;
use crate::{auth, http, log, metrics, quota, sandbox, session, upstream, usage};

/// Every key with its default and a line about it.
pub const DEFAULTS: &str = include_str!("../../config/default.toml");

/// What variables that are settings begin with. Single underscores are left alone: Kubernetes sets
/// `XI_RELAY_PORT` and the like for a service of that name.
const VARIABLE_PREFIX: &str = "XI_RELAY__";

/// Everything that can be set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `[server]`: the listener.
    pub server: Server,
    /// `[server]`: requests.
    pub http: http::Config,
    /// `[server]`: deadlines of sessions.
    pub timing: session::Timing,
    /// `[operator]`
    pub operator: Operator,
    /// `[upstream]`
    pub upstream: upstream::Config,
    /// `ELEVENLABS_API_KEY`, or what stood in the file that `ELEVENLABS_API_KEY_FILE` names.
    pub api_key: Option<SecretString>,
    /// `[sandbox]`
    pub sandbox: sandbox::Config,
    /// `[auth]`
    pub auth: auth::Config,
    /// `[[clients]]`
    pub clients: Vec<auth::ClientConfig>,
    /// `[plans.NAME]`
    pub plans: BTreeMap<String, quota::PlanConfig>,
    /// `[credits_per_character]`
    pub rates: quota::RatesConfig,
    /// `[usage]`
    pub usage: usage::Config,
    /// `[recording]`
    pub recording: session::RecordingConfig,
    /// `[log]`
    pub log: log::Config,
    /// `[metrics]`
    pub metrics: metrics::Config,
    /// What is allowed and probably not meant, a sentence each.
    pub warnings: Vec<String>,
}

/// Where settings come from. Reading them again gives those of now.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// Environment variables: names and values.
    pub variables: Vec<(String, String)>,
}

impl Sources {
    /// The file and this process's environment.
    ///
    /// # Errors
    /// When a variable that is a setting is not UTF-8.
    pub fn from_process(file: Option<PathBuf>) -> Result<Self, Error> {
        let mut variables = Vec::new();
        for (name, value) in std::env::vars_os() {
            // Other programs' variables are none of our business.
            let Ok(name) = name.into_string() else {
                continue;
            };
            if !name.starts_with(VARIABLE_PREFIX) && !name.starts_with("ELEVENLABS_API_KEY") {
                continue;
            }
            let value = value
                .into_string()
                .map_err(|_| Error::overall(format!("{name} is not UTF-8 text")))?;
            variables.push((name, value));
        }
        variables.sort();
        Ok(Self { file, variables })
    }

    /// Sets a key, such as `server.bind`, as its variable would; an option of the command line
    /// lies over the whole environment.
    pub fn set(&mut self, key: &str, value: &str) {
        let name = format!("{VARIABLE_PREFIX}{}", key.replace('.', "__").to_uppercase());
        self.variables
            .retain(|(known, _)| !known.eq_ignore_ascii_case(&name));
        self.variables.push((name, value.to_owned()));
    }

    fn variable(&self, wanted: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.as_str())
    }

    /// All layers in one tree.
    fn tree(&self, warnings: &mut Vec<String>) -> Result<Table, Error> {
        let mut layers = Layers::new(DEFAULTS);
        if let Some(file) = &self.file {
            let shown = file.display().to_string();
            let text = fs::read_to_string(file)
                .map_err(|error| Error::overall(format!("cannot read {shown}: {error}")))?;
            layers.add_file(&shown, &text)?;
        }
        for (name, value) in &self.variables {
            let Some(path) = name.strip_prefix(VARIABLE_PREFIX) else {
                continue;
            };
            let path: Vec<&str> = path.split("__").collect();
            if path.iter().any(|key| key.is_empty()) {
                let message = "names no setting: write XI_RELAY__TABLE__KEY";
                return Err(Error::overall(format!("{name} {message}")));
            }
            layers.add_variable(name, &path, value)?;
        }
        let mut root = layers.tree();
        secret::load_files(&mut root, warnings)?;
        Ok(root)
    }
}

impl Settings {
    /// Reads and checks everything.
    ///
    /// # Errors
    /// The first mistake: where, which key, and the cure, in one line without any secret.
    pub fn load(sources: &Sources) -> Result<Self, Error> {
        let mut settings = Self::load_for_sandbox(sources)?;
        validate::exposure(&settings)?;
        validate::warn(&mut settings);
        Ok(settings)
    }

    /// Reads and checks everything for a relay that runs, and goes on to listen where it does.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_again(sources: &Sources, listening: Listening) -> Result<Self, Error> {
        let settings = Self::load(sources)?;
        validate::still_closed(&settings, listening)?;
        Ok(settings)
    }

    /// Reads and checks everything for the sandbox alone. It lends nothing to whoever comes, so it
    /// may listen anywhere without clients.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn load_for_sandbox(sources: &Sources) -> Result<Self, Error> {
        let mut warnings = Vec::new();
        let root = sources.tree(&mut warnings)?;
        let (mut settings, reader) = Self::read(&root)?;
        reader.finish(&root)?;
        settings.api_key = secret::api_key(|name| sources.variable(name), &mut warnings)?;
        settings.warnings = warnings;
        validate::values(&settings)?;
        Ok(settings)
    }

    /// The settings in effect as TOML, with secrets hidden and the place of whatever is not a
    /// default.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn show(sources: &Sources) -> Result<String, Error> {
        sources.tree(&mut Vec::new()).map(|root| show::show(&root))
    }

    fn read(root: &Table) -> Result<(Self, Reader), Error> {
        let reader = Reader::default();
        let settings = Self {
            server: reader.read(root, "server")?,
            http: reader.read(root, "server")?,
            timing: reader.read(root, "server")?,
            operator: reader.read(root, "operator")?,
            upstream: reader.read(root, "upstream")?,
            api_key: None,
            sandbox: reader.read(root, "sandbox")?,
            auth: reader.read(root, "auth")?,
            clients: reader.read(root, "clients")?,
            plans: reader.read(root, "plans")?,
            rates: reader.read(root, "credits_per_character")?,
            usage: reader.read(root, "usage")?,
            recording: reader.read(root, "recording")?,
            log: reader.read(root, "log")?,
            metrics: reader.read(root, "metrics")?,
            warnings: Vec::new(),
        };
        Ok((settings, reader))
    }
}

#[cfg(test)]
mod tests;
