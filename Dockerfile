# syntax=docker/dockerfile:1
# The same two installation steps as `make setup`: the locked packages by hash, then Turnlog itself without resolving anything.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python3 -m venv /opt/turnlog
COPY requirements.lock ./
RUN /opt/turnlog/bin/python -m pip --disable-pip-version-check --no-input install --no-cache-dir --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas ./schemas
COPY streams ./streams
COPY workers ./workers
COPY turnlog ./turnlog
RUN /opt/turnlog/bin/python -m pip --disable-pip-version-check --no-input install --no-cache-dir --no-deps --no-build-isolation .

FROM python:3.11-slim
RUN useradd --system --uid 10001 --user-group --home-dir /var/lib/turnlog --create-home turnlog
COPY --from=build /opt/turnlog /opt/turnlog
ENV PATH=/opt/turnlog/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TURNLOG_DATA_DIR=/var/lib/turnlog \
    TURNLOG_LOG_FORMAT=json
USER 10001
WORKDIR /var/lib/turnlog
VOLUME /var/lib/turnlog
# SIGTERM drains: running turns get drain_timeout_s, the rest are resumed by the next owner.
STOPSIGNAL SIGTERM
ENTRYPOINT ["turnlog"]
CMD ["--help"]
