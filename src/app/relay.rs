//! The relay's life: ports, parts, signals, the end.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::banner::{Access, Facts, Upstream as Shown, banner};
use super::signals::{Signals, Wish};
use super::single_use::{TokensInBooks, keep_learning_revoked, learn_revoked};
use super::{sources, trim};
use crate::auth::Directory;
use crate::config::{Bind, Listening, Settings, Sources};
use crate::http::{
    CallerRules, Gateway, Parts, Plans, ServerTls, Workers, how_to_trust, serve_operator,
};
use crate::metrics::Metrics;
use crate::protocol::{Problem, Secrets};
use crate::quota::{Limits, Quota, Rates};
use crate::session::{Recordings, Registry, SessionEnd};
use crate::upstream::{BaseUrl, Upstream};
use crate::{log, sandbox, usage};

/// How long sessions that were told to end may take over it.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Files and sockets besides those of sessions: listeners, the store, warm connections, the log.
const RESERVED_FILES: u64 = 256;

/// What a worker needs for itself: what its runtime waits with.
const FILES_PER_WORKER: u64 = 8;

/// Runs the relay until a signal ends it.
///
/// # Errors
/// One line that names the cause and the cure, before any client was served.
pub fn run_relay(settings: Settings, sources: &Sources) -> Result<()> {
    let log = log::init(&settings.log)?;
    let runtime = match sandbox_reason(&settings) {
        Some(_) => multi_threaded()?,
        None => single_threaded()?,
    };
    let result = runtime.block_on(relay(settings, sources));
    drop(runtime);
    drop(log);
    result
}

/// Runs the sandbox alone, at `server.bind`, until a signal ends it.
///
/// # Errors
/// One line that names the cause and the cure.
pub fn run_sandbox(settings: &Settings) -> Result<()> {
    let log = log::init(&settings.log)?;
    let result = multi_threaded()?.block_on(async {
        let mut signals = Signals::new().context("cannot catch signals")?;
        let server = sandbox::Server::new(settings.sandbox.clone())?;
        let listener = listen("server.bind", settings.server.bind).await?;
        let address = listener.local_addr()?;
        say(&format!(
            "xi-relay sandbox, an offline ElevenLabs\n  listening  ws://{address} and http://{address}\n"
        ));
        if let Some(directory) = &settings.sandbox.replay {
            say(&format!("  replaying  the sessions recorded in {}\n", directory.display()));
        }
        tracing::info!(address = %address, "listening");
        let stopped = CancellationToken::new();
        let serving = server.serve(listener, stopped.clone());
        let stopping = async {
            signals.stop().await;
            stopped.cancel();
        };
        tokio::join!(serving, stopping).0.context("the sandbox failed")
    });
    drop(log);
    result
}

/// How many threads can run at once.
fn n_processors() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// The runtime of the main thread. What goes on there beside the workers is little.
fn single_threaded() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// A runtime for the sandbox, whose speech takes computing: with a thread for each processor; on
/// one processor, the caller's thread alone.
fn multi_threaded() -> Result<Runtime> {
    if n_processors() == NonZeroUsize::MIN {
        return single_threaded();
    }
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

async fn relay(settings: Settings, sources: &Sources) -> Result<()> {
    let mut signals = Signals::new().context("cannot catch signals")?;
    let recordings = recordings(&settings)?;
    let n_workers = n_processors();
    let max_sockets = max_sockets(recordings.is_some(), n_workers);
    let client_listener = listen("server.bind", settings.server.bind).await?;
    let operator_listener = listen("operator.bind", settings.operator.bind).await?;
    let tls = ServerTls::load(&settings.server.tls)?.map(Arc::new);
    let stopped = CancellationToken::new();

    let sandbox_reason = sandbox_reason(&settings);
    let (base_url, is_local) = match sandbox_reason {
        Some(_) => (start_sandbox(&settings, stopped.clone()).await?, true),
        None => (
            settings
                .upstream
                .base_url
                .clone()
                .unwrap_or_else(BaseUrl::elevenlabs),
            false,
        ),
    };
    let api_key = match (&settings.api_key, is_local) {
        (None, true) => Some("sandbox".to_owned().into()),
        (key, _) => key.clone(),
    };
    let mut upstream_config = settings.upstream.clone();
    if is_local && !upstream_config.warm.sandbox {
        upstream_config.warm.max = 0;
    }
    let upstream = Upstream::new(
        base_url.clone(),
        &upstream_config,
        api_key,
        is_local,
        n_workers,
    )?;
    let upstream = Arc::new(upstream);
    let books = usage::open(&settings.usage, usage::WallClock::system(), Arc::default())
        .await
        .map_err(|error| anyhow!("{error}"))?;
    let quota = Quota::new(Arc::clone(&books), Rates::new(&settings.rates)?);
    let directory = Arc::new(Directory::new(
        &settings.auth,
        &settings.clients,
        &plan_names(&settings),
        Arc::new(TokensInBooks(Arc::clone(&books))),
    )?);
    let metrics = Arc::new(Metrics::new(
        &settings.metrics,
        settings.rates.0.keys().cloned(),
    ));
    log::register_metrics(&metrics);
    sources::register_upstream(&metrics, Arc::clone(&upstream));
    sources::register_quota(&metrics, quota.clone());
    let registry = Arc::new(Registry::default());
    let parts = Parts {
        callers: CallerRules {
            origins: settings.http.allowed_origins.clone(),
            hosts: settings.http.allowed_hosts.clone(),
            bind: settings.server.bind.0.ip(),
        },
        config: settings.http.clone(),
        timing: settings.timing.clone(),
        directory: Arc::clone(&directory),
        quota: quota.clone(),
        upstream: Arc::clone(&upstream),
        max_upstream_message_bytes: settings.upstream.max_message_bytes,
        max_dialogue_sessions: settings.upstream.max_dialogue_sessions,
        metrics,
        registry: Arc::clone(&registry),
        max_sockets,
        logs_text: settings.log.text == log::Text::Full,
        recordings: recordings.clone(),
    };
    let secrets = Secrets::new(settings.api_key.iter());
    let gateway = Gateway::new(parts, plans(&settings)?, secrets);

    tokio::spawn({
        let directory = Arc::clone(&directory);
        async move { directory.keep_keys_fresh().await }
    });
    // A token that was revoked before the start opens nothing.
    learn_revoked(&books, &directory).await;
    tokio::spawn(keep_learning_revoked(
        Arc::clone(&books),
        Arc::clone(&directory),
    ));
    tokio::spawn(recheck_on_changes(Arc::clone(&gateway)));
    let (address, operator) = (
        client_listener.local_addr()?,
        operator_listener.local_addr()?,
    );
    let workers = Workers::start(
        n_workers,
        client_listener.into_std()?,
        tls.as_ref(),
        &gateway,
        &stopped,
    )
    .context("cannot start the threads that serve clients")?;
    tokio::spawn(serve_operator(
        operator_listener,
        Arc::clone(&gateway),
        stopped.clone(),
    ));
    announce(
        &settings,
        address,
        operator,
        tls.as_deref(),
        &base_url,
        sandbox_reason.as_deref(),
    );

    tokio::spawn(trim::after_the_start());
    let listening = Listening {
        server: Bind(address),
        operator: Bind(operator),
    };
    let mut drain_timeout = settings.server.drain_timeout;
    let result = loop {
        let wish = tokio::select! {
            wish = signals.next() => wish,
            () = workers.failed() => {
                tracing::error!("a worker has failed, and its sessions with it: stopping");
                break Err(anyhow!("a worker has failed; the log names the place"));
            }
        };
        match wish {
            Wish::Stop => break Ok(()),
            Wish::Reload => {
                match reload(
                    sources,
                    listening,
                    &gateway,
                    &directory,
                    &quota,
                    tls.as_deref(),
                    &upstream,
                ) {
                    Ok(settings) => {
                        drain_timeout = settings.server.drain_timeout;
                        tracing::info!("configuration reloaded");
                    }
                    Err(error) => tracing::error!(
                        cause = format!("{error:#}"),
                        "configuration not reloaded; the old one stays in force"
                    ),
                }
            }
        }
    };
    drain(&gateway, &registry, drain_timeout, &mut signals).await;
    stopped.cancel();
    quota.close().await;
    if let Some(recordings) = recordings {
        finish(recordings).await;
    }
    tracing::info!("stopped");
    // Not before: what is kept of the store's connections may be theirs.
    drop(workers);
    result
}

/// Lets live sessions finish, ends what is left at the deadline, or at once on a second signal.
async fn drain(
    gateway: &Gateway,
    registry: &Registry,
    drain_timeout: Duration,
    signals: &mut Signals,
) {
    gateway.start_draining();
    tracing::info!(live = registry.len(), "draining");
    let end = SessionEnd::Refused(Problem::service_restart());
    tokio::select! {
        () = registry.drain(drain_timeout, &end) => {}
        () = signals.stop() => {
            for live in registry.all() {
                live.end(end.clone());
            }
        }
    }
    // Those that were told to end say so to their clients and settle.
    let _ = tokio::time::timeout(LAST_WORDS, registry.emptied()).await;
    let _ = tokio::time::timeout(LAST_WORDS, gateway.sockets_closed()).await;
}

/// Reads the configuration again; nothing changes unless all of it can be used.
fn reload(
    sources: &Sources,
    listening: Listening,
    gateway: &Gateway,
    directory: &Directory,
    quota: &Quota,
    tls: Option<&ServerTls>,
    upstream: &Upstream,
) -> Result<Settings> {
    let settings = Settings::load_again(sources, listening)?;
    let plans = plans(&settings)?;
    let rates = Rates::new(&settings.rates)?;
    let certificate = tls.map(|tls| tls.read_again(&settings.server.tls));
    let certificate = certificate.transpose()?;
    directory.reload(&settings.auth, &settings.clients, &plan_names(&settings))?;
    quota.set_rates(rates);
    if settings.api_key.is_some() {
        upstream.set_api_key(settings.api_key.clone());
        gateway.set_secrets(Secrets::new(settings.api_key.iter()));
    }
    if let Some((tls, certificate)) = tls.zip(certificate) {
        tls.replace(certificate);
    }
    gateway.reload(plans);
    Ok(settings)
}

/// Ends live sessions whose token is taken back, whenever one is.
async fn recheck_on_changes(gateway: Arc<Gateway>) {
    let mut changes = gateway.access_changes();
    while changes.changed().await.is_ok() {
        gateway.recheck();
    }
}

/// Why sessions go to the sandbox, if they do.
fn sandbox_reason(settings: &Settings) -> Option<String> {
    match &settings.upstream.base_url {
        Some(base_url) if base_url.is_sandbox() => {
            Some("upstream.base_url is \"sandbox\"".to_owned())
        }
        Some(_) => None,
        None if settings.api_key.is_some() => None,
        None => Some("ELEVENLABS_API_KEY is not set".to_owned()),
    }
}

/// Starts the sandbox on a port of its own; the relay knows it as any other upstream.
async fn start_sandbox(settings: &Settings, stopped: CancellationToken) -> Result<BaseUrl> {
    let server = sandbox::Server::new(settings.sandbox.clone())?;
    let listener = TcpListener::bind("127.0.0.1:0")
        .await
        .context("cannot start the sandbox")?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        if let Err(error) = server.serve(listener, stopped).await {
            tracing::error!(cause = %error, "the sandbox has stopped");
        }
    });
    Ok(BaseUrl::parse(&format!("ws://{address}"))?)
}

async fn listen(key: &str, bind: Bind) -> Result<TcpListener> {
    TcpListener::bind(bind.0).await.map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => anyhow!(
            "{bind} is in use already: stop what listens there, or set `{key}` to another address"
        ),
        _ => anyhow!("cannot listen on {bind}: {error}; set `{key}` to an address of this machine"),
    })
}

fn plan_names(settings: &Settings) -> BTreeSet<Arc<str>> {
    settings
        .plans
        .keys()
        .map(|name| name.as_str().into())
        .collect()
}

fn plans(settings: &Settings) -> Result<Plans> {
    let limits = settings.plans.iter().map(|(name, plan)| {
        let limits = Arc::new(Limits::new(name, plan)?);
        Ok((Arc::clone(&limits.plan), limits))
    });
    limits.collect()
}

/// Starts to record, if the settings say so.
fn recordings(settings: &Settings) -> Result<Option<Arc<Recordings>>> {
    Recordings::start(&settings.recording).with_context(|| {
        let directory = settings.recording.directory.clone().unwrap_or_default();
        let directory = directory.display();
        format!(
            "cannot record to {directory}; set `recording.directory` to one that can be written"
        )
    })
}

/// Lets recordings be written to their end. A disk that hangs is not waited for.
async fn finish(recordings: Arc<Recordings>) {
    let (done, finished) = tokio::sync::oneshot::channel();
    // No thread of the runtime, which could not end before it.
    std::thread::spawn(move || {
        recordings.finish();
        let _ = done.send(());
    });
    let _ = tokio::time::timeout(LAST_WORDS, finished).await;
}

/// Raises the limit on open files as far as allowed; two of them make a session, and one more its
/// recording.
fn max_sockets(records: bool, n_workers: NonZeroUsize) -> usize {
    let files = rlimit::increase_nofile_limit(u64::MAX).unwrap_or(1024);
    let files_per_session = if records { 3 } else { 2 };
    let reserved = RESERVED_FILES + FILES_PER_WORKER * n_workers.get() as u64;
    usize::try_from(files.saturating_sub(reserved) / files_per_session)
        .unwrap_or(usize::MAX)
        .max(1)
}

fn announce(
    settings: &Settings,
    clients: SocketAddr,
    operator: SocketAddr,
    tls: Option<&ServerTls>,
    base_url: &BaseUrl,
    sandbox_reason: Option<&str>,
) {
    let base_url = base_url.to_string();
    let ca = tls.and_then(ServerTls::ca_to_trust);
    say(&banner(&Facts {
        clients,
        has_tls: tls.is_some(),
        path_prefix: &settings.http.path_prefix,
        operator,
        upstream: match sandbox_reason {
            Some(because) => Shown::Sandbox {
                because,
                replay: settings.sandbox.replay.as_deref(),
            },
            None => Shown::Remote {
                base_url: &base_url,
                has_key: settings.api_key.is_some(),
            },
        },
        access: match settings.auth.is_open(&settings.clients) {
            true => Access::Open,
            false => Access::Tokens {
                n_clients: settings.clients.len(),
                n_issuers: settings.auth.jwt.len(),
            },
        },
        store: &settings.usage.store.to_string(),
        warnings: &settings.warnings,
    }));
    if let Some(ca) = ca {
        say(&how_to_trust(ca));
    }
    tracing::info!(
        address = %clients,
        operator = %operator,
        certificate = ca.map(|path| path.display().to_string()),
        "listening",
    );
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
}

/// Tells the person at the terminal; there may be none.
fn say(text: &str) {
    let _ = io::stderr().write_all(text.as_bytes());
}
