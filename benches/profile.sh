#!/usr/bin/env bash
# Records what the relay runs, and how often, into the profile that release builds are laid out by: see
# .cargo/rustc-with-profile. Takes a quarter of an hour, most of it a build. Needs bash, curl, openssl, a Rust toolchain
# and its llvm-tools (`rustup component add llvm-tools`). What was built before there was a profile has to be built anew:
# `cargo clean --release`.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
WORK=$HERE/.profile
BIN=$HERE/target/release
RELAY=$HERE/target/profile/release/xi-relay
CA=$WORK/ca.pem
PORT_BASE=${BENCH_PORT_BASE:-18100}
PORT_PLAIN=$((PORT_BASE + 11)) PORT_TLS=$((PORT_BASE + 12))

# shellcheck source=targets.sh
source "$HERE/targets.sh"

cd "$ROOT"
# compiler NAME: what the compiler says of itself under this name.
compiler() { rustc -vV | sed -n "s/^$1: //p"; }
host=$(compiler host)
profdata=$(rustc --print sysroot)/lib/rustlib/$host/bin/llvm-profdata
if [[ ! -x $profdata ]]; then
  echo "llvm-profdata is missing: rustup component add llvm-tools" >&2
  exit 1
fi

# run ARGUMENTS…: has the load generator do this to the relay.
run() {
  load xi-relay plain "$@" >/dev/null
}

# finish: stops the relay, which must add to the record as it ends.
finish() {
  touch "$WORK/before"
  stop xi-relay
  if [[ -z $(find "$WORK" -maxdepth 1 -name '*.profraw' -newer "$WORK/before") ]]; then
    echo "the relay has recorded nothing; its last words:" >&2
    tail -n 20 "$WORK/xi-relay.err" "$WORK/xi-relay.out" >&2
    exit 1
  fi
}

# What is measured as well, before an upstream without and one with TLS.
sockets() {
  start xi-relay plain
  run round-trip --size 200 --seconds 12
  run round-trip --size 8192 --seconds 2
  run first-audio --total 300
  run paced --seconds 3
  run bulk --count 500
  run sessions --total 2000
  run scale --sessions 500 --seconds 2
  finish

  start xi-relay tls
  run round-trip --size 200 --seconds 5
  run first-audio --total 200
  run paced --seconds 3
  run bulk --count 500
  run sessions --total 1000
  finish
}

# What applications do besides, over HTTPS, before the sandbox, whose own work is not to count.
applications() {
  local address sandbox="127.0.0.1:$((PORT_BASE + 7))"
  address=$(address xi-relay)
  local certificate=$WORK/server.pem key=$WORK/server.key
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "$key" -out "$certificate" -days 2 \
    -subj /CN=relay -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE 2>/dev/null

  XI_RELAY__SERVER__BIND=$sandbox LLVM_PROFILE_FILE=$WORK/not-counted/%m.profraw spawn sandbox "$RELAY" sandbox
  relay_settings "ws://$sandbox" "" "tls = { cert = \"$certificate\", key = \"$key\" }" >"$WORK/xi-relay.toml"
  ELEVENLABS_API_KEY=not-a-key spawn xi-relay "$RELAY" --config "$WORK/xi-relay.toml"
  local -a over_tls=(--address "$address" --token "$TOKEN" --ca "$certificate")
  "$BIN/load" "${over_tls[@]}" probe >/dev/null
  for _ in {1..6}; do "$BIN/load" "${over_tls[@]}" conversations --total 10 >/dev/null; done

  local -a request=(curl --silent --show-error --fail --fail-early --cacert "$certificate" --header "xi-api-key: $TOKEN")
  local speech="https://$address/v1/text-to-speech/profile"
  "${request[@]}" --json '{"text":"Spoken at once.","model_id":"eleven_flash_v2_5"}' "$speech?n=[1-50]" "$speech/stream?n=[1-100]" >/dev/null
  "${request[@]}" "https://$address/v1/voices?n=[1-50]" "https://$address/v1/models?n=[1-50]" >/dev/null
  finish
  stop sandbox
}

ulimit -n "$(ulimit -Hn)"
rm -rf "$WORK"
mkdir -p "$WORK"
TOKEN=$(openssl rand -hex 16)
(cd "$HERE" && RUSTC_WRAPPER='' cargo build --release --bins)
# Build scripts and macros are given counters as well, and are not meant.
(cd "$ROOT" && RUSTC_WRAPPER='' RUSTFLAGS=-Cprofile-generate LLVM_PROFILE_FILE=$WORK/not-counted/%m.profraw \
  CARGO_TARGET_DIR=$HERE/target/profile cargo build --release --locked)

# One file for all processes of one build, which add to it as they end.
export LLVM_PROFILE_FILE=$WORK/%m.profraw
trap stop_all EXIT
spawn upstream "$BIN/upstream" --plain "127.0.0.1:$PORT_PLAIN" --tls "127.0.0.1:$PORT_TLS" --ca "$CA"
load direct plain probe >/dev/null
sockets
applications

"$profdata" merge --sparse --output "$WORK/profdata" "$WORK"/*.profraw
mkdir -p .cargo/profile
rm -f .cargo/profile/*-"$host"-*.profdata
mv "$WORK/profdata" ".cargo/profile/$(compiler release)-$host-$(compiler commit-hash).profdata"
ls -l .cargo/profile >&2
