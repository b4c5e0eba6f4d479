#!/usr/bin/env bash
# Measures xi-relay beside nginx, HAProxy and Caddy, all in front of the same fake upstream, in
# turns, and prints a table. Needs bash, a Rust toolchain, openssl, and on Debian leave to
# install what is missing of the three. See docs/performance.md.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: benches/run.sh [options]
  --quick             fewer and shorter rounds: some four minutes instead of some twenty
  --write             write docs/performance.md as well
  --soak SECONDS      how long the thousands of sessions are watched (10 minutes: 600)
  --only "NAMES"      only these scenarios:
                      round_trip paced bulk sessions first_audio far memory scale crowd
  --targets "NAMES"   only these of: direct tunnel nginx haproxy caddy xi-relay
USAGE
}

ONLY="round_trip paced bulk sessions first_audio far memory scale crowd"
TARGETS="direct tunnel nginx haproxy caddy xi-relay"
MODE=full WRITE=no SOAK=""
while (($#)); do
  case $1 in
    --quick) MODE=quick ;;
    --write) WRITE=yes ;;
    --soak) SOAK=$2 && shift ;;
    --only) ONLY=$2 && shift ;;
    --targets) TARGETS=$2 && shift ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && exit 2 ;;
  esac
  shift
done

# How much of everything: rounds, and seconds or counts within one.
if [[ $MODE == quick ]]; then
  ROUNDS=3 SECONDS_EACH=1.5 BULK_COUNT=1000 SESSIONS=600 SESSIONS_TLS=300
  FIRST_AUDIO=150 FAR=8 FAR_ROUNDS=1 MEMORY_ROUNDS=1 SCALE_ROUNDS=2 SCALE_SECONDS=3 SOAK=${SOAK:-20}
else
  ROUNDS=7 SECONDS_EACH=3 BULK_COUNT=3000 SESSIONS=2000 SESSIONS_TLS=1000
  FIRST_AUDIO=400 FAR=12 FAR_ROUNDS=3 MEMORY_ROUNDS=3 SCALE_ROUNDS=3 SCALE_SECONDS=5 SOAK=${SOAK:-60}
fi

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(dirname "$HERE")
WORK=$HERE/.work
BIN=$HERE/target/release
RELAY=${XI_RELAY:-$ROOT/target/release/xi-relay}
CA=$WORK/ca.pem
RESULTS=$WORK/results.jsonl
PORT_BASE=${BENCH_PORT_BASE:-18100}
PORT_PLAIN=$((PORT_BASE + 11)) PORT_TLS=$((PORT_BASE + 12)) PORT_FAR=$((PORT_BASE + 13))
RTT_MS=80

# shellcheck source=targets.sh
source "$HERE/targets.sh"

has() { [[ " $1 " == *" $2 "* ]]; }

# among NAMES…: those of them that are to be measured.
among() {
  local name
  for name in "$@"; do
    if has "$TARGETS" "$name"; then echo "$name"; fi
  done
}

install_missing() {
  local name
  local -a missing=()
  for name in $(among nginx haproxy caddy); do
    command -v "$name" >/dev/null || missing+=("$name")
  done
  ((${#missing[@]})) || return 0
  echo "installing ${missing[*]}" >&2
  local -a sudo=()
  ((EUID == 0)) || sudo=(sudo)
  "${sudo[@]}" apt-get install -y --no-install-recommends "${missing[@]}" >&2
  # Debian starts what it installs; what is measured here is started here.
  for name in "${missing[@]}"; do
    "${sudo[@]}" systemctl disable --now "$name" >/dev/null 2>&1 || true
  done
}

build() {
  # The profile is the relay's alone.
  (cd "$HERE" && RUSTC_WRAPPER='' cargo build --release --bins)
  if has "$TARGETS" xi-relay && [[ -z ${XI_RELAY:-} ]]; then (cd "$ROOT" && cargo build --release --locked); fi
}

# note SCENARIO TARGET ROUND FIGURES
note() {
  printf '{"scenario":"%s","target":"%s","round":%s,"metrics":%s}\n' "$1" "$2" "$3" "$4" >>"$RESULTS"
  printf '%-18s %-9s %s  %s\n' "$1" "$2" "$3" "$4" >&2
}

# measure SCENARIO KIND TARGET ROUND ARGUMENTS…
measure() {
  local scenario=$1 kind=$2 target=$3 round=$4 figures
  shift 4
  if figures=$(load "$target" "$kind" "$@"); then
    note "$scenario" "$target" "$round" "$figures"
  else
    echo "$scenario: $target failed in round $round" >&2
    FAILED+=("$scenario/$target")
  fi
}

# in_turns SCENARIO KIND ROUNDS "TARGETS" ARGUMENTS…: each round begins with another target, so that none
# always follows the same one.
in_turns() {
  local scenario=$1 kind=$2 rounds=$3 round
  local -a targets
  read -ra targets <<<"$4"
  shift 4
  for ((round = 1; round <= rounds; round++)); do
    for target in "${targets[@]}"; do
      measure "$scenario" "$kind" "$target" "$round" "$@"
    done
    targets=("${targets[@]:1}" "${targets[0]}")
  done
}

# with KIND CONNECTIONS "TARGETS" COMMAND…: runs a command while these are up.
with() {
  local kind=$1 connections=$2 names=$3 target
  shift 3
  for target in $names; do start "$target" "$kind" "$connections"; done
  "$@"
  stop_all_proxies
}

stop_all_proxies() {
  # shellcheck disable=SC2046
  stop nginx haproxy caddy xi-relay tunnel
}

plain_scenarios() {
  if has "$ONLY" round_trip; then
    in_turns round_trip_200 plain "$ROUNDS" "$ALL" round-trip --size 200 --seconds "$SECONDS_EACH"
    in_turns round_trip_8k plain "$ROUNDS" "$ALL" round-trip --size 8192 --seconds "$SECONDS_EACH"
  fi
  if has "$ONLY" first_audio; then
    in_turns first_audio plain "$ROUNDS" "$ALL" first-audio --total "$FIRST_AUDIO"
  fi
  if has "$ONLY" paced; then
    in_turns paced plain "$ROUNDS" "$PROXIES" paced --seconds "$SECONDS_EACH"
  fi
  if has "$ONLY" bulk; then
    in_turns bulk plain "$ROUNDS" "$PROXIES" bulk --count "$BULK_COUNT"
  fi
  if has "$ONLY" sessions; then
    in_turns sessions plain "$ROUNDS" "$PROXIES" sessions --total "$SESSIONS"
  fi
}

tls_scenarios() {
  if has "$ONLY" paced; then
    in_turns paced_tls tls "$ROUNDS" "$PROXIES" paced --seconds "$SECONDS_EACH"
  fi
  if has "$ONLY" bulk; then
    in_turns bulk_tls tls "$ROUNDS" "$PROXIES" bulk --count "$BULK_COUNT"
  fi
  if has "$ONLY" sessions; then
    in_turns sessions_tls tls "$ROUNDS" "$PROXIES" sessions --total "$SESSIONS_TLS"
  fi
}

far_scenarios() {
  in_turns "$1" "$2" "$FAR_ROUNDS" "$3" first-audio --total "$FAR" --gap-ms 300
}

# Memory is only comparable in processes that have done nothing before.
memory_scenarios() {
  local round kind target
  for ((round = 1; round <= MEMORY_ROUNDS; round++)); do
    for kind in plain tls; do
      for target in $PROXIES; do
        start "$target" "$kind"
        measure "memory_$kind" "$kind" "$target" "$round" memory
        stop "$target"
      done
    done
  done
}

scale_scenarios() {
  local sessions
  for sessions in 10 5000; do
    in_turns "scale_$sessions" plain "$SCALE_ROUNDS" "$PROXIES" scale --sessions "$sessions" --seconds "$SCALE_SECONDS"
  done
}

crowd_scenarios() {
  local target
  for target in $PROXIES; do
    local seconds=10
    [[ $target == xi-relay ]] && seconds=$SOAK
    start "$target" plain 20000
    measure crowd plain "$target" 1 crowd --sessions "$CROWD" --seconds "$seconds"
    stop "$target"
  done
}

# about: what the report says of the machine and of the run.
about() {
  local cpu memory
  cpu=$(sed -n 's/^model name[[:space:]]*: //p' /proc/cpuinfo | head -n 1)
  memory=$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1e6 }' /proc/meminfo)
  cat <<ABOUT
machine: ${cpu:-$(uname -m)}, $(nproc) cores, $memory$(grep -q hypervisor /proc/cpuinfo && echo ", virtual")
system: $(. /etc/os-release && echo "$PRETTY_NAME"), Linux $(uname -r)
files: $(ulimit -n)
congestion: $(cat /proc/sys/net/ipv4/tcp_congestion_control)
relay: $("$RELAY" --version 2>/dev/null || echo none)$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null | sed 's/^/ at /')
rustc: $(rustc --version)
layout: $(layout)
others: $(versions)
mode: $MODE
rounds: $ROUNDS
minutes: $(((SECONDS - STARTED_AT + 30) / 60))
date: $(date -u +%Y-%m-%d)
crowd: $CROWD
ABOUT
}

# Whether the relay was built with a profile (.cargo/rustc-with-profile): cargo lists it among the sources.
layout() {
  if grep -q '\.profdata' "$RELAY.d" 2>/dev/null; then echo "laid out by a profile"; else echo "without a profile"; fi
}

versions() {
  local -a all=()
  if has "$TARGETS" nginx; then all+=("$(nginx -v 2>&1 | sed 's/.*: //')"); fi
  if has "$TARGETS" haproxy; then all+=("$(haproxy -v | sed -n '1s/.*version \([^ ]*\).*/HAProxy \1/p')"); fi
  if has "$TARGETS" caddy; then all+=("Caddy $(caddy version)"); fi
  local list
  list=$(printf ', %s' "${all[@]}")
  echo "${list#, }"
}

ulimit -n "$(ulimit -Hn)"
# Two files for every session of the crowd, and some to spare.
CROWD=$((($(ulimit -n) - 256) / 2))
((CROWD <= 9500)) || CROWD=9500
rm -rf "$WORK"
mkdir -p "$WORK"
TOKEN=$(openssl rand -hex 16)
FAILED=()
ALL=$(among direct tunnel nginx haproxy caddy xi-relay | xargs)
PROXIES=$(among nginx haproxy caddy xi-relay | xargs)

install_missing
build
trap stop_all EXIT
STARTED_AT=$SECONDS
spawn upstream "$BIN/upstream" --plain "127.0.0.1:$PORT_PLAIN" --tls "127.0.0.1:$PORT_TLS" --ca "$CA"
spawn far "$BIN/tunnel" --listen "127.0.0.1:$PORT_FAR" --to "127.0.0.1:$PORT_TLS" --rtt-ms "$RTT_MS"
load direct plain probe >/dev/null

if has "$ONLY" memory; then memory_scenarios; fi
with plain 4096 "$ALL" plain_scenarios
with tls 4096 "$PROXIES" tls_scenarios
if has "$ONLY" far; then
  with far 4096 "$(among nginx haproxy caddy xi-relay | xargs)" far_scenarios far far "$(among direct nginx haproxy caddy xi-relay | xargs)"
  if has "$TARGETS" xi-relay; then with far-cold 4096 xi-relay far_scenarios far_cold far-cold xi-relay; fi
fi
if has "$ONLY" scale; then with plain 20000 "$PROXIES" scale_scenarios; fi
if has "$ONLY" crowd; then crowd_scenarios; fi

echo "measured in $((SECONDS - STARTED_AT)) s; figures in $RESULTS" >&2
about >"$WORK/about"
declare -a write=()
[[ $WRITE == no ]] || write=(--write "$ROOT/docs/performance.md")
"$BIN/report" --results "$RESULTS" --about "$WORK/about" "${write[@]}"
if ((${#FAILED[@]})); then
  echo "failed: ${FAILED[*]}" >&2
  exit 1
fi
