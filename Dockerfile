# The gateway as a container: dependencies locked with hashes, no build tools in the result, runs as nobody in particular
# and on a read-only root. Both stages need the same Python at the same place, so they share one base.
# `--build-arg COMPILE=require` compiles the hot rooms. The result has no compiler either.
# The digest fixes the base. `docker buildx imagetools inspect python:3.11-slim-bookworm` shows the newest one.
ARG BASE_IMAGE=python:3.11-slim-bookworm@sha256:528257d48c1da0dcecc2e725d1ae34498d60c965f1241e39cd6a85a8859bdf84

FROM ${BASE_IMAGE} AS build
ARG COMPILE=0
# hadolint ignore=DL3008
RUN [ "${COMPILE}" = 0 ] || { apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev; }
WORKDIR /src
COPY requirements/ requirements/
# A mirror of packages is named by a pip.conf given as a secret, so that it is in no layer.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m venv /opt/gateway \
    && /opt/gateway/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/runtime.txt \
    && python3 -m venv /opt/build \
    && /opt/build/bin/python -m pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && { [ "${COMPILE}" = 0 ] || /opt/build/bin/python -m pip install --no-cache-dir --require-hashes \
         -r requirements/runtime.txt -r requirements/compile.txt; }
COPY pyproject.toml hatch_build.py README.md LICENSE routes.yaml ./
COPY policies/ policies/
COPY examples/ examples/
COPY gateway/ gateway/
RUN GATEWAY_COMPILE="${COMPILE}" /opt/build/bin/python -m pip wheel --no-deps --no-index --no-build-isolation --wheel-dir /dist . \
    && /opt/gateway/bin/python -m pip install --no-cache-dir --no-deps --no-index /dist/*.whl \
    && /opt/gateway/bin/python -m pip uninstall --yes setuptools pip

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="iam-gateway" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    GATEWAY_ADMIN_PORT=9901
# routes.yaml and policies/ are mounted here; with several workers /tmp has to be writable.
WORKDIR /etc/gateway
USER 65532:65532
EXPOSE 8080 9901
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"GATEWAY_ADMIN_PORT\"]}/livez', timeout=2)"]
ENTRYPOINT ["gateway"]
CMD ["serve", "-c", "/etc/gateway/routes.yaml"]
