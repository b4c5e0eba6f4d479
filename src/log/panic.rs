//! Panics as log lines: where, never what. A panic's text may quote whatever was at hand.

/// Replaces the hook that prints panics to stderr.
pub(super) fn install() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let location = info.location();
        tracing::error!(
            target: "xi_relay::panic",
            file = location.map(|at| at.file()),
            line = location.map(|at| at.line()),
            thread = thread.name(),
            "a task panicked: this is a bug, please report the place"
        );
    }));
}
