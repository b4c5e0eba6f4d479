# Configures, starts and stops what is measured. Sourced by run.sh and profile.sh, which set:
#   WORK   a directory for configurations, logs and stores
#   BIN    where the tools are built
#   RELAY  the xi-relay binary
#   CA     the certificate of the fake upstream
#   TOKEN  the client's token
#   PORT_* the ports
#
# Every proxy is set up as its own documentation says for WebSockets, with time limits out of
# the way, access logs off, as many workers or threads as the machine has cores, and, where
# upstream is spoken to with TLS, the certificate verified and TLS sessions resumed.
# shellcheck shell=bash
# shellcheck disable=SC2034,SC2154

declare -A PID=() PORT=([nginx]=1 [haproxy]=2 [caddy]=3 [xi-relay]=4 [tunnel]=5)
declare -a STARTED=()

# address_of KIND: where upstream is for a kind of run.
address_of() {
  case $1 in
    plain) echo "127.0.0.1:$PORT_PLAIN" ;;
    tls) echo "127.0.0.1:$PORT_TLS" ;;
    far | far-cold) echo "127.0.0.1:$PORT_FAR" ;;
  esac
}

# is_tls KIND
is_tls() { [[ $1 != plain ]]; }

# spawn NAME COMMAND…: runs it in the background, output to its log, and remembers its process.
spawn() {
  local name=$1
  shift
  "$@" >>"$WORK/$name.out" 2>>"$WORK/$name.err" </dev/null &
  PID[$name]=$!
  STARTED+=("$name")
}

# stop NAME…: ends these and waits for them.
stop() {
  local name pid
  for name in "$@"; do
    pid=${PID[$name]:-}
    [[ -n $pid ]] || continue
    kill -TERM "$pid" 2>/dev/null || true
    for _ in {1..100}; do
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.05
    done
    # Whoever drains politely for longer than five seconds is not waited for.
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    unset "PID[$name]"
  done
}

stop_all() {
  stop "${STARTED[@]}"
}

# start TARGET KIND [CONNECTIONS]: starts a proxy in front of that kind of upstream and waits
# until a session passes through it.
start() {
  local target=$1 kind=$2 connections=${3:-4096}
  [[ $target == direct ]] && return
  : >"$WORK/$target.out"
  "start_${target/-/_}" "$kind" "$connections"
  if ! load "$target" plain probe >/dev/null; then
    echo "$target does not answer; its last words:" >&2
    tail -n 20 "$WORK/$target.err" "$WORK/$target.out" >&2
    return 1
  fi
}

# address TARGET KIND: where clients of a target connect.
address() {
  if [[ $1 == direct ]]; then address_of "$2"; else echo "127.0.0.1:$((PORT_BASE + PORT[$1]))"; fi
}

# load TARGET KIND ARGUMENTS…: one run of the load generator.
load() {
  local target=$1 kind=$2
  shift 2
  local -a options=(--address "$(address "$target" "$kind")" --token "$TOKEN")
  if [[ $target == direct ]]; then
    is_tls "$kind" && options+=(--ca "$CA")
  else
    options+=(--pid "${PID[$target]}")
  fi
  "$BIN/load" "${options[@]}" "$@"
}

start_tunnel() {
  spawn tunnel "$BIN/tunnel" --listen "$(address tunnel)" --to "$(address_of "$1")"
}

start_nginx() {
  local kind=$1 connections=$2 scheme=http tls=""
  if is_tls "$kind"; then
    scheme=https
    tls="proxy_ssl_protocols TLSv1.3; proxy_ssl_server_name on; proxy_ssl_name localhost;
      proxy_ssl_verify on; proxy_ssl_trusted_certificate $CA; proxy_ssl_session_reuse on;"
  fi
  mkdir -p "$WORK/nginx"
  cat >"$WORK/nginx.conf" <<CONF
daemon off;
worker_processes auto;
worker_rlimit_nofile $(ulimit -n);
pid $WORK/nginx/pid;
error_log $WORK/nginx.err error;
events { worker_connections $connections; }
http {
  access_log off;
  client_body_temp_path $WORK/nginx/body;
  proxy_temp_path $WORK/nginx/proxy;
  fastcgi_temp_path $WORK/nginx/fastcgi;
  uwsgi_temp_path $WORK/nginx/uwsgi;
  scgi_temp_path $WORK/nginx/scgi;
  server {
    listen $(address nginx) backlog=4096;
    location / {
      proxy_pass $scheme://$(address_of "$kind");
      proxy_http_version 1.1;
      proxy_set_header Upgrade \$http_upgrade;
      proxy_set_header Connection "upgrade";
      proxy_read_timeout 1h;
      proxy_send_timeout 1h;
      $tls
    }
  }
}
CONF
  spawn nginx nginx -c "$WORK/nginx.conf" -e "$WORK/nginx.err"
}

start_haproxy() {
  local kind=$1 tls=""
  is_tls "$kind" && tls="ssl verify required ca-file $CA sni str(localhost) verifyhost localhost"
  cat >"$WORK/haproxy.cfg" <<CONF
global
  maxconn 9800
defaults
  mode http
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
frontend clients
  bind $(address haproxy) backlog 4096
  default_backend upstream
backend upstream
  server upstream $(address_of "$kind") $tls
CONF
  spawn haproxy haproxy -db -f "$WORK/haproxy.cfg"
}

start_caddy() {
  local kind=$1 scheme=http tls=""
  if is_tls "$kind"; then
    scheme=https
    tls="transport http {
      tls_trusted_ca_certs $CA
      tls_server_name localhost
    }"
  fi
  cat >"$WORK/Caddyfile" <<CONF
{
  admin off
  auto_https off
  log {
    level ERROR
  }
}
http://$(address caddy) {
  reverse_proxy $scheme://$(address_of "$kind") {
    $tls
  }
}
CONF
  XDG_DATA_HOME=$WORK/caddy XDG_CONFIG_HOME=$WORK/caddy \
    spawn caddy caddy run --adapter caddyfile --config "$WORK/Caddyfile"
}

# relay_settings UPSTREAM [MORE-OF-UPSTREAM] [MORE-OF-SERVER]: everything on: a token in the header, characters charged to the
# SQLite store, a JSON line for every message, written to a file. Limits stand where nothing measured here reaches them.
relay_settings() {
  cat <<CONF
[server]
bind = "$(address xi-relay)"
connections_per_second = 1000000
connection_burst = 1000000
${3:-}

[operator]
bind = "127.0.0.1:$((PORT_BASE + 6))"

[upstream]
base_url = "$1"
${2:-}

[[clients]]
id = "bench"
token_sha256 = "$(printf %s "$TOKEN" | sha256sum | cut -d ' ' -f 1)"
plan = "default"

[plans.default]
max_concurrent_sessions = 1000000
max_messages_per_second = 100000
windows = [{ unit = "characters", limit = 1000000000000, per = "day" }]

[usage]
store = "sqlite:$WORK/xi-relay.db"

[log]
format = "json"
CONF
}

start_xi_relay() {
  local kind=$1 scheme=ws extra=""
  is_tls "$kind" && scheme=wss extra="ca_file = \"$CA\""
  [[ $kind == far-cold ]] && extra+=$'\n[upstream.warm]\nmin = 0\nmax = 0'
  rm -f "$WORK"/xi-relay.db*
  relay_settings "$scheme://$(address_of "$kind")" "$extra" >"$WORK/xi-relay.toml"
  ELEVENLABS_API_KEY=not-a-key-fake-upstream spawn xi-relay "$RELAY" --config "$WORK/xi-relay.toml"
}
