# The server only, with the custom operator: no torch, no exporter, no compiler, no pip, not root.
# Any base with python3 (3.11 to 3.13) and its venv module will do.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
# The venv lives at one path in both stages: its scripts name their interpreter.
# Dependencies first, so that a change of our code reuses this layer.
COPY requirements/server.txt requirements/build.txt requirements/kernel.txt requirements/
RUN python3 -m venv /opt/kanserve \
 && /opt/kanserve/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/server.txt \
 && python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/build.txt -r requirements/kernel.txt
# The custom operator, compiled by ziglang: the library runs on any Linux with glibc 2.17 or later.
COPY kernel kernel
RUN cd kernel \
 && CXX="/opt/build/bin/python -m ziglang c++" /opt/build/bin/python -m hatchling build -t wheel -d /wheels \
 && /opt/kanserve/bin/python -m pip install --no-cache-dir --no-deps --no-compile --no-index /wheels/kanserve_kernel-*.whl
COPY pyproject.toml README.md ./
COPY kanexport kanexport
COPY service/kanserve service/kanserve
# Of kanexport the server needs the manifest and what both share; the exporter stays out of production.
RUN /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/kanserve/bin/python -m pip install --no-cache-dir --no-deps --no-compile /wheels/kanserve-*.whl \
 && /opt/kanserve/bin/python -I -c "import kanexport, pathlib, shutil; \
[shutil.rmtree(p) if p.is_dir() else p.unlink() for p in pathlib.Path(kanexport.__file__).parent.iterdir() \
 if p.name not in ('__init__.py', 'contract')]" \
 && /opt/kanserve/bin/python -m pip uninstall --yes --quiet pip \
 && /opt/kanserve/bin/python -m compileall -q /opt/kanserve/lib

FROM ${BASE_IMAGE}
COPY --from=build /opt/kanserve /opt/kanserve
# The root file system may be read-only: nothing is written, byte code is already there.
# ORT_DISABLE_TELEMETRY: kanserve sets it for itself; here for any other Python that is run inside.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
# Inside a container loopback reaches nobody, so the ports listen on all of its
# addresses; what may connect is decided by the ports that are published and by
# network policy. KANSERVE_INSECURE says that this is on purpose. As environment,
# not arguments, so that `docker run IMAGE serve --threads 2` keeps them.
ENV KANSERVE_REPOSITORY=/models KANSERVE_HOST=0.0.0.0 KANSERVE_METRICS_HOST=0.0.0.0 KANSERVE_INSECURE=true
USER 65532:65532
WORKDIR /
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
# Draining takes up to 5 + 25 seconds: give `docker stop` a longer limit than its 10.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/opt/kanserve/bin/kanserve", "health", "--timeout", "4"]
ENTRYPOINT ["/opt/kanserve/bin/kanserve"]
CMD ["serve"]
