#!/usr/bin/env bash
# A Ray head, a worker and an MLflow server on this machine, on loopback, with tokens: `make cluster-up`,
# `make cluster-down`. All that they are is in one folder, which only its owner reads.
set -euo pipefail

usage() {
  echo "usage: cluster.sh up|down [FOLDER]" >&2
  exit 2
}

[ $# -ge 1 ] && [ $# -le 2 ] || usage
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Ray puts Unix sockets into it, and those hold 107 characters: short
state=${2:-/tmp/phaseray-cluster-$(id -u)}
bin=${PHASERAY_BIN:-$root/.venv/bin}
case $state in /*) ;; *) state=$PWD/$state ;; esac

# The processes that we started and that still are what we started: a number alone may be somebody else's by now.
ours() {
  local file number began
  for file in "$state"/pids/*; do
    [ -e "$file" ] || continue
    read -r number began <"$file" || continue
    [ "$(began_at "$number")" = "$began" ] && echo "$number"
  done
  return 0
}

began_at() { # ticks since boot at which a process began; nothing where there is none
  [ -r "/proc/$1/stat" ] || return 0
  sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | awk '{print $20}'
}

down() {
  local numbers number
  numbers=$(ours)
  if [ -z "$numbers" ]; then
    echo "no cluster of ours runs ($state)"
  else
    # each leads a process group of its own: what it started goes with it
    for number in $numbers; do kill -TERM -- "-$number" 2>/dev/null || true; done
    for _ in $(seq 100); do
      [ -n "$(ours)" ] || break
      sleep 0.1
    done
    for number in $numbers; do kill -KILL -- "-$number" 2>/dev/null || true; done
    echo "stopped: $(echo "$numbers" | wc -w) processes and what they started"
  fi
  rm -rf "${state:?}/pids" "${state:?}/ray" "${state:?}/home" "${state:?}/env" "${state:?}/address"
}

start() { # NAME COMMAND…: in a session of its own, its log in NAME.log
  local name=$1
  shift
  # 0<&- and the log: nothing keeps the terminal of whoever typed `make`
  (cd "$state" && exec setsid "$@" >"$state/$name.log" 2>&1 </dev/null) &
  local number=$!
  for _ in $(seq 50); do # until it leads its own group
    [ "$(ps -o pgid= -p "$number" 2>/dev/null | tr -d ' ')" = "$number" ] && break
    sleep 0.02
  done
  echo "$number $(began_at "$number")" >"$state/pids/$name"
}

wait_for() { # NAME SECONDS COMMAND…: until the command succeeds; not longer than what `start NAME` began lives
  local name=$1 seconds=$2 number
  shift 2
  read -r number _ <"$state/pids/$name"
  for _ in $(seq $((seconds * 2))); do
    "$@" >/dev/null 2>&1 && kill -0 "$number" 2>/dev/null && return 0
    kill -0 "$number" 2>/dev/null || break
    sleep 0.5
  done
  echo "$name did not come up: the end of $state/$name.log says" >&2
  tail -n 5 "$state/$name.log" >&2
  down >&2
  return 1
}

free_ports() {
  "$bin/python" - "$1" <<'PYTHON'
import socket
import sys

sockets = [socket.socket() for _ in range(int(sys.argv[1]))]
for each in sockets:
    each.bind(("127.0.0.1", 0))
print(*(each.getsockname()[1] for each in sockets))
PYTHON
}

secret() { "$bin/python" -c 'import secrets; print(secrets.token_hex(24))'; }

up() {
  [ -x "$bin/ray" ] || { echo "no Ray in $bin: make install" >&2; exit 1; }
  if [ -n "$(ours)" ]; then
    echo "a cluster runs already: its settings are in $state/env; make cluster-down stops it" >&2
    exit 1
  fi
  umask 077
  rm -rf "${state:?}/pids" "${state:?}/ray" "${state:?}/home"
  mkdir -p "$state/pids" "$state/home" "$state/mlflow"
  [ "$(stat -c %u "$state")" = "$(id -u)" ] || { echo "$state belongs to somebody else" >&2; exit 1; }
  chmod 700 "$state"
  local gcs dashboard client mlflow a b c d e f
  read -r gcs dashboard client mlflow a b c d e f <<<"$(free_ports 10)"
  # the accounts outlive the processes, and so does their password
  [ -s "$state/mlflow/password" ] || secret >"$state/mlflow/password"
  cat >"$state/env" <<ENV
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN=$(secret)
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
export MLFLOW_TRACKING_URI=http://127.0.0.1:$mlflow
export MLFLOW_TRACKING_USERNAME=admin
export MLFLOW_TRACKING_PASSWORD=$(cat "$state/mlflow/password")
ENV
  # shellcheck source=/dev/null
  . "$state/env"
  export HOME=$state/home RAY_TMPDIR=$state RAY_USAGE_STATS_ENABLED=0 RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0
  export PATH=$bin:$PATH MLFLOW_DISABLE_TELEMETRY=true
  unset RAY_ADDRESS
  printf '[mlflow]\ndefault_permission = NO_PERMISSIONS\ndatabase_uri = sqlite:///%s/mlflow/accounts.db\nadmin_username = admin\nauthorization_function = mlflow.server.auth:authenticate_request_basic_auth\n' \
    "$state" >"$state/mlflow/basic_auth.ini"
  MLFLOW_AUTH_CONFIG_PATH=$state/mlflow/basic_auth.ini MLFLOW_AUTH_ADMIN_PASSWORD=$MLFLOW_TRACKING_PASSWORD \
    MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret) start mlflow mlflow server --app-name basic-auth --host 127.0.0.1 \
    --port "$mlflow" --workers 1 --backend-store-uri "sqlite:///$state/mlflow/runs.db" --serve-artifacts \
    --artifacts-destination "$state/mlflow/artifacts" --allowed-hosts "127.0.0.1:$mlflow,localhost:$mlflow"
  # 127.0.0.1 would be taken for the address of this machine in its network; these stay inside. Fewer than four
  # logical CPUs leave Ray Data and Train waiting for one another
  start head ray start --head --block --node-ip-address=127.0.0.2 --port="$gcs" --dashboard-host=127.0.0.1 \
    --dashboard-port="$dashboard" --ray-client-server-port="$client" --num-cpus=3 --dashboard-agent-listen-port="$a" \
    --dashboard-agent-grpc-port="$b" --metrics-export-port="$c"
  wait_for head 180 grep -q "block forever" "$state/head.log"
  echo "127.0.0.2:$gcs" >"$state/address"
  start worker ray start --block --address="127.0.0.2:$gcs" --node-ip-address=127.0.0.3 --num-cpus=3 \
    --dashboard-agent-listen-port="$d" --dashboard-agent-grpc-port="$e" --metrics-export-port="$f"
  wait_for worker 180 grep -q "block forever" "$state/worker.log"
  wait_for mlflow 180 "$bin/python" -c "import urllib.request as u; u.urlopen('$MLFLOW_TRACKING_URI/health')"
  cat <<SAID
A head and a worker of 3 logical CPUs each: $RAY_API_SERVER_ADDRESS
MLflow, user admin:                         $MLFLOW_TRACKING_URI
Both ask for what is in $state/env. To submit, in $root:

  . $state/env
  $bin/phaseray submit pipeline --config jobs/small.yaml --out $state/small --set tracking.uri=\$MLFLOW_TRACKING_URI

make cluster-down stops them. Logs, runs and results stay in $state.
SAID
}

case $1 in
  up) up ;;
  down) down ;;
  *) usage ;;
esac
