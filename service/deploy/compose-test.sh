#!/usr/bin/env bash
# Runs compose.yaml as it is, by docker-compose over podman: up, health checks, a request with TLS and the token from
# the volume, scrape, restart of a stopped server, down.
#
#   service/deploy/compose-test.sh IMAGE
#
# IMAGE: a server image in podman, such as container-test.sh builds. This machine may reach no registry: images with the
# names of Prometheus and Alertmanager are made from the programs of Debian. Grafana is left out.
#
# Variables: KANSERVE (the client; default .venv/bin/kanserve), BASE_IMAGE (a Debian for the monitoring programs).
set -euo pipefail
. "$(dirname "$0")/podman.sh"

[ $# -eq 1 ] || { sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
kanserve=${KANSERVE:-$root/.venv/bin/kanserve}
image=$1 base=${BASE_IMAGE:-localhost/python-base:container-test}
work=$(mktemp -d)
services=(init server prometheus alertmanager)
# Ports that another stack on this machine does not use.
export SERVER_IMAGE=$image MODELS=$work/models PORT=28001 METRICS_PORT=28002 PROMETHEUS_PORT=29090 \
  ALERTMANAGER_PORT=29093 GRAFANA_PORT=23000 COMPOSE_PROJECT_NAME=kanserve-test-$$ COMPOSE_PROFILES=demo

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; docker-compose logs --tail 20 >&2 || true; exit 1; }

clean_up() {
  docker-compose down --volumes --timeout 5 >/dev/null 2>&1 || true
  [ -z "${checks:-}" ] || kill "$checks" 2>/dev/null || true
  [ -z "${engine:-}" ] || kill "$engine" 2>/dev/null || true
  rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 1' INT TERM
cd "$here/compose"

# The engine that docker-compose uses.
start_engine() {
  export DOCKER_HOST=unix://$work/podman.sock
  podman system service --time 0 "$DOCKER_HOST" 2>"$work/engine.log" &
  engine=$!
}

# An image with the name, program and user of the official one.
monitoring_image() {
  local tag=$1 program=$2 name=$3 context=$work/$3
  podman image exists "$tag" && return
  mkdir "$context"
  cp "$(command -v "$program")" "$context/$name"
  cp "$(command -v busybox)" "$context/wget"
  # Debian's Alertmanager reads its templates from this folder.
  cp -r "/usr/share/prometheus/$name" "$context/templates" 2>/dev/null || mkdir "$context/templates"
  printf '%s\n' "FROM $base" "COPY $name wget /bin/" "COPY templates /usr/share/prometheus/$name" "RUN mkdir /$name && chown 65534:65534 /$name" \
    "USER 65534:65534" "WORKDIR /$name" "ENTRYPOINT [\"/bin/$name\"]" >"$context/Dockerfile"
  podman build --quiet --format docker --network host --tag "$tag" "$context" >/dev/null
}

# Health checks have no timer without systemd.
health_checks() {
  local container
  while sleep 1; do
    for container in $(podman ps --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME"); do
      podman healthcheck run "$container" >/dev/null 2>&1 || true
    done
  done
}

within() { # SECONDS COMMAND...
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.5
  done
}

finds() { # a value of a query, in Prometheus
  curl -fsS --get "http://127.0.0.1:$PROMETHEUS_PORT/api/v1/query" --data-urlencode "query=$1" | grep -q '"value"'
}

configure_podman
start_engine
within 10 test -S "$work/podman.sock" || { cat "$work/engine.log" >&2; fail "podman's service did not start"; }
say "images of Prometheus and Alertmanager"
monitoring_image docker.io/prom/prometheus:v2.53.3 prometheus prometheus
monitoring_image docker.io/prom/alertmanager:v0.28.1 prometheus-alertmanager alertmanager
"$kanserve" export "$root/tests/golden/checkpoints/pykan-hello-adapted/model" --repository "$MODELS" --name hello >/dev/null
chmod -R a+rX "$work"

say "up"
health_checks &
checks=$!
began=$SECONDS
docker-compose up --detach --wait --wait-timeout 300 --no-build "${services[@]}" || fail "the stack did not become healthy"
echo "healthy in $((SECONDS - began)) s"
# docker-compose waits for no container of podman without a health check.
docker-compose up --detach --no-build --no-deps demo receiver

say "a request with TLS and the token"
docker-compose cp server:/credentials/client/ca.crt "$work/ca.crt"
docker-compose cp server:/credentials/client/app.token "$work/app.token"
"$kanserve" infer hello --url "grpcs://localhost:$PORT" --ca "$work/ca.crt" --token-file "$work/app.token" \
  --input "$root/examples/hello.csv" || fail "the request failed"
"$kanserve" infer hello --url "grpcs://localhost:$PORT" --ca "$work/ca.crt" --input "$root/examples/hello.csv" \
  >/dev/null 2>&1 && fail "the server accepts a request without a token"

say "monitoring"
within 60 finds 'up{job="kanserve"} == 1' || fail "Prometheus does not scrape the server"
within 60 finds 'sum(nv_inference_count) > 20' || fail "the demo load does not reach the server"
began=$SECONDS
docker-compose stop server
echo "stopped in $((SECONDS - began)) s"
within 60 finds 'ALERTS{alertname="KanserveDown"}' || fail "the stopped server raises no alert"
docker-compose start server
within 60 finds 'up{job="kanserve"} == 1' || fail "the server does not start again"

say "down"
docker-compose down --volumes --timeout 40
[ -z "$(podman ps --all --quiet --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME")" ] || fail "containers are left"
say "the compose test passed"
