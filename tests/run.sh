#!/usr/bin/env bash
# Everything that has to hold before a change goes in: format, lints, tests, and the real clients. Installs what it needs
# on a Debian machine with a Rust toolchain; a tool that cannot be had is a failure, never a skipped test.
set -uo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(build-essential chromium ffmpeg iproute2 nodejs procps python3 python3-venv redis-server tmux)

n_passed=0
n_failed=0
summary=""

# Runs one part, counts it, and says how long it took.
part() {
    local name=$1 since=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        n_passed=$((n_passed + 1))
        summary+=$(printf '\nok     %4d s  %s' $((SECONDS - since)) "$name")
    else
        n_failed=$((n_failed + 1))
        summary+=$(printf '\nFAILED %4d s  %s' $((SECONDS - since)) "$name")
        return 1
    fi
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo "$@"; fi
}

install_debian_packages() {
    local missing=() package
    for package in "${PACKAGES[@]}"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    # Other sources' nodejs brings npm along; Debian's does not.
    command -v npm >/dev/null || missing+=(npm)
    if [[ ${#missing[@]} -gt 0 ]]; then
        as_root apt-get update -qq || return 1
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" || return 1
    fi
    local tool
    for tool in cargo chromium ffmpeg node npm redis-server ss tmux; do
        command -v "$tool" >/dev/null || { printf 'missing: %s\n' "$tool"; return 1; }
    done
}

lock_names_no_host() {
    if grep -n '"resolved"' tests/clients/package-lock.json; then
        printf 'package-lock.json names a registry; write it with --omit-lockfile-registry-resolved\n'
        return 1
    fi
}

finish() {
    printf '\n== summary, %d s in all%s\n' "$SECONDS" "$summary"
    printf '%d passed, %d failed\n' "$n_passed" "$n_failed"
    [[ $n_failed == 0 ]]
    exit
}

part "Debian packages" install_debian_packages || finish
part "format" cargo fmt --check
part "the lock file of npm names no host" lock_names_no_host
part "lints" cargo clippy --all-targets -- -D warnings
part "tests" cargo test
part "install the clients" tests/clients/install.sh || finish
part "real clients" tests/clients/run.py target/debug/xi-relay
finish
