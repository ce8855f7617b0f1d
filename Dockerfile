# Three images: `server` (the default target), `server-cuda` and `export`.
#
#   docker build -t kanserve .
#   docker build --target export -t kanserve-export .
#
# COMMIT is the commit of the sources, for the label of the revision and the metric kanserve_build_info.
# BASE_IMAGE has Python and the libraries of the system; any Debian with python3 (3.11 to 3.13) and its venv module will
# do. The server images take only what the server loads from it: no shell, no package manager, no compiler, no pip.
ARG BASE_IMAGE=docker.io/library/python:3.13-slim-bookworm

# Wheels of kanserve and of the custom operator.
FROM ${BASE_IMAGE} AS wheels
WORKDIR /src
# Dependencies first, so that a change of our code reuses this layer.
COPY requirements/build.txt requirements/kernel.txt requirements/
RUN python3 -m venv /opt/build \
 && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes --only-binary :all: \
      -r requirements/build.txt -r requirements/kernel.txt
# The custom operator, compiled by ziglang: the library runs on any Linux with glibc 2.17 or later.
COPY kernel kernel
WORKDIR /src/kernel
RUN CXX="/opt/build/bin/python -m ziglang c++" /opt/build/bin/python -m hatchling build -t wheel -d /wheels
WORKDIR /src
COPY pyproject.toml README.md ./
COPY kanexport kanexport
COPY service/kanserve service/kanserve
ARG COMMIT=unknown
RUN sed -i "s/[$]Format:%H[$]/$COMMIT/" service/kanserve/version.py \
 && /opt/build/bin/python -m pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# The environment of the server without our code: a change of our code leaves this stage and its layer of the image as
# they are. It has the same path in the image: its scripts name their interpreter. Byte code is here, because the root
# file system of a container may be read-only.
FROM ${BASE_IMAGE} AS server-dependencies
WORKDIR /src
COPY requirements/server.txt requirements/
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/kanserve \
 && /opt/pip/bin/python -m pip --python /opt/kanserve install --no-cache-dir --no-compile --require-hashes \
      --only-binary :all: -r requirements/server.txt
COPY service/deploy/image service/deploy/image
RUN python3 -I service/deploy/image/trim_environment.py /opt/kanserve \
 && python3 -m compileall -q /opt/kanserve/lib

# Our code as /own, and the system's files as /runtime.
FROM server-dependencies AS server-environment
COPY --from=wheels /wheels /wheels
RUN /opt/pip/bin/python -m pip --python /opt/kanserve install --no-cache-dir --no-deps --no-compile --no-index \
      /wheels/*.whl \
 && python3 -I service/deploy/image/trim_environment.py /opt/kanserve \
 && python3 -m compileall -q /opt/kanserve/lib \
 && python3 -I service/deploy/image/runtime_root.py /opt/kanserve /runtime \
 && python3 -I service/deploy/image/bill_of_materials.py /opt/kanserve /runtime /opt/kanserve/sbom.cdx.json \
 && mkdir /own
WORKDIR /opt/kanserve
RUN cp --archive --parents lib/python3.*/site-packages/kan* bin/kanserve sbom.cdx.json /own

# The same with onnxruntime-gpu and CUDA's libraries. The driver is the host's. CUDA's libraries are in a folder for each
# package. The loader finds them by links in one folder.
FROM ${BASE_IMAGE} AS cuda-dependencies
WORKDIR /src
COPY requirements/server-cuda.txt requirements/
RUN python3 -m venv /opt/pip \
 && python3 -m venv --without-pip /opt/kanserve \
 && /opt/pip/bin/python -m pip --python /opt/kanserve install --no-cache-dir --no-compile --require-hashes \
      --only-binary :all: -r requirements/server-cuda.txt
COPY service/deploy/image service/deploy/image
RUN python3 -I service/deploy/image/trim_environment.py /opt/kanserve \
 && python3 -m compileall -q /opt/kanserve/lib \
 && mkdir /opt/kanserve/cuda \
 && find /opt/kanserve/lib -path '*/nvidia/*' -name '*.so*' -exec ln -s -t /opt/kanserve/cuda {} +

FROM cuda-dependencies AS cuda-environment
COPY --from=wheels /wheels /wheels
RUN /opt/pip/bin/python -m pip --python /opt/kanserve install --no-cache-dir --no-deps --no-compile --no-index \
      /wheels/*.whl \
 && python3 -I service/deploy/image/trim_environment.py /opt/kanserve \
 && python3 -m compileall -q /opt/kanserve/lib \
 && LD_LIBRARY_PATH=/opt/kanserve/cuda python3 -I service/deploy/image/runtime_root.py /opt/kanserve /runtime \
 && python3 -I service/deploy/image/bill_of_materials.py /opt/kanserve /runtime /opt/kanserve/sbom.cdx.json \
 && mkdir /own
WORKDIR /opt/kanserve
RUN cp --archive --parents lib/python3.*/site-packages/kan* bin/kanserve sbom.cdx.json /own

# Settings that both server images share.
FROM scratch AS runtime
ARG VERSION=0.2.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="kanserve" \
      org.opencontainers.image.description="Server for trained Kolmogorov-Arnold Networks, over gRPC and REST" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://github.com/kanserve/kanserve"
# ORT_DISABLE_TELEMETRY: kanserve sets it for itself; here for any other Python that is run inside.
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
# Inside a container loopback reaches nobody, so the ports listen on all of its addresses. The server does not start
# there without TLS and tokens, unless the user sets KANSERVE_INSECURE=true. As environment, not arguments, so that
# `docker run IMAGE serve --threads 2` keeps them.
ENV KANSERVE_REPOSITORY=/models KANSERVE_HOST=0.0.0.0 KANSERVE_METRICS_HOST=0.0.0.0
USER 65532:65532
WORKDIR /
EXPOSE 8001 8002
STOPSIGNAL SIGTERM
# Draining takes up to 5 + 25 seconds: give `docker stop` a longer limit than its 10.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
  CMD ["/opt/kanserve/bin/kanserve", "health", "--timeout", "4"]
ENTRYPOINT ["/opt/kanserve/bin/kanserve"]
CMD ["serve"]

FROM runtime AS server-cuda
COPY --from=cuda-environment /runtime /
COPY --from=cuda-dependencies /opt/kanserve /opt/kanserve
COPY --from=cuda-environment /own /opt/kanserve
ENV LD_LIBRARY_PATH=/opt/kanserve/cuda NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

# The exporter, for checkpoints. TORCH_OPTIONS: options of pip that name a place with CPU builds of torch, such as
# `--index-url URL`; torch is for modules only, and without options it is left out.
FROM ${BASE_IMAGE} AS export-environment
WORKDIR /src
COPY requirements/export.txt requirements/
RUN python3 -m venv /opt/kanserve \
 && /opt/kanserve/bin/python -m pip install --no-cache-dir --no-compile --require-hashes --only-binary :all: \
      -r requirements/export.txt
ARG TORCH_OPTIONS=
# hadolint ignore=SC2086
RUN if [ -n "$TORCH_OPTIONS" ]; then \
      /opt/kanserve/bin/python -m pip install --no-cache-dir --no-compile --only-binary :all: $TORCH_OPTIONS "torch>=2.10"; \
    fi
COPY --from=wheels /wheels /wheels
RUN /opt/kanserve/bin/python -m pip install --no-cache-dir --no-deps --no-compile --no-index /wheels/*.whl \
 && /opt/kanserve/bin/python -m pip uninstall --yes --quiet pip \
 && python3 -m compileall -q /opt/kanserve/lib

FROM ${BASE_IMAGE} AS export
ARG VERSION=0.2.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="kanserve-export" \
      org.opencontainers.image.description="Exporter of trained Kolmogorov-Arnold Networks to ONNX" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.url="https://github.com/kanserve/kanserve"
COPY --from=export-environment /opt/kanserve /opt/kanserve
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 ORT_DISABLE_TELEMETRY=1
USER 65532:65532
WORKDIR /work
HEALTHCHECK NONE
ENTRYPOINT ["/opt/kanserve/bin/kanserve", "export"]
CMD ["--help"]

FROM runtime AS server
COPY --from=server-environment /runtime /
COPY --from=server-dependencies /opt/kanserve /opt/kanserve
COPY --from=server-environment /own /opt/kanserve
