//! Runs the relay: arguments, settings, an exit code.
use std::sync::Arc;
use xi_relay::{auth::Directory, http::*, metrics::Metrics, protocol::Secrets, quota::*, session::*, upstream::*};

#[tokio::main]
async fn main() {
    let base = BaseUrl::parse(&std::env::var("UP").expect("UP")).expect("url");
    let config = xi_relay::upstream::Config::default();
    let upstream = Upstream::new(base, &config, Some("sk_test".to_owned().into()), false).expect("tls");
    let gateway = Gateway::new(Parts {
        config: xi_relay::http::Config::default(),
        timing: Timing::default(),
        directory: Arc::new(Directory::open()),
        plans: [("default".into(), Arc::new(Limits::default()))].into(),
        quota: Arc::new(Quota),
        upstream: Arc::new(upstream),
        max_upstream_message_bytes: 32 << 20,
        secrets: Arc::new(Secrets::default()),
        metrics: Arc::new(Metrics::default()),
        registry: Arc::new(Registry::default()),
        max_sockets: 1000,
        logs_text: false,
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:8090").await.expect("bind");
    serve_clients(listener, gateway, Default::default()).await;
}
