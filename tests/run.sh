#!/usr/bin/env bash
# Everything that has to hold before a change goes in: format, lints, tests, and the real clients. Installs what it needs
# on a Debian machine with a Rust toolchain; a tool that cannot be had is a failure, never a skipped test.
# shellcheck disable=SC2317  # Most functions are called by `part`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

PACKAGES=(build-essential chromium ffmpeg iproute2 nodejs procps python3 python3-venv redis-server tmux)

log=$(mktemp) || exit
trap 'rm -f "$log"' EXIT
n_passed=0
n_failed=0
summary=""

# Runs one part, counts its tests, and says how long it took. A part that reports no tests counts as one.
part() {
    local name=$1 since=$SECONDS verdict=ok status passed failed
    shift
    printf '\n== %s\n' "$name"
    "$@" 2>&1 | tee "$log"
    status=${PIPESTATUS[0]}
    read -r passed failed < <(counted)
    if [[ $((passed + failed)) == 0 && $status == 0 ]]; then
        passed=1
    elif [[ $failed == 0 && $status != 0 ]]; then
        failed=1
    fi
    n_passed=$((n_passed + passed))
    n_failed=$((n_failed + failed))
    [[ $failed == 0 ]] || verdict=FAILED
    summary+=$(printf '\n%-6s %4d s %5d passed %3d failed  %s' "$verdict" $((SECONDS - since)) "$passed" "$failed" "$name")
    [[ $failed == 0 ]]
}

# The tests that the last part reported, in the words of cargo test or of tests/clients/run.py.
counted() {
    sed -E 's/^(test result: [a-zA-Z]+\.|clients:) ([0-9]+) passed[;,] ([0-9]+) failed.*/counted \2 \3/' "$log" |
        awk '$1 == "counted" { passed += $2; failed += $3 } END { print passed + 0, failed + 0 }'
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

# They are a package of their own, which no build of the product looks at.
benchmarks_lint() {
    cargo fmt --check --manifest-path benches/Cargo.toml &&
        CARGO_TARGET_DIR=target cargo clippy --locked --manifest-path benches/Cargo.toml --all-targets -- -D warnings
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
part "benchmarks" benchmarks_lint
part "tests" cargo test --no-fail-fast
part "install the clients" tests/clients/install.sh || finish
part "real clients" tests/clients/run.py target/debug/xi-relay
finish
