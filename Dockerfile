# syncd in a container. Build: docker build -t syncd .   Run, with nothing writable and no rights:
#
#   docker run --read-only --cap-drop=ALL --security-opt=no-new-privileges \
#       -e SYNCD_DATABASE_URL=postgresql://… -e SYNCD_SECRET_SHOP='{…}' syncd
#
# `docker run … syncd check` and every other command likewise. What is installed is locked, with
# hashes, in .ci/*.lock; nothing that builds is in the result.

FROM python:3.11-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY .ci/requirements.lock .ci/build.lock ./
RUN python -m venv /opt/build && \
    /opt/build/bin/pip install --only-binary=:all: --require-hashes -r build.lock
RUN python -m venv /opt/syncd && \
    /opt/syncd/bin/pip install --only-binary=:all: --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY syncd syncd
COPY sql sql
COPY config config
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/wheels . && \
    /opt/syncd/bin/pip install --no-index --no-deps /opt/wheels/syncd-*.whl && \
    /opt/syncd/bin/pip check && \
    /opt/syncd/bin/pip uninstall --yes setuptools pip

FROM python:3.11-slim
RUN python -m pip uninstall --yes setuptools wheel pip
COPY --from=build /opt/syncd /opt/syncd
ENV PATH=/opt/syncd/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONDONTWRITEBYTECODE=1 \
    SYNCD_ADMIN=127.0.0.1:9464
USER 65532:65532
WORKDIR /
# What is in flight ends within drain_seconds (30): give `docker stop -t 40`.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/healthz', timeout=4)"]
ENTRYPOINT ["syncd"]
CMD ["run"]
