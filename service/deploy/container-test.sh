#!/usr/bin/env bash
# Builds the server image and runs it as production would: read-only root, no
# capabilities, not root. Then sends requests, stops it, and checks logs and exit code.
# A second container has the addresses of the image, TLS and a token.
#
#   service/deploy/container-test.sh [MODELS NAME ROWS]
#
# MODELS: a repository folder that `kanserve export` wrote. NAME: a model in it.
# ROWS: a file that `kanserve infer` reads. Without them: the digits checkpoint of
# the tests and its reference rows. Needs podman (installed with apt-get when it is
# absent and this runs as root).
#
# Variables: KANSERVE (the client; default .venv/bin/kanserve), BASE_IMAGE,
# GRPC_PORT, METRICS_PORT, CA_BUNDLE (a bundle pip should trust in the build),
# COMMIT (of the sources; default: that of the clone),
# SBOM (a file for the bill of materials of the image, CycloneDX in JSON), ARCHIVE (a file for the image, as an archive
# of OCI). Both are written after all checks.
set -euo pipefail
. "$(dirname "$0")/podman.sh"

[ $# -eq 3 ] || [ $# -eq 0 ] || { sed -n '2,19s/^# \{0,1\}//p' "$0" >&2; exit 2; }
root=$(cd "$(dirname "$0")/../.." && pwd)
kanserve=${KANSERVE:-$root/.venv/bin/kanserve}
base=${BASE_IMAGE:-$(sed -n 's/^ARG BASE_IMAGE=//p' "$root/Dockerfile")}
grpc_port=${GRPC_PORT:-18001} metrics_port=${METRICS_PORT:-18002}
ca=${CA_BUNDLE:-${SSL_CERT_FILE:-}}
commit=${COMMIT:-$(git -C "$root" describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)}
image=localhost/kanserve:container-test container=kanserve-container-test-$$
work=$(mktemp -d)
golden=$root/tests/golden/checkpoints/efficient-kan-digits
build_arguments=()
if [ $# -eq 3 ]; then
  models=$(cd "$1" && pwd) name=$2 rows=$3
else
  models=$work/models name=digits rows=$golden/reference.npz
fi

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }

clean_up() {
  podman rm --force --time 0 "$container" "$container-tls" >/dev/null 2>&1 || true
  rm -rf "$work"
}
trap clean_up EXIT

install_podman() {
  say "installing podman"
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends podman buildah runc netavark aardvark-dns passt uidmap \
    catatonit conmon debootstrap golang-github-containers-common >/dev/null
}

export_digits() {
  say "exporting the tests' digits checkpoint"
  "$kanserve" export "$golden/model.pt" --repository "$models" --name "$name"
  chmod -R a+rX "$work" # the server in the container is another user
}

# The same Debian and Python, from the package sources of the machine.
make_base() {
  base=localhost/python-base:container-test
  podman image exists "$base" && return
  say "no access to the official base image: building one with debootstrap (about 75 s)"
  local mirror suite
  # Both forms of apt sources: `URIs: http://...` and `deb [options] http://... suite`.
  mirror=$(cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    sed -n 's/^URIs: *\(http[^ ]*\).*/\1/p; s/^deb \(\[[^]]*\] \)\{0,1\}\(http[^ ]*\) .*/\2/p' |
    grep -v security | head -1) || true
  [ -n "$mirror" ] || fail "no Debian mirror in the apt sources of this machine"
  suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
  debootstrap --variant=minbase --include=python3-minimal,python3-venv,ca-certificates \
    "$suite" "$work/rootfs" "$mirror" >"$work/debootstrap.log" || { tail "$work/debootstrap.log"; fail debootstrap; }
  tar -C "$work/rootfs" -c . | podman import - "$base" >/dev/null
  rm -rf "$work/rootfs"
}

build() {
  say "building from $base"
  [ -n "$ca" ] && build_arguments+=(-v "$ca:/etc/ssl/certs/ca-certificates.crt:ro")
  podman build --format docker --network host "${build_arguments[@]}" --build-arg "BASE_IMAGE=$base" \
    --build-arg "COMMIT=$commit" --target server --tag "$image" "$root"
}

# Files that a layer contains in vain, because another layer replaces or removes them.
check_layers() {
  local dive
  dive=$(cd "$root" && "$(dirname "$kanserve")/python" -c 'from tools.manifests import download; print(download.program("dive"))') ||
    { say "not run: dive, which cannot be downloaded"; return; }
  podman save --quiet --format docker-archive --output "$work/image.tar" "$image"
  CI=true "$dive" --source docker-archive --ci --lowestEfficiency 0.999 --highestUserWastedPercent 0.001 \
    "$work/image.tar" >"$work/dive" 2>&1 || { cat "$work/dive"; fail "layers of the image contain files in vain"; }
  say "dive: $(sed -n 's/^ *wastedBytes: //p' "$work/dive") wasted"
  rm "$work/image.tar"
}

# The image's default addresses and ports, read without a network. It accepts them only with TLS and tokens, or on demand.
check_defaults() {
  local show=(podman run --rm --network none --volume "$models:/models:ro")
  if "${show[@]}" "$image" serve --show-config >"$work/refused" 2>&1; then
    fail "the image listens on all addresses without TLS and tokens"
  fi
  grep -q "neither TLS nor authentication" "$work/refused" || { cat "$work/refused"; fail "another error than expected"; }
  "${show[@]}" --env KANSERVE_INSECURE=true "$image" serve --show-config --json |
    python3 -c '
import json, sys
found = {name: entry["value"] for name, entry in json.load(sys.stdin).items()}
assert (found["host"], found["metrics_host"], found["insecure"]) == ("0.0.0.0", "0.0.0.0", True), found
assert (found["grpc_port"], found["metrics_port"], found["repository"]) == (8001, 8002, "/models"), found
' || fail "the image has other defaults than expected"
}

# start NAME ARGUMENTS: a container without rights. Returns when its health check passes.
start() {
  local name=$1
  shift
  podman run --detach --name "$name" --read-only --read-only-tmpfs=false \
    --cap-drop=all --security-opt=no-new-privileges --volume "$models:/models:ro" "$@" "$image" >/dev/null
  for _ in $(seq 60); do
    podman healthcheck run "$name" >/dev/null 2>&1 && return
    [ "$(podman inspect -f '{{.State.Running}}' "$name")" = true ] || break
    sleep 0.5
  done
  podman logs "$name"
  fail "the container $name did not become healthy"
}

start_plain() {
  say "running read-only, without capabilities, on ports $grpc_port and $metrics_port"
  start "$container" --network host \
    --env "KANSERVE_GRPC_PORT=$grpc_port" --env "KANSERVE_METRICS_PORT=$metrics_port" \
    --env KANSERVE_HOST=127.0.0.1 --env KANSERVE_METRICS_HOST=127.0.0.1
}

# With a network of its own, so that its addresses reach nothing else. The health check is a client of the TLS port.
check_tls() {
  say "running with TLS and a token, on the addresses of the image"
  local credentials=$work/credentials
  mkdir "$credentials"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=kanserve.example \
    -addext subjectAltName=DNS:kanserve.example -keyout "$credentials/tls.key" -out "$credentials/tls.crt" 2>/dev/null
  "$kanserve" token new app --roles infer --tokens "$credentials/tokens.toml" --output "$credentials/app.token"
  chmod 0750 "$credentials"
  chmod 0640 "$credentials"/*
  if [ "$(id -u)" = 0 ]; then chown -R 65532:65532 "$credentials"; else podman unshare chown -R 65532:65532 "$credentials"; fi
  start "$container-tls" --network none --volume "$credentials:/credentials:ro" \
    --env KANSERVE_TLS_CERT=/credentials/tls.crt --env KANSERVE_TLS_KEY=/credentials/tls.key \
    --env KANSERVE_TOKENS=/credentials/tokens.toml \
    --env KANSERVE_URL=grpcs://127.0.0.1:8001 --env KANSERVE_CA=/credentials/tls.crt \
    --env KANSERVE_SERVER_NAME=kanserve.example
  podman exec "$container-tls" /opt/kanserve/bin/kanserve models --token-file /credentials/app.token
  if podman exec "$container-tls" /opt/kanserve/bin/kanserve models >/dev/null 2>&1; then
    fail "the server accepts a client without a token"
  fi
  stop "$container-tls"
}

check() {
  say "healthy: sending requests"
  "$kanserve" infer "$name" --input "$rows" --url "127.0.0.1:$grpc_port" --json >"$work/answer.json"
  head -c 300 "$work/answer.json"
  echo
  "$kanserve" models --url "127.0.0.1:$grpc_port"
  podman exec --env "COMMIT=$commit" "$container" /opt/kanserve/bin/python -c '
import importlib.util, os, urllib.request
assert os.getuid() == os.getgid() == 65532, (os.getuid(), os.getgid())
for name in ("torch", "onnx", "kanexport.cli", "kanexport.pipeline", "pip"):
    assert importlib.util.find_spec(name) is None, f"{name} is in the image"
assert importlib.util.find_spec("kanexport.shared.cli.console"), "the modules of the commands are missing"
from kanexport.shared import custom_ops
assert custom_ops.library(), "the custom operator is missing, or does not load"
import kanserve_kernel.calls
maps = open("/proc/1/maps").read()
assert "kanserve_kernel/calls.abi3.so" in maps and "libkanserve_kernel.so" in maps, "the server does not use the kernel"
assert "libonnxruntime.so" not in maps and "onnxruntime_pybind11_state" in maps, maps
assert not any(os.path.exists(path) for path in ("/bin/sh", "/bin/bash", "/usr/bin/apt", "/usr/bin/perl")), "a shell"
try:
    open("/written", "w")
except OSError as error:
    print("root file system:", error.strerror)
else:
    raise SystemExit("the root file system is writable")
port = os.environ["KANSERVE_METRICS_PORT"]
text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
assert "kanserve_build_info{commit=\"%s\"" % os.environ["COMMIT"] in text
print("uid 65532, no torch, no exporter, metrics served")
' || fail "the container has another user, file system or package than expected"
}

stop() {
  say "stopping the container"
  local began=$SECONDS code
  podman stop --time 40 "$1" >/dev/null
  code=$(podman inspect -f '{{.State.ExitCode}}' "$1")
  [ "$code" = 0 ] || { podman logs "$1"; fail "exit code $code after SIGTERM"; }
  echo "drained in $((SECONDS - began)) s, exit code 0"
}

[ -z "$(command -v podman)" ] && install_podman
configure_podman
[ -d "$models" ] || export_digits
podman image exists "$base" || podman pull --quiet "$base" >/dev/null 2>&1 || make_base
build
check_layers
check_defaults
start_plain
check
stop "$container"
check_tls
if [ -n "${SBOM:-}" ]; then
  podman cp "$container:/opt/kanserve/sbom.cdx.json" "$SBOM"
  say "the bill of materials is in $SBOM"
fi
if [ -n "${ARCHIVE:-}" ]; then
  podman save --quiet --format oci-archive --output "$ARCHIVE" "$image"
  say "the image is in $ARCHIVE"
fi
say "sizes"
podman images --filter "reference=$image" --filter "reference=$base" --format '{{.Repository}}:{{.Tag}} {{.Size}}'
say "the container test passed"
